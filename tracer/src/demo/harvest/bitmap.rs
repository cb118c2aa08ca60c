//! Harvests of one slot's bitmap: GET alone, or GET and then CLEAR in chunks.
//!
//! ```text
//! get      GET: take bits, protect, flush ──▶ copy reported pages
//! manual   GET: read bits ──▶ for each chunk: CLEAR: take bits, protect, flush ──▶ copy its pages
//! ```

use super::{Harvester, Pass, begin, copy_page, timed};
use crate::demo::DemoError;
use crate::demo::machine::{Machine, Slot};
use crate::demo::protocol::Harvest;
use crate::demo::sys;

/// Takes and protects with one `KVM_GET_DIRTY_LOG`, then copies.
pub(super) fn get(
    harvester: &mut Harvester,
    machine: &mut Machine,
    index: usize,
    pass: Pass,
) -> Result<Harvest, DemoError> {
    let mut harvest = read(harvester, machine, index, pass)?;
    let slot = &mut machine.slots[index];
    for offset in 0..slot.extent.pages {
        if is_set(&slot.bitmap, offset) {
            harvest.copied += copy_page(slot, offset, harvester.ignored);
        }
    }
    harvest.end_ns = sys::monotonic_ns();
    Ok(harvest)
}

/// Reads with `KVM_GET_DIRTY_LOG`, then takes, protects and copies chunk by chunk.
pub(super) fn get_and_clear(
    harvester: &mut Harvester,
    machine: &mut Machine,
    index: usize,
    pass: Pass,
) -> Result<Harvest, DemoError> {
    let mut harvest = read(harvester, machine, index, pass)?;
    let Machine { vm, slots, .. } = machine;
    let slot = &mut slots[index];
    let words_per_chunk = (harvester.clear_chunk / 64) as usize;
    for first_word in (0..slot.bitmap.len()).step_by(words_per_chunk) {
        let words = first_word..(first_word + words_per_chunk).min(slot.bitmap.len());
        let bits = &slot.bitmap[words.clone()];
        if bits.iter().all(|word| *word == 0) {
            continue;
        }
        let first = 64 * words.start as u64;
        let pages = first..(64 * words.end as u64).min(slot.extent.pages);
        let (_, took) = timed(&mut harvester.times.clear_ns, "KVM_CLEAR_DIRTY_LOG", || {
            sys::clear_dirty_log(vm, slot.id, pages.clone(), bits)
        })?;
        harvest.clears += 1;
        harvest.clear_ns += took;
        for offset in pages {
            if is_set(&slot.bitmap, offset) {
                harvest.copied += copy_page(slot, offset, harvester.ignored);
            }
        }
    }
    harvest.end_ns = sys::monotonic_ns();
    Ok(harvest)
}

/// Reads the bitmap of a slot into the slot's own buffer.
fn read(
    harvester: &mut Harvester,
    machine: &mut Machine,
    index: usize,
    pass: Pass,
) -> Result<Harvest, DemoError> {
    let mut harvest = begin(machine, Some(machine.slots[index].id), pass);
    let Machine { vm, slots, .. } = machine;
    let Slot { id, bitmap, .. } = &mut slots[index];
    let ((), took) = timed(&mut harvester.times.get_ns, "KVM_GET_DIRTY_LOG", || {
        // SAFETY: the buffer was made for the slot's number of pages, which never changes.
        unsafe { sys::get_dirty_log(vm, *id, bitmap) }
    })?;
    harvest.get_ns = took;
    harvest.reported = bitmap.iter().map(|word| u64::from(word.count_ones())).sum();
    Ok(harvest)
}

fn is_set(bitmap: &[u64], offset: u64) -> bool {
    bitmap[(offset / 64) as usize] >> (offset % 64) & 1 == 1
}
