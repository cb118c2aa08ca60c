//! Since when a slot certainly logs, for faults and writes that used its slot object.

use crate::event::{IoctlOp, IoctlRef, Nanos, Span};

use super::Detector;
use super::slot::Slot;

impl Detector {
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
