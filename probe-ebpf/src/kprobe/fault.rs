//! The bracket around a page fault.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::{Hook, Kind};

use crate::config::offset;
use crate::emit::{self, Fact};
use crate::kernel::{field, field_or_0, now};
use crate::thread::{Thread, expect_closed};
use crate::vm::is_followed;

/// `PFERR_WRITE_MASK`.
const WRITE: u64 = 1 << 1;

/// `kvm_mmu_page_fault(vcpu, cr2_or_gpa, error_code, insn, insn_len)`.
///
/// A read fault may mark as well: on a page the host maps writable, KVM creates a writable SPTE at once.
#[kprobe]
pub fn fault(ctx: ProbeContext) -> u32 {
    let vcpu: u64 = ctx.arg(0).unwrap_or(0);
    let kvm = field_or_0(vcpu, offset!(vcpu_kvm));
    if !is_followed(kvm) {
        return 0;
    }
    let Some(thread) = Thread::current() else { return 0 };
    thread.kvm = kvm;
    let fault = &mut thread.brackets.fault;
    expect_closed(Hook::Fault, fault.begin_ns);
    fault.addr = ctx.arg(1).unwrap_or(0);
    fault.error_code = ctx.arg(2).unwrap_or(0);
    fault.is_touched = 0;
    fault.vcpu_id = field::<u32>(vcpu, offset!(vcpu_id)).unwrap_or(0).into();
    fault.begin_ns = now();
    0
}

/// `kvm_mmu_page_fault` returned.
#[kretprobe]
pub fn fault_return(ctx: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    thread.brackets.fast.begin_ns = 0;
    thread.brackets.fast.sptep = 0;
    let fault = &mut thread.brackets.fault;
    let begin_ns = fault.begin_ns;
    if begin_ns == 0 {
        return 0;
    }
    fault.begin_ns = 0;
    // Device accesses fault by the ten thousand; those that are no writes and did nothing to a page are left out.
    if fault.error_code & WRITE == 0 && fault.is_touched == 0 {
        return 0;
    }
    let ret = i64::from(ctx.ret::<i32>()) as u64;
    emit::page(
        Hook::Fault,
        &Fact {
            kind: Kind::Fault,
            flags: 0,
            vm: thread.kvm,
            begin_ns,
            args: [fault.addr, fault.error_code, ret, fault.vcpu_id],
        },
    );
    0
}
