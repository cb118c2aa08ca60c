//! Host writes into guest memory: written first, marked second, with nothing to protect the page in between (K08).

use crate::event::{EventKind, Gfn, Nanos, Operation, PageRef, SlotRef, Span};
use crate::order::Ordinal;
use crate::verdict::ledger::Proof;
use crate::verdict::page::{Protection, Report, page_flag};
use crate::verdict::{EdgeKind, LookAlike, RuleId, UnknownCause, Verdict, WindowKind};

use super::case::Case;
use super::due::ThirdCase;
use super::thread::PendingMark;
use super::{At, Detector};

/// Pages one write is followed over.
const PAGES_MAX: usize = 2;

impl Detector {
    pub(super) fn on_host_write(&mut self, at: At<'_>) {
        let EventKind::HostWrite { gpa, bytes, slot, failed, writer, .. } = at.event.kind else {
            return;
        };
        let vm = self.vm(at.event.vm);
        let is_steal_time = writer == kvmdirty_common::kind::writer::STEAL_TIME_PREEMPTED;
        let first = gpa >> 12;
        let last = gpa.saturating_add(bytes.max(1) - 1) >> 12;
        let place = self.threads.place(at.event.tid);
        self.threads.get_mut(place).last_exit = at.event.span.hi;
        for gfn in (first..=last).take(PAGES_MAX).map(Gfn) {
            let Some(index) = self.written_slot(at, vm, slot, gfn) else { continue };
            let thread = self.threads.get_mut(place);
            match thread.find_mark((vm, index, gfn), at.event.span.lo) {
                Some(mark) => {
                    thread.claim(mark.ordinal);
                    if mark.drained.is_some() {
                        self.settle_pml(&mark, Protection::Closed);
                    }
                    if mark.is_logged && is_steal_time {
                        self.note_steal_time(vm, index, &mark);
                    } else if mark.is_logged {
                        self.weaken_hasty(at, (vm, index, gfn), true);
                        self.close_host_write(at, vm, index, gfn, mark.span.hi);
                        self.judge_write_order(at, vm, index, gfn, mark.ordinal);
                    }
                }
                None if failed => {}
                None => self.judge_unmarked_write(at, vm, index, gfn),
            }
        }
        if is_steal_time {
            self.benign(LookAlike::StealTime);
        }
    }

    /// The slot a write went to: as its record or its mark names it, else by gfn.
    fn written_slot(&mut self, at: At<'_>, vm: usize, slot: SlotRef, gfn: Gfn) -> Option<usize> {
        if slot.logging {
            return self.slot_by_ref(vm, at, slot, gfn);
        }
        self.slot_by_mark(at, vm, PageRef { gfn, level: 1, as_id: None })
    }

    /// Steal time is also written when a vCPU that has stopped is scheduled out, after the last harvest
    /// (`kvm_steal_time_set_preempted()`, arch/x86/kvm/x86.c); the destination writes its own.
    fn note_steal_time(&mut self, vm: usize, slot: usize, mark: &PendingMark) {
        if self.vms[vm].ring_bytes != 0 {
            return;
        }
        let newest = self.ctx.spool.newest();
        self.with_page(vm, slot, mark.gfn, |page, _| {
            let is_only = page.mark.ordinal(newest) == mark.ordinal;
            page.set(page_flag::STEAL_TIME, is_only || mark.after_steal_time);
        });
    }

    fn close_host_write(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn, marked: Nanos) {
        let opened = at.event.span.lo;
        let span = Span { lo: opened, hi: marked.max(opened) };
        let (kind, tid) = (WindowKind::HostWrite, at.event.tid);
        self.close_third_case(ThirdCase { vm, slot, gfn, span, tid, kind });
    }

    /// K08: the guest's bytes were not yet the data when the mark was entered.
    fn judge_write_order(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn, mark: Ordinal) {
        let EventKind::HostWrite { data_at_mark, .. } = at.event.kind else { return };
        if data_at_mark == Some(true) || !self.ctx.rules.is_on(RuleId::K08) {
            return;
        }
        if data_at_mark.is_none() {
            // A harvest took the mark while the writer was still at work: whether the data was there is not known.
            let page = self.vms[vm].slots[slot].pages.get(gfn);
            if matches!(page.report, Report::Clean | Report::Maybe) {
                let cause = UnknownCause::NotObserved(Operation::HostWrite);
                self.unknown_page((vm, slot, gfn), cause);
            }
            return;
        }
        let case = Case {
            proof: Proof::Values,
            missing: Some(EdgeKind::ProgramOrder),
            ..Case::on_page(RuleId::K08, Verdict::AtRisk, (vm, slot, gfn), at.event.span.hi)
        };
        let records =
            [(mark, "marks the page, whose bytes are still old"), (at.ordinal, "writes the page")];
        self.report(case, &records, || format!("gfn {gfn} was marked before the host wrote it"));
    }
}
