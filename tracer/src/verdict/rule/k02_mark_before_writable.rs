//! K02 mark-before-writable
//!
//! A fault marked the page first, a harvest took the bit, and then the same fault made the page writable or
//! visible to the harvest.
//!
//! The two interleavings of the 2013 discussion. The harvest found nothing to protect, and nothing reports the page
//! again.
//!
//! Kernel: `fast_pf_fix_direct_spte()` must set W before it marks (arch/x86/kvm/mmu/mmu.c); slow paths may mark first
//! because mark, store and `rmap_add()` are inside one hold of `mmu_lock`, which a harvest takes exclusively.
//!
//! ```text
//! vcpu (cpu 0)                         harvester (cpu 1)
//! mark gfn 7
//!                                      mask = xchg(word, 0): bit 7
//!                                      visit gfn 7: read-only, or not in the rmap: nothing to do
//! store *sptep: W  (or rmap_add)
//! write gfn 7                          never reported                    <- lost
//! ```
//!
//! Evidence: the intervals of mark, xchg, visit and store; `*sptep` read at the mark's entry (W already set: the
//! store came first); the mask (the bit was taken, so some mark came before the xchg); the word re-read at the mark's
//! exit; the gfns the visit saw lose W. No bound rests on the order in question: without the value at the mark's
//! entry a fault that a harvest overlaps is `unknown`. With it, a fast fault that marked first is `at-risk` even when
//! no harvest came near: the promised program order is missing.
//!
//! Look-alikes: slow faults, which mark first under `mmu_lock`; a fast fault whose SPTE a harvest protected again
//! before the mark read it.
//!
//! Under the shadow MMU the page is visible only from the end of its rmap insertion on; where a harvest word lies
//! between mark and insertion the lock is broken as well (K03), so the pair is judged by intervals alone.
//!
//! Blind spots: a rmap insertion without a record.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K02,
    name: "mark-before-writable",
    sentence: "A fault marked the page first, a harvest took the bit, and then the same fault made the page writable or visible to the harvest.",
    needs: &[
        (Operation::Mark, Evidence::Direct),
        (Operation::HarvestWord, Evidence::Direct),
        (Operation::FastFault, Evidence::Direct),
    ],
    wants: &[
        (Operation::FastFaultEvidence, Evidence::Direct),
        (Operation::SpteChange, Evidence::Nearest),
        (Operation::Fault, Evidence::Direct),
    ],
    source: include_str!("k02_mark_before_writable.rs"),
};
