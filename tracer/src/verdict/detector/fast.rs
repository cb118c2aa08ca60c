//! Lockless fast faults: the windows they leave, and what they show of their own order (K02, predictive).
//!
//! ```text
//! fault      .. cmpxchg s .. mark m ..      window [s, m]: writable and not yet reported
//! fault      .. mark m, *sptep is RO ..     at risk: s comes after m, a harvest in between would take the mark
//! ```

use crate::event::{EventKind, Nanos, Span};
use crate::order::{Ordinal, instant};
use crate::verdict::page::{Protection, page_flag};
use crate::verdict::{LookAlike, UnknownCause, Verdict, Window, WindowKind};

use super::due::Due;
use super::slot::Opening;
use super::thread::PendingMark;
use super::{At, Detector, note_sptep};

impl Detector {
    pub(super) fn on_fast_fault(&mut self, at: At<'_>) {
        let EventKind::FastFault { page, old, sptep, fixed, .. } = at.event.kind else { return };
        if !fixed {
            return;
        }
        let vm = self.vm(at.event.vm);
        let Some(slot) = self.slot_by_mark(at, vm, page) else { return };
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        let Some(mark) = thread.take_mark((vm, slot, page.gfn), at.event.span.lo) else {
            self.note_unmarked(at, vm, slot, page.gfn, true);
            return;
        };
        self.vms[vm].last_open = self.vms[vm].last_open.max(at.event.span.hi);
        if let Some(cell) = self.vms[vm].slots[slot].heat(page.gfn) {
            cell.opened += 1;
        }
        self.weaken_hasty(at, (vm, slot, page.gfn), mark.is_logged);
        let opening = self.fast_opening(at, vm, slot, mark);
        if mark.spte.is_some() && page.level <= 1 {
            self.note_chain(at, vm, slot, page.gfn, old);
        }
        let may_predict = self.may_predict(vm, &opening, at.event.span);
        let is_racing =
            at.event.span.lo.0 <= self.vms[vm].last_word.0.saturating_add(self.ctx.epsilon_ns);
        let protection = if opening.is_doubtful {
            Protection::Unknown
        } else if is_racing {
            self.protection_beside_word(vm, slot, page.gfn, opening.store)
        } else {
            Protection::Open
        };
        self.set_protection(vm, slot, page, |state| {
            state.change(protection, at.ordinal);
            state.set(page_flag::UNLOGGED, false);
            // Only the TDP MMU's walk tells the probe where the SPTE is.
            let is_shadow = state.has(page_flag::SHADOW) || mark.spte.is_none();
            state.set(page_flag::SHADOW, is_shadow);
            state.set(page_flag::HUGE, 1 < page.level);
            note_sptep(state, sptep);
        });
        if mark.is_logged {
            if 1 < page.level {
                self.report_if_huge(at, vm, slot, page, mark);
            }
            self.judge_beside_words(at, vm, &opening);
            self.vms[vm].openings.push(opening);
            self.threads.get_mut(place).prediction = may_predict.then_some((vm, opening));
            self.close_fast_window(at, vm, &opening);
        } else {
            self.with_page(vm, slot, page.gfn, |page, _| page.set(page_flag::UNLOGGED, true));
        }
    }

    /// What the fault opened, with where its cmpxchg lies.
    #[inline]
    fn fast_opening(&self, at: At<'_>, vm: usize, slot: usize, mark: PendingMark) -> Opening {
        let mut opening = Opening {
            slot,
            gfn: mark.gfn,
            mark,
            store: instant::cmpxchg(at.event.span, mark.span, self.is_open_value(mark.spte)).within,
            ordinal: at.ordinal,
            is_locked: false,
            hold: Span::default(),
            is_doubtful: false,
        };
        let page = self.vms[vm].slots[slot].pages.get(mark.gfn);
        let changed = page.changed.ordinal(self.ctx.spool.newest());
        let begun = Nanos(at.event.span.lo.0.saturating_sub(self.ctx.epsilon_ns));
        let is_touched = !self.ctx.spool.has_ended_before(changed, begun);
        opening.is_doubtful = self.is_fast_unsettled(vm, slot, at.event.span.lo)
            || is_touched
                && page.protection != Protection::Open
                && self.is_closed_inside(&opening, changed);
        if is_touched { self.proven(vm, &opening) } else { opening }
    }

    /// Another thread closed the SPTE while the fault ran, and no value tells which of the two came last.
    fn is_closed_inside(&self, opening: &Opening, changed: Ordinal) -> bool {
        let epsilon = self.ctx.epsilon_ns;
        let Some(closing) = self.ctx.spool.event(changed) else { return false };
        if matches!(closing.kind, EventKind::HarvestWord { mask: 1.., .. }) {
            return false;
        }
        let is_open_later = self.is_open_value(opening.mark.spte) == Some(true)
            && closing.span.hi.0.saturating_add(epsilon) < opening.mark.span.lo.0;
        !is_open_later
    }

    #[inline]
    fn close_fast_window(&mut self, at: At<'_>, vm: usize, opening: &Opening) {
        let (vm_id, slot_id) = (self.vms[vm].id, self.vms[vm].slots[opening.slot].id);
        let window = Window {
            kind: WindowKind::FastFault,
            vm: vm_id,
            slot: slot_id,
            gfn: opening.gfn,
            tid: at.event.tid,
            opened: at.event.span.lo,
            closed: Some(opening.mark.span.hi.max(at.event.span.lo)),
            harvests_inside: 0,
        };
        self.close_third_case(vm, opening.slot, window);
    }

    /// A third-case window has closed: exposed if a harvest can have fallen inside, else it waits for the next one.
    #[inline]
    pub(super) fn close_third_case(&mut self, vm: usize, slot: usize, window: Window) {
        self.wait(self.ctx.now, Due::Window(vm, slot, window));
    }

    /// All harvests that can have fallen inside have begun.
    pub(super) fn judge_window(&mut self, vm: usize, slot: usize, mut window: Window) {
        let span = Span { lo: window.opened, hi: window.closed.unwrap_or(window.opened) };
        window.harvests_inside = self.harvests_beside(vm, slot, span);
        self.window(window);
        if let Some(cell) = self.vms[vm].slots[slot].heat(window.gfn) {
            cell.windows += 1;
        }
        if self.ctx.has_gap_in(span) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
        } else if 0 < window.harvests_inside {
            self.ledger.judge(Verdict::Exposed, span.hi, 1);
        } else if self.vms[vm].ring_bytes != 0 || self.is_collected(vm, slot, span) {
            // A ring entry is reported as soon as it is pushed.
            self.ledger.judge(Verdict::Safe, span.hi, 1);
        } else {
            self.vms[vm].slots[slot].windows_waiting += 1;
        }
    }

    /// The bracket's record came late: a harvest that began after the window had closed has returned already.
    fn is_collected(&self, vm: usize, slot: usize, window: Span) -> bool {
        let get = self.vms[vm].slots[slot].last_get;
        get.is_some_and(|get| window.is_before(get, self.ctx.epsilon_ns))
    }

    /// A mark that a harvest word took at once, or a bracket without effect, is only counted.
    pub(super) fn benign(&mut self, kind: LookAlike) {
        self.ledger.benign(kind, 1);
    }
}
