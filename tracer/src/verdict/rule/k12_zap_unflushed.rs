//! K12 zap-unflushed
//!
//! A writable SPTE was zapped and its bracket ended without a flush.
//!
//! Kernel: every zap of a present SPTE is followed by a flush before `mmu_lock` is yielded
//! (`kvm_tdp_mmu_zap_leafs()`, `kvm_unmap_gfn_range()`); the fixes of 2021 for yields with a flush pending are of
//! this kind.
//!
//! ```text
//! vcpu (cpu 0)                         notifier (cpu 1)
//! write gfn 7 (TLB holds W)
//!                                      zap gfn 7, unlock, return         (no flush)
//! write gfn 7 through the TLB          the frame belongs to another      <- lost
//! ```
//!
//! Evidence: the SPTE change from writable to absent, the bracket of the invalidation, and flushes of that thread;
//! the flush counter must not have moved.
//!
//! Look-alikes: zaps whose tracepoint comes long after their flush (6.12 and later freeze, flush, then report).
//!
//! Blind spots: zaps outside every bracket seen.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K12,
    name: "zap-unflushed",
    sentence: "A writable SPTE was zapped and its bracket ended without a flush.",
    needs: &[
        (Operation::SpteChange, Evidence::Direct),
        (Operation::Flush, Evidence::Direct),
        (Operation::Zap, Evidence::Nearest),
    ],
    wants: &[],
    source: include_str!("k12_zap_unflushed.rs"),
};
