//! The end of the trace: what no later harvest will collect (K09).

use crate::event::{Gfn, Operation};
use crate::order::Ordinal;
use crate::order::spool::Stamp;
use crate::verdict::ledger::Proof;
use crate::verdict::page::{Report, page_flag};
use crate::verdict::{RuleId, UnknownCause, Verdict};

use super::Detector;
use super::case::Case;
use super::slot::Slot;

impl Slot {
    /// Pages whose bit no harvest has taken, with their first mark; not those that only steal time has marked.
    pub(super) fn unread(&self, newest: Ordinal) -> impl Iterator<Item = (Gfn, Ordinal)> {
        self.pages
            .iter()
            .filter(|(_, page)| page.report == Report::Marked && !page.has(page_flag::STEAL_TIME))
            .map(move |(gfn, page)| (gfn, page.mark.ordinal(newest)))
    }
}

impl Detector {
    /// Judges what is still open.
    pub(super) fn judge_residue(&mut self) {
        let stores = self.threads.iter_mut().map(|thread| thread.stores.len() as u64).sum();
        self.ledger.unknown(UnknownCause::TraceEnd, stores);
        let open = self.threads.iter_mut().map(|thread| (thread.tid, thread.ioctl.take()));
        let open: Vec<_> = open.filter_map(|(tid, ioctl)| Some((tid, ioctl?))).collect();
        for (tid, ioctl) in open {
            self.ledger.unknown(UnknownCause::TraceEnd, ioctl.pages.taken);
            self.leave_harvest_open(tid, &ioctl);
        }
        for vm in 0..self.vms.len() {
            self.judge_vm_residue(vm);
        }
    }

    /// Judges what is still open of a VM that is no more.
    pub(super) fn judge_vm_residue(&mut self, vm: usize) {
        self.settle_chains(vm);
        self.abandon_pairs(vm, UnknownCause::TraceEnd);
        self.settle_left_open(vm, true);
        self.leave_tlbs_open(vm);
        for slot in 0..self.vms[vm].slots.len() {
            self.judge_slot_residue(vm, slot);
        }
    }

    fn judge_slot_residue(&mut self, vm: usize, slot: usize) {
        let found = &mut self.vms[vm].slots[slot];
        let waiting = std::mem::take(&mut found.windows_waiting);
        let has_harvest = 0 < found.harvests;
        let is_final = self.ctx.is_final && has_harvest;
        // With a declared final harvest their pages say the same, one by one.
        if !is_final {
            self.ledger.judge(Verdict::Exposed, self.ctx.now, waiting);
        }
        let is_ring = self.vms[vm].ring_bytes != 0;
        if !has_harvest || is_ring || !self.ctx.rules.is_on(RuleId::K09) {
            return;
        }
        let Some(last) = self.vms[vm].slots[slot].last_get else { return };
        if self.ctx.has_gap_since(last.lo) {
            return;
        }
        self.doubt_residue(vm, slot);
        let (residue, untold) = self.residue(vm, slot);
        self.ledger.unknown(UnknownCause::Limit, untold);
        if is_final && !self.ctx.tells_steal_time {
            self.doubt_unread(vm, slot, residue);
        } else if is_final {
            for (gfn, mark) in residue {
                self.report_residue(vm, slot, Some(gfn), mark, 1);
            }
        } else if let Some(&(_, mark)) = residue.first() {
            self.report_residue(vm, slot, None, mark, residue.len());
        }
    }

    /// A mark beside the last word that took the page: whether the bit is set, nothing tells.
    pub(super) fn doubt_residue(&mut self, vm: usize, slot: usize) {
        let pages = &self.vms[vm].slots[slot].pages;
        let maybe = pages.iter().filter(|(_, page)| page.report == Report::Maybe);
        let maybe: Vec<Gfn> = maybe.map(|(gfn, _)| gfn).collect();
        for gfn in maybe {
            self.unknown_page((vm, slot, gfn), UnknownCause::WithinEpsilon);
        }
    }

    /// The mark ended before the last GET of the slot began; `None`: both are too long ago to tell.
    pub(super) fn is_before_get(&self, vm: usize, slot: usize, mark: Ordinal) -> Option<bool> {
        let slot = &self.vms[vm].slots[slot];
        let Some(get) = slot.last_get else { return Some(false) };
        if let Some(event) = self.ctx.spool.event(mark) {
            return Some(event.span.hi < get.lo);
        }
        // Ordinals do not leave the spool: in merge order records lie as the ends of their spans do.
        let begun = slot.get_begun?;
        let is_aged = mark <= Stamp::OLD.ordinal(0);
        if is_aged { (self.stamps_floor() <= begun).then_some(true) } else { Some(mark < begun) }
    }

    /// Pages marked after the last harvest of the slot began, with their first mark; and of how many that cannot be
    /// told.
    fn residue(&self, vm: usize, slot: usize) -> (Vec<(Gfn, Ordinal)>, u64) {
        let newest = self.ctx.spool.newest();
        let found = &self.vms[vm].slots[slot];
        if found.marked == 0 {
            return (Vec::new(), 0);
        }
        let mut untold = 0;
        // A mark from before the harvest that it did not take is K07's business; under manual protect GET has read it.
        let mut is_after = |mark: Ordinal| {
            let is_before = self.is_before_get(vm, slot, mark);
            untold += u64::from(is_before.is_none());
            is_before == Some(false)
        };
        let residue = found.unread(newest).filter(|&(_, mark)| is_after(mark)).collect();
        (residue, untold)
    }

    /// Pages whose marks may be those of steal time, for all the plan shows.
    pub(super) fn doubt_unread(&mut self, vm: usize, slot: usize, unread: Vec<(Gfn, Ordinal)>) {
        for (gfn, _) in unread {
            self.unknown_page((vm, slot, gfn), UnknownCause::NotObserved(Operation::HostWrite));
        }
    }

    fn report_residue(
        &mut self,
        vm: usize,
        slot: usize,
        gfn: Option<Gfn>,
        mark: Ordinal,
        pages: usize,
    ) {
        let verdict = if gfn.is_some() { Verdict::Lost } else { Verdict::Exposed };
        let id = self.vms[vm].slots[slot].id;
        let harvest = self.vms[vm].slots[slot].last_harvest;
        let case = Case {
            rule: RuleId::K09,
            verdict,
            vm,
            slot: Some(slot),
            gfn,
            at: self.ctx.now,
            proof: Proof::Absence,
            known: None,
            missing: None,
        };
        let records = [(harvest, "is the last harvest"), (mark, "marks the page after it")];
        self.report(case, &records, || match gfn {
            Some(gfn) => format!("gfn {gfn} was marked after the final harvest of slot {id}"),
            None => format!("{pages} pages of slot {id} were marked after its last harvest"),
        });
        // The finding is one judgement; its other pages are judged with it.
        self.ledger.judge(verdict, self.ctx.now, pages as u64 - 1);
    }
}
