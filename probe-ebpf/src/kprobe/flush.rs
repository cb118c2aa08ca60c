//! Remote TLB flushes, from request to all acknowledged.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::{Hook, Kind};

use super::word::emit_word;
use crate::emit::{self, Fact};
use crate::kernel::{flush_requests, now};
use crate::thread::{Thread, expect_closed};
use crate::vm::is_followed;

/// `kvm_flush_remote_tlbs(kvm)`.
#[kprobe]
pub fn flush(ctx: ProbeContext) -> u32 {
    begin(ctx.arg(0).unwrap_or(0), 0, 0);
    0
}

/// `hv_flush_remote_tlbs_range(kvm, start_gfn, nr_pages)`.
#[kprobe]
pub fn flush_range(ctx: ProbeContext) -> u32 {
    begin(ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0), ctx.arg(2).unwrap_or(0));
    0
}

#[inline(always)]
fn begin(kvm: u64, first: u64, npages: u64) {
    if !is_followed(kvm) {
        return;
    }
    let Some(thread) = Thread::current() else { return };
    // A helper that protects a slot flushes before it returns (5.10): what it protected so far was protected before.
    if thread.brackets.protect.begin_ns != 0 {
        emit_word(kvm, &mut thread.brackets.word);
    }
    let flush = &mut thread.brackets.flush;
    expect_closed(Hook::Flush, flush.begin_ns);
    flush.kvm = kvm;
    flush.before = flush_requests(kvm);
    flush.first = first;
    flush.npages = npages;
    flush.begin_ns = now();
}

/// `kvm_flush_remote_tlbs` returned: every vCPU in guest mode has acknowledged.
#[kretprobe]
pub fn flush_return(_: RetProbeContext) -> u32 {
    end();
    0
}

/// `hv_flush_remote_tlbs_range` returned; as [`flush_return`].
#[kretprobe]
pub fn flush_range_return(_: RetProbeContext) -> u32 {
    end();
    0
}

#[inline(always)]
fn end() {
    let Some(thread) = Thread::known() else { return };
    let flush = &mut thread.brackets.flush;
    let begin_ns = flush.begin_ns;
    if begin_ns == 0 {
        return;
    }
    flush.begin_ns = 0;
    emit::boundary(
        Hook::Flush,
        &Fact {
            kind: Kind::Flush,
            flags: 0,
            vm: flush.kvm,
            begin_ns,
            args: [flush.before, flush_requests(flush.kvm), flush.first, flush.npages],
        },
    );
}
