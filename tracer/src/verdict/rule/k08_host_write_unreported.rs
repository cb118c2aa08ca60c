//! K08 host-write-unreported
//!
//! The host wrote guest memory and its bracket has no mark of the page, or the mark came before the write.
//!
//! Kernel: `__kvm_write_guest_page()` copies, then marks (virt/kvm/kvm_main.c). The emulated atomic of
//! `emulator_cmpxchg_emulated()` lacked the mark from 5.19 to 910c57dfa4d1.
//!
//! ```text
//! host thread (cpu 0)                  harvester (cpu 1)
//! mark gfn 7
//!                                      take bit 7, return; copy page 7
//! copy_to_user gfn 7                   no SPTE to protect, no mark       <- lost
//! ```
//!
//! Evidence: the write's bracket with its marks; the guest's bytes at the mark's entry (already the new data: written
//! first). No SPTE protects a host write, so only the order of write and mark does.
//!
//! Look-alikes: writes that failed; slots that do not log; Xen's shared_info, documented as always dirty.
//!
//! Blind spots: writes through long-lived maps and by devices; data that equals what was there.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K08,
    name: "host-write-unreported",
    sentence: "The host wrote guest memory and its bracket has no mark of the page, or the mark came before the write.",
    needs: &[(Operation::HostWrite, Evidence::Nearest), (Operation::Mark, Evidence::Direct)],
    wants: &[(Operation::HostWriteEvidence, Evidence::Direct)],
    source: include_str!("k08_host_write_unreported.rs"),
};
