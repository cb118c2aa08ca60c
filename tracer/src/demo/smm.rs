//! The second address space: system management mode, with a memslot of its own.
//!
//! ```text
//! VMM      KVM_SMI on vCPU 0
//! KVM      saves the vCPU's state at the end of the slot in address space 1   ← a write by KVM itself
//! guest    real mode, in address space 1: increments a word, RSM
//! KVM      emulates RSM: restores the state, back to address space 0
//! ```

use kvm_bindings::{KVM_CAP_MULTI_ADDRESS_SPACE, KVM_CAP_X86_SMM};
use kvm_ioctls::VmFd;

use crate::demo::layout::{Extent, PAGE_BYTES};
use crate::demo::memory::Mapping;
use crate::demo::workload::{Workload, Workloads};
use crate::event::SlotId;

/// The slot; the address space is in the upper half of its number.
pub const SLOT: SlotId = SlotId { as_id: 1, id: 0 };
/// Where it lies: the 64 KiB that SMM uses after reset.
pub const EXTENT: Extent = Extent { address: 0x3_0000, pages: 16 };

/// Offset of the first instruction in SMM.
const ENTRY: u64 = 0x8000;
/// Offset of the word that is incremented.
const COUNTER: u64 = 9 * PAGE_BYTES;

/// The program of SMM.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    0x2e, 0x66, 0xff, 0x06, 0x00, 0x90,       // 00 inc   dword cs:[0x9000]
    0x0f, 0xaa,                               // 06 rsm
];

/// Skips the workload where KVM has no second address space.
pub fn check(vm: &VmFd, workloads: &mut Workloads) {
    let has = |capability: u32, least| least <= vm.check_extension_raw(capability.into());
    if !has(KVM_CAP_X86_SMM, 1) || !has(KVM_CAP_MULTI_ADDRESS_SPACE, 2) {
        let reason = "this KVM has no SMM (KVM_CAP_X86_SMM, KVM_CAP_MULTI_ADDRESS_SPACE)";
        workloads.skip(Workload::Smm, reason.to_owned());
    }
}

/// Writes the program into the slot's memory.
pub fn write_program(memory: &Mapping) {
    memory.write_bytes(ENTRY, PROGRAM);
}

/// How often the vCPU has been in SMM.
pub fn count(memory: &Mapping) -> u64 {
    memory.read_word(COUNTER) & u64::from(u32::MAX)
}
