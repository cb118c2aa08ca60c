//! Carrying over: what a recording that begins in the middle of a trace must be told of the time before.
//!
//! VMs, slots and vCPU threads are announced once; a later file of a rotation, or the memory of a flight recorder,
//! would not know them. So such a file begins with copies of those records. They travel on a lane of their own, so that
//! they disturb no sequence, and bear the time at which the file begins, so that it claims no earlier span.

use std::collections::BTreeMap;

use crate::event::{Class, Kind, Nanos, RawEvent};
use kvmdirty_common::kind::flag;
use kvmdirty_common::raw::{CLASS_SHIFT, KIND_FLAGS};

/// The CPU of the lane on which records are carried over; no host has it ([`kvmdirty_common::limits::CPUS_MAX`]).
pub const CARRY_CPU: u16 = u16::MAX;

/// The newest record of everything that is announced once; `None`: it is gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Carry {
    vms: BTreeMap<u64, Option<RawEvent>>,
    slots: BTreeMap<(u64, u32), Option<RawEvent>>,
    running: BTreeMap<u32, Option<RawEvent>>,
}

impl Carry {
    /// Takes note of a record.
    pub fn note(&mut self, record: &RawEvent) {
        let Some(kind) = Kind::from_u8(record.kind) else {
            return;
        };
        match kind {
            Kind::VmSeen => drop(self.vms.insert(record.vm, Some(*record))),
            Kind::VmGone => drop(self.vms.insert(record.vm, None)),
            Kind::SlotState => {
                let is_there = record.args[2] != 0;
                let slot = (record.vm, record.args[0] as u32);
                self.slots.insert(slot, is_there.then_some(*record));
            }
            Kind::RunBegin => drop(self.running.insert(record.tid, Some(*record))),
            Kind::RunEnd => drop(self.running.insert(record.tid, None)),
            _ => {}
        }
    }

    /// Takes note of everything a later carry knows.
    pub fn update(&mut self, later: Self) {
        self.vms.extend(later.vms);
        self.slots.extend(later.slots);
        self.running.extend(later.running);
    }

    /// The records with which a file begins at `time`.
    pub fn records(&mut self, time: Nanos) -> Vec<RawEvent> {
        self.vms.retain(|_, record| record.is_some());
        self.running.retain(|_, record| record.is_some());
        let vms = &self.vms;
        self.slots.retain(|(vm, _), record| record.is_some() && vms.contains_key(vm));
        let all = self.vms.values().chain(self.slots.values()).chain(self.running.values());
        all.flatten()
            .zip(0..)
            .map(|(record, seq)| {
                // A slot that is told of here was not committed now.
                let kind_flags = record.flags
                    & KIND_FLAGS
                    & !(u8::from(record.kind == Kind::SlotState as u8) * flag::SLOT_COMMIT);
                RawEvent {
                    ts_ns: time.0,
                    span_ns: 0,
                    seq,
                    cpu: CARRY_CPU,
                    flags: kind_flags | (Class::Boundary as u8) << CLASS_SHIFT,
                    ..*record
                }
            })
            .collect()
    }
}
