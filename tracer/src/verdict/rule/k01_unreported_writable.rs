//! K01 unreported-writable
//!
//! An SPTE became writable (under PML: got D) in a logging slot, and the same fault marked nothing for that page.
//!
//! A write through the SPTE is then neither logged nor caught.
//!
//! Kernel: every path that sets W marks: `make_spte()` and `fast_pf_fix_direct_spte()` (arch/x86/kvm/mmu/spte.c,
//! mmu.c; 5.10: `set_spte()`, `handle_changed_spte_dirty_log()`). Broken by fast faults on large SPTEs (fixed by
//! c126d94f2c90) and by shadow paths that forgot the mark.
//!
//! ```text
//! vcpu (cpu 0)                         harvester (cpu 1)
//!                                      take the bit of gfn 7, write-protect, flush, return
//! fault on gfn 7
//!   store *sptep: W                    (no mark)
//! write gfn 7                          the next harvest sees no bit      <- lost
//! ```
//!
//! Evidence: the SPTE change (or the fast fault) with old and new value, all marks of the thread, and the fault's
//! bracket; the mark may come before the store (slow paths) or after it (fast faults, 5.10's TDP MMU), so the fault
//! is judged when it ends. `lost` where the page was known clean, `at-risk` where the bit may have been set already.
//!
//! Look-alikes: marks whose cmpxchg then failed; faults that used the slot object logging is just replacing; children
//! of a split, which inherit W and are protected before the ioctl returns; aging, which leaves W alone; access
//! tracking.
//!
//! Blind spots: SPTEs changed by a path without a probe; stores outside every fault bracket are counted `unknown`.

use super::Rule;
use crate::event::{Evidence, Operation};
use crate::verdict::RuleId;

/// The rule.
pub const RULE: Rule = Rule {
    id: RuleId::K01,
    name: "unreported-writable",
    sentence: "An SPTE became writable (under PML: got D) in a logging slot, and the same fault marked nothing for that page.",
    needs: &[(Operation::Mark, Evidence::Nearest), (Operation::SpteChange, Evidence::Nearest)],
    wants: &[(Operation::FastFault, Evidence::Nearest)],
    source: include_str!("k01_unreported_writable.rs"),
};
