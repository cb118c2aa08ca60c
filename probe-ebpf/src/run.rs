//! KVM_RUN: which thread is which vCPU, and when it was inside.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kvmdirty_common::target::ABSENT;
use kvmdirty_common::{Hook, Kind};

use crate::config::offset;
use crate::emit::{self, Fact};
use crate::kernel::{field, field_or_0, now};
use crate::ring::note_ring;
use crate::thread::Thread;
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
    let begin_ns = thread.run_ns;
    if begin_ns == 0 {
        return 0;
    }
    thread.run_ns = 0;
    let id: u32 = field(thread.vcpu, offset!(vcpu_id)).unwrap_or(0);
    let ret = i64::from(ctx.arg::<i32>(1)) as u64;
    emit::page(
        Hook::Run,
        &Fact {
            kind: Kind::RunEnd,
            flags: 0,
            vm: thread.kvm,
            begin_ns,
            args: [id.into(), ret, ctx.arg::<u32>(0).into(), 0],
        },
    );
    0
}
