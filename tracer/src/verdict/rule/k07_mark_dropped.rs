//! K07 mark-dropped
//!
//! A mark recorded nothing: no running vCPU with a ring and no bitmap, or a logging slot without a bitmap.
//!
//! Kernel: `mark_page_dirty_in_slot()` (virt/kvm/kvm_main.c). From 5.17 (2efd61a608b0) to 6.1 it returns
//! before it sets the bit when no vCPU runs on the thread, even in bitmap mode: a listed stock-kernel hazard. Later
//! kernels (86bdf3ebcfe1) drop the mark only in ring mode.
//!
//! ```text
//! host thread (cpu 0)                  harvester (cpu 1)
//! write gfn 7
//! mark gfn 7: no running vCPU, return
//!                                      GET: bit 7 is clear               <- lost
//! ```
//!
//! Evidence: the bitmap word re-read at the mark's exit, still without the bit although no harvest ran; a slot object
//! that logs and has no bitmap; in ring mode a mark without a push; a complete harvest that began after the mark and
//! did not find the bit.
//!
//! Look-alikes: a harvest that took the bit before the mark returned; marks on the slot object that logging is
//! replacing.
//!
//! Blind spots: marks whose word was not read. Where harvest words have no probe, only the word re-read at a mark's
//! exit is judged: a harvest that was not seen to take a bit shows nothing.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K07,
    name: "mark-dropped",
    sentence: "A mark recorded nothing: no running vCPU with a ring and no bitmap, or a logging slot without a bitmap.",
    needs: &[(Operation::Mark, Evidence::Direct), (Operation::Ioctl, Evidence::Nearest)],
    wants: &[(Operation::HarvestWord, Evidence::Direct)],
    source: include_str!("k07_mark_dropped.rs"),
};
