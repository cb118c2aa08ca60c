//! K14 clear-unread
//!
//! CLEAR_DIRTY_LOG took a bit all of whose marks since the previous clear started after the last GET had returned.
//!
//! This judges the VMM; it is `exposed` unless the final harvest was declared.
//!
//! Kernel: under manual protect GET copies the bitmap and CLEAR takes what user space names
//! (`kvm_clear_dirty_log_protect()`, virt/kvm/kvm_main.c).
//!
//! ```text
//! vcpu (cpu 0)                         VMM (cpu 1)
//!                                      GET: bit 7 is clear
//! mark gfn 7
//!                                      CLEAR names gfn 7: takes the bit  <- nobody read it
//! ```
//!
//! Evidence: the first mark of the page since it was last taken, and the return of the last GET.
//!
//! Look-alikes: bits set since logging began (KVM_DIRTY_LOG_INITIALLY_SET).
//!
//! Blind spots: a VMM that treats the page as dirty anyway; a mark that returns only when the CLEAR has taken its bit.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K14,
    name: "clear-unread",
    sentence: "CLEAR_DIRTY_LOG took a bit all of whose marks since the previous clear started after the last GET had returned.",
    needs: &[
        (Operation::Mark, Evidence::Direct),
        (Operation::HarvestWord, Evidence::Direct),
        (Operation::Ioctl, Evidence::Nearest),
    ],
    wants: &[],
    source: include_str!("k14_clear_unread.rs"),
};
