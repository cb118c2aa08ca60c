//! Every program of the probe with its place in the kernel.
//!
//! A function that a compiler inlined has no place; then the ways of [`super::ways`] that need it fall back or fall
//! away.

use kvmdirty_common::Hook;

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

/// Every program that is attached somewhere.
pub const POINTS: &[Point] = &[
    point("thread_exit", Site::Tracepoint("sched_process_exit"), Hook::ThreadTable),
    point("sys_enter", Site::Tracepoint("sys_enter"), Hook::Syscall),
    point("sys_exit", Site::Tracepoint("sys_exit"), Hook::Syscall),
    point("run_end", Site::Tracepoint("kvm_userspace_exit"), Hook::Run),
    point("run_put", Site::Entry(&["preempt_notifier_unregister"]), Hook::Run),
    point("spte_requested", Site::Tracepoint("kvm_mmu_spte_requested"), Hook::SpteChange),
    point("set_spte", Site::Tracepoint("kvm_mmu_set_spte"), Hook::SpteChange),
    point("zap_page", Site::Tracepoint("kvm_mmu_prepare_zap_page"), Hook::Zap),
    point("unmap_range", Site::Tracepoint("kvm_unmap_hva_range"), Hook::Zap),
    point("ring_push", Site::Tracepoint("kvm_dirty_ring_push"), Hook::RingPush),
    point("ring_reset", Site::Tracepoint("kvm_dirty_ring_reset"), Hook::RingReset),
    point("contention_begin", Site::Tracepoint("contention_begin"), Hook::Contention),
    point("contention_end", Site::Tracepoint("contention_end"), Hook::Contention),
    point("fast_fault_done", Site::Tracepoint("fast_page_fault"), Hook::FastFault),
    point("tdp_spte_changed", Site::Tracepoint("kvm_tdp_mmu_spte_changed"), Hook::SpteChange),
    point("shadow_set_done", Site::Tracepoint("kvm_mmu_set_spte"), Hook::SpteChange),
    point("push_in_mark", Site::Entry(&["kvm_dirty_ring_push"]), Hook::RingPush),
    point("split", Site::Tracepoint("kvm_mmu_split_huge_page"), Hook::Split),
    point("vm_init", Site::Entry(&["kvm_arch_init_vm"]), Hook::Vm),
    point("vm_destroyed", Site::Entry(&["kvm_destroy_vm"]), Hook::Vm),
    point("vm_ioctl", Site::Entry(&["kvm_vm_ioctl"]), Hook::VmIoctl),
    point("vm_ioctl_return", Site::Return(&["kvm_vm_ioctl"]), Hook::VmIoctl),
    point("vcpu_run", Site::Entry(&["kvm_arch_vcpu_ioctl_run"]), Hook::Run),
    point("slot_commit", Site::Entry(&["kvm_arch_commit_memory_region"]), Hook::Slot),
    point("mark", Site::Entry(&["mark_page_dirty_in_slot"]), Hook::Mark),
    point("mark_return", Site::Return(&["mark_page_dirty_in_slot"]), Hook::Mark),
    point("mark_by_vcpu", Site::Entry(&["kvm_vcpu_mark_page_dirty"]), Hook::Mark),
    point("mark_by_vm", Site::Entry(&["mark_page_dirty"]), Hook::Mark),
    point(
        "mark_inlined_return",
        Site::EveryReturn(&["kvm_vcpu_mark_page_dirty", "mark_page_dirty"]),
        Hook::Mark,
    ),
    point("word", Site::Entry(&["kvm_arch_mmu_enable_log_dirty_pt_masked"]), Hook::HarvestWord),
    point(
        "word_return",
        Site::Return(&["kvm_arch_mmu_enable_log_dirty_pt_masked"]),
        Hook::HarvestWord,
    ),
    point("tdp_changed", Site::Entry(&["__handle_changed_spte"]), Hook::SpteChange),
    point(
        "rmap_protect",
        Site::Entry(&[
            "rmap_write_protect",
            "__rmap_write_protect",
            "__rmap_write_protect.constprop.0",
        ]),
        Hook::SpteChange,
    ),
    point("shadow_store", Site::Entry(&["mmu_spte_update"]), Hook::SpteChange),
    point("shadow_set", Site::Entry(&["mmu_set_spte"]), Hook::SpteChange),
    point(
        "fast_fault",
        Site::Entry(&["fast_page_fault", "kvm_tdp_mmu_fast_pf_get_last_sptep"]),
        Hook::FastFault,
    ),
    point("fast_fault_walk", Site::Entry(&["kvm_tdp_mmu_fast_pf_get_last_sptep"]), Hook::FastFault),
    point(
        "fast_fault_walked",
        Site::Return(&["kvm_tdp_mmu_fast_pf_get_last_sptep"]),
        Hook::FastFault,
    ),
    point("fast_fault_return", Site::Return(&["fast_page_fault"]), Hook::FastFault),
    point("fault", Site::Entry(&["kvm_mmu_page_fault"]), Hook::Fault),
    point("fault_return", Site::Return(&["kvm_mmu_page_fault"]), Hook::Fault),
    point("flush", Site::EveryEntry(&["kvm_flush_remote_tlbs"]), Hook::Flush),
    point("flush_return", Site::EveryReturn(&["kvm_flush_remote_tlbs"]), Hook::Flush),
    point("flush_range", Site::Entry(&["hv_flush_remote_tlbs_range"]), Hook::Flush),
    point("flush_range_return", Site::Return(&["hv_flush_remote_tlbs_range"]), Hook::Flush),
    point("slot_protect", Site::Entry(&["kvm_mmu_slot_remove_write_access"]), Hook::SlotProtect),
    point("slot_clear_dirty", Site::Entry(&["kvm_mmu_slot_leaf_clear_dirty"]), Hook::SlotProtect),
    point(
        "slot_protect_return",
        Site::EveryReturn(&["kvm_mmu_slot_remove_write_access", "kvm_mmu_slot_leaf_clear_dirty"]),
        Hook::SlotProtect,
    ),
    point("write_page", Site::Entry(&["__kvm_write_guest_page"]), Hook::HostWrite),
    point("write_cached", Site::Entry(&["kvm_write_guest_offset_cached"]), Hook::HostWrite),
    point("unmap_map", Site::Entry(&["kvm_vcpu_unmap"]), Hook::HostWrite),
    point("cmpxchg", Site::Entry(&["emulator_cmpxchg_emulated"]), Hook::HostWrite),
    point(
        "cmpxchg_gfn",
        Site::EveryEntry(&["kvm_vcpu_gfn_to_hva", "kvm_vcpu_map"]),
        Hook::HostWrite,
    ),
    point("cmpxchg_return", Site::Return(&["emulator_cmpxchg_emulated"]), Hook::HostWrite),
    point("steal_time", Site::Entry(&["record_steal_time"]), Hook::HostWrite),
    point("pvclock", Site::Entry(&["kvm_setup_guest_pvclock"]), Hook::HostWrite),
    point(
        "host_write_return",
        Site::EveryReturn(&["__kvm_write_guest_page", "kvm_write_guest_offset_cached"]),
        Hook::HostWrite,
    ),
    point(
        "host_write_void_return",
        Site::EveryReturn(&["kvm_vcpu_unmap", "record_steal_time", "kvm_setup_guest_pvclock"]),
        Hook::HostWrite,
    ),
    point("vcpu_put", Site::Entry(&["kvm_arch_vcpu_put"]), Hook::HostWrite),
    point("vcpu_put_return", Site::Return(&["kvm_arch_vcpu_put"]), Hook::HostWrite),
    point("reset", Site::Entry(&["kvm_dirty_ring_reset"]), Hook::RingReset),
    point("reset_return", Site::Return(&["kvm_dirty_ring_reset"]), Hook::RingReset),
    point("rmap_add", Site::Entry(&["__rmap_add"]), Hook::RmapAdd),
    point("rmap_add_return", Site::Return(&["__rmap_add"]), Hook::RmapAdd),
    point("invalidate", Site::Entry(&["kvm_mmu_notifier_invalidate_range_start"]), Hook::Zap),
    point(
        "invalidate_return",
        Site::Return(&["kvm_mmu_notifier_invalidate_range_start"]),
        Hook::Zap,
    ),
];
