//! Which VMs are followed. The filter is the `struct kvm *`, not the current task: part of the work happens in other
//! threads. A VM is adopted when a thread of the target process touches it.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kvmdirty_common::kind::{flag, slotref};
use kvmdirty_common::{Hook, Kind};

use crate::config::{config, offset};
use crate::emit::{self, Fact};
use crate::kernel::{current_task, current_tgid, current_tid, field, field_or_0, flush_requests};
use crate::maps::{THREADS, VMS, Vm};

/// Whether `kvm` is followed; adopts it if it is the target's and new.
#[inline(always)]
pub fn is_followed(kvm: u64) -> bool {
    if kvm == 0 {
        return false;
    }
    // SAFETY: the value is not used, only its presence.
    unsafe { VMS.get(&kvm) }.is_some() || adopt(kvm, 0)
}

/// Follows a VM from now on if it belongs to the target, and says so.
#[inline(never)]
pub fn adopt(kvm: u64, flags: u8) -> bool {
    let tgid = current_tgid();
    let target = config!(target_tgid) as u32;
    if target != 0 && target != tgid {
        return false;
    }
    // A kernel thread that works for many VMs must not become a VM's process.
    if field_or_0(current_task(), offset!(task_mm)) != field_or_0(kvm, offset!(kvm_mm)) {
        return false;
    }
    let ring: u32 = field(kvm, offset!(kvm_dirty_ring_size)).unwrap_or(0);
    if VMS.insert(&kvm, Vm { tgid, ring }, 0).is_err() {
        emit::count_missed(Hook::Vm);
        return false;
    }
    let manual = field_or_0(kvm, offset!(kvm_manual_protect)) & 0xffff_ffff;
    let memslots = field_or_0(kvm, offset!(kvm_memslots));
    emit::boundary(
        Hook::Vm,
        &Fact {
            kind: Kind::VmSeen,
            flags,
            vm: kvm,
            begin_ns: 0,
            args: [
                tgid.into(),
                manual | u64::from(ring) << 32,
                field_or_0(memslots, offset!(memslots_generation)),
                flush_requests(kvm),
            ],
        },
    );
    true
}

/// Adopts a VM that has just been created, even if one lived at its address before.
#[inline(never)]
pub fn adopt_created(kvm: u64) -> bool {
    let _ = VMS.remove(&kvm);
    adopt(kvm, flag::VM_CREATED)
}

/// A followed VM may have been given dirty rings: before its first vCPU, so after it was adopted.
#[inline(always)]
pub fn note_ring_size(kvm: u64) {
    let ring: u32 = field(kvm, offset!(kvm_dirty_ring_size)).unwrap_or(0);
    if let Some(vm) = VMS.get_ptr_mut(kvm) {
        // SAFETY: a map value; one aligned word.
        unsafe { (*vm).ring = ring };
    }
}

/// Whether a followed VM uses a dirty ring.
#[inline(always)]
pub fn uses_ring(kvm: u64) -> bool {
    // SAFETY: one aligned word that is written once.
    unsafe { VMS.get(&kvm) }.is_some_and(|vm| vm.ring != 0)
}

/// Memslot fields a record carries.
pub struct Slot {
    /// Packed as `slotref`.
    pub slotref: u64,
    /// First gfn.
    pub base: u64,
    /// Pages.
    pub npages: u64,
    /// Dirty bitmap address, 0 if none.
    pub bitmap: u64,
}

impl Slot {
    /// Reads a memslot.
    #[inline(always)]
    pub fn read(slot: u64) -> Self {
        let flags: u32 = field(slot, offset!(slot_flags)).unwrap_or(0);
        let id: u16 = field(slot, offset!(slot_id)).unwrap_or(0);
        let as_id: u16 = field(slot, offset!(slot_as_id)).unwrap_or(0);
        let bitmap = field_or_0(slot, offset!(slot_dirty_bitmap));
        let has_bitmap = if bitmap == 0 { 0 } else { slotref::HAS_BITMAP };
        Self {
            slotref: u64::from(id) | u64::from(as_id) << 16 | u64::from(flags) << 32 | has_bitmap,
            base: field_or_0(slot, offset!(slot_base_gfn)),
            npages: field_or_0(slot, offset!(slot_npages)),
            bitmap,
        }
    }

    /// The bitmap word that holds `gfn`.
    #[inline(always)]
    pub fn word(&self, gfn: u64) -> Option<u64> {
        if self.bitmap == 0 || gfn < self.base {
            return None;
        }
        crate::kernel::read(self.bitmap + (gfn - self.base) / 64 * 8)
    }
}

/// Forgets a thread that ends.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn thread_exit(_: RawTracePointContext) -> i32 {
    let _ = THREADS.remove(current_tid());
    0
}
