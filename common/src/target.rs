//! What the loader tells the probe before it is loaded: the VM to watch and where the running kernel keeps its fields.
//!
//! Every offset is bytes from the start of the named struct and comes from the running kernel's BTF; [`ABSENT`] means
//! that this kernel has no such field, and the hook that needs it is not attached or leaves the evidence out.

/// An offset this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Field offsets and constants of the running kernel, one `u32` per entry so that the struct has no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.preempt_notifiers.first`.
    pub task_preempt_notifiers: u32,
    /// `task_struct.files`.
    pub task_files: u32,
    /// `files_struct.fdt`.
    pub files_fdt: u32,
    /// `fdtable.fd`.
    pub fdtable_fd: u32,
    /// `file.private_data`.
    pub file_private_data: u32,
    /// `file.f_op`.
    pub file_f_op: u32,
    /// `kvm_vcpu.preempt_notifier`.
    pub vcpu_preempt_notifier: u32,
    /// `kvm_vcpu.kvm`.
    pub vcpu_kvm: u32,
    /// `kvm_vcpu.vcpu_id`.
    pub vcpu_id: u32,
    /// `kvm_vcpu.dirty_ring`.
    pub vcpu_dirty_ring: u32,
    /// `kvm.mmu_lock`.
    pub kvm_mmu_lock: u32,
    /// `kvm.memslots`.
    pub kvm_memslots: u32,
    /// `kvm.stat` + `remote_tlb_flush_requests` (5.10: `remote_tlb_flush`).
    pub kvm_flush_requests: u32,
    /// `kvm.manual_dirty_log_protect`.
    pub kvm_manual_protect: u32,
    /// `kvm.dirty_ring_size`.
    pub kvm_dirty_ring_size: u32,
    /// `kvm.mmu_notifier`.
    pub kvm_mmu_notifier: u32,
    /// `kvm.mm`.
    pub kvm_mm: u32,
    /// `mm_struct.owner` or ABSENT.
    pub mm_owner: u32,
    /// `kvm_memslots.generation`.
    pub memslots_generation: u32,
    /// `kvm_memslots.gfn_tree` (rb_root); ABSENT on 5.10.
    pub memslots_gfn_tree: u32,
    /// `kvm_memslots.node_idx`.
    pub memslots_node_idx: u32,
    /// `kvm_memory_slot.gfn_node` (rb_node[2]).
    pub slot_gfn_node: u32,
    /// `kvm_memory_slot.base_gfn`.
    pub slot_base_gfn: u32,
    /// `kvm_memory_slot.npages`.
    pub slot_npages: u32,
    /// `kvm_memory_slot.dirty_bitmap`.
    pub slot_dirty_bitmap: u32,
    /// `kvm_memory_slot.userspace_addr`.
    pub slot_userspace_addr: u32,
    /// `kvm_memory_slot.flags`.
    pub slot_flags: u32,
    /// `kvm_memory_slot.id` (s16).
    pub slot_id: u32,
    /// `kvm_memory_slot.as_id` (u16).
    pub slot_as_id: u32,
    /// `kvm_memory_slot.arch.rmap[0]`.
    pub slot_rmap: u32,
    /// Size of `kvm_memory_slot`.
    pub slot_size: u32,
    /// `kvm_page_fault.gfn`.
    pub fault_gfn: u32,
    /// `kvm_page_fault.slot`.
    pub fault_slot: u32,
    /// `kvm_dirty_ring.dirty_index`.
    pub ring_dirty_index: u32,
    /// `kvm_dirty_ring.reset_index`.
    pub ring_reset_index: u32,
    /// `kvm_dirty_ring.size`.
    pub ring_size: u32,
    /// `kvm_dirty_ring.index`.
    pub ring_index: u32,
    /// `kvm_dirty_ring.dirty_gfns`.
    pub ring_dirty_gfns: u32,
    /// `gfn_to_hva_cache.gpa`.
    pub ghc_gpa: u32,
    /// `gfn_to_hva_cache.hva`.
    pub ghc_hva: u32,
    /// `gfn_to_hva_cache.memslot`.
    pub ghc_memslot: u32,
    /// `kvm_host_map.gfn`.
    pub map_gfn: u32,
    /// `kvm_host_map.writable` or ABSENT (then `dirty` is an argument).
    pub map_writable: u32,
    /// `task_struct.mm`.
    pub task_mm: u32,
    /// `file_operations.unlocked_ioctl`.
    pub fops_unlocked_ioctl: u32,
    /// `kvm_page_fault.write` (bool).
    pub fault_write: u32,
    /// `kvm_page_fault.pfn`.
    pub fault_pfn: u32,
    /// `mmu_notifier_range.start`.
    pub range_start: u32,
    /// `mmu_notifier_range.end`.
    pub range_end: u32,
    /// `kvm_mmu_page.gfn`.
    pub page_gfn: u32,
    /// `kvm_mmu_page.role` (bits 0..4: level; 5.13 and later).
    pub page_role: u32,
    /// `kvm_memslots.used_slots`; only where slots are an array (5.10).
    pub memslots_used: u32,
    /// `kvm_memslots.memslots`; only where slots are an array (5.10).
    pub memslots_array: u32,
    /// `preempt_notifier.ops`.
    pub preempt_notifier_ops: u32,
    /// `kvm_host_map.hva`: null once it is unmapped.
    pub map_hva: u32,
    /// `kvm_vcpu.run`.
    pub vcpu_run: u32,
}

/// Number of `u32`s in [`Offsets`].
pub const OFFSETS_LEN: usize = size_of::<Offsets>() / 4;

impl Offsets {
    /// Nothing known yet.
    pub const NONE: Self = Self {
        task_preempt_notifiers: ABSENT,
        task_files: ABSENT,
        files_fdt: ABSENT,
        fdtable_fd: ABSENT,
        file_private_data: ABSENT,
        file_f_op: ABSENT,
        vcpu_preempt_notifier: ABSENT,
        vcpu_kvm: ABSENT,
        vcpu_id: ABSENT,
        vcpu_dirty_ring: ABSENT,
        kvm_mmu_lock: ABSENT,
        kvm_memslots: ABSENT,
        kvm_flush_requests: ABSENT,
        kvm_manual_protect: ABSENT,
        kvm_dirty_ring_size: ABSENT,
        kvm_mmu_notifier: ABSENT,
        kvm_mm: ABSENT,
        mm_owner: ABSENT,
        memslots_generation: ABSENT,
        memslots_gfn_tree: ABSENT,
        memslots_node_idx: ABSENT,
        slot_gfn_node: ABSENT,
        slot_base_gfn: ABSENT,
        slot_npages: ABSENT,
        slot_dirty_bitmap: ABSENT,
        slot_userspace_addr: ABSENT,
        slot_flags: ABSENT,
        slot_id: ABSENT,
        slot_as_id: ABSENT,
        slot_rmap: ABSENT,
        slot_size: ABSENT,
        fault_gfn: ABSENT,
        fault_slot: ABSENT,
        ring_dirty_index: ABSENT,
        ring_reset_index: ABSENT,
        ring_size: ABSENT,
        ring_index: ABSENT,
        ring_dirty_gfns: ABSENT,
        ghc_gpa: ABSENT,
        ghc_hva: ABSENT,
        ghc_memslot: ABSENT,
        map_gfn: ABSENT,
        map_writable: ABSENT,
        task_mm: ABSENT,
        fops_unlocked_ioctl: ABSENT,
        fault_write: ABSENT,
        fault_pfn: ABSENT,
        range_start: ABSENT,
        range_end: ABSENT,
        page_gfn: ABSENT,
        page_role: ABSENT,
        memslots_used: ABSENT,
        memslots_array: ABSENT,
        preempt_notifier_ops: ABSENT,
        map_hva: ABSENT,
        vcpu_run: ABSENT,
    };
}

/// Everything else the probe must know, one `u64` per entry so that the struct has no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct Config {
    /// Process (tgid) whose VMs are followed; 0: all VMs.
    pub target_tgid: u64,
    /// Address of `kvm_vm_ioctl`, by which a VM's file is recognised.
    pub vm_ioctl: u64,
    /// Address of `kvm_vcpu_ioctl`, by which a vCPU's file is recognised.
    pub vcpu_ioctl: u64,
    /// Address of `kvm_preempt_ops`; 0: not published, then every preempt notifier is taken for KVM's (it is the only
    /// user of them).
    pub preempt_ops: u64,
    /// Bits whose loss protects an SPTE: W, and D where PML is used.
    pub protect_mask: u64,
    /// `shadow_mmu_writable_mask`; 0: not published.
    pub mmu_writable_mask: u64,
    /// SPTE bits that hold the page frame.
    pub pfn_mask: u64,
    /// `SPTE_MMU_PRESENT_MASK`; 0: any non-zero SPTE is present.
    pub present_mask: u64,
    /// `RET_PF_FIXED`.
    pub ret_pf_fixed: u64,
    /// Page-ring shards in use.
    pub shards: u64,
    /// Entries of the read-back table minus one (a power of two minus one).
    pub readback_mask: u64,
    /// Pages whose SPTE one harvest reads back at most (tracepoint plan).
    pub readbacks_max: u64,
    /// Bits of [`abi`].
    pub abi: u64,
}

/// Which form the functions of the running kernel have.
pub mod abi {
    /// `mark_page_dirty_in_slot(kvm, slot, gfn)`, since 5.11; `(slot, gfn)` before.
    pub const MARK_HAS_KVM: u64 = 1 << 0;
    /// `__kvm_write_guest_page(kvm, slot, ...)`, since 5.11; `(slot, ...)` before.
    pub const WRITE_PAGE_HAS_KVM: u64 = 1 << 1;
    /// `kvm_arch_commit_memory_region(kvm, old, new, change)`; before 5.17 `(kvm, mem, old, new, change)`.
    pub const COMMIT_WITHOUT_MEM: u64 = 1 << 2;
    /// `kvm_vcpu_unmap(vcpu, map, dirty)`; without it `map->writable` tells.
    pub const UNMAP_HAS_DIRTY: u64 = 1 << 3;
    /// `mmu_set_spte(vcpu, slot, sptep, pte_access, gfn, ...)`; before `(vcpu, sptep, pte_access, write, level, gfn,
    /// ...)`.
    pub const SET_SPTE_HAS_SLOT: u64 = 1 << 4;
    /// The `fast_page_fault` tracepoint passes `(vcpu, fault, sptep, old, ret)`; before 5.16 `(vcpu, address,
    /// error_code, sptep, old, ret)`.
    pub const FAST_FAULT_HAS_FAULT: u64 = 1 << 5;
    /// `kvm_dirty_ring_push(vcpu, slot, offset)`; before 6.2 `(ring, slot, offset)`.
    pub const RING_PUSH_HAS_VCPU: u64 = 1 << 8;
}

impl Config {
    /// Nothing known yet.
    pub const NONE: Self = Self {
        target_tgid: 0,
        vm_ioctl: 0,
        vcpu_ioctl: 0,
        preempt_ops: 0,
        protect_mask: 1 << 1,
        mmu_writable_mask: 0,
        pfn_mask: 0x000f_ffff_ffff_f000,
        present_mask: 0,
        ret_pf_fixed: u64::MAX,
        shards: 1,
        readback_mask: 0,
        readbacks_max: 0,
        abi: 0,
    };
}
