//! Harvests of all dirty rings of a VM: collect, RESET, copy.
//!
//! The order matters: until `KVM_RESET_DIRTY_RINGS` has returned, the pages of collected entries
//! may still be writable without being logged again, so they are copied after it.

use super::{Harvester, Pass, begin, copy_page, timed};
use crate::demo::DemoError;
use crate::demo::interrupter::Interrupter;
use crate::demo::machine::Machine;
use crate::demo::protocol::Harvest;
use crate::demo::ring::{DirtyRing, RingEntry};
use crate::demo::sys;

/// A signal may end a reset before its first entry. After so many in a row the next resets are left
/// alone: on a busy host each of a thousand was interrupted before it began.
const INTERRUPTED_RESETS_MAX: u64 = 16;

/// So many resets in a row that took nothing back are no signal's doing.
const FRUITLESS_RESETS_MAX: u64 = 1000;

/// Collects every ring, resets until KVM has taken all collected entries back, then copies.
pub(super) fn harvest(
    harvester: &mut Harvester,
    machine: &mut Machine,
    pass: Pass,
) -> Result<Harvest, DemoError> {
    let mut harvest = begin(machine, None, pass);
    let collect = |ring: &mut DirtyRing| std::iter::from_fn(|| ring.collect()).collect::<Vec<_>>();
    let entries: Vec<RingEntry> = machine.rings.iter_mut().flat_map(collect).collect();
    harvest.reported = entries.len() as u64;
    let mut left = harvest.reported;
    let mut fruitless = 0;
    while 0 < left && fruitless < FRUITLESS_RESETS_MAX {
        let Harvester { times, interrupter, .. } = &mut *harvester;
        let (reset, took) = timed(&mut times.reset_ns, "KVM_RESET_DIRTY_RINGS", || {
            let is_interrupted = fruitless < INTERRUPTED_RESETS_MAX;
            let interrupter = interrupter.as_ref().filter(|_| is_interrupted);
            let _interrupting = interrupter.map(Interrupter::start);
            sys::reset_dirty_rings(&machine.vm)
        })?;
        harvest.resets += 1;
        harvest.reset_ns += took;
        fruitless = if reset == 0 { fruitless + 1 } else { 0 };
        left = left.saturating_sub(reset);
    }
    harvest.unreset = left;
    for RingEntry { slot, offset } in entries {
        let mut slots = machine.slots.iter_mut();
        // An entry may name a slot that was deleted since; nothing is left to copy then.
        if let Some(slot) = slots.find(|candidate| candidate.id == slot) {
            harvest.copied += copy_page(slot, offset, harvester.ignored);
        }
    }
    harvest.end_ns = sys::monotonic_ns();
    Ok(harvest)
}
