//! Witnesses judged by themselves: the rule fires on the witness alone, and no longer without any one of its events.
//!
//! The same engine judges; nothing here knows a rule. A finding is made with the records its rule names. Where they do
//! not suffice alone, the recent records that speak of the page, its threads and its slot are added; what is
//! superfluous is then taken out again, in halves first, one by one at last.

use std::sync::Arc;

use crate::event::{
    Event, EventKind, Gap, Gfn, RawEvent, Setup, SlotId, SlotRef, SpteMasks, Tid, VmId, decode,
    encode,
};
use crate::order::{Ordinal, instant};
use crate::verdict::edges::{Edges, merge_key};
use crate::verdict::{EdgeKind, Finding, RuleId, Step, Verdict, Witness};

use super::case::Case;
use super::{Ctx, Detector};

/// Records looked through, back from the newest, for what a witness lacks.
const LOOK_BACK: u64 = 1 << 14;

/// Records a witness may have before it is made minimal.
const STEPS_MAX: usize = 400;

/// What a witness must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub rule: RuleId,
    pub verdict: Verdict,
    pub vm: VmId,
    pub slot: SlotId,
    pub gfn: Option<Gfn>,
}

impl Target {
    fn of(finding: &Finding) -> Self {
        let Finding { rule, verdict, vm, slot, gfn, .. } = *finding;
        Self { rule, verdict, vm, slot, gfn }
    }
}

/// Whether the events alone, with these gaps, give the finding.
fn fires(setup: &Setup, steps: &[Step], gaps: &[Gap], target: Target) -> bool {
    let mut detector = Detector::without_witnesses(setup);
    let mut gaps = gaps.iter().peekable();
    for event in detached(steps) {
        while let Some(gap) = gaps.next_if(|gap| gap.to < event.span.hi) {
            detector.gap(gap);
        }
        detector.push(&encode(&event), &event);
    }
    gaps.for_each(|gap| detector.gap(gap));
    detector.finish();
    let findings = detector.take_findings().unwrap_or_default();
    findings.iter().any(|finding| Target::of(finding) == target)
}

/// The events of a witness as a trace of their own: in merge order, numbered anew, with the count of words at an
/// ioctl's return being that of the words that are here. What lies between them is left out on purpose.
pub(crate) fn detached(steps: &[Step]) -> Vec<Event> {
    let mut events: Vec<Event> = steps.iter().map(|step| step.event).collect();
    events.sort_by_key(merge_key);
    let mut counts = std::collections::BTreeMap::new();
    let mut taken: std::collections::BTreeMap<Tid, u64> = std::collections::BTreeMap::new();
    for event in &mut events {
        let seq = counts.entry(event.lane).or_insert(0);
        event.seq = *seq;
        *seq += 1;
        match &mut event.kind {
            EventKind::IoctlBegin { .. } => drop(taken.remove(&event.tid)),
            EventKind::HarvestWord { mask: 1.., .. } | EventKind::UserWord { .. } => {
                *taken.entry(event.tid).or_default() += 1;
            }
            EventKind::IoctlEnd { words, .. } if 0 < *words => {
                *words = taken.remove(&event.tid).unwrap_or_default();
            }
            _ => {}
        }
    }
    events
}

impl Ctx {
    /// The steps of a case in order, with their edges.
    pub(super) fn drawn(&self, steps: Vec<Step>, case: &Case) -> Witness {
        if self.setup.is_none() {
            // A witness is replayed: whether the finding comes is asked, not how it looks.
            return Witness::default();
        }
        drawn(steps, (case.gfn, case.missing), &self.masks, self.epsilon_ns)
    }

    /// A witness that gives the finding by itself, as far as the spool still has what it takes.
    pub(super) fn sufficient(
        &self,
        steps: Vec<Step>,
        context: &[RawEvent],
        target: Target,
    ) -> (Vec<Step>, Vec<Gap>) {
        let Some(setup) = &self.setup else { return (steps, Vec::new()) };
        if fires(setup, &steps, &[], target) {
            return (steps, Vec::new());
        }
        let more = self.extended(&steps, context, target);
        if fires(setup, &more, &[], target) {
            return (more, Vec::new());
        }
        let mut gaps: Vec<Gap> = self.gaps.iter().flatten().copied().collect();
        gaps.reverse();
        if fires(setup, &more, &gaps, target) {
            return (more, gaps);
        }
        (steps, Vec::new())
    }

    /// The steps, and before them what the spool holds about their page, threads and slot.
    fn extended(&self, steps: &[Step], context: &[RawEvent], target: Target) -> Vec<Step> {
        let mut more = steps.to_vec();
        let mut tids: Vec<Tid> = steps.iter().map(|step| step.event.tid).collect();
        let newest = self.spool.newest();
        let oldest = self.spool.oldest().max(newest.saturating_sub(LOOK_BACK));
        let ordinals = (oldest..=newest).rev();
        for event in ordinals.filter_map(|ordinal: Ordinal| self.spool.event(ordinal)) {
            let is_related = tids.contains(&event.tid) || speaks_of(&event, target);
            let is_own = event.vm == target.vm || event.vm == VmId::UNKNOWN;
            if !is_own || !is_related || more.iter().any(|step| step.event == event) {
                continue;
            }
            if !tids.contains(&event.tid) {
                tids.push(event.tid);
            }
            more.push(Step { event, note: note_of(&event) });
            if STEPS_MAX <= more.len() {
                break;
            }
        }
        for event in context.iter().filter_map(|record| decode(record).ok()) {
            if more.iter().all(|step| step.event != event) {
                more.push(Step { event, note: note_of(&event) });
            }
        }
        more.sort_by_key(|step| merge_key(&step.event));
        more
    }
}

/// The event is about the page, or the slot if the finding names no page, or about the whole VM.
fn speaks_of(event: &Event, target: Target) -> bool {
    let is_page = |gfn: Gfn| target.gfn.is_none_or(|own| own == gfn);
    let is_in_word = |first: Gfn, word: u64| {
        target.gfn.is_none_or(|own| own.bit_in(first).is_some_and(|bit| word & bit != 0))
    };
    let is_slot = |slot: SlotRef| slot.id == target.slot;
    match event.kind {
        EventKind::Mark { gfn, slot, .. } | EventKind::RmapAdd { gfn, slot, .. } => {
            is_slot(slot) && is_page(gfn)
        }
        EventKind::SpteChange { page, .. }
        | EventKind::FastFault { page, .. }
        | EventKind::SpteSet { page, .. }
        | EventKind::Split { page, .. }
        | EventKind::Zap { page } => {
            let npages = 1_u64 << (9 * u32::from(page.level.clamp(1, 5) - 1));
            target.gfn.is_none_or(|own| page.gfn.0 <= own.0 && own.0 - page.gfn.0 < npages)
        }
        EventKind::HarvestWord { first, mask, protected, .. } => {
            is_in_word(first, mask | protected)
        }
        EventKind::UserWord { first, mask, protected, writable } => {
            is_in_word(first, mask | protected | writable)
        }
        EventKind::HostWrite { gpa, bytes, .. } => {
            let last = gpa.saturating_add(bytes.max(1) - 1) >> 12;
            target.gfn.is_none_or(|own| gpa >> 12 <= own.0 && own.0 <= last)
        }
        EventKind::RingPush { slot, .. } => slot == target.slot,
        EventKind::SlotState { slot, .. } | EventKind::SlotProtect { slot, .. } => is_slot(slot),
        EventKind::VmSeen { .. }
        | EventKind::Flush { .. }
        | EventKind::RingReset { .. }
        | EventKind::Invalidate { .. } => true,
        EventKind::VmGone
        | EventKind::IoctlBegin { .. }
        | EventKind::IoctlEnd { .. }
        | EventKind::LockWait { .. }
        | EventKind::Fault { .. }
        | EventKind::RunBegin { .. }
        | EventKind::RunEnd { .. } => false,
    }
}

/// What an event does that no rule named.
const fn note_of(event: &Event) -> &'static str {
    match event.kind {
        EventKind::VmSeen { .. } => "describes the VM",
        EventKind::SlotState { .. } => "shows the slot",
        EventKind::IoctlBegin { .. } => "begins",
        EventKind::IoctlEnd { .. } => "returns",
        EventKind::Flush { .. } => "flushes",
        EventKind::RingReset { .. } => "pops entries",
        EventKind::SlotProtect { .. } => "has protected the slot",
        EventKind::Invalidate { .. } => "unmaps host addresses",
        EventKind::Mark { .. } => "marks",
        EventKind::SpteChange { .. } | EventKind::SpteSet { .. } => "changes the SPTE",
        EventKind::FastFault { .. } => "is a lockless fault",
        EventKind::Fault { .. } => "ends the fault",
        EventKind::HarvestWord { .. } | EventKind::UserWord { .. } => "harvests a word",
        EventKind::RmapAdd { .. } => "enters the rmap",
        EventKind::HostWrite { .. } => "is a host write",
        EventKind::RingPush { .. } => "pushes an entry",
        EventKind::RunBegin { .. } => "enters KVM_RUN",
        EventKind::RunEnd { .. } => "leaves KVM_RUN",
        EventKind::Split { .. } => "splits a huge page",
        EventKind::Zap { .. } => "zaps",
        EventKind::VmGone | EventKind::LockWait { .. } => "is seen",
    }
}

impl Detector {
    /// A detector that judges a witness: its own findings need none.
    fn without_witnesses(setup: &Setup) -> Self {
        let mut detector = Self::new(setup);
        detector.ctx.setup = None;
        detector
    }

    /// Makes the witnesses of up to `budget` new findings minimal.
    pub fn settle_witnesses(&mut self, budget: usize) {
        let Some(setup) = self.ctx.setup.clone() else { return };
        for _ in 0..budget {
            let Some(finding) = self.ledger.next_unsettled() else { return };
            let target = Target::of(finding);
            let witness = &mut Arc::make_mut(finding).witness;
            let Witness { mut steps, mut gaps, missing, .. } = std::mem::take(witness);
            make_minimal(&setup, &mut steps, &mut gaps, target);
            let Setup { masks, epsilon_ns, .. } = &*setup;
            *witness = Witness { gaps, ..drawn(steps, (target.gfn, missing), masks, *epsilon_ns) };
        }
    }
}

fn drawn(
    mut steps: Vec<Step>,
    (gfn, missing): (Option<Gfn>, Option<EdgeKind>),
    masks: &SpteMasks,
    epsilon_ns: u64,
) -> Witness {
    steps.sort_by_key(|step| merge_key(&step.event));
    let edges = Edges::new(&steps, gfn, masks, epsilon_ns).find();
    let losing = steps.len().checked_sub(1);
    let events: Vec<Event> = steps.iter().map(|step| step.event).collect();
    let instants = events
        .iter()
        .enumerate()
        .filter_map(|(index, event)| Some((index, instant::of(event, &events[..index], masks)?)));
    let instants = instants.collect();
    Witness { steps, edges, losing, instants, missing, gaps: Vec::new() }
}

/// Leaves out what the finding does not need. A witness that does not fire by itself is left as it is.
fn make_minimal(setup: &Setup, steps: &mut Vec<Step>, gaps: &mut Vec<Gap>, target: Target) {
    if !fires(setup, steps, gaps, target) {
        return;
    }
    let mut index = gaps.len();
    while 0 < index {
        index -= 1;
        let gap = gaps.remove(index);
        if !fires(setup, steps, gaps, target) {
            gaps.insert(index, gap);
        }
    }
    let mut size = steps.len().next_power_of_two() / 2;
    while 0 < size {
        let is_changed = leave_out(setup, steps, gaps, target, size);
        // One by one until nothing more can go.
        if 1 < size || !is_changed {
            size /= 2;
        }
    }
}

/// Tries to do without each stretch of `size` steps.
fn leave_out(
    setup: &Setup,
    steps: &mut Vec<Step>,
    gaps: &[Gap],
    target: Target,
    size: usize,
) -> bool {
    let mut is_changed = false;
    let mut begin = 0;
    while begin < steps.len() {
        let end = (begin + size).min(steps.len());
        let mut fewer = steps[..begin].to_vec();
        fewer.extend_from_slice(&steps[end..]);
        if fires(setup, &fewer, gaps, target) {
            *steps = fewer;
            is_changed = true;
        } else {
            begin = end;
        }
    }
    is_changed
}
