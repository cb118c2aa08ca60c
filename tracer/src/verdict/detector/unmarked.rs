//! What a fault that opened a page, or a write of the host, owes: a mark of the page (K01, K13, K08).
//!
//! A slot that does not log owes none. Whether it still logged is known only when nothing can come any more that the
//! clocks may have misplaced:
//!
//! ```text
//! vcpu, its clock                     vmm, its clock is 28 ns ahead
//!                                     SET_MEMORY turns logging off: commit     @114, in truth at 86
//! fault, no mark           @92..95                                             <- owes nothing
//! ```

use crate::event::{Gfn, Span};
use crate::order::Ordinal;
use crate::verdict::page::{Protection, Report, page_flag};
use crate::verdict::{EdgeKind, RuleId, UnknownCause, Verdict};

use super::case::Case;
use super::due::Due;
use super::thread::{PendingMark, PendingStore};
use super::{At, Detector};

/// A bracket that has ended without a mark of its page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unmarked {
    pub vm: usize,
    pub slot: usize,
    pub gfn: Gfn,
    pub bracket: Span,
    /// The record of its end.
    pub ended: Ordinal,
    /// The record that took the page's bit last, and what the missing mark means.
    pub taken: Ordinal,
    pub verdict: Verdict,
    pub by: By,
}

/// What did not mark.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    /// A fault with this store; it marked that other page.
    Fault(Ordinal, Option<(Ordinal, Gfn)>),
    /// A write of the host.
    Host,
}

impl By {
    const fn rule(self) -> RuleId {
        match self {
            Self::Fault(_, None) => RuleId::K01,
            Self::Fault(_, Some(_)) => RuleId::K13,
            Self::Host => RuleId::K08,
        }
    }
}

impl Detector {
    /// The bracket has ended; does the store have a mark?
    pub(super) fn judge_store(&mut self, at: At<'_>, store: PendingStore, fault: Option<Span>) {
        let place = self.threads.place(at.event.tid);
        let begin = fault.map_or(store.span.lo, |fault| fault.lo);
        if store.is_fast {
            self.vms[store.vm].last_open = self.vms[store.vm].last_open.max(at.event.span.hi);
            self.with_page(store.vm, store.slot, store.gfn, |page, _| {
                page.change(Protection::Open, at.ordinal);
            });
        }
        let thread = self.threads.get_mut(place);
        if let Some(mark) = thread.find_mark((store.vm, store.slot, store.gfn), begin) {
            thread.claim(mark.ordinal);
            return;
        }
        let is_other =
            |mark: &&PendingMark| mark.vm == store.vm && !mark.is_claimed && begin <= mark.span.hi;
        let other = thread.marks.iter().find(is_other).map(|mark| (mark.ordinal, mark.gfn));
        let by = By::Fault(store.ordinal, other);
        let bracket = Span { lo: begin, hi: at.event.span.hi };
        self.expect_mark(at, (store.vm, store.slot, store.gfn), bracket, by);
    }

    /// The host wrote the page, and nothing in the bracket marked it.
    pub(super) fn judge_unmarked_write(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) {
        if self.ctx.rules.is_on(RuleId::K08) {
            self.expect_mark(at, (vm, slot, gfn), at.event.span, By::Host);
        }
    }

    fn expect_mark(&mut self, at: At<'_>, page: super::case::PageAt, bracket: Span, by: By) {
        let (vm, slot, gfn) = page;
        let place = self.threads.place(at.event.tid);
        let (mut verdict, taken) = self.verdict_if_unreported(vm, slot, gfn);
        // It may have opened the page before the slot logged, and the enable has closed it again.
        let protection = self.vms[vm].slots[slot].pages.get(gfn).protection;
        let is_closed = matches!(by, By::Fault(..)) && protection != Protection::Open;
        if is_closed && !self.is_logging_since(vm, slot, bracket.lo) {
            verdict = Verdict::AtRisk;
        }
        let unmarked = Unmarked { vm, slot, gfn, bracket, ended: at.ordinal, taken, verdict, by };
        if !self.owes_mark(&unmarked) {
            self.note_unlogged(&unmarked);
        } else if self.ctx.has_gap_in(bracket) {
            self.unknown_page(page, UnknownCause::Dropped);
        } else if self.threads.get_mut(place).marks.has_forgotten() {
            self.unknown_page(page, UnknownCause::Limit);
        } else {
            self.wait(bracket.hi, Due::Unmarked(Box::new(unmarked)));
        }
    }

    /// The slot certainly logged while the bracket ran.
    fn owes_mark(&self, unmarked: &Unmarked) -> bool {
        let Unmarked { vm, slot, bracket, by, .. } = *unmarked;
        let outlives = matches!(by, By::Fault(..)) && self.outlives_enable(vm, slot, bracket);
        self.is_logging_since(vm, slot, bracket.lo) || outlives
    }

    fn note_unlogged(&mut self, unmarked: &Unmarked) {
        let Unmarked { vm, slot, gfn, by, .. } = *unmarked;
        if matches!(by, By::Fault(..)) {
            self.with_page(vm, slot, gfn, |page, _| page.set(page_flag::UNLOGGED, true));
        }
        // An enable that has returned does not judge what it left open any more, and the clocks cannot tell on which
        // side of it the bracket lies.
        if self.is_enabled(vm, slot) {
            let is_known = self.ctx.known_since <= self.vms[vm].slots[slot].logging_shown;
            let cause = if is_known { UnknownCause::WithinEpsilon } else { UnknownCause::Dropped };
            self.unknown_page((vm, slot, gfn), cause);
        }
    }

    /// Nothing can come any more that belongs before the end of the bracket.
    pub(super) fn judge_unmarked(&mut self, unmarked: &Unmarked) {
        let Unmarked { vm, slot, gfn, bracket, ended, taken, verdict, by } = *unmarked;
        if !self.owes_mark(unmarked) {
            self.note_unlogged(unmarked);
            return;
        }
        if self.ctx.has_gap_in(bracket) {
            self.unknown_page((vm, slot, gfn), UnknownCause::Dropped);
            return;
        }
        if !self.ctx.rules.is_on(by.rule()) {
            return;
        }
        let case = Case {
            missing: (verdict == Verdict::AtRisk).then_some(EdgeKind::ProgramOrder),
            ..Case::on_page(by.rule(), verdict, (vm, slot, gfn), bracket.hi)
        };
        let mut records = vec![(taken, "took the bit")];
        match by {
            By::Fault(store, other) => {
                records.push((store, "makes the page writable"));
                records.push((ended, "ends without a mark of the page"));
                records.extend(other.map(|(mark, _)| (mark, "marks another page")));
            }
            By::Host => records.push((ended, "writes the page, marks nothing")),
        }
        self.report(case, &records, || match by {
            By::Fault(_, Some((_, other))) => {
                format!("gfn {gfn} became writable, but the fault marked gfn {other}")
            }
            By::Fault(_, None) => format!("gfn {gfn} became writable and its fault marked nothing"),
            By::Host => format!("the host wrote gfn {gfn} and marked nothing"),
        });
    }

    /// `lost` for a page known to be clean; where its bit may be set, the next harvest still reports it. And the
    /// record that took the bit.
    fn verdict_if_unreported(&self, vm: usize, slot: usize, gfn: Gfn) -> (Verdict, Ordinal) {
        let page = self.vms[vm].slots[slot].pages.get(gfn);
        let newest = self.ctx.spool.newest();
        let taken = page.taken.ordinal(newest);
        let is_clean = page.report == Report::Clean && self.ctx.known_since <= taken;
        (if is_clean { Verdict::Lost } else { Verdict::AtRisk }, taken)
    }
}
