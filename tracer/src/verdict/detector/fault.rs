//! Guest faults: marks, SPTE stores, lockless fast faults, and the brackets around them.
//!
//! A store that opens a page must have a mark of the same fault (K01). Slow paths mark first and store second under
//! one hold of `mmu_lock`; 5.10's TDP MMU stores first; both are right, so the fault is judged when it ends.

use crate::event::{EventKind, Gfn, MarkWord, Nanos, Operation, PageRef, Span};
use crate::verdict::ledger::Proof;
use crate::verdict::page::{Page, Protection, Report, page_flag};
use crate::verdict::{LookAlike, RuleId, UnknownCause, Verdict, Window, WindowKind};

use super::case::{Case, Source};
use super::slot::{Bracket, Slot};
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
    pub(super) fn on_mark(&mut self, at: At<'_>) {
        let EventKind::Mark { gfn, slot, word, spte, in_fast, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let slot_index = self.slot_by_ref(vm, at, slot, gfn);
        let place = self.threads.place(at.event.tid);
        self.threads.get_mut(place).marks.push(PendingMark {
            slot: slot_index,
            gfn,
            ordinal: at.ordinal,
            span: at.event.span,
            spte,
            word,
            is_logged: slot.logging,
            in_fast,
            is_claimed: false,
        });
        if !slot.logging {
            if self.vms[vm].slots[slot_index].is_logging {
                self.benign(LookAlike::OldSlotMark);
            }
            return;
        }
        if !self.judge_mark(at, vm, slot_index) {
            self.note_mark(at, vm, slot_index, gfn);
        }
    }

    /// The page is reported, unless a harvest that ran at the same time took the mark at once.
    pub(super) fn note_mark(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) {
        let is_racing =
            at.event.span.lo.0 <= self.vms[vm].last_word.0.saturating_add(self.ctx.epsilon_ns);
        let report = if is_racing { self.report_after_race(at, vm, slot, gfn) } else { None };
        let has_room = self.with_page(vm, slot, gfn, |page, marked| match report {
            None => Slot::mark(page, marked, at.ordinal),
            Some(_) if page.report == Report::Marked => {}
            Some(report) => page.report = report,
        });
        if !has_room {
            self.ledger.unknown(UnknownCause::Limit, 1);
        }
        if report == Some(Report::Clean) {
            self.benign(LookAlike::MarkTakenAtOnce);
        }
    }

    /// `None`: the mark certainly follows the harvest word that took the page last.
    fn report_after_race(&self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) -> Option<Report> {
        let slot = &self.vms[vm].slots[slot];
        let taken = slot.pages.get(gfn).taken.ordinal(self.ctx.spool.newest());
        // A word that has left the spool is long past.
        let word = self.ctx.spool.event(taken)?;
        let xchg_hi = word.span.lo;
        let epsilon = self.ctx.epsilon_ns;
        if xchg_hi.0.saturating_add(epsilon) < at.event.span.lo.0 {
            return None;
        }
        if let EventKind::Mark { word: MarkWord::Bitmap(word), .. } = at.event.kind {
            match slot.bit(gfn, word) {
                // The bit outlived the xchg.
                Some(true) if xchg_hi.0.saturating_add(epsilon) < at.event.span.hi.0 => {
                    return None;
                }
                // The xchg came between `set_bit` and the re-read.
                Some(false) => return Some(Report::Clean),
                Some(true) | None => {}
            }
        }
        Some(Report::Maybe)
    }

    pub(super) fn on_spte_change(&mut self, at: At<'_>) {
        let EventKind::SpteChange { page, old, new, sptep, shadow } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let Some(slot) = self.slot_of(vm, page) else { return };
        let is_open = self.ctx.is_open(page.level, new);
        let was_open = old.map(|old| self.ctx.is_open(page.level, old));
        if is_open && was_open == Some(true) {
            self.benign(LookAlike::Aging);
        }
        if is_open && was_open != Some(true) {
            self.note_store(at, vm, slot, page);
        }
        let protection = if is_open { Protection::Open } else { Protection::Closed };
        self.set_protection(vm, slot, page, |state| {
            state.change(protection, at.ordinal);
            state.set(page_flag::SHADOW, shadow);
            if 1 < page.level {
                state.set(page_flag::HUGE, true);
            } else {
                state.set(page_flag::HUGE, false);
                note_sptep(state, sptep);
            }
        });
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
            let first = Gfn(page.gfn.0 & !(npages - 1)).0.max(slot.base.0);
            let end = (page.gfn.0 & !(npages - 1)).saturating_add(npages);
            let end = end.min(slot.base.0.saturating_add(slot.npages));
            let count = end.saturating_sub(first);
            slot.pages.change_range(Gfn(first), count, &mut self.budget, change);
        }
    }

    /// An SPTE became open: it needs a mark of the same fault, before or after.
    fn note_store(&mut self, at: At<'_>, vm: usize, slot: usize, page: PageRef) {
        self.vms[vm].last_open = at.event.span.hi;
        if let Some(cell) = self.vms[vm].slots[slot].heat(page.gfn) {
            cell.opened += 1;
        }
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        let mark = thread.find_mark(slot, page.gfn, Nanos(0)).filter(|mark| !mark.in_fast);
        let Some(mark) = mark else {
            self.note_unmarked(at, vm, slot, page.gfn);
            return;
        };
        thread.claim(mark.ordinal);
        self.close_slow_window(at, vm, slot, mark);
    }

    fn close_slow_window(&mut self, at: At<'_>, vm: usize, slot: usize, mark: PendingMark) {
        let span = Span { lo: mark.span.lo, hi: at.event.span.hi.max(mark.span.lo) };
        let bracket = Bracket { span, gfn: mark.gfn, mark: mark.ordinal, store: at.ordinal };
        self.vms[vm].brackets.push(bracket);
        self.benign(LookAlike::MarkBeforeStoreLocked);
        if !mark.is_logged {
            self.with_page(vm, slot, mark.gfn, |page, _| page.set(page_flag::UNLOGGED, true));
        }
        let (vm_id, slot_id) = (self.vms[vm].id, self.vms[vm].slots[slot].id);
        self.window(Window {
            kind: WindowKind::SlowFault,
            vm: vm_id,
            slot: slot_id,
            gfn: mark.gfn,
            tid: at.event.tid,
            opened: span.lo,
            closed: Some(span.hi),
            harvests_inside: 0,
        });
    }

    /// A store whose mark was not seen yet waits for the end of its fault.
    fn note_unmarked(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) {
        if !self.vms[vm].slots[slot].is_logging {
            self.with_page(vm, slot, gfn, |page, _| page.set(page_flag::UNLOGGED, true));
            return;
        }
        let store = PendingStore {
            slot,
            gfn,
            ordinal: at.ordinal,
            span: at.event.span,
            cpu: at.event.lane.cpu,
        };
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        if thread.stores.len() < STORES_MAX {
            thread.stores.push(store);
        } else {
            self.ledger.unknown(UnknownCause::Limit, 1);
        }
    }

    pub(super) fn on_fast_fault(&mut self, at: At<'_>) {
        let EventKind::FastFault { page, sptep, fixed, .. } = at.event.kind else { return };
        if !fixed {
            return;
        }
        let vm = self.vm(at.event.vm);
        let Some(slot) = self.slot_of(vm, page) else { return };
        self.vms[vm].last_open = at.event.span.hi;
        if let Some(cell) = self.vms[vm].slots[slot].heat(page.gfn) {
            cell.opened += 1;
        }
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        let mark = thread.find_mark(slot, page.gfn, at.event.span.lo);
        self.set_protection(vm, slot, page, |state| {
            state.change(Protection::Open, at.ordinal);
            note_sptep(state, sptep);
        });
        let Some(mark) = mark else {
            self.note_unmarked(at, vm, slot, page.gfn);
            return;
        };
        self.threads.get_mut(place).claim(mark.ordinal);
        if mark.is_logged {
            let (vm_id, slot_id) = (self.vms[vm].id, self.vms[vm].slots[slot].id);
            let window = Window {
                kind: WindowKind::FastFault,
                vm: vm_id,
                slot: slot_id,
                gfn: page.gfn,
                tid: at.event.tid,
                opened: at.event.span.lo,
                closed: Some(mark.span.hi.max(at.event.span.lo)),
                harvests_inside: 0,
            };
            self.close_third_case(vm, slot, window);
        } else {
            self.with_page(vm, slot, page.gfn, |page, _| page.set(page_flag::UNLOGGED, true));
        }
    }

    /// A third-case window has closed: exposed if a harvest can have fallen inside, else it waits for the next one.
    pub(super) fn close_third_case(&mut self, vm: usize, slot: usize, mut window: Window) {
        let span = Span { lo: window.opened, hi: window.closed.unwrap_or(window.opened) };
        window.harvests_inside = self.harvests_in(vm, slot, span);
        self.window(window);
        if let Some(cell) = self.vms[vm].slots[slot].heat(window.gfn) {
            cell.windows += 1;
        }
        if self.ctx.has_gap_in(span) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
        } else if 0 < window.harvests_inside {
            self.ledger.judge(Verdict::Exposed, span.hi, 1);
        } else if self.vms[vm].ring_bytes != 0 {
            // A ring entry is reported as soon as it is pushed.
            self.ledger.judge(Verdict::Safe, span.hi, 1);
        } else {
            self.vms[vm].slots[slot].windows_waiting += 1;
        }
    }

    /// Harvests of the slot that can have run inside `span`.
    fn harvests_in(&self, vm: usize, slot: usize, span: Span) -> u32 {
        let epsilon = self.ctx.epsilon_ns;
        let done = self.vms[vm].slots[slot].recent.iter();
        let done = done.filter(|harvest| {
            !harvest.is_before(span, epsilon) && !span.is_before(**harvest, epsilon)
        });
        let open = self.threads.iter().filter_map(|thread| thread.ioctl).filter(|ioctl| {
            ioctl.vm == vm
                && ioctl.is_taker
                && (ioctl.slot.is_none() || ioctl.slot == Some(slot))
                && ioctl.begin.is_none_or(|begin| begin.0 <= span.hi.0.saturating_add(epsilon))
        });
        (done.count() + open.count()) as u32
    }

    pub(super) fn on_fault(&mut self, at: At<'_>) {
        let vm = self.vm(at.event.vm);
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        let mut stores = std::mem::take(&mut thread.stores);
        for store in &stores {
            self.judge_store(at, vm, *store);
        }
        stores.clear();
        let thread = self.threads.get_mut(place);
        thread.stores = stores;
        let begin = at.event.span.lo;
        let unclaimed =
            thread.marks.iter().filter(|mark| !mark.is_claimed && begin <= mark.span.hi);
        let unclaimed = unclaimed.count() as u64;
        thread.marks.clear();
        self.ledger.benign(LookAlike::MarkWithoutStore, unclaimed);
    }

    pub(super) fn on_run_end(&mut self, at: At<'_>) {
        let vm = self.vm(at.event.vm);
        let place = self.threads.place(at.event.tid);
        let mut stores = std::mem::take(&mut self.threads.get_mut(place).stores);
        for store in &stores {
            if self.ctx.fault_is_observed {
                self.judge_outside(vm, *store);
            }
        }
        stores.clear();
        let thread = self.threads.get_mut(place);
        thread.stores = stores;
        thread.vcpu = None;
        let drained = thread.marks.iter().filter(|mark| !mark.is_claimed).count() as u64;
        thread.marks.clear();
        if self.ctx.masks.pml {
            self.ledger.benign(LookAlike::PmlDrain, drained);
        }
    }

    /// K01: the fault has ended; does the store have a mark?
    fn judge_store(&mut self, at: At<'_>, vm: usize, store: PendingStore) {
        let place = self.threads.place(at.event.tid);
        if store.span.hi < at.event.span.lo {
            self.judge_outside(vm, store);
            return;
        }
        let thread = self.threads.get_mut(place);
        if let Some(mark) = thread.find_mark(store.slot, store.gfn, at.event.span.lo) {
            thread.claim(mark.ordinal);
            return;
        }
        let has_forgotten = thread.marks.has_forgotten();
        let other = thread
            .marks
            .iter()
            .find(|mark| !mark.is_claimed && at.event.span.lo <= mark.span.hi)
            .copied();
        if self.ctx.has_gap_in(at.event.span) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
        } else if has_forgotten {
            self.ledger.unknown(UnknownCause::Limit, 1);
        } else if self.is_logging_since(vm, store.slot, at.event.span.lo) {
            self.report_unmarked(at, vm, store, other);
        } else {
            self.with_page(vm, store.slot, store.gfn, |page, _| {
                page.set(page_flag::UNLOGGED, true);
            });
        }
    }

    /// A store outside every fault seen, without a mark before it: no rule speaks of it, nothing excuses it.
    fn judge_outside(&mut self, vm: usize, store: PendingStore) {
        let place = &self.vms[vm].slots[store.slot];
        if place.is_logging {
            self.ledger.unknown(UnknownCause::NotObserved(Operation::Fault), 1);
        }
    }

    /// The slot certainly logged at `since` and later, so a fault that began then used a slot object that logs.
    pub(super) fn is_logging_since(&self, vm: usize, slot: usize, since: Nanos) -> bool {
        let slot = &self.vms[vm].slots[slot];
        let is_shown = self.ctx.known_since <= slot.logging_shown;
        let enabled = slot.logging_since.unwrap_or(Nanos(u64::MAX));
        slot.is_logging && is_shown && enabled.0.saturating_add(self.ctx.epsilon_ns) < since.0
    }

    fn report_unmarked(
        &mut self,
        at: At<'_>,
        vm: usize,
        store: PendingStore,
        other: Option<PendingMark>,
    ) {
        let rule = if other.is_some() { RuleId::K13 } else { RuleId::K01 };
        if !self.ctx.rules.is_on(rule) {
            return;
        }
        let page = self.vms[vm].slots[store.slot].pages.get(store.gfn);
        let newest = self.ctx.spool.newest();
        let taken = page.taken.ordinal(newest);
        let is_clean = page.report == Report::Clean
            && self.ctx.known_since <= taken.max(page.changed.ordinal(newest));
        // Where the bit may be set already, the next harvest still reports the page.
        let verdict = if is_clean { Verdict::Lost } else { Verdict::AtRisk };
        let case = Case {
            rule,
            verdict,
            vm,
            slot: Some(store.slot),
            gfn: Some(store.gfn),
            at: at.event.span.hi,
            proof: Proof::Absence,
            known: None,
        };
        let mut records = vec![
            (Source::Spooled(taken), "took the bit"),
            (Source::Spooled(store.ordinal), "makes the page writable"),
            (Source::Spooled(at.ordinal), "ends without a mark of the page"),
        ];
        if let Some(other) = other {
            records.push((Source::Spooled(other.ordinal), "marks another page"));
        }
        self.report(case, &records, || match other {
            Some(other) => {
                format!("gfn {} became writable, but the fault marked gfn {}", store.gfn, other.gfn)
            }
            None => format!("gfn {} became writable and its fault marked nothing", store.gfn),
        });
    }

    /// The shadow MMU set an SPTE (tracepoint plan): the mark came before, and the word shows it.
    pub(super) fn on_spte_set(&mut self, at: At<'_>) {
        let EventKind::SpteSet { page, new, word, sptep, logging, ring } = at.event.kind else {
            return;
        };
        let vm = self.vm(at.event.vm);
        let Some(slot) = self.slot_of(vm, page) else { return };
        if !self.ctx.is_open(page.level, new) {
            self.set_protection(vm, slot, page, |state| {
                state.change(Protection::Closed, at.ordinal);
                note_sptep(state, sptep);
            });
            return;
        }
        self.vms[vm].last_open = at.event.span.hi;
        if let Some(cell) = self.vms[vm].slots[slot].heat(page.gfn) {
            cell.opened += 1;
        }
        let is_marked = word.and_then(|word| self.vms[vm].slots[slot].bit(page.gfn, word));
        self.resolve_suspect(at, vm, slot, page.gfn);
        self.set_protection(vm, slot, page, |state| {
            state.change(Protection::Open, at.ordinal);
            state.set(page_flag::SHADOW, true);
            state.set(page_flag::HUGE, 1 < page.level);
            note_sptep(state, sptep);
        });
        match is_marked {
            _ if ring || !logging => {}
            Some(true) => self.note_mark(at, vm, slot, page.gfn),
            // The tracepoint is inside `mmu_lock`, so no harvest can have taken the bit.
            Some(false) => self.report_unset(at, vm, slot, page.gfn),
            None => {}
        }
        if at.event.span.lo < at.event.span.hi {
            let (vm_id, slot_id) = (self.vms[vm].id, self.vms[vm].slots[slot].id);
            self.window(Window {
                kind: WindowKind::SlowFault,
                vm: vm_id,
                slot: slot_id,
                gfn: page.gfn,
                tid: at.event.tid,
                opened: at.event.span.lo,
                closed: Some(at.event.span.hi),
                harvests_inside: 0,
            });
        }
    }

    /// K01 on the tracepoint plan: W was set in a logging slot and the bit is clear, under the lock.
    fn report_unset(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) {
        if !self.ctx.rules.is_on(RuleId::K01) {
            return;
        }
        let case = Case {
            rule: RuleId::K01,
            verdict: Verdict::Lost,
            vm,
            slot: Some(slot),
            gfn: Some(gfn),
            at: at.event.span.hi,
            proof: Proof::Values,
            known: None,
        };
        let records = [(Source::Spooled(at.ordinal), "makes the page writable, its bit is clear")];
        self.report(case, &records, || {
            format!("gfn {gfn} became writable in a logging slot and its dirty bit was not set")
        });
    }
}
