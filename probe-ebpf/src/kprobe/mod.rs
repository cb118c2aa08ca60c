//! The kprobe plan: function entries and returns of `kvm.ko`, and its tracepoints.
//!
//! ```text
//! operation       programs                                                     functions, by preference
//! vm              vm_init, vm_destroyed                                          kvm_arch_init_vm, kvm_destroy_vm
//! ioctl           vm_ioctl, vm_ioctl_return*                                     kvm_vm_ioctl
//! run             vcpu_run; run_end (raw_tp kvm_userspace_exit)                  kvm_arch_vcpu_ioctl_run
//!           where tracepoints may be preempted: run_put                    preempt_notifier_unregister
//! slot            slot_commit                                                    kvm_arch_commit_memory_region
//! mark            mark, mark_return*                                             mark_page_dirty_in_slot
//!           mark_by_vcpu, mark_by_vm, mark_return* (5.10 only)             kvm_vcpu_mark_page_dirty, mark_page_dirty
//! ring push       push_in_mark                                                   kvm_dirty_ring_push
//! ring reset      reset, reset_return*                                           kvm_dirty_ring_reset
//! harvest word    word, word_return*                                         kvm_arch_mmu_enable_log_dirty_pt_masked
//! write-protect   tdp_spte_changed (raw_tp), rmap_protect, shadow_store
//! spte change     tdp_spte_changed (raw_tp kvm_tdp_mmu_spte_changed; 5.10: tdp_changed on __handle_changed_spte),
//!                 shadow_set + shadow_set_done (mmu_set_spte; raw_tp kvm_mmu_set_spte)
//! fast fault      fast_fault, fast_fault_return* (fast_page_fault); without TDP MMU, or where that is inlined (6.1):
//!                 fast_fault_done (raw_tp fast_page_fault)
//!   evidence      fast_fault_walk, fast_fault_walked* (kvm_tdp_mmu_fast_pf_get_last_sptep)
//! fault           fault, fault_return* (kvm_mmu_page_fault)
//! flush           flush, flush_return*                               kvm_flush_remote_tlbs
//! slot protect    slot_protect, slot_protect_return*                             kvm_mmu_slot_remove_write_access,
//!                                                                                kvm_mmu_slot_leaf_clear_dirty
//! host write      write_page, write_cached, unmap_map, cmpxchg, cmpxchg_gfn, steal_time, pvclock, host_write_return*,
//!                 vcpu_put, vcpu_put_return* (kvm_arch_vcpu_put)
//! rmap            rmap_add, rmap_add_return*                                     __rmap_add
//! zap             invalidate, invalidate_return* (kvm_mmu_notifier_invalidate_range_start); zap_page (raw_tp)
//! split           split (raw_tp kvm_mmu_split_huge_page)
//! ```
//! `*`: a return probe.
//!
//! No hook waits, loops or takes a lock, and each emits one record at most (a slot helper's end may add its last word).
//! An entry that finds its bracket open counts a missed return: kernels before 6.7 do not tell. Under `mmu_lock` a
//! harvest emits one record per bitmap word: the SPTE changes inside it are folded into a mask.

pub mod brackets;

mod entry;
mod fast;
mod fault;
mod flush;
mod host_write;
mod mark;
mod reset;
mod rmap;
mod slot;
mod spte;
mod word;
mod zap;
