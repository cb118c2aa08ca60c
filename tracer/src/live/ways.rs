//! For every operation the ways to observe it, best first.
//!
//! The first way whose programs the kernel has places for is taken. How each kernel inlines, calls and names these
//! functions was read from the builds the lab boots; a build that differs loses a way and says so.

use kvmdirty_common::target::{ABSENT, abi};

use super::kernel::Kernel;
use crate::event::Evidence::{self, Direct, Nearest};
use crate::event::Operation as Op;

/// One way to observe an operation.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// What is observed.
    pub operation: Op,
    /// How well.
    pub evidence: Evidence,
    /// The programs it takes, all of them.
    pub programs: &'static [&'static str],
    /// What is worse than direct observation; empty if nothing.
    pub note: &'static str,
    /// What else it takes; the text says what is missing.
    pub condition: Option<Condition>,
}

/// A property of the kernel a way needs.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// The kernel has it.
    pub holds: fn(&Kernel) -> bool,
    /// What is said where it does not hold.
    pub otherwise: &'static str,
}

impl Way {
    const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    const fn when(mut self, holds: fn(&Kernel) -> bool, otherwise: &'static str) -> Self {
        self.condition = Some(Condition { holds, otherwise });
        self
    }
}

const fn way(operation: Op, evidence: Evidence, programs: &'static [&'static str]) -> Way {
    Way { operation, evidence, programs, note: "", condition: None }
}

/// Programs attached wherever they can be, for no operation of their own: they keep the probe's tables in order, see
/// VMs come and go, and cover what only some machines use.
pub const TRACEPOINT_EXTRAS: &[&str] = &["thread_exit"];

/// As [`TRACEPOINT_EXTRAS`].
pub const KPROBE_EXTRAS: &[&str] = &[
    "thread_exit",
    "vm_init",
    "vm_destroyed",
    "flush_range",
    "flush_range_return",
    "slot_protect",
    "slot_clear_dirty",
    "slot_protect_return",
];

const SEEN_BY_SYSCALL: &[&str] = &["sys_enter", "sys_exit"];

/// Ways of the tracepoint plan.
pub const TRACEPOINT_WAYS: &[Way] = &[
    way(Op::Ioctl, Direct, SEEN_BY_SYSCALL),
    way(Op::Slot, Nearest, SEEN_BY_SYSCALL).note(
        "as user space asked for them; the kernel's object is looked up when the ioctl returns",
    ),
    way(Op::Run, Direct, SEEN_BY_SYSCALL),
    way(Op::Mark, Nearest, &["spte_requested", "set_spte"])
        .note("the bitmap word is read when the SPTE has been set; marks of the host are not seen"),
    way(Op::HarvestWord, Nearest, SEEN_BY_SYSCALL)
        .note("read from the user's bitmap when the ioctl returns"),
    way(Op::WriteProtect, Nearest, &["sys_exit", "set_spte"])
        .note("the SPTE last set for a harvested page is read back when the ioctl returns"),
    way(Op::SpteChange, Nearest, &["spte_requested", "set_spte"]).note("without the old value"),
    way(Op::FlushCounter, Nearest, SEEN_BY_SYSCALL).note("read at both ends of each ioctl"),
    way(Op::RingPush, Direct, &["ring_push"]),
    way(Op::RingReset, Nearest, &["ring_reset"]).note("seen when it is over"),
    way(Op::Zap, Nearest, &["zap_page", "unmap_range"])
        .note("the tracepoint names no VM; other threads' zaps are attributed to none"),
    way(Op::LockWait, Direct, &["contention_begin", "contention_end"]),
];

const PREEMPTED: &str = "while a tracepoint's program is preempted, others on its CPU miss it";

const NO_TDP_MMU: &str = "the TDP MMU is not in use";

const WRITERS: &[&str] = &[
    "write_page",
    "write_cached",
    "unmap_map",
    "cmpxchg",
    "cmpxchg_gfn",
    "cmpxchg_return",
    "steal_time",
    "vcpu_put",
    "vcpu_put_return",
    "pvclock",
    "host_write_return",
    "host_write_void_return",
];

/// 5.10 writes clocks with `kvm_write_guest_offset_cached`.
const WRITERS_WITHOUT_CLOCK: &[&str] = &[
    "write_page",
    "write_cached",
    "unmap_map",
    "cmpxchg",
    "cmpxchg_gfn",
    "cmpxchg_return",
    "steal_time",
    "vcpu_put",
    "vcpu_put_return",
    "host_write_return",
    "host_write_void_return",
];

/// Ways of the kprobe plan.
pub const KPROBE_WAYS: &[Way] = &[
    way(Op::Ioctl, Direct, &["vm_ioctl", "vm_ioctl_return"]),
    way(Op::Slot, Direct, &["slot_commit"]),
    way(Op::Run, Direct, &["vcpu_run", "run_end"])
        .when(|kernel| !kernel.preempts_tracepoints(), PREEMPTED),
    way(Op::Run, Direct, &["vcpu_run", "run_put"]).note("without KVM_RUN's return value"),
    way(Op::Run, Direct, &["vcpu_run", "run_end"]),
    way(Op::Mark, Direct, &["mark", "mark_return"])
        .when(|kernel| kernel.forms & abi::MARK_HAS_KVM != 0, "the mark is inlined in its callers"),
    way(
        Op::Mark,
        Direct,
        &["mark", "mark_return", "mark_by_vcpu", "mark_by_vm", "mark_inlined_return"],
    ),
    way(Op::HarvestWord, Direct, &["word", "word_return"]),
    way(
        Op::WriteProtect,
        Direct,
        &["word", "word_return", "tdp_spte_changed", "rmap_protect", "shadow_store"],
    ),
    way(
        Op::WriteProtect,
        Direct,
        &["word", "word_return", "tdp_changed", "rmap_protect", "shadow_store"],
    ),
    way(Op::WriteProtect, Nearest, &["word", "word_return", "tdp_spte_changed"])
        .note("TDP MMU only"),
    way(Op::WriteProtect, Nearest, &["word", "word_return", "tdp_changed"]).note("TDP MMU only"),
    way(Op::SpteChange, Direct, &["tdp_spte_changed", "shadow_set", "shadow_set_done"]),
    way(Op::SpteChange, Direct, &["tdp_changed", "shadow_set", "shadow_set_done"])
        .note("TDP MMU by the function that is told of each change, after its store"),
    way(Op::SpteChange, Nearest, &["tdp_spte_changed"]).note("TDP MMU only"),
    way(
        Op::FastFault,
        Direct,
        &["fast_fault", "fast_fault_walk", "fast_fault_walked", "fast_fault_return"],
    )
    .note("roots of the TDP MMU")
    .when(|kernel| kernel.has_tdp_mmu, NO_TDP_MMU),
    way(Op::FastFault, Direct, &["fast_fault", "fast_fault_done"]),
    way(Op::FastFault, Nearest, &["fast_fault_done", "fault"])
        .note("its begin is that of the whole fault"),
    way(
        Op::FastFaultEvidence,
        Direct,
        &[
            "fast_fault",
            "fast_fault_walk",
            "fast_fault_walked",
            "fast_fault_return",
            "mark",
            "mark_return",
        ],
    )
    .note("roots of the TDP MMU")
    .when(|kernel| kernel.has_tdp_mmu, NO_TDP_MMU),
    way(
        Op::FastFaultEvidence,
        Direct,
        &["fast_fault", "fast_fault_walked", "fast_fault_done", "mark", "mark_return"],
    )
    .note("TDP MMU only"),
    way(Op::Fault, Direct, &["fault", "fault_return"]),
    way(Op::RmapAdd, Direct, &["rmap_add", "rmap_add_return"]),
    way(Op::Flush, Direct, &["flush", "flush_return"]),
    way(Op::FlushCounter, Direct, &["vm_ioctl", "vm_ioctl_return", "flush"]).when(
        |kernel| kernel.offsets.kvm_flush_requests != ABSENT,
        "this kernel counts no flush requests",
    ),
    way(Op::HostWrite, Direct, WRITERS),
    way(Op::HostWrite, Direct, WRITERS_WITHOUT_CLOCK).when(
        |kernel| kernel.version < (5, 12),
        "clocks are written by a function that was not found",
    ),
    way(
        Op::HostWrite,
        Nearest,
        &["write_page", "write_cached", "unmap_map", "host_write_return", "host_write_void_return"],
    )
    .note("the main writers only"),
    way(
        Op::HostWriteEvidence,
        Direct,
        &["write_page", "write_cached", "host_write_return", "mark", "mark_return"],
    )
    .note("for writes of plain data; mapped pages, steal time and clocks have none"),
    way(Op::RingPush, Direct, &["push_in_mark", "mark", "mark_return"]),
    way(Op::RingReset, Direct, &["reset", "reset_return"]),
    way(Op::Split, Direct, &["split"]),
    way(Op::Zap, Direct, &["invalidate", "invalidate_return", "zap_page"]),
    way(Op::Zap, Nearest, &["invalidate", "invalidate_return"]),
    way(Op::LockWait, Direct, &["contention_begin", "contention_end"]),
];
