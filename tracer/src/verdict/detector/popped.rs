//! Pages of popped ring entries, read back when the RESET returns (K06 on the tracepoint plan).
//!
//! ```text
//! vcpu (cpu 0)                         harvester (cpu 1)
//!                                      RESET: pop gfn 7, protect, flush
//! push gfn 7, store W                  read back: W, and an entry names the page      <- reported, safe
//! ```
//!
//! Without such an entry W was never cleared, or a lockless fault is between its cmpxchg and its push. A vCPU that is
//! seen outside KVM_RUN afterwards is in no fault.

use crate::event::{Event, EventKind, Gfn, IoctlOp, Nanos, Operation};
use crate::order::Ordinal;
use crate::verdict::page::{Report, page_flag};
use crate::verdict::{LookAlike, RuleId, UnknownCause, Verdict};

use super::bounds::VCPUS_MAX;
use super::case::Case;
use super::slot::Outside;
use super::thread::{OpenIoctl, Suspect, WORDS_MAX};
use super::{At, Detector};

/// A page whose entry a RESET popped, read back writable when it returned (tracepoint plan).
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftOpen {
    pub slot: usize,
    pub gfn: Gfn,
    /// Begin of the RESET, its pop, the read-back, its return.
    pub records: [Ordinal; 4],
    /// Read back at this time or earlier.
    pub read: Nanos,
}

impl Detector {
    /// The slot of a word: that of the ioctl, or of a RESET, which names none, the one that holds the page.
    pub(super) fn slot_of_user_word(
        &mut self,
        vm: usize,
        ioctl: &mut OpenIoctl,
        first: Gfn,
    ) -> Result<usize, UnknownCause> {
        if ioctl.op.op != IoctlOp::ResetDirtyRings {
            let slot = self.slot_made(vm, ioctl.op.slot, first).ok_or(UnknownCause::Limit)?;
            ioctl.slot = Some(slot);
            return Ok(slot);
        }
        // A reset whose pop was not seen has dropped a record.
        ioctl.popped.ok_or(UnknownCause::Dropped)?;
        let slot = self.vms[vm].slot_of(first, None);
        slot.ok_or(UnknownCause::NotObserved(Operation::Slot))
    }

    /// A popped page was read back writable when the RESET returned.
    pub(super) fn judge_read_back(
        &mut self,
        at: At<'_>,
        ioctl: &OpenIoctl,
        suspect: Suspect,
        (is_pushed, is_complete): (bool, bool),
    ) {
        let Suspect { slot, gfn, word, .. } = suspect;
        let vm = ioctl.vm;
        let page = self.vms[vm].slots[slot].pages.get(gfn);
        if page.has(page_flag::LEFT_OPEN) {
            return;
        }
        let cause = match self.ctx.spool.event(word) {
            _ if !is_complete => UnknownCause::Dropped,
            _ if !self.ctx.rules.is_on(RuleId::K06) => {
                UnknownCause::NotObserved(Operation::RingReset)
            }
            _ if is_pushed => {
                self.with_page(vm, slot, gfn, |page, _| page.report = Report::Marked);
                self.benign(LookAlike::ReopenedInHarvest);
                self.ledger.judge(Verdict::Safe, at.event.span.hi, 1);
                return;
            }
            _ if page.is_shared() => UnknownCause::NotObserved(Operation::SpteChange),
            // No SPTE was found to read back: it may have been zapped.
            Some(event) if !is_writable(&event, gfn) => {
                UnknownCause::NotObserved(Operation::WriteProtect)
            }
            Some(event) if self.vms[vm].left_open.len() < WORDS_MAX => {
                let records = [ioctl.ordinal, ioctl.popped.unwrap_or_default(), word, at.ordinal];
                let read = event.span.hi;
                self.vms[vm].left_open.push(LeftOpen { slot, gfn, records, read });
                self.with_page(vm, slot, gfn, |page, _| page.set(page_flag::LEFT_OPEN, true));
                return;
            }
            Some(_) | None => UnknownCause::Limit,
        };
        self.unknown_page((vm, slot, gfn), cause);
    }

    /// A push of a page that was read back writable: a lockless fault that was in progress, or a write of the host.
    pub(super) fn explain_popped(&mut self, vm: usize, slot: usize, gfn: Gfn) {
        if !self.vms[vm].slots[slot].pages.get(gfn).has(page_flag::LEFT_OPEN) {
            return;
        }
        self.with_page(vm, slot, gfn, |page, _| page.set(page_flag::LEFT_OPEN, false));
        self.vms[vm].left_open.retain(|left| (left.slot, left.gfn) != (slot, gfn));
        let cause = UnknownCause::NotObserved(Operation::FastFault);
        self.unknown_page((vm, slot, gfn), cause);
    }

    /// Judges the pages that were left open before every vCPU was seen outside; at the end also the others.
    pub(super) fn settle_left_open(&mut self, vm: usize, is_end: bool) {
        if self.vms[vm].left_open.is_empty() {
            return;
        }
        let epsilon = self.ctx.epsilon_ns;
        let is_whole = self.vms[vm].outside.len() < VCPUS_MAX;
        let vcpus: Vec<Outside> = self.vms[vm].outside.values().copied().collect();
        for left in std::mem::take(&mut self.vms[vm].left_open) {
            let is_proven = is_whole && vcpus.iter().all(|vcpu| vcpu.is_since(left.read, epsilon));
            if !is_proven && !is_end {
                self.vms[vm].left_open.push(left);
                continue;
            }
            self.with_page(vm, left.slot, left.gfn, |page, _| {
                page.set(page_flag::LEFT_OPEN, false);
            });
            if self.ctx.has_gap_since(left.read) {
                self.unknown_page((vm, left.slot, left.gfn), UnknownCause::Dropped);
            } else if is_proven {
                self.report_unreset(vm, left, &vcpus);
            } else {
                let cause = UnknownCause::NotObserved(Operation::FastFault);
                self.unknown_page((vm, left.slot, left.gfn), cause);
            }
        }
    }

    /// K06 by values: popped, never protected, never pushed again.
    fn report_unreset(&mut self, vm: usize, left: LeftOpen, vcpus: &[Outside]) {
        let LeftOpen { slot, gfn, records: [begin, reset, word, end], .. } = left;
        // A record dropped up to now could be the push that explains it.
        let case = Case::on_page(RuleId::K06, Verdict::Lost, (vm, slot, gfn), self.ctx.now);
        let mut records = vec![
            (begin, "begins to reset the rings"),
            (reset, "pops entries"),
            (word, "shows the popped page writable"),
            (end, "returns; the page was not protected"),
        ];
        let proofs = vcpus.iter().map(|vcpu| (vcpu.record, "is outside KVM_RUN, so in no fault"));
        records.extend(proofs);
        self.report(case, &records, || {
            format!("the entry of gfn {gfn} was popped and the page left writable")
        });
    }
}

/// The word shows the page writable.
fn is_writable(event: &Event, gfn: Gfn) -> bool {
    match event.kind {
        EventKind::UserWord { first, writable, .. } => {
            gfn.bit_in(first).is_some_and(|bit| writable & bit != 0)
        }
        _ => false,
    }
}
