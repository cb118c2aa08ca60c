//! SPTEs of the shadow MMU, seen at its tracepoints (tracepoint plan).
//!
//! ```text
//! fault:  kvm_mmu_spte_requested(fault) .. mark .. store *sptep .. kvm_mmu_set_spte(level, gfn, sptep)
//! ```

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kvmdirty_common::kind::{flag, gfnref, slotref};
use kvmdirty_common::{Hook, Kind};

use crate::config::{config, offset};
use crate::emit::{self, Fact};
use crate::kernel::{field, field_or_0, now, read, running_vcpu};
use crate::maps::{READBACK, ReadBack};
use crate::thread::Thread;
use crate::vm::{Slot, is_followed, uses_ring};

/// Tag of a gfn's read-back entry. Two VMs get different tags unless their addresses and gfns conspire; then the frame
/// number, compared as well, tells them apart.
#[inline(always)]
pub fn tag(kvm: u64, gfn: u64) -> u64 {
    kvm << 8 ^ gfn
}

/// The VM a fault on this thread belongs to, from the vCPU loaded on it. Followed VMs only, else 0.
#[inline(always)]
fn fault_vm(thread: &mut Thread) -> u64 {
    if thread.vcpu == 0 {
        let vcpu = running_vcpu();
        thread.kvm = field_or_0(vcpu, offset!(vcpu_kvm));
        thread.vcpu = vcpu;
    }
    if is_followed(thread.kvm) { thread.kvm } else { 0 }
}

/// `kvm_mmu_spte_requested(fault)`: the walk is done, `mmu_lock` is held, the mark and the store follow.
#[raw_tracepoint(tracepoint = "kvm_mmu_spte_requested")]
pub fn spte_requested(ctx: RawTracePointContext) -> i32 {
    let Some(thread) = Thread::current() else { return 0 };
    thread.requested_slot = field_or_0(ctx.arg(0), offset!(fault_slot));
    thread.requested_ns = now();
    0
}

/// `kvm_mmu_set_spte(level, gfn, sptep)`: the SPTE has been stored.
#[raw_tracepoint(tracepoint = "kvm_mmu_set_spte")]
pub fn set_spte(ctx: RawTracePointContext) -> i32 {
    let Some(thread) = Thread::current() else { return 0 };
    let kvm = fault_vm(thread);
    if kvm == 0 {
        return 0;
    }
    let gfn: u64 = ctx.arg(1);
    let sptep: u64 = ctx.arg(2);
    let Some(spte) = read::<u64>(sptep) else { return 0 };
    let begin_ns = thread.requested_ns;
    thread.requested_ns = 0;

    let mut page = gfn & gfnref::GFN | u64::from(ctx.arg::<u32>(0) & 0xf) << gfnref::LEVEL_SHIFT;
    let mut flags = if uses_ring(kvm) { flag::SET_RING } else { 0 };
    let mut word = 0;
    let slot = Slot::read(thread.requested_slot);
    // A prefetched SPTE belongs to another gfn than the fault, mostly of the same slot.
    if begin_ns != 0 && slot.base <= gfn && gfn < slot.base + slot.npages {
        page |= (slot.slotref >> 16 & 0xf) << gfnref::AS_SHIFT | gfnref::HAS_AS;
        if slot.slotref & slotref::LOGGING != 0 {
            flags |= flag::SET_LOGGING;
        }
        if let Some(value) = slot.word(gfn) {
            word = value;
            flags |= flag::SET_WORD;
        }
    }
    if let Some(entry) = READBACK.get_ptr_mut((gfn & config!(readback_mask)) as u32) {
        // SAFETY: a map value. Two CPUs may write at once; a torn entry fails the checks of its reader.
        unsafe { *entry = ReadBack { tag: tag(kvm, gfn), sptep, spte } };
    }
    emit::page(
        Hook::SpteChange,
        &Fact { kind: Kind::SpteSet, flags, vm: kvm, begin_ns, args: [page, spte, word, sptep] },
    );
    0
}

/// `kvm_mmu_prepare_zap_page(sp)`: a shadow page is about to be zapped.
#[raw_tracepoint(tracepoint = "kvm_mmu_prepare_zap_page")]
pub fn zap_page(ctx: RawTracePointContext) -> i32 {
    let Some(thread) = Thread::known() else { return 0 };
    if !is_followed(thread.kvm) {
        return 0;
    }
    let page: u64 = ctx.arg(0);
    let level = u64::from(field::<u32>(page, offset!(page_role)).unwrap_or(0) & 0xf);
    let gfn = field_or_0(page, offset!(page_gfn));
    emit::page(
        Hook::Zap,
        &Fact {
            kind: Kind::Zap,
            flags: 0,
            vm: thread.kvm,
            begin_ns: 0,
            args: [gfn & gfnref::GFN | level << gfnref::LEVEL_SHIFT, 0, 0, 0],
        },
    );
    0
}

/// `kvm_unmap_hva_range(start, end)`: an MMU notifier invalidates host addresses of some VM.
///
/// The tracepoint does not name the VM. A thread that worked for a followed VM is taken to mean that one; in other
/// threads (compaction, swapping) the record names none.
#[raw_tracepoint(tracepoint = "kvm_unmap_hva_range")]
pub fn unmap_range(ctx: RawTracePointContext) -> i32 {
    let kvm = match Thread::known() {
        Some(thread) if is_followed(thread.kvm) => thread.kvm,
        _ => 0,
    };
    let flushes = crate::kernel::flush_requests(kvm);
    emit::boundary(
        Hook::Zap,
        &Fact {
            kind: Kind::Invalidate,
            flags: 0,
            vm: kvm,
            begin_ns: 0,
            args: [ctx.arg(0), ctx.arg(1), flushes, flushes],
        },
    );
    0
}
