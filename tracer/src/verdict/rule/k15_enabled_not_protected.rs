//! K15 enabled-not-protected
//!
//! Logging was turned on and an SPTE of the slot, seen to become writable before, was still writable when the
//! ioctl returned.
//!
//! Its writes never fault, so no other rule would ever see them.
//!
//! Kernel: `kvm_mmu_slot_apply_flags()` write-protects (or clears D of) the whole slot unless
//! KVM_DIRTY_LOG_INITIALLY_SET (arch/x86/kvm/x86.c). edde99ce0529 fixed a protection that came
//! before the bitmap was swapped.
//!
//! ```text
//! vcpu (cpu 0)                         VMM (cpu 1)
//! store W of gfn 7
//!                                      SET_MEMORY with KVM_MEM_LOG_DIRTY_PAGES
//!                                      (gfn 7 is skipped), return
//! write gfn 7                          no fault, no mark                 <- lost
//! ```
//!
//! Evidence: the SPTE seen to become writable before, and every SPTE change of the enabling ioctl; where the probe
//! reports none of them one by one, `unknown`.
//!
//! Look-alikes: faults that run at the same time with the new slot object, which mark.
//!
//! Blind spots: SPTEs from before we attached.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K15,
    name: "enabled-not-protected",
    sentence: "Logging was turned on and an SPTE of the slot, seen to become writable before, was still writable when the ioctl returned.",
    needs: &[
        (Operation::SpteChange, Evidence::Direct),
        (Operation::Mark, Evidence::Nearest),
        (Operation::Slot, Evidence::Nearest),
        (Operation::Ioctl, Evidence::Nearest),
    ],
    wants: &[],
    source: include_str!("k15_enabled_not_protected.rs"),
};
