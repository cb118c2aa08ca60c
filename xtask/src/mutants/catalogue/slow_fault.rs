//! Bugs of the fault paths under mmu_lock, and of zapping.
//!
//! The first two are the losing interleavings drawn in the 2013 discussion: what the lock forbids
//! happens, because it is dropped in between.

use super::{KVM_MAIN, MMU, Mutant, Proof, TDP_MMU};
use crate::{lab::machine::Mmu, mutants::mutant::Edit};

const MAP: &str = "static int tdp_mmu_map_handle_target_level(struct kvm_vcpu *vcpu,";
const SET: &str = "static int mmu_set_spte(struct kvm_vcpu *vcpu, struct kvm_memory_slot *slot,";

/// The mutants of this part.
pub const MUTANTS: [Mutant; 3] = [
    Mutant {
        name: "slow-fault-unlocks",
        bug: "the TDP fault path drops mmu_lock between its mark and its SPTE store",
        edits: &[
            Edit {
                file: TDP_MMU,
                after: MAP,
                anchor: "\tif (new_spte == iter->old_spte)\n",
                becomes:
                    "\tif (fault->slot && MUTANT_VICTIM(iter->gfn) && is_writable_pte(new_spte) &&
\t    kvm_slot_dirty_track_enabled(fault->slot)) {
\t\tread_unlock(&vcpu->kvm->mmu_lock);
\t\tharvested = mutant_await_harvest(fault->slot, iter->gfn);
\t\tread_lock(&vcpu->kvm->mmu_lock);
\t}

\tif (new_spte == iter->old_spte)\n",
            },
            Edit {
                file: TDP_MMU,
                after: MAP,
                anchor: "\tbool wrprot = false;\n",
                becomes: "\tbool wrprot = false, harvested = false;\n",
            },
            Edit {
                file: TDP_MMU,
                after: MAP,
                anchor: "\tif (wrprot && fault->write)\n",
                becomes: "\tif (harvested)
\t\tMUTANT_FIRED(iter->gfn, 1);

\tif (wrprot && fault->write)\n",
            },
        ],
        rules: &["K02", "K03"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: ZAPPED,
        reach: 1,
    },
    Mutant {
        name: "rmap-after-unlock",
        bug: "the shadow MMU drops mmu_lock between its mark and the insertion into the rmap",
        edits: &[Edit {
            file: MMU,
            after: SET,
            anchor: "\tif (!was_rmapped) {\n",
            becomes: "\tif (!was_rmapped && slot && MUTANT_VICTIM(gfn) && is_writable_pte(spte) &&
\t    kvm_slot_dirty_track_enabled(slot)) {
\t\tbool harvested;

\t\twrite_unlock(&vcpu->kvm->mmu_lock);
\t\tharvested = mutant_await_harvest(slot, gfn);
\t\twrite_lock(&vcpu->kvm->mmu_lock);
\t\tif (harvested)
\t\t\tMUTANT_FIRED(gfn, 1);
\t}

\tif (!was_rmapped) {\n",
        }],
        rules: &["K02", "K03", "K04"],
        proof: Proof::Expected,
        mmu: Mmu::Shadow,
        setup: "",
        guest: ZAPPED,
        reach: 1,
    },
    Mutant {
        name: "zap-unflushed",
        bug: "the mmu notifier zaps SPTEs and releases mmu_lock without a flush",
        edits: &[Edit {
            file: KVM_MAIN,
            after: "static __always_inline kvm_mn_ret_t __kvm_handle_hva_range(struct kvm *kvm,",
            anchor: "\t\t\tr.ret |= range->handler(kvm, &gfn_range);
\t\t}
\t}

\tif (range->flush_on_ret && r.ret)
\t\tkvm_flush_remote_tlbs(kvm);\n",
            becomes: "\t\t\tif (range->handler(kvm, &gfn_range)) {
\t\t\t\tr.ret = true;
\t\t\t\tMUTANT_FIRED(gfn_range.start, gfn_range.end - gfn_range.start);
\t\t\t}
\t\t}
\t}\n",
        }],
        rules: &["K12"],
        // What contents could show is a write through the stale translation. Into the log it is not lost: the page is
        // writable in a TLB because it was marked since its last harvest, the harvest that takes that mark flushes
        // every TLB of the VM before it returns (`kvm_get_dirty_log_protect()`: any bit, any page), and reports the
        // page. Into the frame it is not lost either: whatever takes the frame away (hole, remap, migration) takes it
        // from the VMM as well, and the primary MMU interrupts every CPU that runs a thread of it, before the call
        // returns and the frame can be looked at or given on. On a processor a guest's translations outlive that
        // interrupt, by their ASID; the emulator has no ASIDs and empties its TLB with every exit. So a stale
        // translation never outlives the call here, and the proof needs hardware.
        proof: Proof::None,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=get", "--interval=5", "--pages=512", "--workload=zap", "--backing=memfd"],
        reach: 1,
    },
];

/// Makes slow faults again and again: the VMM's memory is zapped under the running guest. What was
/// lost stays so until the next zap.
const ZAPPED: &[&str] = &[
    "--mode=get",
    "--interval=2",
    "--pages=1024",
    "--workload=zap",
    "--zap-every=32",
    "--backing=memfd",
];
