//! Exclusive sections that overlap (K03): the lock, the clock or the trace is broken.

use crate::event::{Gfn, Span};
use crate::order::relation::overlap_ns;
use crate::verdict::{RuleId, UnknownCause};

use super::slot::{Opening, WordSeen};
use super::{At, Detector};

impl Detector {
    /// K03: the word lies in a stretch in which the fault held `mmu_lock`; `true` if the lock is not to be believed.
    pub(super) fn judge_hold(&mut self, at: At<'_>, opening: &Opening, word: &WordSeen) -> bool {
        let overlap = overlap_ns(opening.hold, word.visit, self.ctx.epsilon_ns);
        if overlap == 0 || !word.is_one_hold || !self.ctx.rules.is_on(RuleId::K03) {
            return false;
        }
        let around =
            Span { lo: opening.hold.lo.min(word.visit.lo), hi: opening.hold.hi.max(word.visit.hi) };
        if self.ctx.has_gap_in(around) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            return false;
        }
        let case = self.violation(opening.page(), at.event.span.hi);
        let records = [
            (opening.mark.ordinal, "marks under mmu_lock"),
            (word.ordinal, "harvests under the same mmu_lock"),
            (opening.ordinal, "stores under mmu_lock"),
        ];
        self.report(case, &records, || {
            format!(
                "a harvest word and a fault on gfn {} held mmu_lock at once for {overlap} ns",
                opening.mark.gfn
            )
        });
        true
    }

    /// K03 between two harvests: each holds `mmu_lock` exclusively while it visits a word.
    pub(super) fn judge_words_at_once(&mut self, at: At<'_>, vm: usize, word: &WordSeen) {
        let epsilon = self.ctx.epsilon_ns;
        if self.vms[vm].last_word <= word.visit.lo || !self.ctx.rules.is_on(RuleId::K03) {
            return;
        }
        let is_at_once = |other: &&WordSeen| {
            other.mask != 0
                && other.is_one_hold
                && word.is_one_hold
                && 0 < overlap_ns(other.visit, word.visit, epsilon)
                && self.ctx.spool.event(other.ordinal).is_some_and(|e| e.tid != at.event.tid)
        };
        let Some(other) = self.vms[vm].words.iter().find(is_at_once).copied() else { return };
        let around =
            Span { lo: other.visit.lo.min(word.visit.lo), hi: other.visit.hi.max(word.visit.hi) };
        if self.ctx.has_gap_in(around) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            return;
        }
        let case = self.violation(
            (vm, word.slot, Gfn(word.first.0.wrapping_add(word.mask.trailing_zeros().into()))),
            at.event.span.hi,
        );
        let records = [
            (other.ordinal, "harvests under mmu_lock"),
            (word.ordinal, "harvests under the same mmu_lock"),
        ];
        let overlap = overlap_ns(other.visit, word.visit, epsilon);
        self.report(case, &records, || {
            format!("two harvests held mmu_lock at once for {overlap} ns")
        });
    }

    /// K03 between two faults of the shadow MMU: each holds `mmu_lock` exclusively from the entry of `mmu_set_spte()`
    /// to its tracepoint.
    pub(super) fn judge_holds_at_once(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) {
        let span = at.event.span;
        let last = (span, at.event.tid, at.ordinal);
        let (other, tid, ordinal) = std::mem::replace(&mut self.vms[vm].last_hold, last);
        let overlap = overlap_ns(other, span, self.ctx.epsilon_ns);
        if overlap == 0 || tid == at.event.tid || !self.ctx.rules.is_on(RuleId::K03) {
            return;
        }
        if self.ctx.has_gap_in(Span { lo: other.lo.min(span.lo), hi: span.hi }) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            return;
        }
        let case = self.violation((vm, slot, gfn), span.hi);
        let records = [
            (ordinal, "sets an SPTE under mmu_lock"),
            (at.ordinal, "sets an SPTE under the same mmu_lock"),
        ];
        self.report(case, &records, || {
            format!("two faults of the shadow MMU held mmu_lock at once for {overlap} ns")
        });
    }
}
