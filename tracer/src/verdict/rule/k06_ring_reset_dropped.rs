//! K06 ring-reset-dropped
//!
//! A ring reset popped entries whose pages were not all write-protected and flushed before RESET returned.
//!
//! Kernel: `kvm_dirty_ring_reset()` (virt/kvm/dirty_ring.c). Since 6.17 (49005a2a3d2a) it returns -EINTR on a
//! pending signal after entries were popped and before the pending batch was protected; the ioctl then returns the
//! positive count.
//!
//! ```text
//! vcpu (cpu 0)                         harvester (cpu 1)
//! push gfn 7, store W
//!                                      copy page 7
//!                                      RESET: pop gfn 7, signal pending: return  (gfn 7 keeps W)
//! write gfn 7                          no fault, no push                 <- lost
//! ```
//!
//! Evidence: the pushes with their index, the reset's indexes before and after, and the batches protected in
//! between. On the tracepoint plan the SPTEs of the popped entries, read back when the ioctl returns: one that lets
//! writes through is `lost` if no entry pushed since names the page and every vCPU has left KVM_RUN since, so that no
//! lockless fault can be between its store and its push.
//!
//! Look-alikes: batches with an empty mask (6.1); duplicates in a batch; entries of slots that are gone; pages pushed
//! again before the return.
//!
//! Blind spots: entries pushed before we attached; on the tracepoint plan SPTEs of a page other than the one last set.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K06,
    name: "ring-reset-dropped",
    sentence: "A ring reset popped entries whose pages were not all write-protected and flushed before RESET returned.",
    needs: &[
        (Operation::RingPush, Evidence::Nearest),
        (Operation::RingReset, Evidence::Nearest),
        (Operation::HarvestWord, Evidence::Nearest),
        (Operation::SpteChange, Evidence::Nearest),
    ],
    wants: &[(Operation::Flush, Evidence::Direct)],
    source: include_str!("k06_ring_reset_dropped.rs"),
};
