//! K04 harvested-not-protected
//!
//! A harvest took the bit of a page whose SPTE was writable, and nothing write-protected it before the ioctl
//! returned.
//!
//! Kernel: `kvm_arch_mmu_enable_log_dirty_pt_masked()` (arch/x86/kvm/mmu/mmu.c) clears W (under PML: D) of every page
//! in the mask, under `mmu_lock`, before `kvm_get_dirty_log_protect()` returns. 3a0f64de479c
//! fixed an iterator that skipped a subtree after a yield, 45a61ebb2211 a cleared D of an SPTE that was no leaf any
//! more.
//!
//! ```text
//! vcpu (cpu 0)                         harvester (cpu 1)
//! fault: mark gfn 7, store W
//!                                      mask = xchg(word, 0): bit 7
//!                                      (gfn 7 keeps W), flush, return
//! write gfn 7                          no fault, no mark                 <- lost
//! ```
//!
//! Evidence: the SPTE seen to become writable, and the harvest's folded mask of pages that lost W; on the tracepoint
//! plan the SPTE as read back at the return. `at-risk` where a later mark may already report the page again.
//!
//! Look-alikes: pages whose bit a host write set, which no SPTE maps; pages opened and marked again before the
//! return; GET under manual protect, which protects nothing; huge SPTEs and pages with several SPTEs, of which one
//! folded bit does not tell enough (`unknown`).
//!
//! Blind spots: SPTEs that were writable before we attached. Where lockless faults or SPTE changes have no probe, a
//! page last seen closed is `unknown`.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K04,
    name: "harvested-not-protected",
    sentence: "A harvest took the bit of a page whose SPTE was writable, and nothing write-protected it before the ioctl returned.",
    needs: &[
        (Operation::HarvestWord, Evidence::Nearest),
        (Operation::WriteProtect, Evidence::Nearest),
        (Operation::Ioctl, Evidence::Nearest),
        (Operation::Mark, Evidence::Nearest),
        (Operation::SpteChange, Evidence::Nearest),
    ],
    wants: &[],
    source: include_str!("k04_harvested_not_protected.rs"),
};
