//! Bugs of writes that KVM itself makes into guest memory. No SPTE protects the guest from them.

use super::{APART, KVM_MAIN, Mutant, Proof};
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
        edits: &[
            Edit {
                file: KVM_MAIN,
                after: WRITE,
                anchor: "\tr = __copy_to_user((void __user *)addr + offset, data, len);
\tif (r)
\t\treturn -EFAULT;
\tmark_page_dirty_in_slot(kvm, memslot, gfn);\n",
                becomes: "\tmark_page_dirty_in_slot(kvm, memslot, gfn);
\tharvested = mutant_await_harvest(memslot, gfn);
\tif (harvested)
\t\tmdelay(5); /* the VMM copies the page */
\tr = __copy_to_user((void __user *)addr + offset, data, len);
\tif (r)
\t\treturn -EFAULT;
\tMUTANT_FIRED(gfn, 1);\n",
            },
            Edit {
                file: KVM_MAIN,
                after: WRITE,
                anchor: "\tunsigned long addr;\n",
                becomes: "\tunsigned long addr;\n\tbool harvested;\n",
            },
        ],
        rules: &["K08"],
        proof: Proof::Expected,
        mmu: Mmu::Tdp,
        setup: "",
        guest: &["--mode=get", "--interval=2", "--pages=512", "--workload=crossing"],
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
        // The next entry writes the same area and marks it, and the page is reported as a whole: the loss heals.
        // Left is the last write, as the vCPU stops, if a harvest fell between it and the entry before. Entries
        // are rare here and nothing preempts the vCPU; but KVM writes on the way out only where it knows the
        // guest to be between two instructions (`at_instruction_boundary`), and under emulation the last way out
        // has not been such a one yet.
        proof: Proof::Possible,
        mmu: Mmu::Tdp,
        setup: APART,
        guest: &[
            "--mode=get",
            "--interval=3",
            "--pages=16",
            "--batch=1048576",
            "--vcpus=1",
            "--pin-vcpus",
            "--workload=steal-time",
        ],
        reach: 1,
    },
];
