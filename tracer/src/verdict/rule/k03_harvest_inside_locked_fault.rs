//! K03 harvest-inside-locked-fault
//!
//! A harvest word lies inside a stretch in which a fault held mmu_lock: the lock, the clock or the trace is broken.
//!
//! Two harvests that visit words at the same time, or two faults of the shadow MMU that set SPTEs at the same time,
//! are the same thing. So are two changes of one SPTE of the TDP MMU of which each found the value from before the
//! other: a store under the lock was not atomic (ba3a6120a4e7), or a change was not seen. This is an integrity
//! violation, not a verdict on a page: the finding is `unknown`, and the guarantee that slow faults and harvests
//! exclude each other is withdrawn for the pages concerned, which K02 then judges by intervals alone.
//!
//! Kernel: `kvm_get_dirty_log_protect()` and `kvm_clear_dirty_log_protect()` (virt/kvm/kvm_main.c) hold `mmu_lock`
//! for writing around all words; faults hold it for reading (TDP MMU) or writing (shadow MMU) from the mark to the
//! store.
//!
//! ```text
//! vcpu (cpu 0)                         harvester (cpu 1)
//! lock mmu_lock (shared)
//! mark gfn 7
//!                                      xchg, visit                       <- must be excluded
//! store *sptep: W
//! unlock
//! ```
//!
//! Evidence: begin of the mark and end of the store of one fault; begin and end of the harvest word; more overlap
//! than the clock uncertainty, and no dropped record that could have joined two faults into one.
//!
//! Look-alikes: a word during which a split dropped the lock, or could have (KVM_DIRTY_LOG_INITIALLY_SET), is cut and
//! not used; a first word's xchg, whose interval reaches back before the lock, is not used either.
//!
//! Value chains leave out A and D, which the CPU sets, and everything within 200 ms of a dropped record, a split, a
//! change that names no VM or a slot that is gone.
//!
//! Blind spots: overlaps shorter than the clock uncertainty; SPTE values of the shadow MMU, whose zaps have no record.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K03,
    name: "harvest-inside-locked-fault",
    sentence: "A harvest word lies inside a stretch in which a fault held mmu_lock: the lock, the clock or the trace is broken.",
    needs: &[
        (Operation::Mark, Evidence::Direct),
        (Operation::SpteChange, Evidence::Direct),
        (Operation::HarvestWord, Evidence::Direct),
    ],
    wants: &[],
    source: include_str!("k03_harvest_inside_locked_fault.rs"),
};
