//! KVM_RUN: which thread is which vCPU, and when it was inside.

use aya_ebpf::macros::{kprobe, raw_tracepoint};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext};
use kvmdirty_common::kind::flag;
use kvmdirty_common::target::ABSENT;
use kvmdirty_common::{Hook, Kind};

use crate::config::offset;
use crate::emit::{self, Fact};
use crate::kernel::{field, field_or_0, now};
use crate::ring::note_ring;
use crate::thread::{Thread, expect_closed};
use crate::vm::{is_followed, uses_ring};

/// A thread enters KVM_RUN of `vcpu`; the hook of the attach plan emits the record.
#[inline(always)]
pub fn begin(vcpu: u64) -> Option<Fact> {
    let kvm = field_or_0(vcpu, offset!(vcpu_kvm));
    if !is_followed(kvm) {
        return None;
    }
    let thread = Thread::current()?;
    thread.kvm = kvm;
    thread.vcpu = vcpu;
    expect_closed(Hook::Run, thread.run_ns);
    thread.run_ns = now();
    if uses_ring(kvm) && offset!(vcpu_dirty_ring) != ABSENT {
        note_ring(vcpu + u64::from(offset!(vcpu_dirty_ring)));
    }
    let id: u32 = field(vcpu, offset!(vcpu_id)).unwrap_or(0);
    Some(Fact {
        kind: Kind::RunBegin,
        flags: 0,
        vm: kvm,
        begin_ns: 0,
        args: [id.into(), vcpu, 0, 0],
    })
}

/// `kvm_userspace_exit(reason, errno)`: the last thing KVM_RUN does. A tracepoint instead of a return probe, of which
/// only a few per CPU can be pending while vCPUs stay inside for long.
#[raw_tracepoint(tracepoint = "kvm_userspace_exit")]
pub fn run_end(ctx: RawTracePointContext) -> i32 {
    let Some(thread) = Thread::known() else { return 0 };
    let ret = i64::from(ctx.arg::<i32>(1));
    if let Some(fact) = end(thread, Some(ret), ctx.arg(0)) {
        emit::page(Hook::Run, &fact);
    }
    0
}

/// `preempt_notifier_unregister(notifier)`: the last that `vcpu_put()` does, and `vcpu_put()` is the last thing
/// `kvm_arch_vcpu_ioctl_run()` does. Other ioctls of a vCPU end with it as well; they have opened nothing.
///
/// Taken instead of [`run_end`] where tracepoints are called with preemption enabled (7.x, `__DECLARE_TRACE` in
/// include/linux/tracepoint.h). A raw tracepoint's program is not run while it is active on that CPU
/// (`__bpf_trace_run`, kernel/trace/bpf_trace.c), whoever runs it; that of a kprobe cannot be preempted.
///
/// ```text
/// vcpu0's thread (cpu 1)            vcpu1's thread (cpu 1)
/// kvm_userspace_exit: run_end
///   (preempted)                     kvm_userspace_exit: run_end is active   <- not run, the end is not seen
/// ```
#[kprobe]
pub fn run_put(ctx: ProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let notifier: u64 = ctx.arg(0).unwrap_or(0);
    if notifier != thread.vcpu + u64::from(offset!(vcpu_preempt_notifier)) {
        return 0;
    }
    let reason = exit_reason(thread.vcpu);
    if let Some(fact) = end(thread, None, reason) {
        emit::page(Hook::Run, &fact);
    }
    0
}

/// `kvm_run.exit_reason` of a vCPU, 0 where it cannot be read.
#[inline(always)]
pub fn exit_reason(vcpu: u64) -> u32 {
    // include/uapi/linux/kvm.h
    const EXIT_REASON: u32 = 8;
    field(field_or_0(vcpu, offset!(vcpu_run)), EXIT_REASON).unwrap_or(0)
}

/// The thread leaves KVM_RUN, if it was inside; `ret`: what it returns, where that is seen.
#[inline(always)]
pub fn end(thread: &mut Thread, ret: Option<i64>, reason: u32) -> Option<Fact> {
    let begin_ns = thread.run_ns;
    if begin_ns == 0 {
        return None;
    }
    thread.run_ns = 0;
    let id: u32 = field(thread.vcpu, offset!(vcpu_id)).unwrap_or(0);
    Some(Fact {
        kind: Kind::RunEnd,
        flags: if ret.is_none() { flag::RUN_NO_RETURN } else { 0 },
        vm: thread.kvm,
        begin_ns,
        args: [id.into(), ret.unwrap_or(0) as u64, reason.into(), 0],
    })
}
