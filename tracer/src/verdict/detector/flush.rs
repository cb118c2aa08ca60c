//! Flushes, zaps and splits; flushes that were due and did not come (K10, K12).

use crate::event::{EventKind, Gfn, PageRef, Spte, VmId};
use crate::order::Ordinal;
use crate::verdict::ledger::Proof;
use crate::verdict::page::{Protection, page_flag};
use crate::verdict::{EdgeKind, LookAlike, RuleId, UnknownCause, Verdict};

use super::case::Case;
use super::fault::pages_of_level;
use super::slot::FlushSeen;
use super::thread::{Change, Suspect, WORDS_MAX};
use super::{At, Detector};

/// Children of one huge SPTE that are doubted one by one.
const PAGES_MAX: usize = 512;

/// How the closing of a page stands with the TLBs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// It closed nothing that was open, or a flush of the whole VM has started since and ended.
    Flushed,
    /// No flush has started since.
    Unflushed,
    /// Its record, or the flush that may be the one, is not kept any more.
    Untold(UnknownCause),
}

impl Detector {
    pub(super) fn on_flush(&mut self, at: At<'_>) {
        let EventKind::Flush { first, npages, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let place = self.threads.place(at.event.tid);
        let flush = FlushSeen { span: at.event.span, first, npages, ordinal: at.ordinal };
        let ioctl = self.threads.get_mut(place).ioctl_on(vm).copied();
        let slot = ioctl
            .and_then(|ioctl| ioctl.slot.or_else(|| self.vms[vm].known_slot(ioctl.op.slot)))
            .map(|slot| &self.vms[vm].slots[slot]);
        // What is flushed by range must be the ioctl's slot, or it does not serve the ioctl.
        let serves = slot.is_none_or(|slot| flush.covers(slot.base, slot.npages));
        let thread = self.threads.get_mut(place);
        let is_stray = ioctl.is_none();
        if serves && thread.ioctl.is_none_or(|ioctl| ioctl.vm == vm) {
            thread.flush = at.event.span;
        }
        let is_left = |change: &Change| change.vm != vm || !flush.covers(change.gfn, 1);
        thread.zap = thread.zap.filter(is_left);
        thread.decision = thread.decision.filter(is_left);
        self.vms[vm].flushes.push(flush);
        self.close_tlbs(vm, &flush);
        if is_stray {
            self.vms[vm].last_stray_flush = at.ordinal;
        }
    }

    /// An open SPTE was closed or zapped.
    pub(super) fn note_closing(
        &mut self,
        at: At<'_>,
        vm: usize,
        slot: usize,
        page: PageRef,
        new: Spte,
    ) {
        let place = self.threads.place(at.event.tid);
        let is_present = self.ctx.masks.is_present(new);
        let change = Change {
            vm,
            slot,
            gfn: page.gfn,
            ordinal: at.ordinal,
            at: at.event.span.hi,
            before: 0,
        };
        let thread = self.threads.get_mut(place);
        if !is_present {
            thread.zap.get_or_insert(change);
        }
        if let Some(ioctl) = thread.ioctl_on(vm) {
            ioctl.protects += 1;
            ioctl.last_visit = ioctl.last_visit.max(at.event.span.hi);
            if thread.closings.len() < WORDS_MAX {
                let (gfn, word) = (page.gfn, at.ordinal);
                thread.closings.push(Suspect {
                    slot,
                    gfn,
                    word,
                    since: word,
                    is_popped: false,
                    is_read_back: false,
                });
            }
        }
    }

    /// An SPTE that was closed already changed further: whoever relies on it being read-only must know it flushed.
    pub(super) fn note_decision(
        &mut self,
        at: At<'_>,
        vm: usize,
        slot: usize,
        page: PageRef,
        (old, new): (Option<Spte>, Spte),
    ) {
        let Some(old) = old else { return };
        let masks = &self.ctx.masks;
        let gives_up = masks.is_mmu_writable(old) && !masks.is_mmu_writable(new);
        if !gives_up || 1 < page.level || !self.ctx.rules.is_on(RuleId::K10) {
            return;
        }
        let before = self.vms[vm].slots[slot].pages.get(page.gfn).changed;
        let before = before.ordinal(self.ctx.spool.newest());
        if self.closing(vm, before) == Closing::Flushed {
            return;
        }
        let is_own = self.ctx.spool.event(before).is_some_and(|e| e.tid == at.event.tid);
        if is_own {
            return;
        }
        let place = self.threads.place(at.event.tid);
        self.threads.get_mut(place).decision.get_or_insert(Change {
            vm,
            slot,
            gfn: page.gfn,
            ordinal: at.ordinal,
            at: at.event.span.hi,
            before,
        });
    }

    /// Whether what a record closed has been flushed. 0: no record closed it.
    pub(super) fn closing(&self, vm: usize, closing: Ordinal) -> Closing {
        if closing == 0 {
            return Closing::Flushed;
        }
        let event = self.ctx.spool.event(closing);
        let ended = event.map_or_else(|| self.ctx.spool.ended_by(closing), |event| event.span.hi);
        let epsilon = self.ctx.epsilon_ns;
        let flushes = &self.vms[vm].flushes;
        let serves = |flush: &FlushSeen| {
            flush.npages == 0 && ended.0 <= flush.span.lo.0.saturating_add(epsilon)
        };
        if flushes.iter().any(serves) {
            return Closing::Flushed;
        }
        let closes = event.map(|event| match event.kind {
            EventKind::SpteChange { page, old, new, .. } => {
                old.is_some_and(|old| self.ctx.is_open(page.level, old))
                    && !self.ctx.is_open(page.level, new)
            }
            EventKind::HarvestWord { protected, .. } => protected != 0,
            _ => false,
        });
        // A forgotten flush may be the one.
        let may_be_forgotten = flushes.has_forgotten()
            && flushes.iter().last().is_some_and(|oldest| ended < oldest.span.lo);
        match closes {
            Some(false) => Closing::Flushed,
            Some(true) if !may_be_forgotten => Closing::Unflushed,
            Some(true) => Closing::Untold(UnknownCause::Limit),
            None if closing < self.ctx.known_since => Closing::Untold(UnknownCause::Dropped),
            None => Closing::Untold(UnknownCause::Limit),
        }
    }

    /// K10: the bracket of a decision has ended without a flush.
    #[inline]
    pub(super) fn judge_decision(&mut self, at: At<'_>, place: usize) {
        let decision = &mut self.threads.get_mut(place).decision;
        if decision.is_some()
            && let Some(change) = decision.take()
        {
            self.judge_unflushed_decision(at, change);
        }
    }

    fn judge_unflushed_decision(&mut self, at: At<'_>, change: Change) {
        if at.event.span.hi < change.at {
            return;
        }
        match self.closing(change.vm, change.before) {
            Closing::Flushed => return,
            Closing::Untold(cause) => {
                self.unknown_page((change.vm, change.slot, change.gfn), cause);
                return;
            }
            Closing::Unflushed => {}
        }
        let since = self.ctx.spool.event(change.before).map_or(change.at, |event| event.span.lo);
        if self.ctx.has_gap_in(crate::event::Span { lo: since, hi: at.event.span.hi }) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            return;
        }
        let records = [
            (change.before, "made the page read-only, not flushed yet"),
            (change.ordinal, "finds it read-only and changes it"),
            (at.ordinal, "ends without a flush"),
        ];
        self.report_change(at, RuleId::K10, change, &records, |gfn| {
            format!("gfn {gfn} was read-only but not flushed when another thread relied on it")
        });
    }

    fn report_change(
        &mut self,
        at: At<'_>,
        rule: RuleId,
        change: Change,
        records: super::case::Records<'_>,
        tell: impl FnOnce(Gfn) -> String,
    ) {
        let page = (change.vm, change.slot, change.gfn);
        let case = Case {
            proof: Proof::NoFlush,
            missing: Some(EdgeKind::FlushAck),
            ..Case::on_page(rule, Verdict::AtRisk, page, at.event.span.hi)
        };
        self.report(case, records, || tell(change.gfn));
    }

    /// Host addresses were unmapped: shadow SPTEs of some pages are gone, and the record does not say which.
    pub(super) fn on_invalidate(&mut self, at: At<'_>) {
        let EventKind::Invalidate { flushes_before, flushes_after, .. } = at.event.kind else {
            return;
        };
        if at.event.vm == VmId::UNKNOWN {
            self.vms.iter_mut().for_each(|vm| vm.last_zap = at.ordinal);
            return;
        }
        let vm = self.vm(at.event.vm);
        self.vms[vm].last_zap = at.ordinal;
        let place = self.threads.place(at.event.tid);
        self.judge_zap(at, place, flushes_before != flushes_after);
        self.judge_decision(at, place);
    }

    /// K12: the bracket of a zap has ended without a flush.
    fn judge_zap(&mut self, at: At<'_>, place: usize, counter_moved: bool) {
        let thread = self.threads.get_mut(place);
        let Some(change) = thread.zap.take() else { return };
        // Newer kernels freeze, flush and only then report the zap: any flush of it inside the bracket will do.
        let has_flush = self.vms[change.vm].flushes.iter().any(|flush| {
            at.event.span.contains(flush.span)
                && flush.covers(change.gfn, 1)
                && self.ctx.spool.event(flush.ordinal).is_none_or(|event| event.tid == at.event.tid)
        });
        if has_flush || change.at < at.event.span.lo || !self.ctx.rules.is_on(RuleId::K12) {
            return;
        }
        if self.ctx.has_gap_in(at.event.span) {
            self.ledger.unknown(UnknownCause::Dropped, 1);
            return;
        }
        if counter_moved {
            let cause = UnknownCause::NotObserved(crate::event::Operation::Flush);
            self.ledger.unknown(cause, 1);
            return;
        }
        let records =
            [(change.ordinal, "zaps a writable SPTE"), (at.ordinal, "ends without a flush")];
        self.report_change(at, RuleId::K12, change, &records, |gfn| {
            format!("gfn {gfn} was zapped while writable and its bracket ended without a flush")
        });
    }

    pub(super) fn on_zap(&mut self, at: At<'_>) {
        let vm = self.vm(at.event.vm);
        self.vms[vm].last_zap = at.ordinal;
    }

    /// The children inherit the huge SPTE's state; the holds of `mmu_lock` around it may be cut.
    pub(super) fn on_split(&mut self, at: At<'_>, page: PageRef, errno: i64) {
        let EventKind::Split { old, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let place = self.threads.place(at.event.tid);
        self.threads.get_mut(place).cut = at.event.span.hi;
        if errno != 0 {
            return;
        }
        self.benign(LookAlike::SplitChildren);
        let Some(slot) = self.slot_of(vm, page) else { return };
        let is_open = self.ctx.is_open(page.level, old);
        let protection = if is_open { Protection::Open } else { Protection::Closed };
        let (newest, known_since) = (self.ctx.spool.newest(), self.ctx.known_since);
        let surprises = std::cell::Cell::new(0_u64);
        self.set_protection(vm, slot, page, |state| {
            // What was known of the huge SPTE stays so, from when it was; the value tells it otherwise.
            let is_known = known_since <= state.changed.ordinal(newest);
            if state.has(page_flag::HUGE) && (state.protection != protection || !is_known) {
                let is_surprise = is_open && is_known && state.protection == Protection::Closed;
                surprises.set(surprises.get() + u64::from(is_surprise));
                state.change(protection, at.ordinal);
            }
            state.set(page_flag::HUGE, false);
        });
        if 0 < surprises.get() && self.vms[vm].slots[slot].is_logging {
            self.doubt_children(vm, slot, page);
        }
    }

    /// Somebody opened the huge SPTE, and the clocks put that before it was closed: what was written meanwhile may be
    /// reported nowhere.
    fn doubt_children(&mut self, vm: usize, slot: usize, page: PageRef) {
        let pages = pages_of_level(page.level);
        let first = page.gfn.0 & !(pages - 1);
        let held = &self.vms[vm].slots[slot];
        let gfns = (first..first.saturating_add(pages)).map(Gfn);
        let own: Vec<Gfn> = gfns.filter(|&gfn| held.holds(gfn)).take(PAGES_MAX).collect();
        for gfn in own {
            self.unknown_page((vm, slot, gfn), UnknownCause::WithinEpsilon);
        }
    }
}
