//! Faults beside harvest words (K02).
//!
//! ```text
//! fault      mark m ........ store s        lost if  m < x  and  visit < s
//! harvest           xchg x .. visit         and no mark follows x
//! ```

use crate::event::{EventKind, Gfn, MarkWord, Nanos, Operation, Span};
use crate::order::relation::overlap_ns;
use crate::order::{Relation, relation};
use crate::verdict::page::{Report, page_flag};
use crate::verdict::{RuleId, UnknownCause, Verdict};

use super::case::Case;
use super::slot::{Opening, WordSeen};
use super::thread::PendingMark;
use super::{At, Detector};

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
    /// Something that began at `lo` may have run beside a harvest word.
    #[inline]
    pub(super) fn is_beside_word(&self, vm: usize, lo: Nanos) -> bool {
        lo.0 <= self.vms[vm].last_word.0.saturating_add(self.ctx.epsilon_ns)
    }

    /// Judges an opening against the harvest words that ended before its record.
    #[inline]
    pub(super) fn judge_beside_words(&mut self, at: At<'_>, vm: usize, opening: &Opening) {
        let lo = opening.mark.span.lo.min(opening.store.lo);
        if self.is_beside_word(vm, lo) {
            self.judge_words_since(at, vm, opening, lo);
        }
    }

    #[inline(never)]
    fn judge_words_since(&mut self, at: At<'_>, vm: usize, opening: &Opening, lo: Nanos) {
        let epsilon = self.ctx.epsilon_ns;
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

    /// The page that a fault opened is visible to a harvest of the shadow MMU only from here on (2013, first diagram).
    /// Words that overlap mark and store were judged with the store.
    pub(super) fn on_rmap_add(&mut self, at: At<'_>) {
        let EventKind::RmapAdd { gfn, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let place = self.threads.place(at.event.tid);
        let is_own = |mark: &&PendingMark| mark.vm == vm && mark.gfn == gfn && mark.is_claimed;
        let Some(mark) = self.threads.get_mut(place).marks.iter().find(is_own).copied() else {
            return;
        };
        let is_its =
            |opening: &&mut Opening| opening.is_locked && opening.mark.ordinal == mark.ordinal;
        let Some(opening) = self.vms[vm].openings.iter_mut().find(is_its) else { return };
        let stored = opening.hold;
        opening.store = at.event.span;
        opening.hold.hi = opening.hold.hi.max(at.event.span.hi);
        opening.ordinal = at.ordinal;
        let opening = *opening;
        let epsilon = self.ctx.epsilon_ns;
        let words = self.vms[vm].words.iter();
        let words: Vec<WordSeen> = words
            .take_while(|word| stored.hi.0 <= word.visit.hi.0.saturating_add(epsilon))
            .filter(|word| overlap_ns(stored, word.visit, epsilon) == 0)
            .copied()
            .collect();
        for word in &words {
            self.judge_pair(at, vm, &opening, word);
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
        let is_broken = opening.is_locked && self.judge_hold(at, opening, word);
        let Some(bit) = word.bit_of(opening) else { return };
        if opening.is_locked && !is_broken {
            self.doubt_hold(vm, opening, word, bit);
            return;
        }
        let opening = &self.proven(opening);
        if word.mask & bit != 0 && word.protected & bit == 0 {
            self.judge_left(at, vm, opening, word);
        }
        self.judge_between(at, vm, opening, word);
    }

    /// K02: the word came between the fault's mark and its store.
    pub(super) fn judge_between(
        &mut self,
        at: At<'_>,
        vm: usize,
        opening: &Opening,
        word: &WordSeen,
    ) {
        let Some(bit) = word.bit_of(opening) else { return };
        if word.mask & bit == 0 || !self.ctx.rules.is_on(RuleId::K02) {
            return;
        }
        let opening = &self.proven(opening);
        let verdict = match self.pair_verdict(vm, opening, word, bit) {
            Ok(Verdict::Safe) => return,
            _ if self.is_pair_deferred(vm, opening, word) => return,
            Ok(verdict) => verdict,
            Err(cause) => {
                self.unknown_page(opening.page(), cause);
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
        self.report_pair(at, opening, word, verdict);
    }

    /// The verdict on "mark, xchg, visit, store".
    pub(super) fn pair_verdict(
        &self,
        vm: usize,
        opening: &Opening,
        word: &WordSeen,
        bit: u64,
    ) -> Result<Verdict, UnknownCause> {
        let seen_open = opening.mark.was_open;
        if seen_open == Some(true) && !opening.is_locked {
            // The store came before the mark: a harvest that took the mark has found the open SPTE.
            return Ok(Verdict::Safe);
        }
        let page = self.page(opening.page());
        let marked = self.mark_before_xchg(vm, opening, word);
        let stored = self.visit_before_store(vm, opening, word, bit);
        if marked == Known::No || stored == Known::No {
            return Ok(Verdict::Safe);
        }
        if opening.is_doubtful {
            return Err(UnknownCause::WithinEpsilon);
        }
        let is_ring = matches!(opening.mark.word, MarkWord::Ring(_));
        if is_ring {
            // Which of its entries were popped decides.
            if !self.ctx.ring_reset_is_observed {
                return Err(UnknownCause::NotObserved(Operation::RingReset));
            }
            if opening.mark.vcpu.is_none() {
                // Whose ring it is was not seen, so not when its entry was popped.
                return Err(UnknownCause::BeforeAttach);
            }
        }
        let is_ordered = marked == Known::Yes && stored == Known::Yes;
        let is_blind = seen_open.is_none() && !opening.is_locked;
        if is_blind && !is_ordered {
            return Err(UnknownCause::NotObserved(Operation::FastFaultEvidence));
        }
        // A record says where the SPTE is only for the TDP MMU's walk: what another thread closes in the rmap has none.
        if is_blind && !word.visit.is_before(opening.store, self.ctx.epsilon_ns) {
            return Ok(Verdict::AtRisk);
        }
        if is_ordered {
            let is_reported = matches!(page.report, Report::Marked | Report::Maybe);
            return Ok(if is_reported { Verdict::AtRisk } else { Verdict::Lost });
        }
        // The mark may have been entered when the visit had closed the page: then what it read says nothing. Not so in
        // a ring, of which the entry was popped before its page was visited.
        let is_near = word.xchg.hi.0 <= opening.mark.span.lo.0.saturating_add(self.ctx.epsilon_ns);
        if is_near && word.protected & bit != 0 && !opening.is_locked && !is_ring {
            return Err(UnknownCause::WithinEpsilon);
        }
        Ok(Verdict::AtRisk)
    }

    fn mark_before_xchg(&self, vm: usize, opening: &Opening, word: &WordSeen) -> Known {
        let epsilon = self.ctx.epsilon_ns;
        let mark = &opening.mark;
        let outlived = word.xchg.hi.0.saturating_add(epsilon);
        let slot = &self.vms[vm].slots[mark.slot];
        if self.is_entry_left(vm, mark) {
            return Known::No;
        }
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
            (Known::Maybe, Some(true)) if outlived < mark.span.hi.0 => Known::No,
            (Known::Maybe, Some(true) | None) => {
                let page = slot.pages.get(mark.gfn);
                let first = page.mark.ordinal(self.ctx.spool.newest());
                let is_only = first == mark.ordinal
                    && !page.has(page_flag::MARKED_AGAIN | page_flag::FIRST_UNSURE);
                // The bit was taken, and no other mark can have set it.
                if is_only && page.report == Report::Clean { Known::Yes } else { Known::Maybe }
            }
        }
    }

    fn visit_before_store(&self, vm: usize, opening: &Opening, word: &WordSeen, bit: u64) -> Known {
        let by_time = Known::by_time(word.visit, opening.store, self.ctx.epsilon_ns);
        match by_time {
            Known::Yes | Known::No => by_time,
            // The visit closed an open SPTE: this store, as its own old value was read-only - or another one before.
            Known::Maybe if word.protected & bit != 0 => {
                let other = self.vms[vm].openings.iter().any(|other| {
                    other.ordinal != opening.ordinal
                        && other.page() == opening.page()
                        && other.store.is_before(word.visit, self.ctx.epsilon_ns)
                });
                if other { Known::Maybe } else { Known::No }
            }
            // It was not open when it was visited.
            Known::Maybe => Known::Yes,
        }
    }

    fn report_pair(&mut self, at: At<'_>, opening: &Opening, word: &WordSeen, verdict: Verdict) {
        let PendingMark { slot, gfn, .. } = opening.mark;
        // What the harvest left open it could not see: that is said here.
        for thread in self.threads.iter_mut() {
            thread.suspects.retain(|suspect| {
                (suspect.slot, suspect.gfn, suspect.word) != (slot, gfn, word.ordinal)
            });
        }
        let case = Case::on_page(RuleId::K02, verdict, opening.page(), at.event.span.hi);
        let records = [
            (opening.mark.ordinal, "marks the page"),
            (word.ordinal, "takes the bit and finds nothing to protect"),
            (opening.ordinal, "makes the page writable, or visible"),
        ];
        self.report(case, &records, || match verdict {
            Verdict::Lost => format!(
                "gfn {gfn}: a harvest took the mark before the same fault made the page writable and visible to it"
            ),
            _ => format!(
                "gfn {gfn}: a harvest may have taken the mark before the same fault made the page writable"
            ),
        });
    }
}

impl WordSeen {
    /// The bit of the opening's page, if it is one of the word's.
    fn bit_of(&self, opening: &Opening) -> Option<u64> {
        self.bit(opening.mark.slot, opening.mark.gfn)
    }

    fn bit(&self, slot: usize, gfn: Gfn) -> Option<u64> {
        gfn.bit_in(self.first).filter(|_| self.slot == slot)
    }

    /// Its visit took W, or D, away from the page.
    pub(super) fn closes(&self, slot: usize, gfn: Gfn) -> bool {
        self.bit(slot, gfn).is_some_and(|bit| self.protected & bit != 0)
    }
}
