//! Run by the benches only (BPF_PROG_TEST_RUN), never attached: what a run costs, and what a record adds.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::helpers::generated;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kvmdirty_common::kind::{flag, gfnref};
use kvmdirty_common::limits::BURST;
use kvmdirty_common::{Hook, Kind};

use crate::emit::{self, Fact};

/// Does nothing: what is left is the cost of being run and measured.
#[raw_tracepoint]
pub fn measure_empty(_: RawTracePointContext) -> i32 {
    0
}

/// Emits one page record.
#[raw_tracepoint]
pub fn measure_record(ctx: RawTracePointContext) -> i32 {
    record(ctx.arg(0));
    0
}

/// Emits [`BURST`] page records, of pages from the one in argument 0 on.
#[raw_tracepoint]
pub fn measure_burst(ctx: RawTracePointContext) -> i32 {
    let mut first: u64 = ctx.arg(0);
    // SAFETY: the callback has the signature `bpf_loop` asks for; the context is on this frame and outlives the call.
    unsafe {
        generated::bpf_loop(BURST, one as *mut c_void, ptr::from_mut(&mut first).cast(), 0);
    }
    0
}

/// `bpf_loop` callback.
extern "C" fn one(n: u32, first: *mut u64) -> i64 {
    // SAFETY: `measure_burst` passes its own variable.
    record(unsafe { *first } + u64::from(n));
    0
}

/// The record most traces consist of: the shadow MMU set an SPTE.
#[inline(always)]
fn record(gfn: u64) {
    const VM: u64 = 0xffff_8880_0000_0000;
    emit::page(
        Hook::SpteChange,
        &Fact {
            kind: Kind::SpteSet,
            flags: flag::SET_LOGGING | flag::SET_WORD,
            vm: VM,
            begin_ns: 0,
            args: [
                gfn & 0xffff | 1 << gfnref::LEVEL_SHIFT | gfnref::HAS_AS,
                gfn << 12 | 0xc07,
                u64::MAX,
                VM | (gfn & 0xffff) << 3,
            ],
        },
    );
}
