//! What existed before the attach: the VMs of the target and their memslots, announced as records.
//!
//! Hooks are attached first, then the inventory is taken: a slot that changes meanwhile is announced twice, first or
//! last by its own commit. A slot tree that changed while it was read is read again.

use std::os::fd::{AsRawFd as _, OwnedFd};

use kvmdirty_common::kind::slotref;
use kvmdirty_common::target::{ABSENT, Offsets};

use super::LiveError;
use super::clock;
use super::memory::Memory;

/// Slots one address space may have (`KVM_MEM_SLOTS_NUM` is `SHRT_MAX`).
const SLOTS_MAX: usize = 32_768;

/// Readings of a slot tree that keeps changing before the last one is taken as it is.
const ATTEMPTS_MAX: usize = 5;

/// A memslot as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Packed as `slotref`.
    pub slotref: u64,
    /// First gfn.
    pub base: u64,
    /// Pages.
    pub npages: u64,
    /// Address of the dirty bitmap, 0 if there is none.
    pub bitmap: u64,
}

/// A VM as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Address of its `struct kvm`.
    pub kvm: u64,
    /// `manual_dirty_log_protect`.
    pub manual_protect: u32,
    /// Bytes of each vCPU's dirty ring, 0 without.
    pub ring_bytes: u32,
    /// Generation of its slots.
    pub generation: u64,
    /// Flush counter.
    pub flushes: u64,
    /// Its slots.
    pub slots: Vec<Slot>,
}

/// Reads the VM behind a descriptor of this process.
///
/// # Errors
/// The kernel refuses the reading program.
pub fn read_vm(
    memory: &mut Memory<'_>,
    offsets: &Offsets,
    fd: &OwnedFd,
) -> Result<Option<Vm>, LiveError> {
    let task = memory.current_task()?;
    let files = memory.field(task, offsets.task_files)?;
    let table = memory.field(files, offsets.files_fdt)?;
    let array = memory.field(table, offsets.fdtable_fd)?;
    let file = memory.word(array + 8 * fd.as_raw_fd() as u64)?;
    let kvm = memory.field(file, offsets.file_private_data)?;
    if kvm == 0 {
        return Ok(None);
    }
    for attempt in 1..=ATTEMPTS_MAX {
        let before = generation(memory, offsets, kvm)?;
        let slots = read_slots(memory, offsets, kvm)?;
        if before == generation(memory, offsets, kvm)? || attempt == ATTEMPTS_MAX {
            let u32_field = |value: u64| value as u32;
            return Ok(Some(Vm {
                kvm,
                manual_protect: u32_field(memory.field(kvm, offsets.kvm_manual_protect)?),
                ring_bytes: u32_field(memory.field(kvm, offsets.kvm_dirty_ring_size)?),
                generation: before,
                flushes: memory.field(kvm, offsets.kvm_flush_requests)?,
                slots,
            }));
        }
    }
    Ok(None)
}

/// Emits the VM and its slots through the probe. Their span is from `begin_ns` to now: they were read in it.
///
/// # Errors
/// The kernel refuses the announcing program.
pub fn announce(memory: &mut Memory<'_>, vm: &Vm, tgid: u32) -> Result<(), LiveError> {
    let begin = clock::now();
    let modes = u64::from(vm.manual_protect) | u64::from(vm.ring_bytes) << 32;
    memory
        .announce("announce_vm", &[vm.kvm, begin, tgid.into(), modes, vm.generation, vm.flushes])?;
    for slot in &vm.slots {
        let Slot { slotref, base, npages, bitmap } = *slot;
        memory.announce("announce_slot", &[vm.kvm, begin, slotref, base, npages, bitmap])?;
    }
    Ok(())
}

fn generation(memory: &mut Memory<'_>, offsets: &Offsets, kvm: u64) -> Result<u64, LiveError> {
    let memslots = memory.field(kvm, offsets.kvm_memslots)?;
    memory.field(memslots, offsets.memslots_generation)
}

fn read_slots(
    memory: &mut Memory<'_>,
    offsets: &Offsets,
    kvm: u64,
) -> Result<Vec<Slot>, LiveError> {
    // x86 has two address spaces; the second one is SMM's.
    let mut slots = Vec::new();
    for as_id in 0..2 {
        let memslots = memory.word(kvm + u64::from(offsets.kvm_memslots) + 8 * as_id)?;
        if memslots == 0 {
            continue;
        }
        let addresses = if offsets.memslots_gfn_tree == ABSENT {
            slots_of_array(memory, offsets, memslots)?
        } else {
            slots_of_tree(memory, offsets, memslots)?
        };
        for address in addresses {
            let slot = read_slot(memory, offsets, address)?;
            // Garbage from a tree that changes under the reader names another address space sooner or later.
            if slot.slotref >> 16 & 0xffff == as_id && slot.npages != 0 {
                slots.push(slot);
            }
        }
    }
    slots.sort_by_key(|slot| slot.slotref as u32);
    Ok(slots)
}

/// 5.10: `struct kvm_memory_slot memslots[used_slots]`.
fn slots_of_array(
    memory: &mut Memory<'_>,
    offsets: &Offsets,
    memslots: u64,
) -> Result<Vec<u64>, LiveError> {
    let used = memory.field(memslots, offsets.memslots_used)? as u32 as usize;
    let first = memslots + u64::from(offsets.memslots_array);
    let size = u64::from(offsets.slot_size);
    Ok((0..used.min(SLOTS_MAX) as u64).map(|n| first + n * size).collect())
}

/// Since 5.17: a red-black tree by gfn, of which each slot has one node per generation.
fn slots_of_tree(
    memory: &mut Memory<'_>,
    offsets: &Offsets,
    memslots: u64,
) -> Result<Vec<u64>, LiveError> {
    let idx = memory.field(memslots, offsets.memslots_node_idx)? & 1;
    // `struct rb_node` is { parent and colour, right, left }.
    let node_offset = u64::from(offsets.slot_gfn_node) + idx * 24;
    let mut pending = vec![memory.field(memslots, offsets.memslots_gfn_tree)?];
    let mut slots = Vec::new();
    while let Some(node) = pending.pop() {
        if node == 0 || slots.len() == SLOTS_MAX {
            continue;
        }
        let Some(block) = memory.block(node)? else { continue };
        pending.extend([block[1], block[2]]);
        slots.push(node - node_offset);
    }
    Ok(slots)
}

fn read_slot(memory: &mut Memory<'_>, offsets: &Offsets, slot: u64) -> Result<Slot, LiveError> {
    let flags = memory.field(slot, offsets.slot_flags)? as u32;
    let id = memory.field(slot, offsets.slot_id)? as u16;
    let as_id = memory.field(slot, offsets.slot_as_id)? as u16;
    let bitmap = memory.field(slot, offsets.slot_dirty_bitmap)?;
    let has_bitmap = if bitmap == 0 { 0 } else { slotref::HAS_BITMAP };
    Ok(Slot {
        slotref: u64::from(id) | u64::from(as_id) << 16 | u64::from(flags) << 32 | has_bitmap,
        base: memory.field(slot, offsets.slot_base_gfn)?,
        npages: memory.field(slot, offsets.slot_npages)?,
        bitmap,
    })
}
