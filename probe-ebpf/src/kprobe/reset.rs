//! Resets of one dirty ring.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::{Hook, Kind};

use crate::config::offset;
use crate::emit::{self, Fact};
use crate::kernel::{field, now};
use crate::thread::{Thread, expect_closed};
use crate::vm::is_followed;

#[inline(always)]
fn word(ring: u64, offset: u32) -> u64 {
    field::<u32>(ring, offset).unwrap_or(0).into()
}

/// `kvm_dirty_ring_reset(kvm, ring[, nr_entries_reset])`.
#[kprobe]
pub fn reset(ctx: ProbeContext) -> u32 {
    let kvm: u64 = ctx.arg(0).unwrap_or(0);
    if !is_followed(kvm) {
        return 0;
    }
    let Some(thread) = Thread::current() else { return 0 };
    let reset = &mut thread.brackets.reset;
    expect_closed(Hook::RingReset, reset.begin_ns);
    reset.kvm = kvm;
    reset.ring = ctx.arg(1).unwrap_or(0);
    reset.before = word(reset.ring, offset!(ring_reset_index));
    reset.begin_ns = now();
    0
}

/// `kvm_dirty_ring_reset` returned: a count, or since 6.17 an error.
#[kretprobe]
pub fn reset_return(ctx: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let reset = &mut thread.brackets.reset;
    let begin_ns = reset.begin_ns;
    if begin_ns == 0 {
        return 0;
    }
    reset.begin_ns = 0;
    let ring = reset.ring;
    let ret = i64::from(ctx.ret::<i32>()) as u64;
    emit::boundary(
        Hook::RingReset,
        &Fact {
            kind: Kind::RingReset,
            flags: 0,
            vm: reset.kvm,
            begin_ns,
            args: [
                word(ring, offset!(ring_index)),
                reset.before | word(ring, offset!(ring_reset_index)) << 32,
                ret,
                word(ring, offset!(ring_dirty_index)) | word(ring, offset!(ring_size)) << 32,
            ],
        },
    );
    0
}
