//! Lockless fast faults: the windows they leave, and what they show of their own order (K02, predictive).
//!
//! ```text
//! fault      .. cmpxchg s .. mark m ..      window [s, m]: writable and not yet reported
//! fault      .. mark m, *sptep is RO ..     at risk: s comes after m, a harvest in between would take the mark
//! ```

use crate::event::{EventKind, Gfn, Nanos, Span};
use crate::order::{Ordinal, instant};
use crate::verdict::page::{Page, Protection, page_flag};
use crate::verdict::{LookAlike, UnknownCause, Verdict, Window, WindowKind};

use super::due::{Due, ThirdCase};
use super::slot::Opening;
use super::thread::PendingMark;
use super::{At, Detector, note_sptep};

/// What may disturb a lockless fault.
struct Around {
    /// The page's state before it.
    before: Page,
    /// That was changed, by another thread, after the fault had begun.
    is_touched: bool,
    /// The page may be closed again by now.
    is_unsettled: bool,
    /// End of the last harvest word; later by the clock uncertainty.
    last_word: Nanos,
    /// Pages of the VM were called lost.
    has_lost: bool,
}

impl Detector {
    pub(super) fn on_fast_fault(&mut self, at: At<'_>) {
        let EventKind::FastFault { page, old, sptep, fixed: true, .. } = at.event.kind else {
            return;
        };
        let vm = self.vm(at.event.vm);
        let Some(slot) = self.slot_by_mark(at, vm, page) else { return };
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        let Some(mark) = thread.take_mark((vm, slot, page.gfn), at.event.span.lo) else {
            self.note_unmarked(at, vm, slot, page.gfn, true);
            return;
        };
        let mut opening = Opening {
            mark: *mark,
            store: instant::cmpxchg(at.event.span, mark.span, mark.was_open).within,
            ordinal: at.ordinal,
            is_locked: false,
            hold: Span::default(),
            is_doubtful: false,
        };
        let around = self.look_around(at, vm, slot, page.gfn);
        opening.is_doubtful = around.is_unsettled;
        if around.is_touched {
            self.doubt_touched(&mut opening, &around.before);
        }
        if around.has_lost {
            self.weaken_hasty(at, opening.page(), opening.mark.is_logged);
        }
        if opening.mark.was_open.is_some() && page.level <= 1 {
            self.note_chain(at, opening.page(), &around.before, old);
        }
        let may_predict = self.may_predict(&opening, at.event.span);
        let protection = if opening.is_doubtful {
            Protection::Unknown
        } else if at.event.span.lo <= around.last_word {
            self.protection_beside_word(vm, slot, page.gfn, opening.store)
        } else {
            Protection::Open
        };
        self.set_protection(vm, slot, page, |state| {
            state.change(protection, at.ordinal);
            state.set(page_flag::UNLOGGED, false);
            // Only the TDP MMU's walk tells the probe where the SPTE is.
            let is_shadow = state.has(page_flag::SHADOW) || opening.mark.was_open.is_none();
            state.set(page_flag::SHADOW, is_shadow);
            state.set(page_flag::HUGE, 1 < page.level);
            note_sptep(state, sptep);
        });
        if opening.mark.is_logged {
            if 1 < page.level {
                self.report_if_huge(at, vm, slot, page, opening.mark);
            }
            self.judge_beside_words(at, vm, &opening);
            self.vms[vm].openings.push(opening);
            self.threads.get_mut(place).prediction = may_predict.then(|| Box::new(opening));
            self.close_fast_window(at, &opening.mark);
        } else {
            self.set_protection(vm, slot, page, |page| page.set(page_flag::UNLOGGED, true));
        }
    }

    /// Opens the page, as far as its VM and its slot are told, and looks at what may have come in between.
    #[inline]
    fn look_around(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) -> Around {
        let (Self { vms, ctx, .. }, begin) = (self, at.event.span.lo);
        let known = &mut vms[vm];
        known.last_open = known.last_open.max(at.event.span.hi);
        let found = &mut known.slots[slot];
        if let Some(cell) = found.heat(gfn) {
            cell.opened += 1;
        }
        let before = found.pages.get(gfn);
        let changed = before.changed.ordinal(ctx.spool.newest());
        let begun = Nanos(begin.0.saturating_sub(ctx.epsilon_ns));
        Around {
            before,
            is_touched: !ctx.spool.has_ended_before(changed, begun),
            is_unsettled: found.is_fast_unsettled(begin, ctx.epsilon_ns),
            last_word: Nanos(known.last_word.0.saturating_add(ctx.epsilon_ns)),
            has_lost: known.lost.len() != 0,
        }
    }

    /// The page's SPTE was changed, by another thread, after the fault had begun.
    #[cold]
    #[inline(never)]
    fn doubt_touched(&self, opening: &mut Opening, before: &Page) {
        let changed = before.changed.ordinal(self.ctx.spool.newest());
        opening.is_doubtful |=
            before.protection != Protection::Open && self.is_closed_inside(opening, changed);
        *opening = self.proven(opening);
    }

    /// Another thread closed the SPTE while the fault ran, and no value tells which of the two came last.
    fn is_closed_inside(&self, opening: &Opening, changed: Ordinal) -> bool {
        let epsilon = self.ctx.epsilon_ns;
        let Some(closing) = self.ctx.spool.event(changed) else { return false };
        if matches!(closing.kind, EventKind::HarvestWord { mask: 1.., .. }) {
            return false;
        }
        let is_open_later = opening.mark.was_open == Some(true)
            && closing.span.hi.0.saturating_add(epsilon) < opening.mark.span.lo.0;
        !is_open_later
    }

    #[inline]
    fn close_fast_window(&mut self, at: At<'_>, mark: &PendingMark) {
        let PendingMark { vm, slot, gfn, .. } = *mark;
        let opened = at.event.span.lo;
        let span = Span { lo: opened, hi: mark.span.hi.max(opened) };
        let (kind, tid) = (WindowKind::FastFault, at.event.tid);
        self.close_third_case(ThirdCase { vm, slot, gfn, span, tid, kind });
    }

    /// A third-case window has closed: exposed if a harvest can have fallen inside, else it waits for the next one.
    #[inline]
    pub(super) fn close_third_case(&mut self, window: ThirdCase) {
        self.wait(self.ctx.now, Due::Window(window));
    }

    /// All harvests that can have fallen inside have begun.
    #[inline]
    pub(super) fn judge_window(&mut self, closed: ThirdCase) {
        let ThirdCase { vm, slot, gfn, span, tid, kind } = closed;
        let harvests_inside = self.harvests_beside(vm, slot, span);
        let has_gap = self.ctx.has_gap_in(span);
        let known = &mut self.vms[vm];
        let found = &mut known.slots[slot];
        if let Some(cell) = found.heat(gfn) {
            cell.windows += 1;
        }
        let window = Window {
            kind,
            vm: known.id,
            slot: found.id,
            gfn,
            tid,
            opened: span.lo,
            closed: Some(span.hi),
            harvests_inside,
        };
        // Its record came late: a harvest that began after the window had closed has returned already.
        let is_collected =
            found.last_get.is_some_and(|get| span.is_before(get, self.ctx.epsilon_ns));
        if has_gap {
            self.ledger.unknown(UnknownCause::Dropped, 1);
        } else if 0 < harvests_inside {
            self.ledger.judge(Verdict::Exposed, span.hi, 1);
        } else if known.ring_bytes != 0 || is_collected {
            // A ring entry is reported as soon as it is pushed.
            self.ledger.judge(Verdict::Safe, span.hi, 1);
        } else {
            found.windows_waiting += 1;
        }
        self.window(window);
    }

    /// A mark that a harvest word took at once, or a bracket without effect, is only counted.
    pub(super) fn benign(&mut self, kind: LookAlike) {
        self.ledger.benign(kind, 1);
    }
}
