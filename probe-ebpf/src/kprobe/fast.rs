//! The lockless fast page fault.
//!
//! ```text
//! fast_page_fault()  walk -> *sptep  cmpxchg RO to W  mark_page_dirty_in_slot()  trace_fast_page_fault()
//! hooks              walked*                          mark                       fast_fault_done
//! ```
//! The cmpxchg has no hook of its own: `*sptep` read at the mark's entry says on which side of the mark it lies.

use aya_ebpf::macros::{kprobe, kretprobe, raw_tracepoint};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, RetProbeContext};
use kvmdirty_common::kind::{flag, gfnref};
use kvmdirty_common::target::abi;
use kvmdirty_common::{Hook, Kind};

use crate::config::{config, offset};
use crate::emit::{self, Fact};
use crate::kernel::{field_or_0, now};
use crate::thread::Thread;
use crate::vm::is_followed;

/// `PT_PAGE_SIZE_MASK`: a leaf above level 1.
const LARGE: u64 = 1 << 7;

/// `fast_page_fault(vcpu, fault)`.
#[kprobe]
pub fn fast_fault(ctx: ProbeContext) -> u32 {
    if !is_followed(field_or_0(ctx.arg(0).unwrap_or(0), offset!(vcpu_kvm))) {
        return 0;
    }
    if let Some(thread) = Thread::current() {
        thread.brackets.fast.sptep = 0;
        thread.brackets.fast.begin_ns = now();
    }
    0
}

/// `kvm_tdp_mmu_fast_pf_get_last_sptep` returned `sptep`; it is called by `fast_page_fault` only.
#[kretprobe]
pub fn fast_fault_walked(ctx: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let fast = &mut thread.brackets.fast;
    if fast.begin_ns != 0 {
        fast.sptep = ctx.ret();
    }
    0
}

/// `fast_page_fault(vcpu, fault, sptep, old_spte, ret)`; before 5.16 `(vcpu, address, error_code, sptep, old_spte, ret)`.
#[raw_tracepoint(tracepoint = "fast_page_fault")]
pub fn fast_fault_done(ctx: RawTracePointContext) -> i32 {
    let kvm = field_or_0(ctx.arg(0), offset!(vcpu_kvm));
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
    let (gfn, sptep, old, ret) = if config!(abi) & abi::FAST_FAULT_HAS_FAULT != 0 {
        let gfn = field_or_0(ctx.arg(1), offset!(fault_gfn));
        (gfn, ctx.arg::<u64>(2), ctx.arg::<u64>(3), ctx.arg::<u32>(4))
    } else {
        (ctx.arg::<u64>(1) >> 12, ctx.arg::<u64>(3), ctx.arg::<u64>(4), ctx.arg::<u32>(5))
    };
    let level = if old & LARGE == 0 { 1 } else { 2 };
    let fixed = u64::from(ret) == config!(ret_pf_fixed);
    emit::page(
        Hook::FastFault,
        &Fact {
            kind: Kind::FastFault,
            flags: if fixed { flag::FAST_FIXED } else { 0 },
            vm: kvm,
            begin_ns,
            args: [gfn & gfnref::GFN | level << gfnref::LEVEL_SHIFT, old, ret.into(), sptep],
        },
    );
    0
}
