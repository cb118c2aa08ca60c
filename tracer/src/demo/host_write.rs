//! Makes KVM itself write into guest memory: the paravirtual clock and the steal-time area.
//!
//! Both are normally turned on by the guest's kernel with `wrmsr`. The VMM may set the same MSRs,
//! and KVM accepts them without the CPUID bits unless told otherwise
//! ([Documentation/virt/kvm/x86/msr.rst][1]).
//!
//! [1]: https://docs.kernel.org/virt/kvm/x86/msr.html

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::demo::DemoError;
use crate::demo::layout::kvm_page_address;
use crate::demo::memory::Mapping;
use crate::demo::workload::{Workload, Workloads};

/// `MSR_KVM_SYSTEM_TIME_NEW`; bit 0 enables.
const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// `MSR_KVM_STEAL_TIME`; bit 0 enables, 64-byte aligned.
const STEAL_TIME: u32 = 0x4b56_4d03;
/// Offset of the steal-time area in the vCPU's page.
const STEAL_OFFSET: u64 = 0x400;

/// Offset of the version in `struct pvclock_vcpu_time_info`, as an aligned word with the padding
/// behind it.
const CLOCK_VERSION: u64 = 0;
/// Offset of the version in `struct kvm_steal_time`, as an aligned word with the flags behind it.
const STEAL_VERSION: u64 = STEAL_OFFSET + 8;

/// How often KVM has written the clock page and the steal-time area of a vCPU, in this order.
///
/// KVM makes the version odd before it writes and even afterwards.
pub fn count(system: &Mapping, vcpu: u32) -> [(Workload, u64); 2] {
    let page = kvm_page_address(vcpu);
    let writes = |offset| u64::from(system.read_word(page + offset) as u32 / 2);
    [(Workload::KvmClock, writes(CLOCK_VERSION)), (Workload::StealTime, writes(STEAL_VERSION))]
}

/// Turns on the wanted areas of a vCPU; one that KVM refuses is skipped, with its reason.
///
/// # Errors
///
/// [`DemoError::Ioctl`] if the MSRs cannot be set for another reason than their absence.
pub fn enable(fd: &VcpuFd, vcpu: u32, workloads: &mut Workloads) -> Result<(), DemoError> {
    let page = kvm_page_address(vcpu);
    for (workload, index, address) in [
        (Workload::KvmClock, SYSTEM_TIME, page),
        (Workload::StealTime, STEAL_TIME, page + STEAL_OFFSET),
    ] {
        if !workloads.wants(workload) {
            continue;
        }
        let entry = kvm_msr_entry { index, data: address | 1, ..Default::default() };
        let msrs = Msrs::from_entries(&[entry]).expect("one entry is below every limit");
        let set = fd.set_msrs(&msrs).map_err(|errno| DemoError::ioctl("KVM_SET_MSRS", errno))?;
        if set == 0 {
            workloads.skip(workload, format!("this KVM refuses MSR {index:#x}"));
        }
    }
    Ok(())
}
