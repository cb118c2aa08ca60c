//! The table of the attach plan: every program of the probe with its place, and for every operation the ways to
//! observe it, best first.
//!
//! Which functions exist, are called and carry which arguments on which kernel: docs/hooks.md.

use kvmdirty_common::Hook;

use crate::event::{Evidence, Operation};

/// Where a program attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// A raw tracepoint.
    Tracepoint(&'static str),
    /// The entry of the first of these functions that exists.
    Entry(&'static [&'static str]),
    /// The return of the first of these functions that exists.
    Return(&'static [&'static str]),
    /// The entry of every one of these functions that exists.
    EveryEntry(&'static [&'static str]),
    /// The return of every one of these functions that exists.
    EveryReturn(&'static [&'static str]),
}

/// A program and its place.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// The program's name in the object.
    pub program: &'static str,
    /// Where it attaches.
    pub site: Site,
    /// The hook its misses count for.
    pub hook: Hook,
}

/// One way to observe an operation.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// What is observed.
    pub operation: Operation,
    /// How well.
    pub evidence: Evidence,
    /// The programs it takes, all of them.
    pub programs: &'static [&'static str],
    /// What is worse than direct observation; empty if nothing.
    pub note: &'static str,
}

impl Site {
    /// The names it is looked for under.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        match self {
            Self::Tracepoint(name) => std::slice::from_ref(name),
            Self::Entry(names)
            | Self::Return(names)
            | Self::EveryEntry(names)
            | Self::EveryReturn(names) => names,
        }
    }

    /// The kind of probe, in the kernel's word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tracepoint(_) => "raw_tp",
            Self::Entry(_) | Self::EveryEntry(_) => "kprobe",
            Self::Return(_) | Self::EveryReturn(_) => "kretprobe",
        }
    }
}

const fn point(program: &'static str, site: Site, hook: Hook) -> Point {
    Point { program, site, hook }
}

const fn way(
    operation: Operation,
    evidence: Evidence,
    programs: &'static [&'static str],
    note: &'static str,
) -> Way {
    Way { operation, evidence, programs, note }
}

/// Programs every plan attaches: they keep the probe's own tables in order.
pub const ALWAYS: [&str; 1] = ["thread_exit"];

/// Every program that is attached somewhere.
pub const POINTS: &[Point] = &[
    point("thread_exit", Site::Tracepoint("sched_process_exit"), Hook::ThreadTable),
    point("sys_enter", Site::Tracepoint("sys_enter"), Hook::Syscall),
    point("sys_exit", Site::Tracepoint("sys_exit"), Hook::Syscall),
    point("run_end", Site::Tracepoint("kvm_userspace_exit"), Hook::Run),
    point("spte_requested", Site::Tracepoint("kvm_mmu_spte_requested"), Hook::SpteChange),
    point("set_spte", Site::Tracepoint("kvm_mmu_set_spte"), Hook::SpteChange),
    point("zap_page", Site::Tracepoint("kvm_mmu_prepare_zap_page"), Hook::Zap),
    point("unmap_range", Site::Tracepoint("kvm_unmap_hva_range"), Hook::Zap),
    point("ring_push", Site::Tracepoint("kvm_dirty_ring_push"), Hook::RingPush),
    point("ring_reset", Site::Tracepoint("kvm_dirty_ring_reset"), Hook::RingReset),
    point("contention_begin", Site::Tracepoint("contention_begin"), Hook::Contention),
    point("contention_end", Site::Tracepoint("contention_end"), Hook::Contention),
];

use Evidence::{Direct, Nearest};
use Operation as Op;

/// Ways of the tracepoint plan.
pub const TRACEPOINT_WAYS: &[Way] = &[
    way(Op::Ioctl, Direct, &["sys_enter", "sys_exit"], ""),
    way(
        Op::Slot,
        Nearest,
        &["sys_enter", "sys_exit"],
        "as user space asked for them; the kernel's object is looked up when the ioctl returns",
    ),
    way(Op::Run, Direct, &["sys_enter", "run_end"], ""),
    way(
        Op::Mark,
        Nearest,
        &["spte_requested", "set_spte"],
        "the bitmap word is read when the SPTE has been set; marks of the host are not seen",
    ),
    way(
        Op::HarvestWord,
        Nearest,
        &["sys_enter", "sys_exit"],
        "read from the user's bitmap when the ioctl returns",
    ),
    way(
        Op::WriteProtect,
        Nearest,
        &["sys_exit", "set_spte"],
        "the SPTE last set for a harvested page is read back when the ioctl returns",
    ),
    way(Op::SpteChange, Nearest, &["spte_requested", "set_spte"], "without the old value"),
    way(Op::FlushCounter, Nearest, &["sys_enter", "sys_exit"], "read at both ends of each ioctl"),
    way(Op::RingPush, Direct, &["ring_push"], ""),
    way(Op::RingReset, Nearest, &["ring_reset"], "seen when it is over"),
    way(
        Op::Zap,
        Nearest,
        &["zap_page", "unmap_range"],
        "the tracepoint names no VM; other threads' zaps are attributed to none",
    ),
    way(Op::LockWait, Direct, &["contention_begin", "contention_end"], ""),
];
