//! The in-kernel half of kvmdirty-trace: hooks that state facts and decide nothing.
//!
//! Every hook does the same: find the VM ([`vm`]), remember where a bracket began ([`thread`]) or emit one 64-byte
//! record ([`emit`]). What a record means is defined in `kvmdirty-common`. Two attach plans choose among these
//! programs; which ones is decided in user space (`tracer/src/live/plan.rs`).
//!
//! Limits that shape the code: Linux 5.10 has no BPF atomics that return a value and no `bpf_loop`; programs that use
//! `bpf_loop` ([`words`], [`popped`]) are loaded only where it exists. rustc emits no CO-RE relocations, so field
//! offsets arrive as constants ([`config`]).
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the add without fetch has no stable form on this target")]

/// Writes a log line in the debug build of the probe (`cargo xtask build-ebpf --log`), and is nothing in the other.
macro_rules! log {
    ($ctx:expr, $($line:tt)+) => {
        #[cfg(feature = "log")]
        aya_log_ebpf::info!($ctx, $($line)+);
    };
}

mod config;
mod maps;

mod kernel;

mod emit;

mod slots;
mod thread;
mod vm;

mod inventory;
mod measure;

mod kprobe;

mod contention;
mod popped;
mod request;
mod ring;
mod run;
mod shadow;
mod syscall;
mod words;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The verifier rejects programs that can get here.
    loop {}
}
