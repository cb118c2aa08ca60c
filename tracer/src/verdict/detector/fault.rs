//! Faults under `mmu_lock`: stores that open pages, and the brackets around them (K01, K13).
//!
//! A store that opens a page must have a mark of the same fault. Slow paths mark first and store second under one hold
//! of `mmu_lock`; 5.10's TDP MMU stores first; both are right, so the fault is judged when it ends.

use crate::event::{EventKind, Gfn, Operation, PageRef, Span, Spte, VcpuId, VmId};
use crate::verdict::ledger::Proof;
use crate::verdict::page::{Page, Protection, page_flag};
use crate::verdict::{LookAlike, RuleId, UnknownCause, Verdict, Window, WindowKind};

use super::case::Case;
use super::slot::{Opening, WordSeen};
use super::thread::{PendingMark, PendingStore, STORES_MAX};
use super::{At, Detector, note_sptep};

/// How many pages an SPTE of that level maps.
pub(super) const fn pages_of_level(level: u8) -> u64 {
    match level {
        2 => 512,
        3 => 512 * 512,
        _ => 1,
    }
}

impl Detector {
    pub(super) fn on_spte_change(&mut self, at: At<'_>) {
        let EventKind::SpteChange { page, old, new, sptep, shadow } = at.event.kind else { return };
        if at.event.vm == VmId::UNKNOWN {
            self.doubt_page(at, page);
            return;
        }
        let vm = self.vm(at.event.vm);
        let Some(slot) = self.slot_by_mark(at, vm, page) else { return };
        let is_open = self.ctx.is_open(page.level, new);
        let was_open = old.map(|old| self.ctx.is_open(page.level, old));
        if is_open && was_open == Some(true) {
            self.benign(LookAlike::Aging);
        }
        if 1 < page.level && self.is_table(new) {
            // A split: its own record tells what the children inherit.
            return;
        }
        if shadow {
            self.judge_holds_at_once(at, vm, slot, page.gfn);
        } else if let (Some(old), Some(false), 0..=1) = (old, was_open, page.level) {
            let before = self.page((vm, slot, page.gfn));
            self.note_chain(at, (vm, slot, page.gfn), &before, old);
        }
        if !is_open && was_open == Some(true) {
            self.note_closing(at, vm, slot, page, new);
        } else if !is_open {
            self.note_decision(at, vm, slot, page, (old, new));
        }
        let is_opening = is_open && was_open != Some(true);
        let protection = if is_open { Protection::Open } else { Protection::Closed };
        let protection = match protection {
            Protection::Open if self.is_store_unsettled(vm, slot, at.event.span.lo, shadow) => {
                Protection::Unknown
            }
            Protection::Open if is_opening => self.after_race(at, vm, slot, page),
            other => other,
        };
        self.set_protection(vm, slot, page, |state| {
            state.change(protection, at.ordinal);
            state.set(page_flag::UNLOGGED, !is_opening && state.has(page_flag::UNLOGGED));
            state.set(page_flag::SHADOW, shadow);
            state.set(page_flag::HUGE, 1 < page.level);
            if page.level <= 1 {
                note_sptep(state, sptep);
            }
        });
        if is_opening {
            self.note_store(at, vm, slot, page);
        }
    }

    /// The slot of an SPTE record: by its address space, else by the mark of the same page in the same thread.
    #[inline(always)]
    pub(super) fn slot_by_mark(&mut self, at: At<'_>, vm: usize, page: PageRef) -> Option<usize> {
        match page.as_id {
            Some(as_id) => self.vms[vm].slot_in(as_id, page.gfn),
            None => self.slot_unnamed(at, vm, page.gfn),
        }
    }

    #[inline(never)]
    fn slot_unnamed(&mut self, at: At<'_>, vm: usize, gfn: Gfn) -> Option<usize> {
        let place = self.threads.place(at.event.tid);
        let marked = self.threads.get_mut(place).slot_of_mark(vm, gfn, at.event.span.lo);
        marked.or_else(|| self.vms[vm].slot_of(gfn, None))
    }

    /// An SPTE changed in a thread that names no VM: of the VMs followed, any may be meant.
    fn doubt_page(&mut self, at: At<'_>, page: PageRef) {
        for vm in 0..self.vms.len() {
            if let Some(slot) = self.vms[vm].slot_of(page.gfn, page.as_id) {
                self.set_protection(vm, slot, page, |state| {
                    state.change(Protection::Unknown, at.ordinal);
                });
            }
        }
    }

    /// State after a locked store: a harvest word within the clock uncertainty may have come before or after.
    fn after_race(&self, at: At<'_>, vm: usize, slot: usize, page: PageRef) -> Protection {
        let stored = at.event.span.hi;
        if self.is_helped(vm, slot, page.gfn, at.event.span) {
            return Protection::Unknown;
        }
        if !self.is_beside_word(vm, stored) || 1 < page.level {
            return Protection::Open;
        }
        self.protection_beside_word(vm, slot, page.gfn, Span::at(stored))
    }

    /// An enable's helper, which holds the TDP MMU's lock shared as the fault does, may have closed the page between
    /// the store and its record.
    fn is_helped(&self, vm: usize, slot: usize, gfn: Gfn, store: Span) -> bool {
        let epsilon = self.ctx.epsilon_ns;
        let words = self.vms[vm].words.iter();
        words
            .take_while(|word| store.lo.0 <= word.visit.hi.0.saturating_add(epsilon))
            .any(|word| word.mask == 0 && word.closes(slot, gfn))
    }

    /// State of a page opened within `store`, given the words that may have closed it since. One that did not find it
    /// open says nothing: an older word of the same ioctl (rings) may have been the one.
    #[inline(never)]
    pub(super) fn protection_beside_word(
        &self,
        vm: usize,
        slot: usize,
        gfn: Gfn,
        store: Span,
    ) -> Protection {
        let (words, epsilon) = (&self.vms[vm].words, self.ctx.epsilon_ns);
        let may_follow = |word: &&WordSeen| store.lo.0 <= word.visit.hi.0.saturating_add(epsilon);
        let mut seen = 0;
        let mut since = words.iter().take_while(may_follow).inspect(|_| seen += 1);
        let is_closed =
            since.any(|word| word.closes(slot, gfn) && !word.visit.is_before(store, epsilon));
        let is_forgotten = words.has_forgotten() && seen == words.len();
        if is_closed || is_forgotten { Protection::Unknown } else { Protection::Open }
    }

    /// Applies `change` to every page an SPTE maps.
    pub(super) fn set_protection(
        &mut self,
        vm: usize,
        slot: usize,
        page: PageRef,
        change: impl Fn(&mut Page),
    ) {
        if page.level <= 1 {
            self.with_page(vm, slot, page.gfn, |state, _| change(state));
        } else {
            let slot = &mut self.vms[vm].slots[slot];
            let npages = pages_of_level(page.level);
            let first = (page.gfn.0 & !(npages - 1)).max(slot.base.0);
            let end = (page.gfn.0 & !(npages - 1)).saturating_add(npages);
            let end = end.min(slot.base.0.saturating_add(slot.npages));
            let count = end.saturating_sub(first);
            slot.pages.change_range(Gfn(first), count, &mut self.budget, change);
        }
    }

    /// An SPTE became open: it needs a mark of the same fault, before or after.
    fn note_store(&mut self, at: At<'_>, vm: usize, slot: usize, page: PageRef) {
        self.vms[vm].last_open = self.vms[vm].last_open.max(at.event.span.hi);
        if let Some(cell) = self.vms[vm].slots[slot].heat(page.gfn) {
            cell.opened += 1;
        }
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        // Under PML a mark may be a drained one of the same page: the span reaches back to the fault's begin.
        let is_instant = at.event.span.lo == at.event.span.hi;
        let is_told = self.ctx.masks.pml && !is_instant;
        let since = if is_told { at.event.span.lo } else { thread.last_exit };
        let mark = thread.find_mark((vm, slot, page.gfn), since).filter(|mark| !mark.in_fast);
        let Some(mark) = mark else {
            self.note_unmarked(at, vm, slot, page.gfn, false);
            return;
        };
        thread.claim(mark.ordinal);
        self.benign(LookAlike::MarkBeforeStoreLocked);
        self.report_if_huge(at, vm, slot, page, mark);
        let hold = Span { lo: mark.span.lo, hi: at.event.span.hi.max(mark.span.lo) };
        self.close_locked(at, vm, slot, mark, hold);
    }

    /// Mark and store of a locked fault are both known; `hold` lies inside one hold of `mmu_lock`.
    fn close_locked(&mut self, at: At<'_>, vm: usize, slot: usize, mark: PendingMark, hold: Span) {
        let is_shadow = self.vms[vm].slots[slot].pages.get(mark.gfn).has(page_flag::SHADOW);
        let opening = Opening {
            mark,
            store: hold,
            ordinal: at.ordinal,
            is_locked: true,
            hold,
            is_doubtful: self.is_store_unsettled(vm, slot, hold.lo, is_shadow),
        };
        self.judge_beside_words(at, vm, &opening);
        self.vms[vm].openings.push(opening);
        if !mark.is_logged {
            self.with_page(vm, slot, mark.gfn, |page, _| page.set(page_flag::UNLOGGED, true));
        }
        let harvests_inside = self.harvests_beside(vm, slot, hold);
        let (vm_id, slot_id) = (self.vms[vm].id, self.vms[vm].slots[slot].id);
        self.window(Window {
            kind: WindowKind::SlowFault,
            vm: vm_id,
            slot: slot_id,
            gfn: mark.gfn,
            tid: at.event.tid,
            opened: hold.lo,
            closed: Some(hold.hi),
            harvests_inside,
        });
    }

    /// A store whose mark was not seen yet waits for the end of its fault.
    #[inline(never)]
    pub(super) fn note_unmarked(
        &mut self,
        at: At<'_>,
        vm: usize,
        slot: usize,
        gfn: Gfn,
        is_fast: bool,
    ) {
        if !self.vms[vm].slots[slot].is_logging {
            self.with_page(vm, slot, gfn, |page, _| page.set(page_flag::UNLOGGED, true));
            return;
        }
        let (ordinal, span) = (at.ordinal, at.event.span);
        let store = PendingStore { vm, slot, gfn, ordinal, span, is_fast };
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        if thread.stores.len() < STORES_MAX {
            thread.stores.push(store);
        } else {
            self.ledger.unknown(UnknownCause::Limit, 1);
        }
    }

    /// The thread's newest mark may be of a page whose store came first, as 5.10's TDP MMU does it: both lie in one
    /// hold of the lock.
    #[inline(never)]
    pub(super) fn claim_awaited(&mut self, at: At<'_>, vm: usize, place: usize) {
        let thread = self.threads.get_mut(place);
        let Some(mark) = thread.marks.iter().next().copied() else { return };
        let Some(store) = thread.take_awaited(&mark) else { return };
        thread.claim(mark.ordinal);
        let hold = Span { lo: store.span.hi.min(mark.span.hi), hi: mark.span.hi };
        self.close_locked(at, vm, mark.slot, mark, hold);
    }

    pub(super) fn on_fault(&mut self, at: At<'_>) {
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        if !thread.stores.is_empty() || thread.prediction.is_some() || self.ctx.masks.pml {
            self.end_fault(at, place);
        }
        let begin = at.event.span.lo;
        let thread = self.threads.get_mut(place);
        thread.last_exit = at.event.span.hi;
        let unclaimed =
            thread.marks.iter().filter(|mark| !mark.is_claimed && begin <= mark.span.hi);
        let unclaimed = unclaimed.count() as u64;
        thread.marks.clear();
        self.ledger.benign(LookAlike::MarkWithoutStore, unclaimed);
        self.judge_decision(at, place);
    }

    /// What the fault has left open is judged.
    #[inline(never)]
    fn end_fault(&mut self, at: At<'_>, place: usize) {
        self.judge_stores(at, Some(at.event.span));
        self.expect_prediction(at, place);
        self.settle_drained(place);
    }

    pub(super) fn on_run_end(&mut self, at: At<'_>, vcpu: VcpuId) {
        self.note_outside(at, vcpu, false);
        let place = self.threads.place(at.event.tid);
        self.judge_stores(at, None);
        self.expect_prediction(at, place);
        self.settle_drained(place);
        let thread = self.threads.get_mut(place);
        thread.vcpu = None;
        thread.last_exit = at.event.span.hi;
        let drained = thread.marks.iter().filter(|mark| !mark.is_claimed).count() as u64;
        thread.marks.clear();
        if self.ctx.masks.pml {
            self.ledger.benign(LookAlike::PmlDrain, drained);
        }
    }

    /// The bracket of the thread's stores has ended; `fault`: it was a fault.
    #[inline(never)]
    fn judge_stores(&mut self, at: At<'_>, fault: Option<Span>) {
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        if thread.stores.is_empty() {
            return;
        }
        let mut stores = std::mem::take(&mut thread.stores);
        for store in &stores {
            let is_inside = fault.is_some_and(|fault| fault.lo <= store.span.hi);
            if store.is_fast && !is_inside {
                // A read fault restored an access-tracked SPTE: no W, no mark, no write-fault bracket.
                self.benign(LookAlike::AccessTracked);
            } else if self.ctx.fault_is_observed || is_inside {
                self.judge_store(at, *store, fault.filter(|_| is_inside));
            } else {
                let cause = UnknownCause::NotObserved(Operation::Fault);
                self.ledger.unknown(cause, 1);
            }
        }
        stores.clear();
        self.threads.get_mut(place).stores = stores;
    }

    /// K13: one mark for all pages of a huge SPTE.
    #[inline(never)]
    pub(super) fn report_if_huge(
        &mut self,
        at: At<'_>,
        vm: usize,
        slot: usize,
        page: PageRef,
        mark: PendingMark,
    ) {
        let is_judged = 1 < page.level
            && mark.is_logged
            && self.ctx.rules.is_on(RuleId::K13)
            && self.is_logging_since(vm, slot, mark.span.lo)
            && !self.ctx.has_gap_in(Span { lo: mark.span.lo, hi: at.event.span.hi });
        if !is_judged {
            // Beside an enable: if the pages are still open when it returns, nobody will ever report them (K15).
            if 1 < page.level {
                self.set_protection(vm, slot, page, |page| page.set(page_flag::UNLOGGED, true));
            }
            return;
        }
        let pages = pages_of_level(page.level);
        let first = Gfn(page.gfn.0 & !(pages - 1));
        let case = Case {
            proof: Proof::Values,
            ..Case::on_page(RuleId::K13, Verdict::Lost, (vm, slot, first), at.event.span.hi)
        };
        let records =
            [(mark.ordinal, "marks one page"), (at.ordinal, "makes a huge page writable")];
        self.report(case, &records, || {
            format!("{pages} pages from gfn {first} became writable with one mark")
        });
    }

    /// The entry points to a table, it is no large leaf: it maps nothing itself.
    fn is_table(&self, spte: Spte) -> bool {
        self.ctx.masks.is_present(spte) && spte.0 & (1 << 7) == 0
    }
}
