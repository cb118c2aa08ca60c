//! Since when a slot certainly logs, for faults and writes that used its slot object; marks on an older object (K07).

use crate::event::{EventKind, Gfn, IoctlOp, IoctlRef, Nanos, SlotRef, Span};
use crate::verdict::{LookAlike, RuleId};

use super::due::{Due, DueMark};
use super::slot::Slot;
use super::{At, Detector};

impl Detector {
    /// The slot a record names, and what the record shows of its logging. One that began before the slot stopped
    /// logging, as far as the clocks tell, may hold the slot object of before, and shows nothing of the one that came.
    ///
    /// ```text
    /// vcpu                                vmm
    /// mark begins, slot object logs
    ///                                     SET_MEMORY turns logging off, waits for it: commit   @50
    /// mark ends                @50                                                             <- merged second
    /// fault, no mark                                                                           <- owes none
    /// ```
    #[inline(always)]
    pub(super) fn slot_by_ref(
        &mut self,
        vm: usize,
        at: At<'_>,
        slot: SlotRef,
        near: Gfn,
    ) -> Option<usize> {
        let index = self.slot_made(vm, slot.id, near)?;
        let epsilon = self.ctx.epsilon_ns;
        let found = &mut self.vms[vm].slots[index];
        if slot.logging {
            if !found.is_logging {
                let lo = at.event.span.lo.0;
                if found.stopped.is_some_and(|stopped| lo <= stopped.0.saturating_add(epsilon)) {
                    return Some(index);
                }
                found.is_logging = true;
                found.is_changed = true;
                found.logging_since = Some(at.event.span.hi);
            }
            found.logging_shown = at.ordinal;
        }
        Some(index)
    }

    /// A mark on a slot object that does not log, of a slot that does.
    pub(super) fn note_old_slot(&mut self, at: At<'_>, vm: usize, slot: usize) {
        let EventKind::Mark { gfn, has_vcpu, .. } = at.event.kind else { return };
        let found = &self.vms[vm].slots[slot];
        // 5.10 takes an MMIO SPTE with its access bits for a writable one (`handle_changed_spte_dirty_log()`) and
        // marks a gfn of no slot: the null pointer reads as slot 0, which does not hold the page.
        if !found.is_logging || !found.holds(gfn) {
            return;
        }
        let (span, ordinal) = (at.event.span, at.ordinal);
        let mark = DueMark { vm, slot, gfn, span, ordinal, has_vcpu };
        if self.outlives_enable(vm, slot, span) {
            self.wait(span.hi, Due::OldSlot(mark));
        } else {
            self.benign(LookAlike::OldSlotMark);
        }
    }

    /// The enable waits by SRCU for marks on the object of before, so none of them ends after its commit (K07). Unless
    /// logging is being turned off again, which the clocks may have put later than it was.
    pub(super) fn judge_old_slot(&mut self, mark: DueMark) {
        let DueMark { vm, slot, span, .. } = mark;
        if self.outlives_enable(vm, slot, span)
            && self.ctx.rules.is_on(RuleId::K07)
            && !self.ctx.has_gap_in(span)
        {
            self.report_dropped_mark(mark);
        } else {
            self.benign(LookAlike::OldSlotMark);
        }
    }

    /// The slot certainly logged at `since` and later, so a fault that began then used a slot object that logs.
    pub(super) fn is_logging_since(&self, vm: usize, slot: usize, since: Nanos) -> bool {
        let slot = &self.vms[vm].slots[slot];
        let is_shown = self.ctx.known_since <= slot.logging_shown && !self.is_disabling(vm, slot);
        let enabled = slot.logging_since.unwrap_or(Nanos(u64::MAX));
        slot.is_logging && is_shown && enabled.0.saturating_add(self.ctx.epsilon_ns) < since.0
    }

    /// The bracket ended after the ioctl that turned logging on had returned. SRCU waits for those that began before
    /// its commit, and those that began later use the new slot object; what they open earlier the ioctl protects.
    pub(super) fn outlives_enable(&self, vm: usize, slot: usize, bracket: Span) -> bool {
        let found = &self.vms[vm].slots[slot];
        let epsilon = self.ctx.epsilon_ns;
        found.committed.is_some_and(|done| done.0.saturating_add(epsilon) < bracket.hi.0)
            && self.ctx.known_since <= found.logging_shown
            && !self.is_set(vm, found, |_| true)
    }

    /// The ioctl that turned logging on has returned, and no other one is under way.
    pub(super) fn is_enabled(&self, vm: usize, slot: usize) -> bool {
        let found = &self.vms[vm].slots[slot];
        found.is_logging && found.committed.is_some() && !self.is_set(vm, found, |_| true)
    }

    /// A SET_MEMORY that turns logging off is under way: readers may already use the slot object that does not log.
    fn is_disabling(&self, vm: usize, slot: &Slot) -> bool {
        self.is_set(vm, slot, |mem_flags| mem_flags & 1 == 0)
    }

    /// A SET_MEMORY of the slot with such flags is under way.
    fn is_set(&self, vm: usize, slot: &Slot, with: impl Fn(u32) -> bool) -> bool {
        self.vms[vm].open_enables != 0
            && self.threads.iter().filter_map(|thread| thread.ioctl.as_ref()).any(|ioctl| {
                let IoctlRef { op, slot: id, mem_flags } = ioctl.op;
                ioctl.vm == vm && op == IoctlOp::SetMemory && id == slot.id && with(mem_flags)
            })
    }
}
