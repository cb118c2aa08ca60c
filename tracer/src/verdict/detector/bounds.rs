//! Bounds on what is kept: VMs, slots, rings, threads. What finds no room is not followed, and counted as unknown.

use crate::event::{Gfn, SlotId, VmId};
use crate::verdict::UnknownCause;

use super::Detector;

/// VMs followed at once, with those that are gone and can still be shown: some 15 KB each.
pub(super) const VMS_MAX: usize = 4096;

/// Slots over all VMs: some 9 KB each with their heat map.
pub(super) const SLOTS_MAX: u32 = 1 << 16;

/// vCPUs of a VM, and so rings (`KVM_MAX_VCPUS`, arch/x86/include/asm/kvm_host.h).
pub(super) const VCPUS_MAX: usize = 4096;

/// Judgements that wait at once.
pub(super) const DUE_MAX: usize = 1 << 20;

impl Detector {
    /// The VM is followed, or there is room for it.
    #[inline(always)]
    pub(super) fn admits(&mut self, id: VmId) -> bool {
        self.vms.get(self.last_vm).is_some_and(|vm| vm.id == id) || self.finds_room(id)
    }

    #[cold]
    #[inline(never)]
    fn finds_room(&mut self, id: VmId) -> bool {
        if let Some(index) = self.vms.iter().position(|vm| vm.id == id) {
            self.last_vm = index;
            return true;
        }
        if self.vms.len() < VMS_MAX {
            return true;
        }
        let gone = self.vms.iter().position(|vm| vm.is_gone);
        match gone {
            Some(index) => self.replace_vm(index, id),
            None => self.ledger.unknown(UnknownCause::Limit, 1),
        }
        gone.is_some()
    }

    /// The slot of that id, made on first sight: then `near` is a page of it. `None`: there is no room.
    #[inline]
    pub(super) fn slot_made(&mut self, vm: usize, id: SlotId, near: Gfn) -> Option<usize> {
        let slot = self.vms[vm].slot(id, near, &mut self.slots_left);
        if slot.is_none() {
            self.limit_reached = Some(self.ctx.now);
        }
        slot
    }

    /// A configured bound was reached: what is not followed cannot be judged.
    #[cold]
    pub(super) fn note_limit(&mut self) {
        self.limit_reached = None;
        self.ledger.unknown(UnknownCause::Limit, 1);
    }

    /// A thread that was in a bracket had to give up its place: what it has done so far is not known any more.
    #[inline]
    pub(super) fn note_evicted(&mut self) {
        if self.threads.has_evicted {
            self.forget_evicted();
        }
    }

    #[cold]
    #[inline(never)]
    fn forget_evicted(&mut self) {
        self.threads.has_evicted = false;
        self.ctx.known_since = self.ctx.spool.newest() + 1;
        self.ledger.unknown(UnknownCause::Limit, 1);
        for ioctl in std::mem::take(&mut self.threads.evicted) {
            self.close_harvest(&ioctl);
            self.ledger.unknown(UnknownCause::Limit, ioctl.pages.taken);
            self.abandon_pairs(ioctl.vm, UnknownCause::Limit);
        }
    }
}
