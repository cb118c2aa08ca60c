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
use crate::kernel::{field, field_or_0, now, tracepoint_arguments};
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
    let level = if old & LARGE == 0 { 1 } else { 2 };
    // Success alone is not enough: the fast path also restores access-tracked SPTEs, for reads, without W.
    let fixed = ret == config!(ret_pf_fixed) && is_write != 0 && old & W == 0;
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
    0
}
