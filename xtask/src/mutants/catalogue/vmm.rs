//! Mistakes of the VMM. The kernel does what it promises; its source is changed only to say which
//! bits were set when they were thrown away.

use super::{KVM_MAIN, Mutant, Proof};
use crate::{lab::machine::Mmu, mutants::mutant::Edit};

/// Says which bits are set in a bitmap that is about to be freed.
const UNREAD: Edit = Edit {
    file: KVM_MAIN,
    after: "static void kvm_destroy_dirty_bitmap(struct kvm_memory_slot *memslot)\n",
    anchor: "\tvfree(memslot->dirty_bitmap);\n",
    becomes: "\t{
\t\tunsigned long nr;

\t\tfor_each_set_bit(nr, memslot->dirty_bitmap, memslot->npages)
\t\t\tMUTANT_FIRED(memslot->base_gfn + nr, 1);
\t}
\tvfree(memslot->dirty_bitmap);\n",
};

/// The mutants of this part.
pub const MUTANTS: [Mutant; 2] = [
    Mutant {
        name: "vmm-drops-log",
        bug: "the VMM turns logging off without a harvest after the vCPUs have stopped",
        edits: &[UNREAD],
        rules: &["K11"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=get", "--interval=10", "--pages=2048", "--workload=drop-log"],
        reach: 1,
    },
    Mutant {
        name: "vmm-harvests-too-early",
        bug: "the VMM does its final harvest while the vCPUs still run",
        edits: &[UNREAD],
        rules: &["K09", "K11"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        // The report lists a thousand findings one by one.
        guest: &["--mode=get", "--interval=10", "--pages=512", "--workload=final-too-early"],
        reach: 1,
    },
];
