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
    pub(super) fn may_predict(&self, vm: usize, opening: &Opening, fault: Span) -> bool {
        if self.is_open_value(opening.mark.spte) != Some(false)
            || !self.ctx.rules.is_on(RuleId::K02)
            || self.vms[vm].is_protecting()
            || self.is_fast_unsettled(vm, opening.slot, fault.lo)
        {
            return false;
        }
        let slot = &self.vms[vm].slots[opening.slot];
        let spool = &self.ctx.spool;
        let is_recent = |ordinal| {
            spool.event(ordinal).is_some_and(|event| {
                fault.lo.0 <= event.span.hi.0.saturating_add(self.ctx.epsilon_ns)
            })
        };
        let changed = slot.pages.get(opening.gfn).changed.ordinal(spool.newest());
        let is_racing = fault.lo.0 <= self.vms[vm].last_word.0.saturating_add(self.ctx.epsilon_ns);
        !is_racing && !is_recent(changed) && !is_recent(self.vms[vm].last_zap)
    }

    /// K02 without a harvest near: the fault has ended and nothing explains what its mark read.
    pub(super) fn judge_prediction(&mut self, vm: usize, opening: Opening) {
        let slot = &self.vms[vm].slots[opening.slot];
        let changed = slot.pages.get(opening.gfn).changed.ordinal(self.ctx.spool.newest());
        let around = Span { lo: opening.store.lo, hi: self.ctx.now };
        // Closed since, perhaps before the mark: its record may have come late.
        let is_touched = opening.ordinal < changed.max(self.vms[vm].last_zap)
            || self.vms[vm].is_protecting()
            || 0 < self.harvests_in(vm, opening.slot, Span { hi: opening.store.hi, ..around });
        if is_touched {
            return;
        }
        if self.ctx.has_gap_in(around) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            return;
        }
        let gfn = opening.gfn;
        let case = Case {
            missing: Some(EdgeKind::ProgramOrder),
            ..Case::on_page(RuleId::K02, Verdict::AtRisk, (vm, opening.slot, gfn), opening.store.hi)
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
            && let Some((vm, opening)) = prediction.take()
        {
            self.wait(at.event.span.hi, Due::Prediction(vm, Box::new(opening)));
        }
    }
}
