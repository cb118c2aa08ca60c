//! The dirty ring at its tracepoints. A ring is embedded in its vCPU, which names the VM.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kvmdirty_common::kind::flag;
use kvmdirty_common::target::ABSENT;
use kvmdirty_common::{Hook, Kind};

use crate::config::offset;
use crate::emit::{self, Fact};
use crate::kernel::{field, field_or_0};
use crate::maps::RINGS;
use crate::popped;
use crate::vm::is_followed;

/// The VM of a dirty ring.
#[inline(always)]
fn owner(ring: u64) -> u64 {
    if offset!(vcpu_dirty_ring) == ABSENT {
        return 0;
    }
    field_or_0(ring - u64::from(offset!(vcpu_dirty_ring)), offset!(vcpu_kvm))
}

#[inline(always)]
fn word(ring: u64, offset: u32) -> u64 {
    field::<u32>(ring, offset).unwrap_or(0).into()
}

/// Remembers a ring's `reset_index`, so that its first reset knows where it began.
///
/// A remembered index ahead of what was ever pushed is that of an older ring at the same address. (An index that is
/// only behind may be that of a reset in progress, whose tracepoint has not fired yet.)
#[inline(always)]
pub fn note_ring(ring: u64) {
    let dirty = word(ring, offset!(ring_dirty_index)) as u32;
    // SAFETY: one aligned word, copied.
    let known = unsafe { RINGS.get(&ring) }.copied();
    if known.is_none_or(|known| (dirty.wrapping_sub(known) as i32) < 0) {
        let _ = RINGS.insert(&ring, word(ring, offset!(ring_reset_index)) as u32, 0);
    }
}

/// `kvm_dirty_ring_push(ring, slot, offset)`; fires after `dirty_index` was incremented.
#[raw_tracepoint(tracepoint = "kvm_dirty_ring_push")]
pub fn ring_push(ctx: RawTracePointContext) -> i32 {
    let ring: u64 = ctx.arg(0);
    let kvm = owner(ring);
    if !is_followed(kvm) {
        return 0;
    }
    emit::page(
        Hook::RingPush,
        &Fact {
            kind: Kind::RingPush,
            flags: 0,
            vm: kvm,
            begin_ns: 0,
            args: [
                ctx.arg(2),
                ctx.arg::<u32>(1).into(),
                word(ring, offset!(ring_dirty_index)),
                word(ring, offset!(ring_index)),
            ],
        },
    );
    0
}

/// `kvm_dirty_ring_reset(ring)`; fires after the entries were popped and their pages protected.
#[raw_tracepoint(tracepoint = "kvm_dirty_ring_reset")]
pub fn ring_reset(ctx: RawTracePointContext) -> i32 {
    let ring: u64 = ctx.arg(0);
    let kvm = owner(ring);
    if !is_followed(kvm) {
        return 0;
    }
    let after = word(ring, offset!(ring_reset_index));
    // SAFETY: one aligned word; resets of a VM are serialised by slots_lock.
    let before = unsafe { RINGS.get(&ring) }.copied();
    let _ = RINGS.insert(&ring, after as u32, 0);
    log!(&ctx, "ring {:x} reset up to {}", ring, after);
    let (before, flags) = match before {
        Some(before) => {
            popped::note(ring, before, after as u32);
            (u64::from(before), flag::AT_TRACEPOINT)
        }
        None => (after, flag::AT_TRACEPOINT | flag::RESET_NO_BEFORE),
    };
    emit::boundary(
        Hook::RingReset,
        &Fact {
            kind: Kind::RingReset,
            flags,
            vm: kvm,
            begin_ns: 0,
            args: [
                word(ring, offset!(ring_index)),
                before | after << 32,
                0,
                word(ring, offset!(ring_dirty_index)) | word(ring, offset!(ring_size)) << 32,
            ],
        },
    );
    0
}
