//! The return of an ioctl: a harvest is judged, counted and shown.

use crate::event::{EventKind, IoctlOp, IoctlRef, Span};
use crate::verdict::{Harvest, LookAlike, Verdict};

use super::thread::OpenIoctl;
use super::verify::Outcome;
use super::{At, Detector, HARVESTS_MAX};

impl Detector {
    pub(super) fn on_ioctl_end(&mut self, at: At<'_>, op: IoctlRef) {
        let EventKind::IoctlEnd { ret, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let place = self.threads.place(at.event.tid);
        let is_its =
            |ioctl: &OpenIoctl| ioctl.vm == vm && (ioctl.op.op == op.op || ioctl.begin.is_none());
        let begun = self.threads.get_mut(place).ioctl.take_if(|ioctl| is_its(ioctl));
        let ioctl = match begun {
            Some(ioctl) => OpenIoctl { op, ..ioctl },
            None => {
                self.abandon_ioctl(at);
                self.open_ioctl(at, vm, op)
            }
        };
        self.close_harvest(&ioctl);
        self.settle(at, vm, &ioctl);
        self.settle_chains(vm);
        self.ctx.ioctl = ioctl.ordinal;
        match op.op {
            IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog | IoctlOp::ResetDirtyRings => {
                self.finish_harvest(at, place, ioctl);
            }
            IoctlOp::SetMemory => self.finish_set_memory(at, place, ioctl),
            IoctlOp::EnableCap if ret == 0 => self.enable_cap(vm, ioctl.args),
            IoctlOp::EnableCap => {}
        }
        let thread = self.threads.get_mut(place);
        thread.leave_ioctl();
        thread.marks.clear();
        thread.zap = None;
        self.judge_decision(at, place);
    }

    /// The harvest has returned: every page it took is judged.
    fn finish_harvest(&mut self, at: At<'_>, place: usize, ioctl: OpenIoctl) {
        let EventKind::IoctlEnd { ret, flushes, words, words_cut, .. } = at.event.kind else {
            return;
        };
        let (vm, op) = (ioctl.vm, ioctl.op);
        let counter_moved = ioctl.begin.is_some() && flushes != ioctl.flushes;
        let begin = ioctl.begin.unwrap_or(at.event.span.lo);
        let span = Span { lo: begin, hi: at.event.span.hi };
        let is_reset = ioctl.op.op == IoctlOp::ResetDirtyRings;
        let named = || if is_reset { None } else { self.vms[vm].known_slot(ioctl.op.slot) };
        let slot = ioctl.slot.or_else(named);
        let is_complete = ioctl.begin.is_some()
            && !self.ctx.has_gap_in(span)
            && !words_cut
            && (words == 0 || words == ioctl.words)
            && !ioctl.is_over;
        let before = self.ledger.counts;
        let flush = self.threads.get_mut(place).flush;
        let own_flush =
            (ioctl.first_visit.is_some() && ioctl.last_visit <= flush.lo).then_some(flush);
        if ioctl.is_taker {
            let outcome = Outcome { own_flush, counter_moved, is_complete };
            self.settle_pairs(at, vm, place);
            self.judge_pages(at, place, &ioctl, outcome);
            self.settle_left_open(vm, false);
            if let (IoctlOp::GetDirtyLog, true, Some(slot)) = (op.op, is_complete && ret == 0, slot)
            {
                self.judge_overdue(at, vm, slot, begin);
            }
        } else {
            self.benign(LookAlike::ManualGet);
        }
        let worst = worst_since(&before, &self.ledger.counts);
        self.harvests_total += 1;
        let iteration = self.settle_slot(at, slot, &ioctl, span);
        let harvest = Harvest {
            id: self.harvests_total,
            vm: self.vms[vm].id,
            slot: ioctl.op.slot,
            op: ioctl.op.op,
            iteration,
            tid: at.event.tid,
            begin,
            end: span.hi,
            ret,
            words: ioctl.words,
            pages: ioctl.pages.taken,
            protect_ns: ioctl.last_visit.since(ioctl.first_visit.unwrap_or(ioctl.last_visit)),
            flush_ns: own_flush.map(Span::len_ns),
            flush_counter_moved: counter_moved,
            is_complete,
            worst,
        };
        if self.harvests.len() == HARVESTS_MAX {
            self.harvests.pop_front();
        }
        self.harvests.push_back(harvest);
        self.note_tlb_window(at, &ioctl, own_flush);
    }

    /// Counts the harvest for its slot (RESET: for all), and settles the windows it collected.
    fn settle_slot(
        &mut self,
        at: At<'_>,
        slot: Option<usize>,
        ioctl: &OpenIoctl,
        span: Span,
    ) -> u64 {
        let EventKind::IoctlEnd { ret, .. } = at.event.kind else { return 0 };
        let vm = ioctl.vm;
        let is_reset = ioctl.op.op == IoctlOp::ResetDirtyRings;
        let mut iteration = 0;
        for (index, found) in self.vms[vm].slots.iter_mut().enumerate() {
            if !(slot == Some(index) || is_reset) {
                continue;
            }
            found.is_changed = true;
            found.harvests += 1;
            iteration = found.harvests;
            found.recent.push((span, ioctl.range()));
            if ioctl.op.op == IoctlOp::ClearDirtyLog {
                continue;
            }
            if ret < 0 {
                // Nothing reached user space.
                continue;
            }
            // GET and RESET collect what was marked before; CLEAR only takes it.
            found.last_harvest = at.ordinal;
            if !is_reset {
                found.last_get = Some(span);
                found.get_begun = ioctl.begin.map(|_| ioctl.ordinal);
            }
            let settled = std::mem::take(&mut found.windows_waiting);
            self.ledger.judge(Verdict::Safe, span.hi, settled);
        }
        iteration
    }
}

fn worst_since(
    before: &crate::verdict::VerdictCounts,
    after: &crate::verdict::VerdictCounts,
) -> Option<Verdict> {
    Verdict::ALL.into_iter().find(|&verdict| before.get(verdict) < after.get(verdict))
}
