//! K10 flush-assumed
//!
//! A path saw an already read-only SPTE and skipped its flush while the one who had protected it had not flushed
//! yet.
//!
//! Kernel: fixed for the dirty log by 6dbf79e7164e; legal since 198c74f43f0f because the decision looks at
//! MMU-writable instead of W (`spte_write_protect()`, arch/x86/kvm/mmu/mmu.c). 7c8a4742c4ab fixed the same
//! mistake in the TDP MMU.
//!
//! ```text
//! harvester (cpu 0)                    shadow paging (cpu 1)
//! clear W of gfn 7, unlock
//!                                      protect gfn 7: W is clear already, no flush
//!                                      assume that nobody writes gfn 7   <- a TLB still does
//! flush
//! ```
//!
//! Evidence: an SPTE that loses MMU-writable or its mapping in one thread while another thread's write-protect of it
//! is not flushed yet, and no flush of its own before its bracket ends.
//!
//! Look-alikes: decisions that flushed because MMU-writable was set; pages nobody has protected meanwhile.
//!
//! Blind spots: a path that decides and changes no SPTE leaves no record.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K10,
    name: "flush-assumed",
    sentence: "A path saw an already read-only SPTE and skipped its flush while the one who had protected it had not flushed yet.",
    needs: &[
        (Operation::SpteChange, Evidence::Direct),
        (Operation::Flush, Evidence::Direct),
        (Operation::WriteProtect, Evidence::Direct),
        (Operation::HarvestWord, Evidence::Direct),
    ],
    wants: &[(Operation::Fault, Evidence::Direct)],
    source: include_str!("k10_flush_assumed.rs"),
};
