//! The edges of a witness: which step precedes which, and why (DESIGN.md, section 3).

use crate::event::{Event, EventKind, Gfn, IoctlOp, MarkWord, PageRef, Spte, SpteMasks};

use super::{Edge, EdgeKind, Step};

/// What orders the steps.
pub(super) struct Edges<'a> {
    steps: &'a [Step],
    /// The page the finding names.
    gfn: Option<Gfn>,
    masks: &'a SpteMasks,
    epsilon_ns: u64,
}

/// What a step did to the SPTE of the page: the value it found, as far as it shows, and the one it left.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value {
    found: Option<State>,
    left: State,
}

/// The part of an SPTE's value that decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Closed,
    Open,
}

impl<'a> Edges<'a> {
    pub fn new(steps: &'a [Step], gfn: Option<Gfn>, masks: &'a SpteMasks, epsilon_ns: u64) -> Self {
        Self { steps, gfn, masks, epsilon_ns }
    }

    /// Every edge, by its earlier step: the step before in the same thread; what values, locks and flushes show
    /// between threads; and where nothing else does, the last step of another thread that real time puts before.
    pub fn find(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        for to in 0..self.steps.len() {
            let own = (0..to).rev().find(|&from| self.is_same_thread(from, to));
            if let Some(from) = own {
                edges.push(Edge { from, to, kind: EdgeKind::ProgramOrder });
            }
            for from in 0..self.steps.len() {
                let kind = if from == to { None } else { self.shown(from, to) };
                edges.extend(kind.map(|kind| Edge { from, to, kind }));
            }
            let is_ordered =
                |from: usize| edges.iter().any(|edge| (edge.from, edge.to) == (from, to));
            let before = (0..to)
                .rev()
                .find(|&from| !self.is_same_thread(from, to) && self.is_before(from, to));
            if let Some(from) = before.filter(|&from| !is_ordered(from)) {
                edges.push(Edge { from, to, kind: EdgeKind::RealTime });
            }
        }
        edges.sort_by_key(|edge| (edge.from, edge.to, edge.kind));
        edges
    }

    /// An edge that a value or a promise of the kernel gives.
    fn shown(&self, from: usize, to: usize) -> Option<EdgeKind> {
        if self.reads_from(from, to) {
            return Some(EdgeKind::ReadsFrom);
        }
        if self.is_flush_of(from, to) {
            return Some(EdgeKind::FlushAck);
        }
        if self.is_same_thread(from, to) {
            return None;
        }
        if self.is_value_chain(from, to) {
            return Some(EdgeKind::SpteValue);
        }
        if !self.is_before(from, to) {
            return None;
        }
        let (earlier, later) = (&self.steps[from].event, &self.steps[to].event);
        if self.is_locked(earlier) && self.is_locked(later) {
            return Some(EdgeKind::MmuLock);
        }
        if is_slots_locked(earlier) && is_slots_locked(later) {
            return Some(EdgeKind::SlotsLock);
        }
        (uses_old_slot(earlier) && protects_slot(later)).then_some(EdgeKind::Srcu)
    }

    fn is_same_thread(&self, a: usize, b: usize) -> bool {
        self.steps[a].event.tid == self.steps[b].event.tid
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        self.steps[a].event.span.is_before(self.steps[b].event.span, self.epsilon_ns)
    }

    /// A harvest took what the mark set, or the mark came after a harvest that did not; a reset popped what was pushed.
    fn reads_from(&self, from: usize, to: usize) -> bool {
        let (a, b) = (&self.steps[from].event, &self.steps[to].event);
        if let Some(gfn) = marked(a)
            && self.gfn.is_none_or(|own| own == gfn)
            && takes(b, gfn) == Some(true)
        {
            let is_other = |&step: &usize| {
                step != from
                    && marked(&self.steps[step].event) == Some(gfn)
                    && !self.is_before(to, step)
            };
            return !self.is_before(to, from) && !(0..self.steps.len()).any(|step| is_other(&step));
        }
        if let Some(gfn) = marked(b)
            && self.gfn.is_none_or(|own| own == gfn)
            && takes(a, gfn) == Some(false)
        {
            return !self.is_before(to, from) && !self.is_same_thread(from, to);
        }
        match (a.kind, b.kind) {
            (
                EventKind::Mark { word: MarkWord::Ring(index), .. }
                | EventKind::RingPush { index, .. },
                EventKind::RingReset { before, after, .. },
            ) => index.wrapping_sub(before.wrapping_add(1)) < after.wrapping_sub(before),
            _ => false,
        }
    }

    /// The flush began after the SPTE was closed: when it returns, no TLB holds the old value.
    fn is_flush_of(&self, from: usize, to: usize) -> bool {
        let EventKind::Flush { first, npages, .. } = self.steps[to].event.kind else {
            return false;
        };
        let closing = &self.steps[from].event;
        let Some(value) = self.gfn.and_then(|gfn| self.value(closing, gfn)) else { return false };
        let end = first.0.saturating_add(npages);
        let is_covered = npages == 0 || self.gfn.is_some_and(|gfn| first <= gfn && gfn.0 < end);
        let is_started = closing.span.hi <= self.steps[to].event.span.lo
            && (self.is_same_thread(from, to) || self.is_before(from, to));
        value.left != State::Open && is_covered && is_started
    }

    /// The later step found the value that the earlier one left, and nobody wrote it in between.
    fn is_value_chain(&self, from: usize, to: usize) -> bool {
        let Some(gfn) = self.gfn else { return false };
        let of = |step: usize| self.value(&self.steps[step].event, gfn);
        let (Some(earlier), Some(later)) = (of(from), of(to)) else { return false };
        let is_between = |&step: &usize| from < step && step < to && of(step).is_some();
        from < to
            && later.found == Some(earlier.left)
            && !(0..self.steps.len()).any(|step| is_between(&step))
    }

    fn value(&self, event: &Event, gfn: Gfn) -> Option<Value> {
        let state = |spte: Spte| match spte {
            spte if self.masks.is_open(spte) => State::Open,
            spte if self.masks.is_present(spte) => State::Closed,
            _ => State::Absent,
        };
        match event.kind {
            EventKind::SpteChange { page, old, new, .. } if maps(page, gfn) => {
                Some(Value { found: old.map(state), left: state(new) })
            }
            EventKind::FastFault { page, old, fixed: true, .. } if maps(page, gfn) => {
                Some(Value { found: Some(state(old)), left: State::Open })
            }
            EventKind::SpteSet { page, new, .. } if maps(page, gfn) => {
                Some(Value { found: None, left: state(new) })
            }
            EventKind::HarvestWord { first, protected, .. } if has_bit(first, protected, gfn) => {
                Some(Value { found: Some(State::Open), left: State::Closed })
            }
            _ => None,
        }
    }

    /// The step lies inside one hold of `mmu_lock`.
    fn is_locked(&self, event: &Event) -> bool {
        match event.kind {
            EventKind::HarvestWord { mask, .. } => mask != 0,
            EventKind::SpteChange { .. } => true,
            _ => false,
        }
    }
}

fn marked(event: &Event) -> Option<Gfn> {
    match event.kind {
        EventKind::Mark { gfn, slot, .. } => slot.logging.then_some(gfn),
        _ => None,
    }
}

/// Whether a harvest word took the bit of the page; `None`: the word says nothing about it.
fn takes(event: &Event, gfn: Gfn) -> Option<bool> {
    match event.kind {
        EventKind::HarvestWord { first, mask: mask @ 1.., .. }
        | EventKind::UserWord { first, mask, .. } => {
            let bit = gfn.0.checked_sub(first.0).filter(|bit| *bit < 64)?;
            Some(mask >> bit & 1 != 0)
        }
        _ => None,
    }
}

fn has_bit(first: Gfn, word: u64, gfn: Gfn) -> bool {
    gfn.0.checked_sub(first.0).is_some_and(|bit| bit < 64 && word >> bit & 1 != 0)
}

fn maps(page: PageRef, gfn: Gfn) -> bool {
    let npages = 1_u64 << (9 * u32::from(page.level.clamp(1, 5) - 1));
    page.gfn.0 <= gfn.0 && gfn.0 - page.gfn.0 < npages
}

/// GET, CLEAR, RESET and SET_MEMORY of one VM follow one another.
fn is_slots_locked(event: &Event) -> bool {
    match event.kind {
        EventKind::IoctlBegin { op, .. } | EventKind::IoctlEnd { op, .. } => {
            op.op != IoctlOp::EnableCap
        }
        _ => false,
    }
}

/// A mark through the slot object that logging replaces.
fn uses_old_slot(event: &Event) -> bool {
    matches!(event.kind, EventKind::Mark { slot, .. } if !slot.logging)
}

/// What comes after the grace period of the replacement.
fn protects_slot(event: &Event) -> bool {
    match event.kind {
        EventKind::HarvestWord { mask: 0, .. } | EventKind::SlotProtect { .. } => true,
        EventKind::IoctlEnd { op, .. } => op.op == IoctlOp::SetMemory,
        _ => false,
    }
}

/// The order in which steps are drawn and judged.
pub(super) const fn merge_key(event: &Event) -> (u64, u16, u8, u32) {
    (event.span.hi.0, event.lane.cpu.0, event.lane.class as u8, event.seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Class, CpuId, IoctlRef, Lane, Nanos, SlotId, SlotRef, Span, Tid, VmId};

    const SLOT: SlotId = SlotId { as_id: 0, id: 0 };

    fn step(tid: u32, at: u64, kind: EventKind) -> Step {
        let lane = Lane { class: Class::Page, cpu: CpuId(tid as u16) };
        let span = Span::at(Nanos(at));
        Step { event: Event { span, vm: VmId(1), tid: Tid(tid), lane, seq: 0, kind }, note: "" }
    }

    fn kinds(steps: &[Step]) -> Vec<(usize, usize, EdgeKind)> {
        let edges = Edges::new(steps, Some(Gfn(7)), &SpteMasks::W_ONLY, 0).find();
        edges.iter().map(|edge| (edge.from, edge.to, edge.kind)).collect()
    }

    fn mark(logging: bool) -> EventKind {
        let slot = SlotRef { id: SLOT, logging, has_bitmap: logging };
        let word = MarkWord::Unread;
        EventKind::Mark { gfn: Gfn(7), slot, word, spte: None, has_vcpu: true, in_fast: false }
    }

    fn word(mask: u64) -> EventKind {
        let slot = SlotRef { id: SLOT, logging: true, has_bitmap: true };
        EventKind::HarvestWord { first: Gfn(0), mask, protected: 0, slot }
    }

    #[test]
    fn a_fault_on_the_old_slot_object_precedes_what_follows_the_grace_period() {
        let steps = [step(1, 10, mark(false)), step(2, 20, word(0))];
        assert_eq!(kinds(&steps), [(0, 1, EdgeKind::Srcu)]);
    }

    #[test]
    fn ioctls_of_two_threads_follow_one_another_under_slots_lock() {
        let op = IoctlRef { op: IoctlOp::GetDirtyLog, slot: SLOT, mem_flags: 0 };
        let end = EventKind::IoctlEnd { op, ret: 0, flushes: 0, words: 0, words_cut: false };
        let begin = EventKind::IoctlBegin { op, first: 0, count: 0, flushes: 0 };
        let steps = [step(1, 10, end), step(2, 20, begin)];
        assert_eq!(kinds(&steps), [(0, 1, EdgeKind::SlotsLock)]);
    }

    #[test]
    fn a_word_without_the_bit_precedes_the_mark_that_overlaps_it() {
        let mut steps = [step(1, 20, mark(true)), step(2, 30, word(1))];
        steps[0].event.span.hi = Nanos(40);
        assert_eq!(kinds(&steps), [(1, 0, EdgeKind::ReadsFrom)]);
    }
}
