//! The mutants, by the part of KVM they break.
//!
//! Every bug befalls only the pages `MUTANT_VICTIM` names where that is possible, and says on which
//! pages it fired. A race is widened: the broken path waits, for some milliseconds at most, until a
//! harvest falls into it.

mod fast_fault;
mod harvest;
mod host_write;
mod slow_fault;
mod vmm;

use super::mutant::{Mutant, Proof};
use crate::lab::machine::Mmu;

/// No bug at all: the module as built here must be as clean as the stock one.
const HEALTHY: Mutant = Mutant {
    name: "healthy",
    bug: "nothing is broken",
    edits: &[],
    rules: &[],
    proof: Proof::None,
    mmu: Mmu::Tdp,
    setup: "",
    guest: &["--mode=get", "--interval=2", "--pages=2048", "--workload=zap,crossing,steal-time"],
    reach: 1,
};

/// Setup that keeps everything on CPU 0, so that a pinned vCPU has the other one for itself.
const APART: &str = "taskset -p 1 $$";

/// The same, for vCPUs that share the other CPU: a time slice is longer than some harvests take, also on a busy
/// build machine.
const APART_IN_SLICES: &str = "taskset -p 1 $$
echo 24000000 > /sys/kernel/debug/sched/base_slice_ns";

/// Every mutant, in the order of the table.
pub fn all() -> Vec<&'static Mutant> {
    [
        std::slice::from_ref(&HEALTHY),
        &fast_fault::MUTANTS,
        &slow_fault::MUTANTS,
        &harvest::MUTANTS,
        &host_write::MUTANTS,
        &vmm::MUTANTS,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `arch/x86/kvm/mmu/mmu.c`, the fault paths and the shadow MMU.
const MMU: &str = "arch/x86/kvm/mmu/mmu.c";
/// `arch/x86/kvm/mmu/tdp_mmu.c`, the TDP MMU.
const TDP_MMU: &str = "arch/x86/kvm/mmu/tdp_mmu.c";
/// `virt/kvm/kvm_main.c`, the part all architectures share.
const KVM_MAIN: &str = "virt/kvm/kvm_main.c";
/// `virt/kvm/dirty_ring.c`.
const DIRTY_RING: &str = "virt/kvm/dirty_ring.c";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = all().iter().map(|mutant| mutant.name).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
    }
}
