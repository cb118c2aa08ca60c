//! Does the VMM's part of the workloads, once between two harvests.

use crate::demo::DemoError;
use crate::demo::code::REGIONS_MAX;
use crate::demo::config::Backing;
use crate::demo::harvest::{Harvester, Pass};
use crate::demo::layout::Extent;
use crate::demo::machine::{Logging, Machine, MovableSlot};
use crate::demo::protocol::Harvest;
use crate::demo::workload::{Workload, Workloads};

/// A slot is moved or made again once in so many passes; each time its SPTEs are zapped.
const SLOT_CHANGE_PERIOD: u64 = 3;

/// Disturbs one VM; returns the harvests that were needed on the way.
///
/// # Errors
///
/// Whatever the host refuses, by the name of the call.
pub fn disturb(
    machine: &mut Machine,
    workloads: &mut Workloads,
    harvester: &mut Harvester,
    pass: Pass,
) -> Result<Vec<Harvest>, DemoError> {
    let mut harvests = Vec::new();
    if workloads.wants(Workload::KvmClock) {
        set_clock(machine)?;
    }
    if workloads.wants(Workload::Smm) {
        machine.enter_smm();
    }
    if let Some(turn) = workloads.zap_turn(pass.iteration) {
        let index = turn as usize % machine.slots.len();
        zap(machine, index)?;
        workloads.done(Workload::Zap, 1);
    }
    let turn = pass.iteration % SLOT_CHANGE_PERIOD;
    if let Some(slot) = machine.movable {
        if turn == 0 && workloads.wants(Workload::MoveSlot) {
            harvests.push(move_slot(machine, slot, harvester, pass)?);
            workloads.done(Workload::MoveSlot, 1);
        }
        if turn == 1 && workloads.wants(Workload::RecreateSlot) {
            harvests.push(recreate_slot(machine, slot, harvester, pass)?);
            workloads.done(Workload::RecreateSlot, 1);
        }
    }
    Ok(harvests)
}

/// Sets the VM's clock to what it shows, after which KVM writes it to every vCPU that has a clock
/// page.
fn set_clock(machine: &Machine) -> Result<(), DemoError> {
    let mut clock =
        machine.vm.get_clock().map_err(|errno| DemoError::ioctl("KVM_GET_CLOCK", errno))?;
    // The flags say what GET found; as arguments of SET they would ask for adjustments.
    clock.flags = 0;
    machine.vm.set_clock(&clock).map_err(|errno| DemoError::ioctl("KVM_SET_CLOCK", errno))
}

fn zap(machine: &Machine, index: usize) -> Result<(), DemoError> {
    let memory = &machine.slots[index].memory;
    match memory.backing() {
        Backing::Memfd => memory.zap(),
        Backing::Anonymous => {
            machine.hold();
            let zapped = memory.zap();
            machine.run();
            zapped
        }
    }
}

/// Moves the movable slot to its other place, logging on, with the vCPUs held.
///
/// It is harvested first, as a VMM must: what KVM does with set bits on a move is not promised.
fn move_slot(
    machine: &mut Machine,
    slot: MovableSlot,
    harvester: &mut Harvester,
    pass: Pass,
) -> Result<Harvest, DemoError> {
    machine.hold();
    let MovableSlot { index, places: [first, second] } = slot;
    let harvest = harvester.harvest_slot(machine, index, pass)?;
    let from = machine.slots[index].extent;
    let to = if from == first { second } else { first };
    machine.put_slot(&machine.slots[index], to, Logging::On)?;
    machine.slots[index].extent = to;
    let mut words = Vec::with_capacity(REGIONS_MAX);
    for plan in &mut machine.plans {
        words.extend(plan.relocate(from, to));
    }
    machine.write_words(&words);
    machine.run();
    Ok(harvest)
}

/// Deletes the movable slot and makes it again, logging on, with the vCPUs held.
fn recreate_slot(
    machine: &mut Machine,
    slot: MovableSlot,
    harvester: &mut Harvester,
    pass: Pass,
) -> Result<Harvest, DemoError> {
    machine.hold();
    let harvest = harvester.harvest_slot(machine, slot.index, pass)?;
    let slot = &machine.slots[slot.index];
    machine.put_slot(slot, Extent { pages: 0, ..slot.extent }, Logging::Off)?;
    machine.put_slot(slot, slot.extent, Logging::On)?;
    machine.run();
    Ok(harvest)
}
