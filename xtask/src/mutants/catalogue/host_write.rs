//! Bugs of writes that KVM itself makes into guest memory. No SPTE protects the guest from them.

use super::{APART_IN_SLICES, KVM_MAIN, Mutant, Proof};
use crate::{lab::machine::Mmu, mutants::mutant::Edit};

/// `kvm_get_running_vcpu()` finds none while the vCPU is put.
const FORGET_FIRST: &str =
    "\t__this_cpu_write(kvm_running_vcpu, NULL);\n\tkvm_arch_vcpu_put(vcpu);\n";
const WRITE: &str = "static int __kvm_write_guest_page(struct kvm *kvm,\n";

/// The mutants of this part.
pub const MUTANTS: [Mutant; 2] = [
    Mutant {
        name: "host-write-marks-first",
        bug: "KVM marks a page before it writes to it on the guest's behalf",
        edits: &[Edit {
            file: KVM_MAIN,
            after: WRITE,
            anchor: "\tr = __copy_to_user((void __user *)addr + offset, data, len);
\tif (r)
\t\treturn -EFAULT;
\tmark_page_dirty_in_slot(kvm, memslot, gfn);\n",
            becomes: "\tmark_page_dirty_in_slot(kvm, memslot, gfn);
\tmutant_sleep_over_harvest(memslot, gfn);
\tr = __copy_to_user((void __user *)addr + offset, data, len);
\tif (r)
\t\treturn -EFAULT;
\tMUTANT_FIRED(gfn, 1);\n",
        }],
        rules: &["K08"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        // One page that all vCPUs' crossing stores share, and one for the forced stores of each, which nothing
        // else writes: the last write to each stays lost.
        guest: &[
            "--mode=get",
            "--interval=2",
            "--pages=512",
            "--vcpus=8",
            "--workload=crossing,forced-emulation",
        ],
        reach: 1,
    },
    Mutant {
        name: "mark-without-vcpu-lost",
        bug: "a mark made while no vCPU runs is dropped, and steal time at sched-out is written after the vCPU is no longer running",
        edits: &[
            Edit {
                file: KVM_MAIN,
                after: "void mark_page_dirty_in_slot(struct kvm *kvm,",
                anchor: "\tif (memslot && kvm_slot_dirty_track_enabled(memslot)) {\n",
                becomes: "\tif (!vcpu && memslot && kvm_slot_dirty_track_enabled(memslot)) {
\t\tMUTANT_FIRED(gfn, 1);
\t\treturn;
\t}

\tif (memslot && kvm_slot_dirty_track_enabled(memslot)) {\n",
            },
            Edit {
                file: KVM_MAIN,
                after: "void vcpu_put(struct kvm_vcpu *vcpu)\n",
                anchor: "\tkvm_arch_vcpu_put(vcpu);\n",
                becomes: FORGET_FIRST,
            },
            Edit {
                file: KVM_MAIN,
                after: "static void kvm_sched_out(struct preempt_notifier *pn,\n",
                anchor: "\tkvm_arch_vcpu_put(vcpu);\n",
                becomes: FORGET_FIRST,
            },
        ],
        rules: &["K07"],
        // The next entry writes the same area and marks it, and the page is reported as a whole: the loss heals. It
        // stays where that entry never comes: a vCPU that another one has preempted (KVM writes then, and only
        // then: `kvm_arch_vcpu_put()`) is stopped before it enters again. So all vCPUs share a CPU, and at the end
        // all but one of them wait for it; harvests come several times in a time slice, from the other CPU, so that
        // one falls between the entry of each and its preemption.
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: APART_IN_SLICES,
        guest: &[
            "--mode=get",
            "--interval=1",
            "--pages=64",
            "--batch=1048576",
            "--vcpus=8",
            "--pin-vcpus=together",
            "--workload=steal-time",
        ],
        reach: 1,
    },
];
