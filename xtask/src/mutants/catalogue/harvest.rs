//! Bugs of the ioctls that turn logging on and take the log.

use super::{APART, DIRTY_RING, KVM_MAIN, Mutant, Proof, TDP_MMU};
use crate::{lab::machine::Mmu, mutants::mutant::Edit};

const GET: &str =
    "static int kvm_get_dirty_log_protect(struct kvm *kvm, struct kvm_dirty_log *log)\n";
const CLEAR: &str = "static int kvm_clear_dirty_log_protect(struct kvm *kvm,\n";

/// The mutants of this part.
pub const MUTANTS: [Mutant; 7] = [
    Mutant {
        name: "harvest-unprotected",
        bug: "GET_DIRTY_LOG takes the bit and leaves the SPTE writable",
        edits: &[Edit {
            file: TDP_MMU,
            after: "static void clear_dirty_pt_masked(struct kvm *kvm, struct kvm_mmu_page *root,",
            anchor: "\t\tif (!(iter.old_spte & dbit))\n\t\t\tcontinue;\n",
            becomes: "\t\tif (!(iter.old_spte & dbit))\n\t\t\tcontinue;

\t\tif (MUTANT_VICTIM(iter.gfn)) {
\t\t\tMUTANT_FIRED(iter.gfn, 1);
\t\t\tcontinue;
\t\t}\n",
        }],
        rules: &["K04"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=get", "--interval=10", "--pages=2048"],
        reach: 1,
    },
    Mutant {
        name: "harvest-unflushed",
        bug: "GET_DIRTY_LOG returns without flushing TLBs that still hold writable translations",
        edits: &[Edit {
            file: KVM_MAIN,
            after: GET,
            anchor: "\t\tkvm_flush_remote_tlbs_memslot(kvm, memslot);\n",
            becomes: "\t\tMUTANT_FIRED(memslot->base_gfn, memslot->npages);\n",
        }],
        rules: &["K05"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: APART,
        // Every exit flushes the emulated TLB, and a page stored to again after it heals. So the vCPU has a
        // CPU of its own, where no harvest preempts it, and stores to a page in one streak of some
        // milliseconds, and never again; harvests come often, so that one falls into a streak's end. Every
        // page stored to is named: long streaks for four seconds, or the report would not list them all.
        guest: &[
            "--seconds=4",
            "--mode=get",
            "--interval=1",
            "--pages=4096",
            "--batch=1048576",
            "--vcpus=1",
            "--pattern=streaks",
            "--pin-vcpus",
        ],
        reach: 1,
    },
    Mutant {
        name: "harvest-takes-twice",
        bug: "GET_DIRTY_LOG takes bits once more, after its flush, and reports and protects nothing",
        edits: &[Edit {
            file: KVM_MAIN,
            after: GET,
            anchor: "\t\tkvm_flush_remote_tlbs_memslot(kvm, memslot);\n",
            becomes: "\t{
\t\tunsigned long nr = MUTANT_VICTIM_NR(memslot);
\t\tint waited;

\t\tkvm_flush_remote_tlbs_memslot(kvm, memslot);
\t\tfor (; !kvm->manual_dirty_log_protect && nr < memslot->npages; nr += 64) {
\t\t\tif (!test_bit(nr, dirty_bitmap_buffer))
\t\t\t\tcontinue;
\t\t\tfor (waited = 0; waited < 300 && !test_bit(nr, dirty_bitmap); waited++)
\t\t\t\tudelay(1);
\t\t\tif (test_and_clear_bit(nr, dirty_bitmap))
\t\t\t\tMUTANT_FIRED(memslot->base_gfn + nr, 1);
\t\t}
\t}\n",
        }],
        rules: &["K07"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=get", "--interval=2", "--pages=2048"],
        reach: 1,
    },
    Mutant {
        name: "clear-takes-unread",
        bug: "CLEAR_DIRTY_LOG takes bits that user space has not read and did not ask to clear",
        edits: &[Edit {
            file: KVM_MAIN,
            after: CLEAR,
            anchor: "\t\tmask &= atomic_long_fetch_andnot(mask, p);\n",
            becomes: "\t\t{
\t\t\tunsigned long asked = mask;

\t\t\tmask |= BIT(MUTANT_VICTIM_NR(memslot));
\t\t\tmask &= atomic_long_fetch_andnot(mask, p);
\t\t\tif (mask & ~asked)
\t\t\t\tMUTANT_FIRED(memslot->base_gfn + offset + __ffs(mask & ~asked), 1);
\t\t}\n",
        }],
        rules: &["K14"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        // A page that is stored to again is marked again, and the loss heals: so there are many pages, each stored to
        // once in a long round, and what the last round lost is left.
        guest: &[
            "--mode=manual",
            "--interval=2",
            "--pages=16384",
            "--pattern=sequential",
            "--clear-chunk=64",
        ],
        reach: 1,
    },
    Mutant {
        name: "enable-unprotected",
        bug: "turning logging on leaves SPTEs of the slot writable",
        edits: &[Edit {
            file: TDP_MMU,
            after: "static bool wrprot_gfn_range(struct kvm *kvm, struct kvm_mmu_page *root,",
            anchor: "\t\tnew_spte = iter.old_spte & ~PT_WRITABLE_MASK;\n",
            becomes: "\t\tif (MUTANT_VICTIM(iter.gfn)) {
\t\t\tMUTANT_FIRED(iter.gfn, 1);
\t\t\tcontinue;
\t\t}

\t\tnew_spte = iter.old_spte & ~PT_WRITABLE_MASK;\n",
        }],
        rules: &["K15"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=get", "--interval=10", "--pages=2048"],
        reach: 1,
    },
    Mutant {
        name: "ring-reset-unprotected",
        bug: "RESET_DIRTY_RINGS pops entries and does not protect their pages",
        edits: &[Edit {
            file: DIRTY_RING,
            after: "static void kvm_reset_dirty_gfn(struct kvm *kvm, u32 slot, u64 offset,",
            anchor: "\tKVM_MMU_LOCK(kvm);\n",
            becomes: "\tif (MUTANT_VICTIM(memslot->base_gfn + offset)) {
\t\tMUTANT_FIRED(memslot->base_gfn + offset, __fls(mask) + 1);
\t\treturn;
\t}

\tKVM_MMU_LOCK(kvm);\n",
        }],
        rules: &["K06"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=ring", "--interval=10", "--pages=2048"],
        reach: 1,
    },
    Mutant {
        name: "ring-reset-interrupted",
        bug: "RESET_DIRTY_RINGS returns on a signal, with entries popped whose pages it has not \
              protected, as 6.17 and later do",
        edits: &[Edit {
            file: DIRTY_RING,
            after: "int kvm_dirty_ring_reset(struct kvm *kvm, struct kvm_dirty_ring *ring)\n",
            anchor: "\twhile (true) {\n",
            becomes: "\twhile (true) {
\t\tif (signal_pending(current)) {
\t\t\tunsigned long nr;
\t\t\tstruct kvm_memory_slot *memslot = id_to_memslot(
\t\t\t\t__kvm_memslots(kvm, cur_slot >> 16), (u16)cur_slot);

\t\t\tfor_each_set_bit(nr, &mask, BITS_PER_LONG)
\t\t\t\tMUTANT_FIRED(memslot->base_gfn + cur_offset + nr, 1);
\t\t\treturn count;
\t\t}\n",
        }],
        rules: &["K06"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=ring", "--interval=10", "--pages=512", "--workload=ring-signals"],
        reach: 1,
    },
];
