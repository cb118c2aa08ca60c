//! Judgements that wait: records of other CPUs that are stamped up to epsilon later may belong before.
//!
//! ```text
//! mark, re-reads its word: 0     @100 (cpu 1)
//! ioctl-begin GET                @103 (cpu 0)     epsilon 5: the harvest may have taken the mark at once
//! ```
//!
//! A judgement given at the record itself would depend on which of the two is merged first. It waits until everything
//! that can have come before has been seen.

use crate::event::{Gfn, Nanos, Span, Tid};
use crate::order::Ordinal;
use crate::verdict::{Harvest, LookAlike, UnknownCause, Verdict, WindowKind};

use super::bounds::DUE_MAX;
use super::slot::Opening;
use super::thread::Suspect;
use super::unmarked::Unmarked;
use super::{At, Detector};

/// What waits.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    /// A mark whose bit read 0 at its exit, and no harvest was seen to run.
    Mark(DueMark),
    /// A mark on a slot object that does not log, after logging was turned on.
    OldSlot(DueMark),
    /// A fault or a host write without a mark.
    /// No healthy kernel has one, nor a prediction: they may cost, and the others stay small.
    Unmarked(Box<Unmarked>),
    /// A third-case window that has closed.
    Window(ThirdCase),
    /// A fast fault that seems to have marked first.
    Prediction(Box<Opening>),
    /// A VM that was destroyed.
    Gone(usize),
    /// A page that its harvest left open: the ordinal of the ioctl's return.
    Left(Ordinal, usize, Suspect, Verdict),
}

/// A mark that may have recorded nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DueMark {
    pub vm: usize,
    pub slot: usize,
    pub gfn: Gfn,
    pub span: Span,
    pub ordinal: Ordinal,
    pub has_vcpu: bool,
}

/// A third-case window that has closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThirdCase {
    pub vm: usize,
    pub slot: usize,
    pub gfn: Gfn,
    /// From the earliest time it can have opened to the latest it can have closed.
    pub span: Span,
    pub tid: Tid,
    pub kind: WindowKind,
}

impl Due {
    /// The VM it is about.
    pub const fn vm(&self) -> usize {
        match self {
            Self::Mark(mark) | Self::OldSlot(mark) => mark.vm,
            Self::Unmarked(unmarked) => unmarked.vm,
            Self::Window(window) => window.vm,
            Self::Prediction(opening) => opening.mark.vm,
            Self::Gone(vm) => *vm,
            Self::Left(_, vm, ..) => *vm,
        }
    }
}

impl Detector {
    /// Judges `what` once nothing can come that belongs before `hi`.
    #[inline]
    pub(super) fn wait(&mut self, hi: Nanos, what: Due) {
        if DUE_MAX <= self.due.len() {
            self.limit_reached = Some(self.ctx.now);
            return;
        }
        self.due.push_back((Nanos(hi.0.saturating_add(self.ctx.epsilon_ns)), what));
    }

    /// The merge has come to `now`.
    #[inline(always)]
    pub(super) fn settle_due(&mut self, now: Nanos) {
        if self.due.front().is_some_and(|(until, _)| *until < now) {
            self.settle_all_until(now);
        }
    }

    #[inline(never)]
    fn settle_all_until(&mut self, now: Nanos) {
        while let Some((until, what)) = self.due.front()
            && *until < now
        {
            if let Due::Window(window) = *what {
                self.due.pop_front();
                self.judge_window(window);
            } else if let Some((_, what)) = self.due.pop_front() {
                self.judge_rarer(what);
            }
        }
    }

    /// Nothing more will come.
    pub(super) fn settle_all_due(&mut self) {
        self.settle_due(Nanos(u64::MAX));
    }

    // Out of line, as what a fault rarely needs everywhere here: it would take registers from what it always needs.
    #[inline(never)]
    fn judge_rarer(&mut self, what: Due) {
        match what {
            Due::Mark(mark) if self.ctx.has_gap_in(mark.span) => {
                // The harvest that took it is among the dropped, or there was none.
                self.unknown_page((mark.vm, mark.slot, mark.gfn), UnknownCause::Dropped);
            }
            Due::Mark(mark) if self.may_be_taken(&mark) => {
                self.benign(LookAlike::MarkTakenAtOnce);
            }
            Due::Mark(mark) => self.report_dropped_mark(mark),
            Due::OldSlot(mark) => self.judge_old_slot(mark),
            Due::Unmarked(unmarked) => self.judge_unmarked(&unmarked),
            Due::Window(window) => self.judge_window(window),
            Due::Prediction(opening) => self.judge_prediction(&opening),
            Due::Gone(vm) => self.retire_vm(vm),
            Due::Left(returned, vm, suspect, verdict) => {
                self.judge_left_open_until(returned, vm, suspect, verdict);
            }
        }
    }

    /// A harvest may have taken what the mark recorded. A mark that pushed nothing has left no ring entry to take.
    fn may_be_taken(&self, mark: &DueMark) -> bool {
        let DueMark { vm, slot, span, gfn, .. } = *mark;
        self.vms[vm].ring_bytes == 0 && self.may_be_harvested(vm, slot, span, gfn)
    }

    /// A word took the page in `span` or later. A slot remembers its last few harvests only, and a CPU that stalls in a
    /// mark sleeps through many CLEARs; the page remembers the word that took it.
    pub(super) fn is_taken_since(&self, vm: usize, slot: usize, span: Span, gfn: Gfn) -> bool {
        let page = self.vms[vm].slots[slot].pages.get(gfn);
        let taken = self.ctx.spool.event(page.taken.ordinal(self.ctx.spool.newest()));
        taken.is_some_and(|word| !word.span.is_before(span, self.ctx.epsilon_ns))
    }

    /// K04, unless somebody closed the page as its harvest returned.
    fn judge_left_open_until(
        &mut self,
        returned: Ordinal,
        vm: usize,
        suspect: Suspect,
        verdict: Verdict,
    ) {
        let Some(event) = self.ctx.spool.event(returned) else {
            self.unknown_page((vm, suspect.slot, suspect.gfn), UnknownCause::Limit);
            return;
        };
        let Suspect { slot, gfn, since, .. } = suspect;
        let page = self.vms[vm].slots[slot].pages.get(gfn);
        let changed = page.changed.ordinal(self.ctx.spool.newest());
        let is_near = since < changed
            && self.ctx.spool.event(changed).is_some_and(|change| {
                change.span.lo.0 <= event.span.hi.0.saturating_add(self.ctx.epsilon_ns)
            });
        let verdict = if is_near {
            self.unknown_page((vm, slot, gfn), UnknownCause::WithinEpsilon);
            Verdict::Unknown
        } else {
            self.report_unprotected(At { ordinal: returned, event: &event }, vm, suspect, verdict);
            verdict
        };
        let mut harvests = self.harvests.iter_mut().rev();
        let is_own =
            |harvest: &&mut Harvest| harvest.tid == event.tid && harvest.end == event.span.hi;
        if let Some(harvest) = harvests.find(is_own) {
            harvest.worst = harvest.worst.max(Some(verdict));
            self.harvests_changed = true;
        }
    }
}
