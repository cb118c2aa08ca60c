//! Dirty rings: pushes report a page, resets take it back (K06).

use crate::event::{EventKind, Gfn, MarkWord, Operation, VcpuId};
use crate::verdict::page::{Protection, Report, page_flag};
use crate::verdict::{RuleId, UnknownCause, Verdict};

use super::bounds::VCPUS_MAX;
use super::case::Case;
use super::slot::{Outside, Ring};
use super::thread::{OpenIoctl, PendingMark, Suspect, WORDS_MAX};
use super::{At, Detector};

/// Entries a ring can have (`KVM_DIRTY_RING_MAX_ENTRIES`).
const ENTRIES_MAX: usize = 65_536;

impl Ring {
    /// Takes the entries below `after`. The newest of them may be missing: its mark has not ended yet.
    fn pop(&mut self, after: u32) -> Vec<(usize, Gfn)> {
        let reached = after.wrapping_sub(self.first);
        let reached = if reached < 1 << 31 { reached as usize } else { 0 };
        let count = reached.min(self.entries.len());
        let entries = self.entries.drain(..count).collect();
        self.first = self.first.wrapping_add(count as u32);
        entries
    }
}

impl Detector {
    pub(super) fn on_ring_push(&mut self, at: At<'_>) {
        let EventKind::RingPush { offset, slot, index, vcpu } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let Some(slot) = self.vms[vm].known_slot(slot) else { return };
        let gfn = Gfn(self.vms[vm].slots[slot].base.0.saturating_add(offset));
        let place = self.threads.place(at.event.tid);
        let push = PendingMark {
            vm,
            slot,
            gfn,
            ordinal: at.ordinal,
            span: at.event.span,
            word: MarkWord::Ring(index),
            vcpu: Some(vcpu),
            is_logged: true,
            is_claimed: false,
            ..PendingMark::default()
        };
        self.threads.get_mut(place).pushes.push(push);
        self.explain_popped(vm, slot, gfn);
        self.log_push(vm, vcpu, (slot, gfn), index);
        self.note_mark(at, vm, slot, gfn);
    }

    /// A mark that pushed an entry; the ring is that of the vCPU the thread runs. `true`: a reset has popped the entry
    /// before the mark's record came, so that it reports nothing any more.
    #[inline(never)]
    pub(super) fn push_ring(
        &mut self,
        at: At<'_>,
        vm: usize,
        slot: usize,
        gfn: Gfn,
        index: u32,
    ) -> bool {
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        let Some(vcpu) = thread.vcpu else { return false };
        let has_pushed = thread.has_pushed((vm, slot, gfn), at.event.span.lo);
        let ring = self.vms[vm].rings.iter().find(|ring| ring.vcpu == vcpu);
        if let Some(reset) = ring.and_then(|ring| ring.popped_by(index.wrapping_sub(1))) {
            let page = self.vms[vm].slots[slot].pages.get(gfn);
            if page.taken.ordinal(self.ctx.spool.newest()) < reset {
                // What became of the entry cannot be told: that reset has been judged.
                self.ledger.unknown(UnknownCause::WithinEpsilon, 1);
            }
            return true;
        }
        if !has_pushed {
            self.log_push(vm, vcpu, (slot, gfn), index);
        }
        false
    }

    /// `index` is the ring's `dirty_index` after the push.
    fn log_push(&mut self, vm: usize, vcpu: VcpuId, entry: (usize, Gfn), index: u32) {
        let Some(ring) = self.ring_mut(vm, vcpu) else { return };
        let own = index.wrapping_sub(1);
        let next = ring.first.wrapping_add(ring.entries.len() as u32);
        if own != next || ring.entries.is_empty() {
            // Entries in between were not seen: what is older is forgotten with them.
            ring.entries.clear();
            ring.first = own;
        }
        if ring.entries.len() == ENTRIES_MAX {
            ring.entries.pop_front();
            ring.first = ring.first.wrapping_add(1);
        }
        ring.entries.push_back(entry);
    }

    pub(super) fn on_ring_reset(&mut self, at: At<'_>) {
        let EventKind::RingReset { vcpu, before, after, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        // Every ring is reset in turn, so that every vCPU is known from here on.
        self.see_vcpu(vm, vcpu, None);
        let popped = after.wrapping_sub(before);
        if popped == 0 {
            self.pop_unseen(vm, vcpu, after);
            self.note_unpopped(at, vm, vcpu, after);
            return;
        }
        let place = self.threads.place(at.event.tid);
        let begun = self.threads.get_mut(place).ioctl_on(vm).map(|ioctl| {
            ioctl.popped = Some(at.ordinal);
            ioctl.ordinal
        });
        let Some(ring) = self.vms[vm].rings.iter_mut().find(|ring| ring.vcpu == vcpu) else {
            self.ledger.unknown(UnknownCause::BeforeAttach, u64::from(popped));
            return;
        };
        // What lies below was popped by a reset that was not seen.
        let missed = ring.pop(before).len() as u64;
        self.ledger.unknown(UnknownCause::Dropped, missed);
        let unseen = ring.first.wrapping_sub(before).min(popped);
        let unseen = if unseen < 1 << 31 { unseen } else { 0 };
        self.ledger.unknown(UnknownCause::BeforeAttach, u64::from(unseen));
        let entries = ring.pop(after);
        ring.popped = begun.map(|begun| (after, begun));
        let newest = self.ctx.spool.newest();
        for (slot, gfn) in entries {
            let found = &self.vms[vm].slots[slot];
            let taken = found.pages.get(gfn).taken.ordinal(newest);
            if found.is_deleted || begun.is_none_or(|begun| begun < taken) {
                continue;
            }
            let suspects = &mut self.threads.get_mut(place).suspects;
            if suspects.len() < WORDS_MAX {
                let (word, since) = (at.ordinal, at.ordinal);
                let (is_popped, is_read_back) = (true, false);
                suspects.push(Suspect { slot, gfn, word, since, is_popped, is_read_back });
            } else {
                self.ledger.unknown(UnknownCause::Limit, 1);
            }
        }
    }

    /// The first reset seen of a ring that popped nothing: all that is pushed from here on is in it.
    fn note_unpopped(&mut self, at: At<'_>, vm: usize, vcpu: VcpuId, after: u32) {
        let place = self.threads.place(at.event.tid);
        let begun = self.threads.get_mut(place).ioctl_on(vm).map(|ioctl| ioctl.ordinal);
        let Some(ring) = self.ring_mut(vm, vcpu) else { return };
        ring.popped = ring.popped.or_else(|| Some((after, begun?)));
    }

    /// The ring of the vCPU, made on first sight. `None`: the VM has more than there can be.
    fn ring_mut(&mut self, vm: usize, vcpu: VcpuId) -> Option<&mut Ring> {
        let rings = &mut self.vms[vm].rings;
        let place = match rings.iter().position(|ring| ring.vcpu == vcpu) {
            Some(place) => place,
            None if rings.len() == VCPUS_MAX => {
                self.limit_reached = Some(self.ctx.now);
                return None;
            }
            None => {
                rings.push(Ring { vcpu, ..Ring::default() });
                rings.len() - 1
            }
        };
        rings.get_mut(place)
    }

    /// Entries up to `after` are gone; how they were popped was not seen.
    fn pop_unseen(&mut self, vm: usize, vcpu: VcpuId, after: u32) {
        let Some(ring) = self.vms[vm].rings.iter_mut().find(|ring| ring.vcpu == vcpu) else {
            return;
        };
        let count = ring.pop(after).len() as u64;
        self.ledger.unknown(UnknownCause::BeforeAttach, count);
    }

    pub(super) fn on_run_begin(&mut self, at: At<'_>, vcpu: VcpuId) {
        let thread = self.threads.place(at.event.tid);
        self.threads.get_mut(thread).vcpu = Some(vcpu);
        self.note_outside(at, vcpu, true);
    }

    /// A vCPU enters or leaves KVM_RUN: no fault of it is in progress.
    pub(super) fn note_outside(&mut self, at: At<'_>, vcpu: VcpuId, is_inside: bool) {
        let vm = self.vm(at.event.vm);
        if self.vms[vm].ring_bytes != 0 {
            let outside = Outside { seen: at.event.span.hi, record: at.ordinal, is_inside };
            self.see_vcpu(vm, vcpu, Some(outside));
        }
    }

    /// Keeps where a vCPU was seen; `None`: it exists.
    fn see_vcpu(&mut self, vm: usize, vcpu: VcpuId, seen: Option<Outside>) {
        let outside = &mut self.vms[vm].outside;
        if outside.len() < VCPUS_MAX || outside.contains_key(&vcpu) {
            let known = outside.entry(vcpu).or_insert(Outside::UNSEEN);
            *known = seen.unwrap_or(*known);
        }
    }

    /// K06: an entry was popped and its page not among those the reset protected.
    pub(super) fn judge_popped(
        &mut self,
        at: At<'_>,
        ioctl: &OpenIoctl,
        suspect: Suspect,
        is_complete: bool,
    ) {
        let Suspect { slot, gfn, word: reset, .. } = suspect;
        let vm = ioctl.vm;
        let page = self.vms[vm].slots[slot].pages.get(gfn);
        let newest = self.ctx.spool.newest();
        let taken = page.taken.ordinal(newest);
        if ioctl.ordinal < taken {
            return;
        }
        let is_bracketed = self.ctx.spool.event(reset).is_some_and(|event| {
            matches!(event.kind, EventKind::RingReset { bracketed: true, .. })
        });
        let verdict = match self.ctx.protection(&page) {
            _ if !is_complete => Err(UnknownCause::Dropped),
            _ if !self.ctx.rules.is_on(RuleId::K06) => return,
            // What the tracepoint cannot show, the read-back would have.
            _ if !is_bracketed => Err(UnknownCause::NotObserved(Operation::WriteProtect)),
            // Nobody can write it unlogged: the entry was superfluous.
            Ok(Protection::Closed) => Ok(Verdict::Safe),
            Ok(Protection::Open) => {
                let is_pushed_again = page.has(page_flag::MARKED_AGAIN)
                    || reset < page.mark.ordinal(newest) && page.report == Report::Marked;
                Ok(if is_pushed_again { Verdict::AtRisk } else { Verdict::Lost })
            }
            Ok(Protection::Unknown) => Err(UnknownCause::BeforeAttach),
            Err(cause) => Err(cause),
        };
        match verdict {
            Err(cause) => self.unknown_page((vm, slot, gfn), cause),
            Ok(Verdict::Safe) => self.ledger.judge(Verdict::Safe, at.event.span.hi, 1),
            Ok(verdict) => self.report_popped(at, vm, suspect, verdict),
        }
    }

    fn report_popped(&mut self, at: At<'_>, vm: usize, suspect: Suspect, verdict: Verdict) {
        let Suspect { slot, gfn, word: reset, .. } = suspect;
        let page = self.vms[vm].slots[slot].pages.get(gfn);
        let newest = self.ctx.spool.newest();
        let case = Case::on_page(RuleId::K06, verdict, (vm, slot, gfn), at.event.span.hi);
        let records = [
            (page.mark.ordinal(newest), "pushes the page"),
            (page.changed.ordinal(newest), "made the page writable"),
            (reset, "pops the entry"),
            (at.ordinal, "returns; the page was not protected"),
        ];
        self.report(case, &records, || {
            format!("the entry of gfn {gfn} was popped and the page left writable")
        });
    }
}
