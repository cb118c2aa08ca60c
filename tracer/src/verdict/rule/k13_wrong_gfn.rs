//! K13 wrong-gfn
//!
//! A fault marked another page than the one it made writable, or one page for a huge SPTE.
//!
//! Kernel: the mark takes the fault's gfn, the store its SPTE; a page table that was freed and reused in between
//! (ABA) makes them differ. Large SPTEs that fast faults opened dirtied only their
//! first page until c126d94f2c90.
//!
//! ```text
//! vcpu (cpu 0)                         harvester (cpu 1)
//! fault on gfn 7
//!   store W for gfn 9
//!   mark gfn 7
//! write gfn 9                          sees bit 7 only                   <- lost
//! ```
//!
//! Evidence: mark and store of one fault; the level of the SPTE.
//!
//! Look-alikes: marks of guest page tables whose A/D bits the walk sets, in faults whose own page is marked too.
//!
//! Blind spots: as K01.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K13,
    name: "wrong-gfn",
    sentence: "A fault marked another page than the one it made writable, or one page for a huge SPTE.",
    needs: &[
        (Operation::Mark, Evidence::Direct),
        (Operation::SpteChange, Evidence::Nearest),
        (Operation::Fault, Evidence::Direct),
    ],
    wants: &[(Operation::FastFault, Evidence::Nearest)],
    source: include_str!("k13_wrong_gfn.rs"),
};
