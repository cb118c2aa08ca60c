//! K09 residue-after-last-harvest
//!
//! Pages were marked, or windows closed, after the last harvest of their slot, and nothing later collects them.
//!
//! This judges the VMM, which must stop all writers before its last harvest; it is `exposed` unless the final harvest
//! was declared (`--final`).
//!
//! Kernel: the third case of the 2013 discussion is legal because "at the final step of live migration, kvm should
//! stop the guest and push the remaining dirty pages". cf1d88b36ba7 removed a cache that escaped it.
//!
//! ```text
//! vcpu (cpu 0)                         harvester (cpu 1)
//! store W (fast fault)
//!                                      last GET: bit 7 is clear
//! mark gfn 7                           nobody asks again                 <- exposed; with --final lost
//! ```
//!
//! Evidence: marks, windows and the slot's last harvest.
//!
//! Look-alikes: entries of a ring that was not reset yet, which are reported; steal time written when a vCPU is
//! scheduled out; a manual-protect GET that read the bit without a CLEAR after it.
//!
//! Blind spots: a harvest after the end of the trace. Where host writes have no probe, a mark may be one of steal time:
//! its page is `unknown`.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K09,
    name: "residue-after-last-harvest",
    sentence: "Pages were marked, or windows closed, after the last harvest of their slot, and nothing later collects them.",
    needs: &[
        (Operation::Mark, Evidence::Nearest),
        (Operation::HarvestWord, Evidence::Nearest),
        (Operation::Ioctl, Evidence::Nearest),
    ],
    wants: &[(Operation::Mark, Evidence::Direct)],
    source: include_str!("k09_residue_after_last_harvest.rs"),
};
