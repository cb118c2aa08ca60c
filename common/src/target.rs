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
        ghc_gpa: ABSENT,
        ghc_hva: ABSENT,
        ghc_memslot: ABSENT,
        map_gfn: ABSENT,
        map_writable: ABSENT,
    };
}
