//! K02 without a harvest near: a fast fault that marked while its SPTE was still closed shows by itself that another
//! timing would lose the page.

use crate::event::Span;
use crate::verdict::{EdgeKind, RuleId, UnknownCause, Verdict};

use super::case::Case;
use super::due::Due;
use super::slot::Opening;
use super::{At, Detector};

impl Detector {
    /// The fast fault may show the order of mark and cmpxchg by itself: its mark read a closed SPTE, and nobody can
    /// have closed it again in between.
    #[inline]
    pub(super) fn may_predict(&self, opening: &Opening, fault: Span) -> bool {
        opening.mark.was_open == Some(false) && self.is_undisturbed(opening, fault)
    }

    #[inline(never)]
    fn is_undisturbed(&self, opening: &Opening, fault: Span) -> bool {
        let (vm, slot, _) = opening.page();
        if !self.ctx.rules.is_on(RuleId::K02)
            || self.vms[vm].is_protecting()
            || self.is_fast_unsettled(vm, slot, fault.lo)
        {
            return false;
        }
        let spool = &self.ctx.spool;
        let is_recent = |ordinal| {
            spool.event(ordinal).is_some_and(|event| {
                fault.lo.0 <= event.span.hi.0.saturating_add(self.ctx.epsilon_ns)
            })
        };
        let changed = self.page(opening.page()).changed.ordinal(spool.newest());
        !self.is_beside_word(vm, fault.lo)
            && !is_recent(changed)
            && !is_recent(self.vms[vm].last_zap)
    }

    /// K02 without a harvest near: the fault has ended and nothing explains what its mark read.
    pub(super) fn judge_prediction(&mut self, opening: &Opening) {
        let (vm, slot, gfn) = opening.page();
        let changed = self.page(opening.page()).changed.ordinal(self.ctx.spool.newest());
        let around = Span { lo: opening.store.lo, hi: self.ctx.now };
        // Closed since, perhaps before the mark: its record may have come late.
        let is_touched = opening.ordinal < changed.max(self.vms[vm].last_zap)
            || self.vms[vm].is_protecting()
            || 0 < self.harvests_in(vm, slot, Span { hi: opening.store.hi, ..around });
        if is_touched {
            return;
        }
        if self.ctx.has_gap_in(around) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            return;
        }
        let case = Case {
            missing: Some(EdgeKind::ProgramOrder),
            ..Case::on_page(RuleId::K02, Verdict::AtRisk, opening.page(), opening.store.hi)
        };
        let records = [
            (opening.mark.ordinal, "marks the page, whose SPTE is still closed"),
            (opening.ordinal, "makes the page writable, without a lock"),
        ];
        self.report(case, &records, || {
            format!(
                "gfn {gfn}: a lockless fault marked before it made the page writable; no harvest came in between \
                 this time"
            )
        });
    }

    /// The fault has ended: its prediction is judged once nothing can come that explains it.
    #[inline]
    pub(super) fn expect_prediction(&mut self, at: At<'_>, place: usize) {
        let prediction = &mut self.threads.get_mut(place).prediction;
        if prediction.is_some()
            && let Some(opening) = prediction.take()
        {
            self.wait(at.event.span.hi, Due::Prediction(opening));
        }
    }
}
