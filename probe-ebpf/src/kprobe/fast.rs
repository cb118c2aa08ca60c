//! The lockless fast page fault.
//!
//! ```text
//! fast_page_fault()  walk -> *sptep  cmpxchg RO to W  mark_page_dirty_in_slot()  trace_fast_page_fault()
//! hooks              walk, walked*                    mark             fast_fault_done, or fast_fault_return*
//! ```
//! The cmpxchg has no hook of its own: `*sptep` read at the mark's entry says on which side of the mark it lies.

use aya_ebpf::macros::{kprobe, kretprobe, raw_tracepoint};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, RetProbeContext};
use kvmdirty_common::kind::{flag, gfnref};
use kvmdirty_common::target::abi;
use kvmdirty_common::{Hook, Kind};

use crate::config::{config, offset};
use crate::emit::{self, Fact};
use crate::kernel::{field, field_or_0, now, read, tracepoint_arguments};
use crate::thread::Thread;
use crate::vm::is_followed;

/// `PT_PAGE_SIZE_MASK`: a leaf above level 1.
const LARGE: u64 = 1 << 7;

/// `PT_WRITABLE_MASK`.
const W: u64 = 1 << 1;

/// `fast_page_fault(vcpu, fault)`; where that is inlined (6.1), `kvm_tdp_mmu_fast_pf_get_last_sptep(vcpu, ...)`, which
/// it calls before each attempt.
#[kprobe]
pub fn fast_fault(ctx: ProbeContext) -> u32 {
    let kvm = field_or_0(ctx.arg(0).unwrap_or(0), offset!(vcpu_kvm));
    if !is_followed(kvm) {
        return 0;
    }
    if let Some(thread) = Thread::current() {
        let fast = &mut thread.brackets.fast;
        fast.kvm = kvm;
        fast.fault = ctx.arg(1).unwrap_or(0);
        fast.sptep = 0;
        fast.out = 0;
        fast.begin_ns = now();
    }
    0
}

/// `kvm_tdp_mmu_fast_pf_get_last_sptep(vcpu, gfn, spte)`, inside `fast_page_fault`: `*spte` becomes the value that the
/// cmpxchg expects.
#[kprobe]
pub fn fast_fault_walk(ctx: ProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    thread.brackets.fast.out = ctx.arg(2).unwrap_or(0);
    0
}

/// `kvm_tdp_mmu_fast_pf_get_last_sptep` returned `sptep`; it is called by `fast_page_fault` only.
#[kretprobe]
pub fn fast_fault_walked(ctx: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let fast = &mut thread.brackets.fast;
    if fast.begin_ns != 0 {
        fast.sptep = ctx.ret();
        fast.old = if fast.out == 0 { 0 } else { read(fast.out).unwrap_or(0) };
    }
    0
}

/// `fast_page_fault` returned. Without a walk (a fault that cannot be fast) there is nothing to tell.
///
/// Taken instead of the tracepoint where the TDP MMU is in use: there the tracepoint's program may be preempted (7.x
/// calls tracepoints with preemption enabled), and every other thread of that CPU misses it meanwhile.
#[kretprobe]
pub fn fast_fault_return(ctx: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let fast = &mut thread.brackets.fast;
    let (begin_ns, sptep, old) = (fast.begin_ns, fast.sptep, fast.old);
    fast.begin_ns = 0;
    fast.sptep = 0;
    if begin_ns == 0 || sptep == 0 {
        return 0;
    }
    let (kvm, fault) = (fast.kvm, fast.fault);
    let is_write = field::<u8>(fault, offset!(fault_write)).unwrap_or(0) & 1;
    let ret = u64::from(ctx.ret::<u32>());
    let fixed = succeeded(ret, sptep, thread) && is_write != 0 && old & W == 0;
    let gfn = field_or_0(fault, offset!(fault_gfn));
    emit_fault(kvm, begin_ns, fixed, [gfn, old, ret, sptep]);
    0
}

/// `fast_page_fault(vcpu, fault, sptep, old_spte, ret)`; before 5.16 `(vcpu, address, error_code, sptep, old_spte,
/// ret)`.
#[raw_tracepoint(tracepoint = "fast_page_fault")]
pub fn fast_fault_done(ctx: RawTracePointContext) -> i32 {
    let [vcpu] = tracepoint_arguments(&ctx);
    let kvm = field_or_0(vcpu, offset!(vcpu_kvm));
    if !is_followed(kvm) {
        return 0;
    }
    let Some(thread) = Thread::current() else { return 0 };
    let fast = &mut thread.brackets.fast;
    let mut begin_ns = fast.begin_ns;
    fast.begin_ns = 0;
    fast.sptep = 0;
    if begin_ns == 0 {
        begin_ns = thread.brackets.fault.begin_ns;
    }
    let (gfn, is_write, sptep, old, ret) = if config!(abi) & abi::FAST_FAULT_HAS_FAULT != 0 {
        let [_, fault, sptep, old, ret] = tracepoint_arguments(&ctx);
        let is_write = field::<u8>(fault, offset!(fault_write)).unwrap_or(0) & 1;
        (field_or_0(fault, offset!(fault_gfn)), is_write, sptep, old, ret)
    } else {
        let [_, address, error_code, sptep, old, ret] = tracepoint_arguments(&ctx);
        (address >> 12, (error_code >> 1) as u8 & 1, sptep, old, ret)
    };
    let ret = ret & 0xffff_ffff;
    // Success alone is not enough: the fast path also restores access-tracked SPTEs, for reads, without W.
    let fixed = succeeded(ret, sptep, thread) && is_write != 0 && old & W == 0;
    emit_fault(kvm, begin_ns, fixed, [gfn, old, ret, sptep]);
    0
}

#[inline(always)]
fn emit_fault(kvm: u64, begin_ns: u64, fixed: bool, [gfn, old, ret, sptep]: [u64; 4]) {
    let level = if old & LARGE == 0 { 1 } else { 2 };
    emit::page(
        Hook::FastFault,
        &Fact {
            kind: Kind::FastFault,
            flags: if fixed { flag::FAST_FIXED } else { 0 },
            vm: kvm,
            begin_ns,
            args: [gfn & gfnref::GFN | level << gfnref::LEVEL_SHIFT, old, ret, sptep],
        },
    );
}

/// The cmpxchg succeeded: the return value says so or, where the kernel publishes no `RET_PF_FIXED` (5.10), the SPTE is
/// writable now or the fault has marked already, which before this tracepoint only the fast path does.
#[inline(always)]
fn succeeded(ret: u64, sptep: u64, thread: &Thread) -> bool {
    if config!(ret_pf_fixed) != u64::MAX {
        return ret == config!(ret_pf_fixed);
    }
    thread.brackets.fault.is_touched != 0 || read::<u64>(sptep).is_some_and(|spte| spte & W != 0)
}
