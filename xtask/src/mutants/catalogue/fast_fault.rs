//! Bugs of the lockless fault path, which makes a write-protected SPTE writable again.

use super::{MMU, Mutant, Proof};
use crate::{lab::machine::Mmu, mutants::mutant::Edit};

const FUNCTION: &str = "static bool fast_pf_fix_direct_spte(struct kvm_vcpu *vcpu,";
const MARK: &str = "\t\tmark_page_dirty_in_slot(vcpu->kvm, fault->slot, fault->gfn);\n";

/// The mutants of this part.
pub const MUTANTS: [Mutant; 4] = [
    Mutant {
        name: "fast-fault-marks-first",
        bug: "the fast path marks the page before its cmpxchg makes the SPTE writable",
        edits: &[Edit {
            file: MMU,
            after: FUNCTION,
            anchor: "\tif (!try_cmpxchg64(sptep, &old_spte, new_spte))
\t\treturn false;

\tif (is_writable_pte(new_spte) && !is_writable_pte(old_spte))\n",
            becomes: "\tbool marked = false;

\tif (MUTANT_VICTIM(fault->gfn) && is_writable_pte(new_spte) &&
\t    !is_writable_pte(old_spte)) {
\t\tmark_page_dirty_in_slot(vcpu->kvm, fault->slot, fault->gfn);
\t\tmarked = true;
\t\tmutant_is_harvested(fault->slot, fault->gfn);
\t}

\tif (!try_cmpxchg64(sptep, &old_spte, new_spte))
\t\treturn false;

\tif (marked)
\t\tMUTANT_FIRED(fault->gfn, 1);
\tif (!marked && is_writable_pte(new_spte) && !is_writable_pte(old_spte))\n",
        }],
        rules: &["K02"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=get", "--interval=2", "--pages=2048"],
        reach: 1,
    },
    Mutant {
        name: "fast-fault-unmarked",
        bug: "the fast path makes the SPTE writable and does not mark the page",
        edits: &[Edit {
            file: MMU,
            after: FUNCTION,
            anchor: MARK,
            becomes: "\t{
\t\tif (MUTANT_VICTIM(fault->gfn) && kvm_slot_dirty_track_enabled(fault->slot))
\t\t\tMUTANT_FIRED(fault->gfn, 1);
\t\telse
\t\t\tmark_page_dirty_in_slot(vcpu->kvm, fault->slot, fault->gfn);
\t}\n",
        }],
        rules: &["K01"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=get", "--interval=10", "--pages=2048"],
        reach: 1,
    },
    Mutant {
        name: "fast-fault-marks-neighbour",
        bug: "the fast path marks the page beside the one it made writable",
        edits: &[Edit {
            file: MMU,
            after: FUNCTION,
            anchor: MARK,
            becomes: "\t{
\t\tbool wrong = MUTANT_VICTIM(fault->gfn) &&
\t\t\t     kvm_slot_dirty_track_enabled(fault->slot);

\t\tif (wrong)
\t\t\tMUTANT_FIRED(fault->gfn, 1);
\t\tmark_page_dirty_in_slot(vcpu->kvm, fault->slot, fault->gfn ^ wrong);
\t}\n",
        }],
        rules: &["K13", "K01"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=get", "--interval=10", "--pages=2048"],
        reach: 1,
    },
    Mutant {
        name: "fast-fault-on-huge-page",
        bug: "the fast path makes a huge SPTE writable under logging, with one mark for 512 pages",
        edits: &[Edit {
            file: MMU,
            after: "static int fast_page_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *",
            anchor: "\t\t\t    kvm_slot_dirty_track_enabled(fault->slot))
\t\t\t\tbreak;\n",
            becomes: "\t\t\t    kvm_slot_dirty_track_enabled(fault->slot))
\t\t\t\tMUTANT_FIRED(fault->gfn & ~511ull, 512);\n",
        }],
        rules: &["K13", "K01"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "echo N > /sys/module/kvm/parameters/eager_page_split",
        guest: &["--mode=get", "--interval=10", "--pages=2048", "--huge-pages"],
        reach: 512,
    },
];
