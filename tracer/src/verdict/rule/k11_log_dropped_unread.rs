//! K11 log-dropped-unread
//!
//! Logging was turned off, or the slot deleted, while bits were set that no harvest had taken.
//!
//! This judges the VMM; it is `exposed` unless the final harvest was declared.
//!
//! Kernel: the bitmap is freed with the flag (`kvm_commit_memory_region()`, virt/kvm/kvm_main.c). QEMU synced before
//! it destroyed a slot only since 4cc856fabae1.
//!
//! ```text
//! vcpu (cpu 0)                         VMM (cpu 1)
//! mark gfn 7
//!                                      SET_MEMORY without KVM_MEM_LOG_DIRTY_PAGES
//!                                      bitmap freed                      <- nobody learns of gfn 7
//! ```
//!
//! Evidence: marks since the last harvest, and the slot's commit.
//!
//! Look-alikes: a migration that was cancelled; slots that never logged.
//!
//! Blind spots: a VMM that no longer needs the pages. Where host writes have no probe, as K09.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K11,
    name: "log-dropped-unread",
    sentence: "Logging was turned off, or the slot deleted, while bits were set that no harvest had taken.",
    needs: &[
        (Operation::Mark, Evidence::Nearest),
        (Operation::HarvestWord, Evidence::Nearest),
        (Operation::Slot, Evidence::Nearest),
    ],
    wants: &[(Operation::Mark, Evidence::Direct)],
    source: include_str!("k11_log_dropped_unread.rs"),
};
