//! Waits for a followed VM's `mmu_lock`.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kvmdirty_common::target::ABSENT;
use kvmdirty_common::{Hook, Kind};

use crate::config::offset;
use crate::emit::{self, Fact};
use crate::kernel::now;
use crate::maps::VMS;
use crate::thread::Thread;

/// The VM whose `mmu_lock` is at that address, 0 if it is another lock.
#[inline(always)]
fn owner(lock: u64) -> u64 {
    if offset!(kvm_mmu_lock) == ABSENT {
        return 0;
    }
    let kvm = lock - u64::from(offset!(kvm_mmu_lock));
    // SAFETY: only the presence of the key is used.
    if unsafe { VMS.get(&kvm) }.is_some() { kvm } else { 0 }
}

/// `contention_begin(lock, flags)`.
#[raw_tracepoint(tracepoint = "contention_begin")]
pub fn contention_begin(ctx: RawTracePointContext) -> i32 {
    if owner(ctx.arg(0)) == 0 {
        return 0;
    }
    let Some(thread) = Thread::current() else { return 0 };
    thread.wait_flags = ctx.arg::<u32>(1).into();
    thread.wait_ns = now();
    0
}

/// `contention_end(lock, ret)`.
#[raw_tracepoint(tracepoint = "contention_end")]
pub fn contention_end(ctx: RawTracePointContext) -> i32 {
    let lock: u64 = ctx.arg(0);
    let kvm = owner(lock);
    if kvm == 0 {
        return 0;
    }
    let Some(thread) = Thread::known() else { return 0 };
    let begin_ns = thread.wait_ns;
    if begin_ns == 0 {
        return 0;
    }
    thread.wait_ns = 0;
    let ret = i64::from(ctx.arg::<i32>(1)) as u64;
    emit::boundary(
        Hook::Contention,
        &Fact {
            kind: Kind::LockWait,
            flags: 0,
            vm: kvm,
            begin_ns,
            args: [lock, thread.wait_flags, ret, 0],
        },
    );
    0
}
