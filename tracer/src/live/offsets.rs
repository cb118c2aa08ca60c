//! The running kernel's field offsets, enum values and function forms, from its BTF.

use kvmdirty_common::target::{ABSENT, Offsets, abi};

use super::btf::Btf;

macro_rules! offsets {
    ($btf:ident, $($field:ident = $type:literal $path:literal),+ $(,)?) => {
        Offsets { $($field: $btf.offset($type, $path).unwrap_or(ABSENT)),+, ..Offsets::NONE }
    };
}

/// Reads every offset the probe may need; those this kernel lacks are `ABSENT`.
#[must_use]
pub fn of(btf: &Btf) -> Offsets {
    let mut offsets = offsets! { btf,
        task_preempt_notifiers = "task_struct" "preempt_notifiers.first",
        task_files = "task_struct" "files",
        task_mm = "task_struct" "mm",
        files_fdt = "files_struct" "fdt",
        fdtable_fd = "fdtable" "fd",
        file_private_data = "file" "private_data",
        file_f_op = "file" "f_op",
        fops_unlocked_ioctl = "file_operations" "unlocked_ioctl",
        preempt_notifier_ops = "preempt_notifier" "ops",
        vcpu_preempt_notifier = "kvm_vcpu" "preempt_notifier",
        vcpu_kvm = "kvm_vcpu" "kvm",
        vcpu_id = "kvm_vcpu" "vcpu_id",
        vcpu_dirty_ring = "kvm_vcpu" "dirty_ring",
        kvm_mmu_lock = "kvm" "mmu_lock",
        kvm_memslots = "kvm" "memslots",
        kvm_flush_requests = "kvm" "stat.generic.remote_tlb_flush_requests",
        kvm_manual_protect = "kvm" "manual_dirty_log_protect",
        kvm_dirty_ring_size = "kvm" "dirty_ring_size",
        kvm_mmu_notifier = "kvm" "mmu_notifier",
        kvm_mm = "kvm" "mm",
        mm_owner = "mm_struct" "owner",
        memslots_generation = "kvm_memslots" "generation",
        memslots_gfn_tree = "kvm_memslots" "gfn_tree.rb_node",
        memslots_node_idx = "kvm_memslots" "node_idx",
        memslots_used = "kvm_memslots" "used_slots",
        memslots_array = "kvm_memslots" "memslots",
        slot_gfn_node = "kvm_memory_slot" "gfn_node",
        slot_base_gfn = "kvm_memory_slot" "base_gfn",
        slot_npages = "kvm_memory_slot" "npages",
        slot_dirty_bitmap = "kvm_memory_slot" "dirty_bitmap",
        slot_userspace_addr = "kvm_memory_slot" "userspace_addr",
        slot_flags = "kvm_memory_slot" "flags",
        slot_id = "kvm_memory_slot" "id",
        slot_as_id = "kvm_memory_slot" "as_id",
        slot_rmap = "kvm_memory_slot" "arch.rmap",
        fault_gfn = "kvm_page_fault" "gfn",
        fault_slot = "kvm_page_fault" "slot",
        fault_pfn = "kvm_page_fault" "pfn",
        fault_write = "kvm_page_fault" "write",
        page_gfn = "kvm_mmu_page" "gfn",
        page_role = "kvm_mmu_page" "role",
        ring_dirty_index = "kvm_dirty_ring" "dirty_index",
        ring_reset_index = "kvm_dirty_ring" "reset_index",
        ring_size = "kvm_dirty_ring" "size",
        ring_index = "kvm_dirty_ring" "index",
        ring_dirty_gfns = "kvm_dirty_ring" "dirty_gfns",
        ghc_gpa = "gfn_to_hva_cache" "gpa",
        ghc_hva = "gfn_to_hva_cache" "hva",
        ghc_memslot = "gfn_to_hva_cache" "memslot",
        map_gfn = "kvm_host_map" "gfn",
        map_writable = "kvm_host_map" "writable",
        map_hva = "kvm_host_map" "hva",
        vcpu_run = "kvm_vcpu" "run",
        range_start = "mmu_notifier_range" "start",
        range_end = "mmu_notifier_range" "end",
    };
    offsets.slot_size = btf.size("kvm_memory_slot").unwrap_or(ABSENT);
    if offsets.kvm_flush_requests == ABSENT {
        // 5.10 counts flushes, not requests.
        offsets.kvm_flush_requests = btf.offset("kvm", "stat.remote_tlb_flush").unwrap_or(ABSENT);
    }
    offsets
}

/// Bits of [`abi`]: the form of functions that changed theirs, by the parameters BTF gives them.
///
/// 5.10 has no BTF for its kvm module; a function without BTF is taken to have its 5.10 form.
#[must_use]
pub fn function_forms(btf: &Btf) -> u64 {
    let first = |function: &str, parameter: &str| {
        btf.parameters(function).is_some_and(|names| names.first().is_some_and(|n| n == parameter))
    };
    let count = |function: &str| btf.parameters(function).map(|names| names.len());
    let bit = |condition: bool, bit: u64| if condition { bit } else { 0 };
    let second = |function: &str, parameter: &str| {
        btf.parameters(function).is_some_and(|names| names.get(1).is_some_and(|n| n == parameter))
    };
    bit(first("mark_page_dirty_in_slot", "kvm"), abi::MARK_HAS_KVM)
        | bit(first("__kvm_write_guest_page", "kvm"), abi::WRITE_PAGE_HAS_KVM)
        | bit(count("kvm_arch_commit_memory_region") == Some(4), abi::COMMIT_WITHOUT_MEM)
        | bit(count("kvm_vcpu_unmap") != Some(2), abi::UNMAP_HAS_DIRTY)
        | bit(second("mmu_set_spte", "slot"), abi::SET_SPTE_HAS_SLOT)
        | bit(btf.tracepoint_arguments("fast_page_fault") == Some(5), abi::FAST_FAULT_HAS_FAULT)
        | bit(first("kvm_dirty_ring_push", "vcpu"), abi::RING_PUSH_HAS_VCPU)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_the_fields_of_kvm() {
        let Ok(btf) = Btf::of_running_kernel() else {
            eprintln!("skipped: this kernel publishes no BTF");
            return;
        };
        if btf.size("kvm").is_none() {
            eprintln!("skipped: this kernel has no KVM");
            return;
        }
        let offsets = of(&btf);
        for (name, offset) in [
            ("kvm_vcpu.kvm", offsets.vcpu_kvm),
            ("kvm.memslots", offsets.kvm_memslots),
            ("kvm_memory_slot.dirty_bitmap", offsets.slot_dirty_bitmap),
            ("file.private_data", offsets.file_private_data),
        ] {
            assert_ne!(offset, ABSENT, "{name}");
        }
        assert!(offsets.slot_base_gfn < offsets.slot_npages);
        assert!(offsets.slot_npages < offsets.slot_size);
    }
}
