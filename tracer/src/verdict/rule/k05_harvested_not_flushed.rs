//! K05 harvested-not-flushed
//!
//! A harvest took bits and no TLB flush both started after the last write-protect and finished before the ioctl
//! returned.
//!
//! Kernel: `kvm_get_dirty_log_protect()` flushes after it has dropped `mmu_lock` and before it copies the bitmap to
//! user space, if any word was not zero (virt/kvm/kvm_main.c). At enable, `kvm_mmu_slot_apply_flags()` flushes always
//! since b64d740ea7dd; 5.10 only if an SPTE changed, which is a listed stock-kernel hazard.
//!
//! ```text
//! vcpu (cpu 0)                         harvester (cpu 1)
//! write gfn 7 (TLB holds W)
//!                                      take bit 7, clear W
//!                                      return                            (no flush)
//! write gfn 7 through the TLB          page 7 was copied already         <- lost
//! ```
//!
//! Evidence: each flush with begin and end, and the VM's flush counter at the ioctl's begin and end. A flush of
//! another thread that happens to lie right leaves the page whole in this run and `at-risk`: nothing promises it.
//! With the counter alone (tracepoint plan) only the absence of any flush can be shown.
//!
//! A flush by range counts only if it covers the whole slot. A ring reset without a flush is K06.
//!
//! Look-alikes: GET under manual protect; a flush through a hypervisor's range call; the TLB window, which is legal
//! while the ioctl has not returned.
//!
//! Blind spots: what a TLB really holds is not observable; a page that lost W is taken to be cached.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K05,
    name: "harvested-not-flushed",
    sentence: "A harvest took bits and no TLB flush both started after the last write-protect and finished before the ioctl returned.",
    needs: &[
        (Operation::HarvestWord, Evidence::Nearest),
        (Operation::Ioctl, Evidence::Nearest),
        (Operation::FlushCounter, Evidence::Nearest),
    ],
    wants: &[(Operation::Flush, Evidence::Direct), (Operation::SpteChange, Evidence::Nearest)],
    source: include_str!("k05_harvested_not_flushed.rs"),
};
