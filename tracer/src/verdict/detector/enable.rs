//! Logging turned on and off: what was left writable (K15), not flushed (K05), or unread (K11).

use crate::event::{EventKind, Gfn, Operation, Span};
use crate::order::Ordinal;
use crate::verdict::ledger::Proof;
use crate::verdict::page::{Page, Protection, Report, page_flag};
use crate::verdict::{RuleId, UnknownCause, Verdict};

use super::case::Case;
use super::flush::Closing;
use super::harvest::bits;
use super::slot::WordSeen;
use super::thread::{OpenIoctl, TakenWord, WORDS_MAX};
use super::{At, Detector, Release};

/// Before b64d740ea7dd (July 2022, 6.0 and stable branches) logging is turned on with a flush only if an SPTE changed,
/// and an access-tracked one looks unchanged. 5.10.223 lacks it.
const ENABLE_WITHOUT_FLUSH: &str =
    "kernels before 6.0 may enable logging without a flush if no SPTE changed";

impl Detector {
    /// A word that took no bit: a helper protects the slot, and folds what it closed.
    pub(super) fn on_protect_word(&mut self, at: At<'_>, vm: usize, slot: usize) {
        let EventKind::HarvestWord { first, protected, .. } = at.event.kind else { return };
        for bit in bits(protected) {
            let gfn = Gfn(first.0.wrapping_add(bit));
            let page = self.vms[vm].slots[slot].pages.get(gfn);
            // The helper holds the TDP MMU's lock shared: a fault may have opened the page again behind it.
            let is_reopened = page.protection == Protection::Open
                && self.ctx.spool.event(page.changed.ordinal(self.ctx.spool.newest())).is_some_and(
                    |opening| {
                        let epsilon = self.ctx.epsilon_ns;
                        at.event.span.lo.0 <= opening.span.hi.0.saturating_add(epsilon)
                    },
                );
            let is_doubtful = is_reopened || self.is_drained_beside(vm, slot, gfn, at.event.span);
            let protection = if is_doubtful { Protection::Unknown } else { Protection::Closed };
            self.with_page(vm, slot, gfn, |page, _| page.change(protection, at.ordinal));
        }
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        if let Some(ioctl) = thread.ioctl_on(vm) {
            ioctl.protects += 1;
            ioctl.last_visit = ioctl.last_visit.max(at.event.span.hi);
            if thread.words.len() < WORDS_MAX {
                thread.words.push(TakenWord {
                    slot,
                    first,
                    mask: 0,
                    protected,
                    ordinal: at.ordinal,
                });
            }
        }
        self.vms[vm].last_word = self.vms[vm].last_word.max(at.event.span.hi);
        self.vms[vm].words.push(WordSeen {
            first,
            mask: 0,
            protected,
            xchg: at.event.span,
            visit: at.event.span,
            ordinal: at.ordinal,
            slot,
            is_one_hold: false,
            is_read_back: false,
        });
    }

    /// A helper has protected the whole slot. If it reported nothing, either it closed nothing, or the probe does not
    /// show what it closes: what was open is not known any more.
    pub(super) fn on_slot_protect(&mut self, at: At<'_>) {
        let EventKind::SlotProtect { slot, level } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let Some(index) = self.vms[vm].known_slot(slot.id) else { return };
        let place = self.threads.place(at.event.tid);
        let ioctl = self.threads.get_mut(place).ioctl_on(vm);
        if ioctl.is_some_and(|ioctl| 0 < ioctl.protects) {
            return;
        }
        // A lockless fault that began before its end may have opened a page, which it has closed again.
        let helper_ended = &mut self.vms[vm].slots[index].helper_ended;
        *helper_ended = (*helper_ended).max(Some(at.event.span.hi));
        let doubtful: Vec<Gfn> = self.vms[vm].slots[index]
            .pages
            .iter()
            .filter(|(_, page)| page.protection == Protection::Open)
            .map(|(gfn, _)| gfn)
            .collect();
        for gfn in doubtful {
            self.note_verdict(vm, index, gfn, Verdict::Unknown);
        }
        let mut doubted = 0;
        self.vms[vm].slots[index].pages.change_all(|page| {
            let is_reached = level <= 1 || page.has(page_flag::HUGE);
            if page.protection == Protection::Open && is_reached {
                page.change(Protection::Unknown, at.ordinal);
                doubted += u64::from(page.report != Report::Marked);
            }
        });
        let cause = UnknownCause::NotObserved(Operation::WriteProtect);
        self.ledger.unknown(cause, doubted);
    }

    /// SET_MEMORY turned logging on and has returned.
    pub(super) fn judge_enable(
        &mut self,
        at: At<'_>,
        place: usize,
        slot: usize,
        ioctl: &OpenIoctl,
    ) {
        let vm = ioctl.vm;
        if self.vms[vm].is_initially_set() {
            return;
        }
        let begin = ioctl.begin.unwrap_or(at.event.span.lo);
        let span = Span { lo: begin, hi: at.event.span.hi };
        if ioctl.begin.is_none() || self.ctx.has_gap_in(span) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            self.doubt_enabled(vm, slot, ioctl.begin.map_or(0, |_| ioctl.ordinal));
            return;
        }
        self.judge_left_open(at, slot, ioctl);
        self.judge_enable_flush(at, place, slot, ioctl);
    }

    /// The enable, begun at `begin`, was not seen completely: whether what was open was closed and flushed is untold.
    fn doubt_enabled(&mut self, vm: usize, slot: usize, begin: Ordinal) {
        let newest = self.ctx.spool.newest();
        let is_doubtful = |page: &Page| {
            let is_closed = page.protection == Protection::Closed;
            page.protection == Protection::Open
                || is_closed && begin <= page.changed.ordinal(newest)
        };
        let pages = self.vms[vm].slots[slot].pages.iter();
        let doubtful: Vec<Gfn> =
            pages.filter(|(_, page)| is_doubtful(page)).map(|(gfn, _)| gfn).collect();
        for gfn in doubtful {
            self.note_verdict(vm, slot, gfn, Verdict::Unknown);
        }
    }

    /// K15.
    fn judge_left_open(&mut self, at: At<'_>, slot: usize, ioctl: &OpenIoctl) {
        let vm = ioctl.vm;
        let newest = self.ctx.spool.newest();
        let is_left = |page: &Page| {
            let changed = page.changed.ordinal(newest);
            page.protection == Protection::Open
                && self.ctx.known_since <= changed
                && page.report != Report::Marked
                && (changed < ioctl.ordinal || page.has(page_flag::UNLOGGED))
        };
        let left: Vec<(Gfn, Page)> = self.vms[vm].slots[slot]
            .pages
            .iter()
            .filter(|(_, page)| is_left(page))
            .map(|(gfn, page)| (gfn, *page))
            .collect();
        for (gfn, page) in left {
            if self.is_zapped(vm, &page) {
                let cause = UnknownCause::NotObserved(Operation::Zap);
                self.unknown_page((vm, slot, gfn), cause);
            } else if self.ctx.rules.is_on(RuleId::K15) {
                self.report_left_open(at, ioctl, slot, gfn, page);
            }
        }
    }

    /// A zap that names no page may have taken the page's shadow SPTEs, or a write-protect outside of harvests
    /// (`kvm_mmu_slot_gfn_write_protect`), of which only the flush leaves a record.
    pub(super) fn is_zapped(&self, vm: usize, page: &Page) -> bool {
        let closed = self.vms[vm].last_zap.max(self.vms[vm].last_stray_flush);
        page.has(page_flag::SHADOW) && page.changed.ordinal(self.ctx.spool.newest()) < closed
    }

    fn report_left_open(
        &mut self,
        at: At<'_>,
        ioctl: &OpenIoctl,
        slot: usize,
        gfn: Gfn,
        page: Page,
    ) {
        let case =
            Case::on_page(RuleId::K15, Verdict::Lost, (ioctl.vm, slot, gfn), at.event.span.hi);
        let records = [
            (page.changed.ordinal(self.ctx.spool.newest()), "made the page writable"),
            (ioctl.ordinal, "begins to turn logging on"),
            (at.ordinal, "returns; the page is still writable"),
        ];
        self.report(case, &records, || {
            format!("gfn {gfn} was writable when logging was turned on and still is: its writes never fault")
        });
    }

    /// K05 at enable: SPTEs were closed, in this ioctl or just before it, and nothing flushed since.
    fn judge_enable_flush(&mut self, at: At<'_>, place: usize, slot: usize, ioctl: &OpenIoctl) {
        if !self.ctx.rules.is_on(RuleId::K05) || !self.ctx.rules.sees_flushes() {
            return;
        }
        let thread = self.threads.get_mut(place);
        let has_flush = ioctl.protects != 0 && ioctl.last_visit <= thread.flush.lo
            || ioctl.begin.is_some_and(|begin| ioctl.protects == 0 && begin <= thread.flush.lo);
        if has_flush {
            return;
        }
        let words = std::mem::take(&mut thread.words);
        let closings = std::mem::take(&mut thread.closings);
        for word in &words {
            for bit in bits(word.protected) {
                self.report_enable_unflushed(
                    at,
                    ioctl,
                    word.slot,
                    Gfn(word.first.0.wrapping_add(bit)),
                    word.ordinal,
                );
            }
        }
        for closing in closings.iter().filter(|closing| closing.slot == slot) {
            self.report_enable_unflushed(at, ioctl, slot, closing.gfn, closing.word);
        }
        let thread = self.threads.get_mut(place);
        thread.words = words;
        thread.closings = closings;
        if ioctl.protects == 0 {
            self.judge_closed_before(at, ioctl, slot);
        }
    }

    /// Pages somebody else closed before and did not flush: access-tracked ones look like nothing to protect.
    fn judge_closed_before(&mut self, at: At<'_>, ioctl: &OpenIoctl, slot: usize) {
        let newest = self.ctx.spool.newest();
        let closed: Vec<(Gfn, Ordinal)> = self.vms[ioctl.vm].slots[slot]
            .pages
            .iter()
            .filter(|(_, page)| page.protection == Protection::Closed)
            .map(|(gfn, page)| (gfn, page.changed.ordinal(newest)))
            .collect();
        // Pages whose records are not kept may never have been open: they are one doubt together.
        let mut untold = None;
        for (gfn, changed) in closed {
            match self.closing(ioctl.vm, changed) {
                Closing::Flushed => {}
                Closing::Untold(cause) => untold = Some(cause),
                Closing::Unflushed => self.report_enable_unflushed(at, ioctl, slot, gfn, changed),
            }
        }
        if let Some(cause) = untold {
            self.ledger.unknown(cause, 1);
        }
    }

    fn report_enable_unflushed(
        &mut self,
        at: At<'_>,
        ioctl: &OpenIoctl,
        slot: usize,
        gfn: Gfn,
        closing: Ordinal,
    ) {
        let is_known = ioctl.protects == 0 && self.ctx.release < Release { major: 6, minor: 0 };
        let case = Case {
            proof: Proof::NoFlush,
            known: is_known.then_some(ENABLE_WITHOUT_FLUSH),
            ..Case::on_page(RuleId::K05, Verdict::Lost, (ioctl.vm, slot, gfn), at.event.span.hi)
        };
        let records = [
            (ioctl.ordinal, "begins to turn logging on"),
            (closing, "closes the page"),
            (at.ordinal, "returns without a flush"),
        ];
        self.report(case, &records, || {
            format!(
                "gfn {gfn} was closed for dirty logging, and the ioctl returned without a TLB flush"
            )
        });
    }

    /// K11: logging goes off, or the slot goes away, with bits that no harvest took.
    pub(super) fn judge_log_dropped(&mut self, at: At<'_>, vm: usize, slot: usize) {
        let is_ring = self.vms[vm].ring_bytes != 0;
        if is_ring || !self.ctx.rules.is_on(RuleId::K11) {
            return;
        }
        self.doubt_residue(vm, slot);
        if self.vms[vm].slots[slot].marked == 0 {
            return;
        }
        let found = &self.vms[vm].slots[slot];
        let newest = self.ctx.spool.newest();
        let mut untold = 0;
        let marked: Vec<_> = found
            .unread(newest)
            .filter(|&(_, mark)| {
                let is_read = self.is_read(vm, slot, mark);
                untold += u64::from(is_read.is_none());
                is_read == Some(false)
            })
            .collect();
        self.ledger.unknown(UnknownCause::Limit, untold);
        let oldest = marked.iter().map(|&(_, mark)| mark).min().unwrap_or(newest);
        if oldest < self.ctx.known_since {
            self.ledger.unknown(UnknownCause::Dropped, marked.len() as u64);
            return;
        }
        if self.ctx.is_final && !self.ctx.tells_steal_time {
            self.doubt_unread(vm, slot, marked);
        } else if self.ctx.is_final {
            for (gfn, mark) in marked {
                self.report_log_dropped(at, vm, slot, Some(gfn), mark, 1);
            }
        } else if let Some(&(_, mark)) = marked.first() {
            self.report_log_dropped(at, vm, slot, None, mark, marked.len() as u64);
        }
    }

    /// Manual protect: a GET that began after the mark has read it, whether or not a CLEAR followed.
    /// `None`: too long ago to tell.
    fn is_read(&self, vm: usize, slot: usize, mark: Ordinal) -> Option<bool> {
        if self.vms[vm].is_manual() { self.is_before_get(vm, slot, mark) } else { Some(false) }
    }

    fn report_log_dropped(
        &mut self,
        at: At<'_>,
        vm: usize,
        slot: usize,
        gfn: Option<Gfn>,
        mark: Ordinal,
        pages: u64,
    ) {
        let verdict = if gfn.is_some() { Verdict::Lost } else { Verdict::Exposed };
        let case = Case {
            rule: RuleId::K11,
            verdict,
            vm,
            slot: Some(slot),
            gfn,
            at: at.event.span.hi,
            proof: Proof::Absence,
            known: None,
            missing: None,
        };
        let id = self.vms[vm].slots[slot].id;
        let records = [(mark, "marks the page"), (at.ordinal, "drops the bitmap")];
        self.report(case, &records, || match gfn {
            Some(gfn) => {
                format!("gfn {gfn} was marked and never harvested when logging of slot {id} ended")
            }
            None => {
                format!("logging of slot {id} ended with {pages} pages marked and never harvested")
            }
        });
        self.ledger.judge(verdict, at.event.span.hi, pages - 1);
    }
}
