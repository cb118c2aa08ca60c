//! Reading the kernel's own structures.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated;
use aya_ebpf::programs::{ProbeContext, RawTracePointContext};
use kvmdirty_common::target::ABSENT;

use crate::config::{config, offset};

/// Reads a plain value from kernel memory; `None` if it cannot be read.
#[inline(always)]
pub fn read<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is as large as the size passed; the helper checks the source.
    let status = unsafe {
        generated::bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        )
    };
    // SAFETY: the helper filled all of it, and only integers and arrays of integers are read this way.
    (status == 0).then(|| unsafe { value.assume_init() })
}

/// Reads a plain value from the current process's memory; never faults pages in.
#[inline(always)]
pub fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as for `read`.
    let status = unsafe {
        generated::bpf_probe_read_user(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        )
    };
    // SAFETY: as for `read`.
    (status == 0).then(|| unsafe { value.assume_init() })
}

/// Reads the field at `offset` of the struct at `base`; `None` for fields this kernel lacks and for null pointers.
#[inline(always)]
pub fn field<T: Copy>(base: u64, offset: u32) -> Option<T> {
    if offset == ABSENT || base == 0 {
        return None;
    }
    read(base + u64::from(offset))
}

/// As [`field`], 0 where there is nothing to read.
#[inline(always)]
pub fn field_or_0(base: u64, offset: u32) -> u64 {
    field(base, offset).unwrap_or(0)
}

/// Current time, nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { generated::bpf_ktime_get_ns() }
}

/// The current task's `task_struct`.
#[inline(always)]
pub fn current_task() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { generated::bpf_get_current_task() }
}

/// Thread id of the current thread.
#[inline(always)]
pub fn current_tid() -> u32 {
    aya_ebpf::helpers::bpf_get_current_pid_tgid() as u32
}

/// Process id of the current thread.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32
}

/// The vCPU loaded on this thread: KVM registers a preempt notifier at `vcpu_load` and removes it at `vcpu_put`.
#[inline(never)]
pub fn running_vcpu() -> u64 {
    let first: u64 = field_or_0(current_task(), offset!(task_preempt_notifiers));
    if first == 0 || offset!(vcpu_preempt_notifier) == ABSENT {
        return 0;
    }
    // `first` points at `preempt_notifier.link`, its first member.
    let ops = config!(preempt_ops);
    if ops != 0 && field_or_0(first, offset!(preempt_notifier_ops)) != ops {
        return 0;
    }
    first - u64::from(offset!(vcpu_preempt_notifier))
}

/// `kvm->stat`'s counter of remote TLB flush requests.
#[inline(always)]
pub fn flush_requests(kvm: u64) -> u64 {
    field_or_0(kvm, offset!(kvm_flush_requests))
}

/// The six arguments a function was entered with, unused ones being whatever the registers hold.
///
/// For hooks that pick an argument by the form the function has on this kernel: all are loaded here, once and
/// unconditionally, because the verifier takes no computed pointer into the context.
#[inline(always)]
pub fn arguments(ctx: &ProbeContext) -> [u64; 6] {
    // SAFETY: the context of a kprobe is a `pt_regs`, valid during the run; volatile keeps each load where it is.
    unsafe {
        [
            ptr::read_volatile(&raw const (*ctx.regs).rdi),
            ptr::read_volatile(&raw const (*ctx.regs).rsi),
            ptr::read_volatile(&raw const (*ctx.regs).rdx),
            ptr::read_volatile(&raw const (*ctx.regs).rcx),
            ptr::read_volatile(&raw const (*ctx.regs).r8),
            ptr::read_volatile(&raw const (*ctx.regs).r9),
        ]
    }
}

/// As [`arguments`], for the first `N` arguments of a raw tracepoint.
#[inline(always)]
pub fn tracepoint_arguments<const N: usize>(ctx: &RawTracePointContext) -> [u64; N] {
    let words: *const u64 = ctx.as_ptr().cast_const().cast();
    let mut values = [0; N];
    let mut n = 0;
    while n < N {
        // SAFETY: the context of a raw tracepoint is an array of its arguments; the caller names no more than it has.
        values[n] = unsafe { ptr::read_volatile(words.add(n)) };
        n += 1;
    }
    values
}
