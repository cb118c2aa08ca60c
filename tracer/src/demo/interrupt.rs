//! Interrupts for the guest, with their end signalled through guest memory (`MSR_KVM_PV_EOI_EN`).
//!
//! ```text
//! VMM      KVM_SIGNAL_MSI, when the vCPU has left the guest
//! KVM      injects the interrupt; sets bit 0 of the vCPU's EOI word     ← a write by KVM itself
//! handler  clears the bit, counts; or writes the local APIC if the bit was not set
//! KVM      at the next exit: bit cleared: ends the interrupt; bit set: clears it ← another write
//! ```
//!
//! The handler stays in ring 3: an interrupt gate may lead to a code segment of the same privilege,
//! and IRET with I/O privilege 3 restores the interrupt flag. PVM does not deliver interrupts that
//! way, so the workload needs VMX or SVM.

use kvm_bindings::{KVM_MP_STATE_RUNNABLE, Msrs, kvm_mp_state, kvm_msi, kvm_msr_entry};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::demo::DemoError;
use crate::demo::layout::{
    DESCRIPTORS_ADDRESS, LOCAL_APIC_ADDRESS, PROGRAM_ADDRESS, kvm_page_address, state_address,
};
use crate::demo::memory::Mapping;
use crate::demo::workload::{Workload, Workloads};

/// Address of the handler, in the program's page.
pub const HANDLER_ADDRESS: u64 = PROGRAM_ADDRESS + 0x200;

/// The handler: r11 = EOI register of the local APIC, r12 = EOI word, r14 = state page.
#[rustfmt::skip]
pub const HANDLER: &[u8] = &[
    0x41, 0x0f, 0xba, 0x34, 0x24, 0x00,       // 00 btr   dword [r12], 0
    0x73, 0x06,                               // 06 jnc   0e
    0x49, 0xff, 0x46, 0x10,                   // 08 inc   qword [r14+0x10]
    0x48, 0xcf,                               // 0c iretq
    0x41, 0xc7, 0x03, 0x00, 0x00, 0x00, 0x00, // 0e mov   dword [r11], 0
    0x49, 0xff, 0x46, 0x18,                   // 15 inc   qword [r14+0x18]
    0x48, 0xcf,                               // 19 iretq
];

/// The vector of the interrupts.
const VECTOR: u64 = 0x50;
/// `MSR_KVM_PV_EOI_EN`; bit 0 enables, 4-byte aligned.
const PV_EOI: u32 = 0x4b56_4d04;
/// Offset of the EOI word in the vCPU's page.
const EOI_OFFSET: u64 = 0x800;
/// Offset in the state page of the interrupts that ended through guest memory.
const ENDED_IN_MEMORY: u64 = 0x10;
/// Top of the handler's stack in the state page, above what the program keeps there.
const STACK_OFFSET: u64 = 0xf00;
/// Offset of the descriptor table from the interrupt table.
const SEGMENTS_OFFSET: u64 = 0x1000;
/// The interrupt flag.
const RFLAGS_IF: u64 = 1 << 9;
/// The local APIC's spurious-interrupt register, and its value with the APIC on.
const SPURIOUS: (usize, u32) = (0xf0, 0x1ff);
/// The local APIC's EOI register.
const EOI_REGISTER: u64 = 0xb0;

/// Gives the VM interrupt controllers; to be done before its first vCPU exists.
///
/// # Errors
///
/// [`DemoError::Ioctl`] if KVM refuses.
pub fn create_controllers(vm: &VmFd) -> Result<(), DemoError> {
    vm.create_irq_chip().map_err(|errno| DemoError::ioctl("KVM_CREATE_IRQCHIP", errno))
}

/// The interrupt gate and the two segment descriptors, as `(address, value)`.
pub fn words() -> [(u64, u64); 4] {
    // 64-bit interrupt gate, present, to the code segment of ring 3: Intel SDM volume 3, 6.14.1.
    let gate = HANDLER_ADDRESS & 0xffff | 0x1b << 16 | 0x8e << 40;
    let segments = DESCRIPTORS_ADDRESS + SEGMENTS_OFFSET;
    [
        (DESCRIPTORS_ADDRESS + 16 * VECTOR, gate),
        (DESCRIPTORS_ADDRESS + 16 * VECTOR + 8, 0),
        // Code, 64-bit, ring 3; data, ring 3; both flat and accessed.
        (segments + 0x18, 0x00af_fb00_0000_ffff),
        (segments + 0x20, 0x00cf_f300_0000_ffff),
    ]
}

/// Makes a vCPU take interrupts; to be done after its registers are set.
///
/// # Errors
///
/// [`DemoError::Ioctl`] if KVM refuses.
pub fn enable(fd: &VcpuFd, vcpu: u32, workloads: &mut Workloads) -> Result<(), DemoError> {
    let word = kvm_page_address(vcpu) + EOI_OFFSET;
    let entry = kvm_msr_entry { index: PV_EOI, data: word | 1, ..Default::default() };
    let msrs = Msrs::from_entries(&[entry]).expect("one entry is below every limit");
    let set = fd.set_msrs(&msrs).map_err(|errno| DemoError::ioctl("KVM_SET_MSRS", errno))?;
    if set == 0 {
        workloads.skip(Workload::PvEoi, format!("this KVM refuses MSR {PV_EOI:#x}"));
        return Ok(());
    }
    let mut sregs = fd.get_sregs().map_err(|errno| DemoError::ioctl("KVM_GET_SREGS", errno))?;
    sregs.idt.base = DESCRIPTORS_ADDRESS;
    sregs.idt.limit = 16 * (VECTOR as u16 + 1) - 1;
    sregs.gdt.base = DESCRIPTORS_ADDRESS + SEGMENTS_OFFSET;
    sregs.gdt.limit = 0x27;
    fd.set_sregs(&sregs).map_err(|errno| DemoError::ioctl("KVM_SET_SREGS", errno))?;
    let mut regs = fd.get_regs().map_err(|errno| DemoError::ioctl("KVM_GET_REGS", errno))?;
    regs.r11 = LOCAL_APIC_ADDRESS + EOI_REGISTER;
    regs.r12 = word;
    regs.rsp = state_address(vcpu) + STACK_OFFSET;
    regs.rflags |= RFLAGS_IF;
    fd.set_regs(&regs).map_err(|errno| DemoError::ioctl("KVM_SET_REGS", errno))?;
    let mut apic = fd.get_lapic().map_err(|errno| DemoError::ioctl("KVM_GET_LAPIC", errno))?;
    let (register, value) = SPURIOUS;
    for (byte, value) in apic.regs[register..].iter_mut().zip(value.to_le_bytes()) {
        *byte = value.cast_signed();
    }
    fd.set_lapic(&apic).map_err(|errno| DemoError::ioctl("KVM_SET_LAPIC", errno))?;
    // With a local APIC, all vCPUs but the first wait for a start-up message.
    fd.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
        .map_err(|errno| DemoError::ioctl("KVM_SET_MP_STATE", errno))
}

/// Interrupts a vCPU.
///
/// # Errors
///
/// [`DemoError::Ioctl`] if KVM refuses.
pub fn send(vm: &VmFd, vcpu: u32) -> Result<(), DemoError> {
    let msi = kvm_msi {
        // Physical destination, fixed delivery: Intel SDM volume 3, 11.11.
        address_lo: 0xfee0_0000 | vcpu << 12,
        data: VECTOR as u32,
        ..Default::default()
    };
    vm.signal_msi(msi).map(drop).map_err(|errno| DemoError::ioctl("KVM_SIGNAL_MSI", errno))
}

/// Interrupts that a vCPU ended through guest memory, each after KVM had written there.
///
/// There were more writes: where the handler faults on its way, KVM takes its bit back.
pub fn count(system: &Mapping, vcpu: u32) -> u64 {
    system.read_word(state_address(vcpu) + ENDED_IN_MEMORY)
}
