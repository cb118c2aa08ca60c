//! What a harvest left open beside a fault: the SPTE was open when its word was visited, although its record came later
//! (K04).

use crate::event::Span;
use crate::order::{Relation, relation};
use crate::verdict::page::Report;
use crate::verdict::{RuleId, UnknownCause, Verdict};

use super::slot::{Opening, WordSeen};
use super::thread::{PendingMark, Suspect, WORDS_MAX};
use super::{At, Detector};

impl Detector {
    /// K04 from the other side: a word took the page and left it, and the SPTE was certainly open by then.
    ///
    /// ```text
    /// vcpu                                   harvester
    /// cmpxchg RO to W
    ///                                        xchg takes the bit; visits the page, clears no W
    /// mark returns; the fault's record
    /// ```
    pub(super) fn judge_left(&mut self, at: At<'_>, vm: usize, opening: &Opening, word: &WordSeen) {
        let epsilon = self.ctx.epsilon_ns;
        let is_open_by_then = opening.store.is_before(word.visit, epsilon);
        let is_judged = is_open_by_then
            && word.ordinal < opening.ordinal
            && !opening.is_doubtful
            && self.ctx.rules.is_on(RuleId::K04);
        let page = self.page(opening.page());
        if !is_judged || page.is_shared() || self.is_closed_between(vm, opening, word) {
            return;
        }
        let PendingMark { slot, gfn, .. } = opening.mark;
        let suspect = Suspect {
            slot,
            gfn,
            word: word.ordinal,
            since: opening.ordinal,
            is_popped: false,
            is_read_back: word.is_read_back,
        };
        let harvester = self.threads.iter().position(|thread| thread.is_taking(word));
        if let Some(place) = harvester {
            // Until the ioctl returns, it may still protect the page.
            let suspects = &mut self.threads.get_mut(place).suspects;
            if suspects.len() < WORDS_MAX {
                suspects.push(suspect);
            } else {
                self.unknown_page((vm, slot, gfn), UnknownCause::Limit);
            }
            return;
        }
        let around = Span { lo: opening.store.lo.min(word.xchg.lo), hi: at.event.span.hi };
        if self.ctx.has_gap_in(around) {
            return;
        }
        let verdict = match page.report {
            Report::Marked | Report::Maybe => Verdict::AtRisk,
            Report::Clean | Report::Unknown => Verdict::Lost,
        };
        self.report_unprotected(at, vm, suspect, verdict);
    }

    /// Another word may have closed the page between the store and this word: a reset takes a page once for each of its
    /// entries, and only the first of those words finds it open.
    fn is_closed_between(&self, vm: usize, opening: &Opening, word: &WordSeen) -> bool {
        let (words, epsilon) = (&self.vms[vm].words, self.ctx.epsilon_ns);
        let older = |other: &&WordSeen| other.ordinal < word.ordinal;
        let may_follow = |other: &&WordSeen| !other.visit.is_before(opening.store, epsilon);
        let mut seen = 0;
        let mut between = words.iter().inspect(|_| seen += 1).filter(older).take_while(may_follow);
        let PendingMark { slot, gfn, .. } = opening.mark;
        let is_closed = between.any(|other| other.closes(slot, gfn));
        is_closed || words.has_forgotten() && seen == words.len()
    }

    /// Both holds of `mmu_lock` touch within the clock uncertainty: neither a broken lock nor an order is proven.
    pub(super) fn doubt_hold(&mut self, vm: usize, opening: &Opening, word: &WordSeen, bit: u64) {
        let is_near =
            relation(opening.hold, word.visit, self.ctx.epsilon_ns) == Relation::Concurrent;
        if is_near
            && word.mask & bit != 0
            && self.pair_verdict(vm, opening, word, bit) != Ok(Verdict::Safe)
        {
            self.unknown_page(opening.page(), UnknownCause::WithinEpsilon);
        }
    }
}
