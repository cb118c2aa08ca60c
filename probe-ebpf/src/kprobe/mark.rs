//! Dirty marks: one record at the mark's exit, with what its entry and exit showed.
//!
//! At the entry, before anything is marked: `*sptep` of the fast fault in progress, and the guest bytes of the host
//! write in progress. At the exit: the bitmap word, or the ring's index.
//!
//! The word is read before the record's time is taken, and once more after it. In between a CPU may stall (an
//! interrupt of the host below, for one), and a harvest may come:
//!
//! ```text
//! vcpu (cpu 1)                          harvester (cpu 0)
//! set_bit gfn 7
//! read the word: bit 7 set
//!   (stalls)                            xchg: takes bit 7
//! take the record's time                                        <- the bit did not outlive this xchg
//! ```

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::kind::{flag, slotref};
use kvmdirty_common::target::{ABSENT, abi};
use kvmdirty_common::{Hook, Kind};

use super::host_write;
use crate::config::{config, offset};
use crate::emit::{self, Fact};
use crate::kernel::{field, field_or_0, now, read, running_vcpu};
use crate::slots::by_gfn;
use crate::thread::{Thread, expect_closed};
use crate::vm::{Slot, is_followed};

/// `mark_page_dirty_in_slot([kvm,] slot, gfn)`.
#[kprobe]
pub fn mark(ctx: ProbeContext) -> u32 {
    if config!(abi) & abi::MARK_HAS_KVM != 0 {
        begin(ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0), ctx.arg(2).unwrap_or(0));
    } else {
        // 5.10: the VM is that of the thread's bracket or of the vCPU loaded on it.
        let kvm = thread_vm();
        begin(kvm, ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0));
    }
    0
}

/// `kvm_vcpu_mark_page_dirty(vcpu, gfn)`, where its mark is inlined (5.10).
#[kprobe]
pub fn mark_by_vcpu(ctx: ProbeContext) -> u32 {
    let kvm = field_or_0(ctx.arg(0).unwrap_or(0), offset!(vcpu_kvm));
    let gfn = ctx.arg(1).unwrap_or(0);
    begin(kvm, by_gfn(kvm, 0, gfn), gfn);
    0
}

/// `mark_page_dirty(kvm, gfn)`, where its mark is inlined (5.10).
#[kprobe]
pub fn mark_by_vm(ctx: ProbeContext) -> u32 {
    let kvm = ctx.arg(0).unwrap_or(0);
    let gfn = ctx.arg(1).unwrap_or(0);
    begin(kvm, by_gfn(kvm, 0, gfn), gfn);
    0
}

fn thread_vm() -> u64 {
    match Thread::known() {
        Some(thread) if thread.kvm != 0 => thread.kvm,
        _ => field_or_0(running_vcpu(), offset!(vcpu_kvm)),
    }
}

#[inline(always)]
fn begin(kvm: u64, slot: u64, gfn: u64) {
    if !is_followed(kvm) {
        return;
    }
    let Some(thread) = Thread::current() else { return };
    let brackets = &mut thread.brackets;
    let mut flags = 0;
    let mut spte = 0;
    if brackets.fast.sptep != 0 {
        flags |= flag::MARK_IN_FAST;
        if let Some(value) = read::<u64>(brackets.fast.sptep) {
            spte = value;
            flags |= flag::MARK_SPTE;
        }
    }
    let vcpu = running_vcpu();
    if vcpu == 0 || field_or_0(vcpu, offset!(vcpu_kvm)) != kvm {
        flags |= flag::MARK_NO_VCPU;
    }
    brackets.fault.is_touched = 1;
    host_write::at_mark(&mut brackets.host, gfn);
    let mark = &mut brackets.mark;
    expect_closed(Hook::Mark, mark.begin_ns);
    mark.kvm = kvm;
    mark.slot = slot;
    mark.gfn = gfn;
    mark.spte = spte;
    mark.ring = 0;
    mark.flags = flags.into();
    mark.begin_ns = now();
}

/// `mark_page_dirty_in_slot` returned.
#[kretprobe]
pub fn mark_return(_: RetProbeContext) -> u32 {
    end();
    0
}

/// `kvm_vcpu_mark_page_dirty` or `mark_page_dirty` returned, where the mark is inlined in them (5.10).
#[kretprobe]
pub fn mark_inlined_return(_: RetProbeContext) -> u32 {
    end();
    0
}

#[inline(always)]
fn end() {
    let Some(thread) = Thread::known() else { return };
    let mark = &mut thread.brackets.mark;
    let begin_ns = mark.begin_ns;
    if begin_ns == 0 {
        return;
    }
    mark.begin_ns = 0;
    let slot = Slot::read(mark.slot);
    let mut flags = mark.flags as u8;
    let mut word = 0;
    if mark.ring != 0 {
        // Only the vCPU's own thread pushes to its ring, and this is that thread: the index is this push's.
        word = field::<u32>(mark.ring, offset!(ring_dirty_index)).unwrap_or(0).into();
        flags |= flag::MARK_RING;
    } else if slot.slotref & slotref::LOGGING != 0
        && let Some(value) = slot.word(mark.gfn)
    {
        word = value;
        flags |= flag::MARK_WORD;
    }
    let fact = Fact {
        kind: Kind::Mark,
        flags,
        vm: mark.kvm,
        begin_ns,
        args: [mark.gfn, slot.slotref, word, mark.spte],
    };
    let bit = 1 << (mark.gfn.wrapping_sub(slot.base) & 63);
    emit::page_then(Hook::Mark, &fact, |record| {
        let was_set = flags & flag::MARK_WORD != 0 && word & bit != 0;
        if was_set && slot.word(mark.gfn).is_none_or(|word| word & bit == 0) {
            // Set when it was read, and not any more: neither can be said of the record's end.
            record.flags &= !flag::MARK_WORD;
        }
    });
}

/// `kvm_dirty_ring_push(vcpu, slot, offset)`, before 6.2 `(ring, slot, offset)`: folded into the mark around it, whose
/// exit reads the index.
#[kprobe]
pub fn push_in_mark(ctx: ProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let mark = &mut thread.brackets.mark;
    if mark.begin_ns != 0 {
        let first: u64 = ctx.arg(0).unwrap_or(0);
        mark.ring = if config!(abi) & abi::RING_PUSH_HAS_VCPU == 0 {
            first
        } else if offset!(vcpu_dirty_ring) == ABSENT {
            0
        } else {
            first + u64::from(offset!(vcpu_dirty_ring))
        };
    }
    0
}
