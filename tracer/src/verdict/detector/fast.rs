//! Lockless fast faults, and faults beside harvest words (K02, K03).
//!
//! ```text
//! fault      mark m ........ store s        lost if  m < x  and  visit < s
//! harvest           xchg x .. visit         and no mark follows x
//! ```

use crate::event::{EventKind, Gfn, MarkWord, Operation, Span};
use crate::order::relation::overlap_ns;
use crate::order::{Relation, relation};
use crate::verdict::ledger::Proof;
use crate::verdict::page::{Protection, Report, page_flag};
use crate::verdict::{LookAlike, RuleId, UnknownCause, Verdict, Window, WindowKind};

use super::case::Case;
use super::slot::{Opening, WordSeen};
use super::{At, Detector, note_sptep};

/// What is known of "a happened before b".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Yes,
    No,
    Maybe,
}

impl Known {
    fn by_time(a: Span, b: Span, epsilon_ns: u64) -> Self {
        match relation(a, b, epsilon_ns) {
            Relation::Before => Self::Yes,
            Relation::After => Self::No,
            Relation::Concurrent => Self::Maybe,
        }
    }
}

impl Detector {
    pub(super) fn on_fast_fault(&mut self, at: At<'_>) {
        let EventKind::FastFault { page, sptep, fixed, .. } = at.event.kind else { return };
        if !fixed {
            return;
        }
        let vm = self.vm(at.event.vm);
        let Some(slot) = self.slot_by_mark(at, vm, page) else { return };
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        let Some(mark) = thread.find_mark(slot, page.gfn, at.event.span.lo) else {
            self.note_unmarked(at, vm, slot, page.gfn, true);
            return;
        };
        thread.claim(mark.ordinal);
        self.vms[vm].last_open = self.vms[vm].last_open.max(at.event.span.hi);
        if let Some(cell) = self.vms[vm].slots[slot].heat(page.gfn) {
            cell.opened += 1;
        }
        let opening = Opening {
            slot,
            gfn: page.gfn,
            mark,
            store: self.cmpxchg_span(at, mark.spte, mark.span),
            ordinal: at.ordinal,
            is_locked: false,
            hold: Span::default(),
            is_doubtful: false,
        };
        let opening =
            Opening { is_doubtful: self.is_closed_inside(vm, &opening, at.event.span), ..opening };
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
            note_sptep(state, sptep);
        });
        if mark.is_logged {
            self.judge_beside_words(at, vm, &opening);
            self.vms[vm].openings.push(opening);
            self.threads.get_mut(place).prediction = may_predict.then_some(opening);
            self.close_fast_window(at, vm, &opening);
        } else {
            self.with_page(vm, slot, page.gfn, |page, _| page.set(page_flag::UNLOGGED, true));
        }
    }

    /// Another thread closed the SPTE while the fault ran, and no value tells which of the two came last.
    fn is_closed_inside(&self, vm: usize, opening: &Opening, fault: Span) -> bool {
        let epsilon = self.ctx.epsilon_ns;
        let page = self.vms[vm].slots[opening.slot].pages.get(opening.gfn);
        let changed = page.changed.ordinal(self.ctx.spool.newest());
        let Some(closing) = self.ctx.spool.event(changed) else { return false };
        let is_word = matches!(closing.kind, EventKind::HarvestWord { mask: 1.., .. });
        let is_inside = fault.lo.0 <= closing.span.hi.0.saturating_add(epsilon);
        if page.protection == Protection::Open || is_word || !is_inside {
            return false;
        }
        let is_open_later = self.is_open_value(opening.mark.spte) == Some(true)
            && closing.span.hi.0.saturating_add(epsilon) < opening.mark.span.lo.0;
        !is_open_later
    }

    /// Where the cmpxchg lies: on the side of the mark's entry that the SPTE read there shows.
    fn cmpxchg_span(&self, at: At<'_>, seen: Option<crate::event::Spte>, mark: Span) -> Span {
        let whole = at.event.span;
        match self.is_open_value(seen) {
            Some(true) => Span { lo: whole.lo, hi: mark.lo.max(whole.lo) },
            // Read-only may also mean that somebody protected it again.
            Some(false) | None => whole,
        }
    }

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

    /// Judges an opening against the harvest words that ended before its record.
    pub(super) fn judge_beside_words(&mut self, at: At<'_>, vm: usize, opening: &Opening) {
        let epsilon = self.ctx.epsilon_ns;
        let lo = opening.mark.span.lo.min(opening.store.lo);
        if self.vms[vm].last_word.0.saturating_add(epsilon) < lo.0 {
            return;
        }
        let words: Vec<WordSeen> = self.vms[vm]
            .words
            .iter()
            .take_while(|word| lo.0 <= word.visit.hi.0.saturating_add(epsilon))
            .copied()
            .collect();
        for word in &words {
            self.judge_pair(at, vm, opening, word);
        }
    }

    /// Judges a harvest word against the openings whose records came before.
    pub(super) fn judge_beside_openings(&mut self, at: At<'_>, vm: usize, word: &WordSeen) {
        let epsilon = self.ctx.epsilon_ns;
        if self.vms[vm].last_open.0.saturating_add(epsilon) < word.visit.lo.0 {
            return;
        }
        let openings: Vec<Opening> = self.vms[vm]
            .openings
            .iter()
            .take_while(|opening| {
                let hi = opening.store.hi.max(opening.mark.span.hi);
                word.visit.lo.0 <= hi.0.saturating_add(epsilon)
            })
            .copied()
            .collect();
        for opening in &openings {
            self.judge_pair(at, vm, opening, word);
        }
    }

    fn judge_pair(&mut self, at: At<'_>, vm: usize, opening: &Opening, word: &WordSeen) {
        if word.mask == 0 {
            return;
        }
        let is_broken = opening.is_locked && self.judge_hold(at, vm, opening, word);
        if opening.is_locked && !is_broken {
            return;
        }
        let Some(bit) = word.bit_of(opening) else { return };
        if word.mask & bit == 0 || !self.ctx.rules.is_on(RuleId::K02) {
            return;
        }
        let verdict = match self.pair_verdict(vm, opening, word, bit) {
            Ok(Verdict::Safe) => return,
            Ok(verdict) => verdict,
            Err(cause) => {
                self.ledger.unknown(cause, 1);
                return;
            }
        };
        let around = Span {
            lo: word.xchg.lo.min(opening.mark.span.lo),
            hi: opening.store.hi.max(word.visit.hi),
        };
        if self.ctx.has_gap_in(around) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            return;
        }
        self.report_pair(at, vm, opening, word, verdict);
    }

    /// The verdict on "mark, xchg, visit, store".
    fn pair_verdict(
        &self,
        vm: usize,
        opening: &Opening,
        word: &WordSeen,
        bit: u64,
    ) -> Result<Verdict, UnknownCause> {
        let seen_open = self.is_open_value(opening.mark.spte);
        if seen_open == Some(true) && !opening.is_locked {
            // The store came before the mark: a harvest that took the mark has found the open SPTE.
            return Ok(Verdict::Safe);
        }
        let page = self.vms[vm].slots[opening.slot].pages.get(opening.gfn);
        let marked = self.mark_before_xchg(vm, opening, word);
        let stored = self.visit_before_store(opening, word, bit);
        if marked == Known::No || stored == Known::No {
            return Ok(Verdict::Safe);
        }
        if opening.is_doubtful {
            return Err(UnknownCause::WithinEpsilon);
        }
        if marked == Known::Yes && stored == Known::Yes {
            let is_reported = matches!(page.report, Report::Marked | Report::Maybe);
            return Ok(if is_reported { Verdict::AtRisk } else { Verdict::Lost });
        }
        if seen_open.is_none() && !opening.is_locked {
            return Err(UnknownCause::NotObserved(Operation::FastFaultEvidence));
        }
        Ok(Verdict::AtRisk)
    }

    fn mark_before_xchg(&self, vm: usize, opening: &Opening, word: &WordSeen) -> Known {
        let epsilon = self.ctx.epsilon_ns;
        let mark = &opening.mark;
        let slot = &self.vms[vm].slots[opening.slot];
        let by_time = Known::by_time(mark.span, word.xchg, epsilon);
        let re_read = match mark.word {
            MarkWord::Bitmap(bits) => slot.bit(mark.gfn, bits),
            MarkWord::Ring(_) | MarkWord::Unread => None,
        };
        match (by_time, re_read) {
            (Known::Yes | Known::No, _) => by_time,
            // Taken between `set_bit` and the re-read, by this word if by any.
            (Known::Maybe, Some(false)) => Known::Yes,
            // The bit outlived the xchg: the page is reported.
            (Known::Maybe, Some(true)) if word.xchg.hi.0 + epsilon < mark.span.hi.0 => Known::No,
            (Known::Maybe, Some(true) | None) => {
                let page = slot.pages.get(opening.gfn);
                let first = page.mark.ordinal(self.ctx.spool.newest());
                let is_only = first == mark.ordinal
                    && !page.has(page_flag::MARKED_AGAIN | page_flag::FIRST_UNSURE);
                // The bit was taken, and no other mark can have set it.
                if is_only && page.report == Report::Clean { Known::Yes } else { Known::Maybe }
            }
        }
    }

    fn visit_before_store(&self, opening: &Opening, word: &WordSeen, bit: u64) -> Known {
        let by_time = Known::by_time(word.visit, opening.store, self.ctx.epsilon_ns);
        match by_time {
            Known::Yes | Known::No => by_time,
            // The visit closed an open SPTE: this store, as its own old value was read-only.
            Known::Maybe if word.protected & bit != 0 => Known::No,
            // It was not open when it was visited.
            Known::Maybe => Known::Yes,
        }
    }

    fn report_pair(
        &mut self,
        at: At<'_>,
        vm: usize,
        opening: &Opening,
        word: &WordSeen,
        verdict: Verdict,
    ) {
        let gfn = opening.gfn;
        let case = Case {
            rule: RuleId::K02,
            verdict,
            vm,
            slot: Some(opening.slot),
            gfn: Some(gfn),
            at: at.event.span.hi,
            proof: Proof::Absence,
            known: None,
        };
        let records = [
            (opening.mark.ordinal, "marks the page"),
            (word.ordinal, "takes the bit and finds nothing to protect"),
            (opening.ordinal, "makes the page writable"),
        ];
        self.report(case, &records, || match verdict {
            Verdict::Lost => format!(
                "gfn {gfn}: a harvest took the mark before the same fault made the page writable"
            ),
            _ => format!(
                "gfn {gfn}: a harvest may have taken the mark before the same fault made the page writable"
            ),
        });
    }

    /// K03: the word lies in a stretch in which the fault held `mmu_lock`; `true` if the lock is not to be believed.
    fn judge_hold(&mut self, at: At<'_>, vm: usize, opening: &Opening, word: &WordSeen) -> bool {
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
        self.ledger.integrity_total += 1;
        let case = Case {
            rule: RuleId::K03,
            verdict: Verdict::Unknown,
            vm,
            slot: Some(opening.slot),
            gfn: Some(opening.gfn),
            at: at.event.span.hi,
            proof: Proof::Absence,
            known: None,
        };
        let records = [
            (opening.mark.ordinal, "marks under mmu_lock"),
            (word.ordinal, "harvests under the same mmu_lock"),
            (opening.ordinal, "stores under mmu_lock"),
        ];
        self.report(case, &records, || {
            format!(
                "a harvest word and a fault on gfn {} held mmu_lock at once for {overlap} ns",
                opening.gfn
            )
        });
        true
    }

    /// The fast fault may show the order of mark and cmpxchg by itself: its mark read a closed SPTE, and nobody can
    /// have closed it again in between.
    fn may_predict(&self, vm: usize, opening: &Opening, fault: Span) -> bool {
        if self.is_open_value(opening.mark.spte) != Some(false)
            || !self.ctx.rules.is_on(RuleId::K02)
            || self.vms[vm].is_protecting()
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
    pub(super) fn judge_prediction(&mut self, vm: usize, place: usize) {
        let Some(opening) = self.threads.get_mut(place).prediction.take() else { return };
        let slot = &self.vms[vm].slots[opening.slot];
        let changed = slot.pages.get(opening.gfn).changed.ordinal(self.ctx.spool.newest());
        let around = Span { lo: opening.store.lo, hi: self.ctx.now };
        // Closed since, perhaps before the mark: its record may have come late.
        if opening.ordinal < changed || self.vms[vm].is_protecting() {
            return;
        }
        if self.ctx.has_gap_in(around) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            return;
        }
        let gfn = opening.gfn;
        let case = Case {
            rule: RuleId::K02,
            verdict: Verdict::AtRisk,
            vm,
            slot: Some(opening.slot),
            gfn: Some(gfn),
            at: opening.store.hi,
            proof: Proof::Absence,
            known: None,
        };
        let records = [
            (opening.mark.ordinal, "marks the page, whose SPTE is still closed"),
            (opening.ordinal, "makes the page writable, without a lock"),
        ];
        self.report(case, &records, || {
            format!(
                "gfn {gfn}: a lockless fault marked before it made the page writable; no harvest came in between \
                 this time (missing edge: program-order)"
            )
        });
    }

    /// A mark that a harvest word took at once, or a bracket without effect, is only counted.
    pub(super) fn benign(&mut self, kind: LookAlike) {
        self.ledger.benign(kind, 1);
    }
}

impl WordSeen {
    /// The bit of the opening's page, if it is one of the word's.
    fn bit_of(&self, opening: &Opening) -> Option<u64> {
        let Gfn(gfn) = opening.gfn;
        let bit = gfn.checked_sub(self.first.0)?;
        (bit < 64 && self.slot == opening.slot).then(|| 1 << bit)
    }
}
