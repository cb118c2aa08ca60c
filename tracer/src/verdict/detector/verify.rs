//! What a harvest owes every page it took: protection and a flush before it returns (K04, K05).

use crate::event::{Gfn, IoctlOp, Operation, Span};
use crate::order::Ordinal;
use crate::verdict::ledger::Proof;
use crate::verdict::page::{Protection, Report, page_flag};
use crate::verdict::rule::Reach;
use crate::verdict::{EdgeKind, LookAlike, RuleId, UnknownCause, Verdict};

use super::case::Case;
use super::due::Due;
use super::flush::Closing;
use super::harvest::bits;
use super::slot::FlushSeen;
use super::thread::{OpenIoctl, Suspect, TakenWord};
use super::{At, Detector};

/// What the return of a harvest showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// The thread's flush that started after the last write-protect.
    pub own_flush: Option<Span>,
    /// The VM's flush counter moved.
    pub counter_moved: bool,
    /// Begin, end and all records between were seen.
    pub is_complete: bool,
}

/// How the flush of a harvest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    /// Started after the last write-protect and finished before the return, in the harvest's own thread.
    Own,
    /// Another thread happened to flush in time: nothing promises that it will.
    Other(Ordinal),
    /// None was seen and none was counted.
    No,
    /// One was counted and not seen, or records are missing.
    Unknown(UnknownCause),
    /// The plan does not show flushes, and their counter proves nothing here.
    NotObserved,
}

impl Detector {
    /// Judges every page the harvest took.
    pub(super) fn judge_pages(
        &mut self,
        at: At<'_>,
        place: usize,
        ioctl: &OpenIoctl,
        outcome: Outcome,
    ) {
        let flushed = self.flushed(at, ioctl, outcome);
        let mut closed = ioctl.pages.closed;
        let thread = self.threads.get_mut(place);
        let mut words = std::mem::take(&mut thread.words);
        let mut suspects = std::mem::take(&mut thread.suspects);
        let protected = ioctl.pages.protected;
        match flushed {
            Flushed::Own | Flushed::NotObserved => {
                self.ledger.judge(Verdict::Safe, at.event.span.hi, protected);
            }
            Flushed::Unknown(cause) => self.ledger.unknown(cause, protected),
            Flushed::No | Flushed::Other(_) => {
                for word in &words {
                    self.report_unflushed(at, ioctl, word, flushed);
                    closed -= self.report_assumed(at, ioctl, word).min(closed);
                }
            }
        }
        let mut again = None;
        for suspect in &suspects {
            if suspect.is_popped {
                self.judge_popped(at, ioctl, *suspect, outcome.is_complete);
            } else if ioctl.op.op == IoctlOp::ResetDirtyRings && suspect.is_read_back {
                let again = again.get_or_insert_with(|| self.vms[ioctl.vm].pushed());
                let is_pushed = again.contains(&(suspect.slot, suspect.gfn));
                self.judge_read_back(at, ioctl, *suspect, (is_pushed, outcome.is_complete));
            } else {
                self.judge_suspect(at, ioctl.vm, *suspect, outcome.is_complete);
            }
        }
        let pages = ioctl.pages;
        self.ledger.judge(Verdict::Safe, at.event.span.hi, closed);
        self.ledger.unknown(UnknownCause::BeforeAttach, pages.before_attach);
        self.ledger.unknown(UnknownCause::Dropped, pages.dropped);
        self.ledger.unknown(UnknownCause::Limit, pages.limit);
        for (operation, count) in pages.not_observed() {
            self.ledger.unknown(UnknownCause::NotObserved(operation), count);
        }
        words.clear();
        suspects.clear();
        let thread = self.threads.get_mut(place);
        thread.words = words;
        thread.suspects = suspects;
    }

    fn flushed(&self, at: At<'_>, ioctl: &OpenIoctl, outcome: Outcome) -> Flushed {
        let Outcome { own_flush, counter_moved, is_complete } = outcome;
        if own_flush.is_some() {
            return Flushed::Own;
        }
        if !self.ctx.rules.is_on(RuleId::K05) {
            return Flushed::NotObserved;
        }
        if !self.ctx.rules.sees_flushes() {
            // The counter only shows the absence of any flush, and only where it counts requests, not kicks (5.10).
            let counts_requests = (6, 0) <= (self.ctx.release.major, self.ctx.release.minor);
            return match (is_complete, counter_moved || !counts_requests) {
                (false, _) => Flushed::Unknown(UnknownCause::Dropped),
                (true, true) => Flushed::NotObserved,
                (true, false) => Flushed::No,
            };
        }
        if !is_complete {
            return Flushed::Unknown(UnknownCause::Dropped);
        }
        let visits = Span { lo: ioctl.last_visit, hi: ioctl.last_visit };
        let returned = Span::at(at.event.span.hi);
        let epsilon = self.ctx.epsilon_ns;
        let other = self.vms[ioctl.vm].flushes.iter().find(|flush| {
            flush.npages == 0
                && visits.is_before(flush.span, epsilon)
                && flush.span.is_before(returned, epsilon)
        });
        match other {
            Some(FlushSeen { ordinal, .. }) => Flushed::Other(*ordinal),
            None if counter_moved && !self.any_flush_in(ioctl, at) => {
                Flushed::Unknown(UnknownCause::NotObserved(Operation::Flush))
            }
            None => Flushed::No,
        }
    }

    /// A flush was seen that explains why the counter moved.
    fn any_flush_in(&self, ioctl: &OpenIoctl, at: At<'_>) -> bool {
        let span = Span { lo: ioctl.begin.unwrap_or_default(), hi: at.event.span.hi };
        self.vms[ioctl.vm].flushes.iter().any(|flush| span.lo <= flush.span.hi)
    }

    /// K05 (of a RESET: K06): the pages of the word that lost W may still be written through a TLB.
    fn report_unflushed(
        &mut self,
        at: At<'_>,
        ioctl: &OpenIoctl,
        word: &TakenWord,
        flushed: Flushed,
    ) {
        let (verdict, other) = match flushed {
            Flushed::Other(ordinal) => (Verdict::AtRisk, Some(ordinal)),
            _ => (Verdict::Lost, None),
        };
        let is_reset = ioctl.op.op == IoctlOp::ResetDirtyRings;
        let rule =
            if is_reset && self.ctx.rules.is_on(RuleId::K06) { RuleId::K06 } else { RuleId::K05 };
        for bit in bits(word.mask & word.protected) {
            let gfn = Gfn(word.first.0.wrapping_add(bit));
            // A mark that may have come behind the xchg reports the page again, whatever the TLBs hold.
            let page = self.vms[ioctl.vm].slots[word.slot].pages.get(gfn);
            let is_clean = matches!(page.report, Report::Clean | Report::Unknown);
            let case = Case {
                proof: Proof::NoFlush,
                missing: other.is_some().then_some(EdgeKind::FlushAck),
                ..Case::on_page(
                    rule,
                    if is_clean { verdict } else { Verdict::AtRisk },
                    (ioctl.vm, word.slot, gfn),
                    at.event.span.hi,
                )
            };
            let mut records = vec![
                (ioctl.ordinal, "begins to harvest"),
                (word.ordinal, "takes the bit and clears W"),
                (at.ordinal, "returns without a flush of its own"),
            ];
            if let Some(other) = other {
                records.push((other, "flushes by chance"));
            }
            self.report(case, &records, || match other {
                Some(_) => format!(
                    "gfn {gfn} was taken and write-protected; only another thread's flush came before \
                     the return, which nothing promises"
                ),
                None => format!(
                    "gfn {gfn} was taken and write-protected, and the ioctl returned without a TLB flush"
                ),
            });
        }
    }

    /// K10: pages of the word that somebody else had closed and not flushed when the harvest skipped its flush.
    /// How many, with those of which that cannot be told any more.
    fn report_assumed(&mut self, at: At<'_>, ioctl: &OpenIoctl, word: &TakenWord) -> u64 {
        let mut assumed = 0;
        if !self.ctx.rules.is_on(RuleId::K10) {
            return 0;
        }
        let newest = self.ctx.spool.newest();
        for bit in bits(word.mask & !word.protected) {
            let gfn = Gfn(word.first.0.wrapping_add(bit));
            let page = self.vms[ioctl.vm].slots[word.slot].pages.get(gfn);
            let closing = page.changed.ordinal(newest);
            if page.protection != Protection::Closed {
                continue;
            }
            match self.closing(ioctl.vm, closing) {
                Closing::Flushed => continue,
                Closing::Untold(cause) => {
                    assumed += 1;
                    self.unknown_page((ioctl.vm, word.slot, gfn), cause);
                    continue;
                }
                Closing::Unflushed => assumed += 1,
            }
            let case = Case {
                proof: Proof::NoFlush,
                ..Case::on_page(
                    RuleId::K10,
                    Verdict::Lost,
                    (ioctl.vm, word.slot, gfn),
                    at.event.span.hi,
                )
            };
            let records = [
                (closing, "makes the page read-only, does not flush yet"),
                (word.ordinal, "takes the bit, finds the page read-only"),
                (at.ordinal, "returns without a flush"),
            ];
            self.report(case, &records, || {
                format!(
                    "gfn {gfn} was taken while another thread's write-protect of it was not flushed, and the harvest \
                     skipped its own flush"
                )
            });
        }
        assumed
    }

    /// K04: the page was open when its bit was taken, and nobody was seen to close it.
    fn judge_suspect(&mut self, at: At<'_>, vm: usize, suspect: Suspect, is_complete: bool) {
        let Suspect { slot, gfn, since, is_read_back, .. } = suspect;
        let newest = self.ctx.spool.newest();
        let page = self.vms[vm].slots[slot].pages.get(gfn);
        let changed = page.changed.ordinal(newest);
        if since < changed {
            // Closed, or closed and opened again with a mark of its own, before the return.
            if page.protection == Protection::Open {
                self.benign(LookAlike::ReopenedInHarvest);
            }
            let is_near = self.ctx.spool.event(changed).is_some_and(|change| {
                let epsilon = self.ctx.epsilon_ns;
                change.tid != at.event.tid
                    && at.event.span.hi.0 <= change.span.hi.0.saturating_add(epsilon)
            });
            if is_near {
                self.unknown_page((vm, slot, gfn), UnknownCause::WithinEpsilon);
            } else {
                self.ledger.judge(Verdict::Safe, at.event.span.hi, 1);
            }
            return;
        }
        let is_blind =
            !is_read_back && page.has(page_flag::SHADOW) && !self.ctx.rmap_walk_is_observed;
        if let Reach::Off(missing, _) = self.ctx.rules.reach(RuleId::K04) {
            self.unknown_page((vm, slot, gfn), UnknownCause::NotObserved(missing));
            return;
        }
        if is_blind {
            self.unknown_page((vm, slot, gfn), UnknownCause::NotObserved(Operation::WriteProtect));
            return;
        }
        let is_zapped = self.is_zapped(vm, &page);
        if changed < self.ctx.known_since || !is_complete {
            self.unknown_page((vm, slot, gfn), UnknownCause::Dropped);
            return;
        }
        if is_zapped {
            self.unknown_page((vm, slot, gfn), UnknownCause::NotObserved(Operation::Zap));
            return;
        }
        if is_read_back && !self.ctx.fast_fault_is_observed {
            // A lockless fault may have opened it again without a record.
            self.unknown_page((vm, slot, gfn), UnknownCause::NotObserved(Operation::FastFault));
            return;
        }
        if is_read_back {
            self.with_page(vm, slot, gfn, |page, _| page.set(page_flag::SUSPECT, true));
            self.vms[vm].slots[slot].suspects += 1;
            return;
        }
        let verdict = match page.report {
            Report::Marked | Report::Maybe => Verdict::AtRisk,
            Report::Clean | Report::Unknown => Verdict::Lost,
        };
        self.wait(at.event.span.hi, Due::Left(at.ordinal, vm, suspect, verdict));
    }

    /// Reports K04.
    pub(super) fn report_unprotected(
        &mut self,
        at: At<'_>,
        vm: usize,
        suspect: Suspect,
        verdict: Verdict,
    ) {
        let Suspect { slot, gfn, word, .. } = suspect;
        let page = self.vms[vm].slots[slot].pages.get(gfn);
        let opened = page.changed.ordinal(self.ctx.spool.newest());
        let case = Case::on_page(RuleId::K04, verdict, (vm, slot, gfn), at.event.span.hi);
        let records = [
            (opened, "made the page writable"),
            (word, "takes the bit, clears no W"),
            (at.ordinal, "returns"),
        ];
        self.report(case, &records, || {
            format!("gfn {gfn} was taken while its SPTE was writable, and nothing write-protected it before the ioctl returned")
        });
    }
}

impl Detector {
    /// A fault opened a page that a harvest had read back writable: if it began before the read-back, it explains it.
    pub(super) fn resolve_suspect(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) {
        let found = &self.vms[vm].slots[slot];
        if found.suspects == 0 || !found.pages.get(gfn).has(page_flag::SUSPECT) {
            return;
        }
        let word = found.pages.get(gfn).taken.ordinal(self.ctx.spool.newest());
        let read = self.ctx.spool.ended_by(word);
        let is_later = read.0.saturating_add(self.ctx.epsilon_ns) < at.event.span.lo.0;
        let is_told = self.ctx.spool.record(word).is_some() || is_later;
        let is_explained = !is_later || at.event.span.lo == at.event.span.hi;
        self.clear_suspect(vm, slot, gfn);
        let (is_popped, is_read_back) = (false, true);
        let suspect = Suspect { slot, gfn, word, since: word, is_popped, is_read_back };
        if !is_told {
            self.unknown_page((vm, slot, gfn), UnknownCause::Limit);
        } else if is_explained {
            self.benign(LookAlike::ReopenedInHarvest);
            self.ledger.judge(Verdict::Safe, at.event.span.hi, 1);
        } else {
            self.report_unprotected(at, vm, suspect, Verdict::Lost);
        }
    }

    fn clear_suspect(&mut self, vm: usize, slot: usize, gfn: Gfn) {
        let suspects = &mut self.vms[vm].slots[slot].suspects;
        *suspects = suspects.saturating_sub(1);
        self.with_page(vm, slot, gfn, |page, _| page.set(page_flag::SUSPECT, false));
    }
}
