//! The detector: runs the rules over events in merge order.
//!
//! ```text
//! event --> thread (what its bracket did so far) --> page state --> judgement --> ledger
//! ```
//!
//! One file per activity: `mark`, `fault` (under the lock), `fast` (without), `beside`, `evidence` and `pair` (faults
//! and harvest words), `unmarked`, `lock`, `chain`, `harvest`, `returned` and `verify`, `hasty`, `unread`, `settle`,
//! `host_write`, `memory`, `gone` and `enable` (VMs, slots and logging), `ring` and `popped`, `flush`, `spte_set`
//! (tracepoint plan), `residue` (the end), `sweep` (old stamps). State is per page, thread, slot and VM,
//! within the `bounds` of each; nothing grows with the trace.

mod alone;
mod beside;
mod bounds;
mod case;
mod chain;
mod due;
mod enable;
mod evidence;
mod fast;
mod fault;
mod flush;
mod gone;
mod harvest;
mod hasty;
mod heat;
mod host_write;
mod left;
mod lock;
mod logging;
mod look;
mod mark;
mod memory;
mod opening;
mod pair;
mod pending;
mod pml;
mod popped;
mod predict;
mod recent;
mod residue;
mod results;
mod returned;
mod ring;
mod settle;
mod slot;
mod spte_set;
mod sweep;
mod thread;
mod tlb;
mod unmarked;
mod unread;
mod verify;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::{
    Event, EventKind, Evidence, Gap, Gfn, Nanos, Operation, PageRef, Plan, RawEvent, Setup, Span,
    Spte, SpteMasks, VmId,
};
use crate::order::{Ordinal, Spool};

use super::ledger::Ledger;
use super::page::{Page, Protection, SEVERAL_SPTES};
use super::rule::RuleSet;
use super::{Harvest, UnknownCause, Window, WindowStats};

pub(crate) use alone::detached;
use case::PageAt;
pub(crate) use slot::Vm;
use thread::Threads;

/// Runs the rules.
#[derive(Clone, Debug)]
pub struct Detector {
    ctx: Ctx,
    ledger: Ledger,
    vms: Vec<Vm>,
    last_vm: usize,
    threads: Threads,
    windows: [WindowStats; 4],
    /// Every window that closed, while somebody asks for them.
    followed: Option<Vec<Window>>,
    harvests: VecDeque<Harvest>,
    harvests_total: u64,
    /// A harvest that was published got a worse verdict since.
    harvests_changed: bool,
    /// Pages that may still get state of their own.
    budget: u64,
    limit_reached: Option<Nanos>,
    /// Slots that may still be made.
    slots_left: u32,
    due: VecDeque<(Nanos, due::Due)>,
}

/// What every handler may read.
#[derive(Clone, Debug)]
pub(crate) struct Ctx {
    pub rules: RuleSet,
    pub masks: SpteMasks,
    pub epsilon_ns: u64,
    pub is_final: bool,
    pub release: Release,
    pub spool: Spool,
    /// Records before this ordinal say nothing any more about pages: something was dropped since.
    pub known_since: Ordinal,
    /// The newest gaps.
    pub gaps: slot::Recent<Option<Gap>, 16>,
    /// No gap ends later.
    pub gaps_end: Nanos,
    /// The begin of the ioctl that the record in hand belongs to, 0 if to none.
    pub ioctl: Ordinal,
    /// What witnesses are judged with; `None`: they are not.
    pub setup: Option<Arc<Setup>>,
    pub now: Nanos,
    /// Marks of steal time are told from others, or marks of the host are not seen at all.
    pub tells_steal_time: bool,
    pub ring_reset_is_observed: bool,
    pub fault_is_observed: bool,
    pub fast_fault_is_observed: bool,
    /// Whether a harvest's stores to SPTEs of the rmap are seen: not under PML, where `__rmap_clear_dirty` makes them,
    /// and not on a plan that protects by the TDP MMU's tracepoint alone.
    pub rmap_walk_is_observed: bool,
}

/// A kernel release: `6.1.0-40-amd64` is 6.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    pub major: u32,
    pub minor: u32,
}

/// An event with its place in merge order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub ordinal: Ordinal,
    pub event: &'a Event,
}

/// Harvests kept one by one.
pub const HARVESTS_MAX: usize = 4096;

impl Release {
    fn parse(text: &str) -> Self {
        let mut numbers = text
            .split(|c: char| !c.is_ascii_digit())
            .map(|number| number.parse().unwrap_or_default());
        Self {
            major: numbers.next().unwrap_or_default(),
            minor: numbers.next().unwrap_or_default(),
        }
    }
}

impl Ctx {
    fn new(setup: &Setup) -> Self {
        Self {
            rules: RuleSet::new(&setup.plan),
            masks: setup.masks,
            epsilon_ns: setup.epsilon_ns,
            is_final: setup.is_final,
            release: Release::parse(&setup.kernel),
            spool: Spool::new(Spool::RECORDS),
            known_since: 0,
            gaps: slot::Recent::default(),
            gaps_end: Nanos(0),
            ioctl: 0,
            setup: Some(Arc::new(setup.clone())),
            now: Nanos(0),
            tells_steal_time: observes(&setup.plan, Operation::HostWrite)
                || setup.plan.evidence(Operation::Mark) < Evidence::Direct,
            ring_reset_is_observed: observes(&setup.plan, Operation::RingReset),
            fault_is_observed: observes(&setup.plan, Operation::Fault),
            fast_fault_is_observed: observes(&setup.plan, Operation::FastFault),
            rmap_walk_is_observed: !setup.masks.pml
                && Evidence::Direct <= setup.plan.evidence(Operation::WriteProtect),
        }
    }

    /// The page's protection, as far as the plan and dropped records leave it known.
    pub fn protection(&self, page: &Page) -> Result<Protection, UnknownCause> {
        if page.protection == Protection::Unknown {
            return Err(UnknownCause::BeforeAttach);
        }
        if page.changed.ordinal(self.spool.newest()) < self.known_since {
            return Err(UnknownCause::Dropped);
        }
        if let (Protection::Closed, Some(operation)) =
            (page.protection, self.rules.unseen_opening())
        {
            return Err(UnknownCause::NotObserved(operation));
        }
        Ok(page.protection)
    }

    /// A gap may touch the stretch of time.
    #[inline]
    pub fn has_gap_in(&self, span: Span) -> bool {
        span.lo <= self.gaps_end && self.has_kept_gap_in(span)
    }

    fn has_kept_gap_in(&self, span: Span) -> bool {
        let mut gaps = self.gaps.iter().flatten();
        gaps.any(|gap| span.lo <= gap.to && gap.from <= span.hi)
            || self.gaps.has_forgotten() && self.has_forgotten_gap_since(span.lo)
    }

    /// A gap may touch what came at `since` or later.
    pub fn has_gap_since(&self, since: Nanos) -> bool {
        since <= self.gaps_end && self.gaps.iter().flatten().any(|gap| since <= gap.to)
    }

    /// Gaps that are no longer kept ended by the oldest that is.
    fn has_forgotten_gap_since(&self, since: Nanos) -> bool {
        self.gaps.iter().flatten().last().is_some_and(|oldest| since <= oldest.to)
    }

    /// A leaf entry of this level and value lets writes through unlogged.
    pub fn is_open(&self, level: u8, spte: Spte) -> bool {
        const LARGE: u64 = 1 << 7;
        (level <= 1 || spte.0 & LARGE != 0) && self.masks.is_open(spte)
    }
}

fn observes(plan: &Plan, operation: Operation) -> bool {
    Evidence::None < plan.evidence(operation)
}

impl Detector {
    /// A detector for one trace.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        Self {
            ctx: Ctx::new(setup),
            ledger: Ledger::new(setup.limits.findings_max),
            vms: Vec::new(),
            last_vm: 0,
            threads: Threads::new(setup.limits.threads_max),
            windows: Default::default(),
            followed: None,
            harvests: VecDeque::new(),
            harvests_total: 0,
            harvests_changed: false,
            budget: setup.limits.pages_max,
            limit_reached: None,
            slots_left: bounds::SLOTS_MAX,
            due: VecDeque::new(),
        }
    }

    /// Takes the next event, in merge order.
    #[inline(always)]
    pub fn push(&mut self, record: &RawEvent, event: &Event) {
        let ordinal = self.ctx.spool.push(record);
        self.sweep_if_due(ordinal);
        self.ctx.now = self.ctx.now.max(event.span.hi);
        self.ctx.ioctl = 0;
        self.settle_due(event.span.hi);
        if !self.admits(event.vm) {
            return;
        }
        self.dispatch(At { ordinal, event });
        self.note_evicted();
        if self.limit_reached.is_some() {
            self.note_limit();
        }
    }

    #[inline(always)]
    fn dispatch(&mut self, at: At<'_>) {
        match at.event.kind {
            EventKind::VmSeen { .. } => self.on_vm_seen(at),
            EventKind::VmGone => self.on_vm_gone(at),
            EventKind::SlotState { .. } => self.on_slot_state(at),
            EventKind::IoctlBegin { op, flushes, .. } => self.on_ioctl_begin(at, op, flushes),
            EventKind::IoctlEnd { op, .. } => self.on_ioctl_end(at, op),
            EventKind::Flush { .. } => self.on_flush(at),
            EventKind::RingReset { .. } => self.on_ring_reset(at),
            EventKind::SlotProtect { .. } => self.on_slot_protect(at),
            EventKind::Invalidate { .. } => self.on_invalidate(at),
            EventKind::LockWait { .. } => {}
            EventKind::Mark { .. } => self.on_mark(at),
            EventKind::SpteChange { .. } => self.on_spte_change(at),
            EventKind::FastFault { .. } => self.on_fast_fault(at),
            EventKind::Fault { .. } => self.on_fault(at),
            EventKind::HarvestWord { .. } => self.on_harvest_word(at),
            EventKind::UserWord { .. } => self.on_user_word(at),
            EventKind::RmapAdd { .. } => self.on_rmap_add(at),
            EventKind::HostWrite { .. } => self.on_host_write(at),
            EventKind::RingPush { .. } => self.on_ring_push(at),
            EventKind::RunBegin { vcpu } => self.on_run_begin(at, vcpu),
            EventKind::RunEnd { vcpu, .. } => self.on_run_end(at, vcpu),
            EventKind::SpteSet { .. } => self.on_spte_set(at),
            EventKind::Split { page, errno, .. } => self.on_split(at, page, errno),
            EventKind::Zap { .. } => self.on_zap(at),
        }
    }

    /// Records are missing; called in merge order, before the record that showed it.
    pub fn gap(&mut self, gap: &Gap) {
        self.ctx.gaps.push(Some(*gap));
        self.ctx.gaps_end = self.ctx.gaps_end.max(gap.to);
        self.ctx.known_since = self.ctx.spool.newest() + 1;
        self.ledger.gap(gap);
        self.vms.iter_mut().for_each(|vm| vm.misfits.clear());
    }

    /// The trace has ended.
    pub fn finish(&mut self) {
        self.settle_all_due();
        self.judge_residue();
    }

    #[inline]
    fn vm(&mut self, id: VmId) -> usize {
        if self.vms.get(self.last_vm).is_some_and(|vm| vm.id == id) {
            return self.last_vm;
        }
        self.other_vm(id)
    }

    #[cold]
    #[inline(never)]
    fn other_vm(&mut self, id: VmId) -> usize {
        self.last_vm = match self.vms.iter().position(|vm| vm.id == id) {
            Some(index) => index,
            None => {
                self.vms.push(Vm::new(id));
                self.vms.len() - 1
            }
        };
        self.last_vm
    }

    /// The page of an SPTE record.
    fn slot_of(&mut self, vm: usize, page: PageRef) -> Option<usize> {
        self.vms[vm].slot_of(page.gfn, page.as_id)
    }

    /// The state of one page.
    #[inline]
    fn page(&self, (vm, slot, gfn): PageAt) -> Page {
        self.vms[vm].slots[slot].pages.get(gfn)
    }

    /// Changes the state of one page; `false` if there is no room for it.
    #[inline(always)]
    fn with_page(
        &mut self,
        vm: usize,
        slot: usize,
        gfn: Gfn,
        change: impl FnOnce(&mut Page, &mut u64),
    ) -> bool {
        let slot = &mut self.vms[vm].slots[slot];
        match slot.pages.get_mut(gfn, &mut self.budget) {
            Some(page) => {
                change(page, &mut slot.marked);
                true
            }
            None => {
                self.limit_reached = Some(self.ctx.now);
                false
            }
        }
    }

    #[inline(always)]
    fn window(&mut self, window: Window) {
        self.windows[window.kind as usize].add(&window);
        if self.followed.is_some() {
            self.follow_window(window);
        }
    }
}

/// Low bits of an SPTE's address, enough to notice that a page has another one.
fn sptep_tag(sptep: u64) -> u8 {
    if sptep == 0 { 0 } else { ((sptep >> 3 ^ sptep >> 11) as u8) | 1 }
}

/// Notes through which SPTE a page was seen.
fn note_sptep(page: &mut Page, sptep: u64) {
    let tag = sptep_tag(sptep);
    if tag != 0 {
        page.sptep = if page.sptep == 0 || page.sptep == tag { tag } else { SEVERAL_SPTES };
    }
}

#[cfg(test)]
mod tests;
