//! Tracks: which there are, and which lane of a group is free.

use std::collections::{BTreeMap, BTreeSet};

use super::proto::{CounterDescriptor, ProcessDescriptor, ThreadDescriptor, TrackDescriptor};
use crate::event::{Nanos, Tid, VmId};
use crate::export::inventory::Inventory;

/// A track's number in the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Uuid(pub u64);

/// Tracks described so far.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    described: BTreeSet<Uuid>,
    /// Threads whose name is final: their vCPU is known.
    named: BTreeSet<Tid>,
    /// Per group, when each of its lanes is free again.
    lanes: BTreeMap<Uuid, Vec<Nanos>>,
    /// Descriptors not yet written.
    new: Vec<TrackDescriptor>,
}

/// Slices of a group that can overlap need a lane each; beyond this many they share the last.
const LANES_MAX: usize = 256;

impl Tracks {
    /// Descriptors to write before the next event.
    pub(super) fn take_new(&mut self) -> Vec<TrackDescriptor> {
        std::mem::take(&mut self.new)
    }

    /// The track of a VM: a process.
    pub(super) fn vm(&mut self, vm: VmId, inventory: &Inventory) -> Uuid {
        let uuid = uuid(1, vm.0, 0);
        if self.described.insert(uuid) {
            let pid = inventory.tgid(vm);
            let name = match pid {
                Some(pid) => format!("VM {vm} of process {pid}"),
                None => format!("VM {vm}"),
            };
            self.new.push(TrackDescriptor {
                uuid: Some(uuid.0),
                process: Some(ProcessDescriptor {
                    pid: Some(pid_of(vm, inventory)),
                    process_name: Some(name),
                }),
                ..TrackDescriptor::default()
            });
        }
        uuid
    }

    /// The track of a thread.
    pub(super) fn thread(&mut self, vm: VmId, tid: Tid, inventory: &Inventory) -> Uuid {
        let uuid = uuid(2, u64::from(tid.0), 0);
        let vcpu = inventory.vcpu(tid);
        let is_new = self.described.insert(uuid);
        // Described again once the vCPU is known: the last description counts.
        if is_new || (vcpu.is_some() && self.named.insert(tid)) {
            self.named.extend(vcpu.map(|_| tid));
            let name =
                vcpu.map_or_else(|| format!("thread {tid}"), |vcpu| format!("vCPU {}", vcpu.0));
            self.new.push(TrackDescriptor {
                uuid: Some(uuid.0),
                thread: Some(ThreadDescriptor {
                    pid: Some(pid_of(vm, inventory)),
                    tid: Some(i64::from(tid.0)),
                    thread_name: Some(name),
                }),
                ..TrackDescriptor::default()
            });
        }
        uuid
    }

    /// The first free lane of the group `name` under `parent`, taken for `from..=to`.
    pub(super) fn lane(&mut self, parent: Uuid, name: &str, from: Nanos, to: Nanos) -> Uuid {
        let group = uuid(3, parent.0, hash(name.as_bytes()));
        let lanes = self.lanes.entry(group).or_default();
        let idx = lanes.iter().position(|&free| free <= from).unwrap_or(lanes.len());
        let idx = idx.min(LANES_MAX - 1);
        if idx == lanes.len() {
            lanes.push(to);
        } else {
            lanes[idx] = lanes[idx].max(to);
        }
        let lane = uuid(4, group.0, idx as u64);
        self.describe_child(lane, parent, name, None);
        lane
    }

    /// A counter under `parent`.
    pub(super) fn counter(&mut self, parent: Uuid, name: &str, unit: &str) -> Uuid {
        let counter = uuid(5, parent.0, hash(name.as_bytes()));
        let unit = CounterDescriptor { unit_name: Some(unit.to_owned()) };
        self.describe_child(counter, parent, name, Some(unit));
        counter
    }

    fn describe_child(
        &mut self,
        uuid: Uuid,
        parent: Uuid,
        name: &str,
        counter: Option<CounterDescriptor>,
    ) {
        if self.described.insert(uuid) {
            self.new.push(TrackDescriptor {
                uuid: Some(uuid.0),
                name: Some(name.to_owned()),
                parent_uuid: (parent != ROOT).then_some(parent.0),
                counter,
                ..TrackDescriptor::default()
            });
        }
    }
}

/// The parent of tracks that belong to no process.
pub(super) const ROOT: Uuid = Uuid(0);

/// The process id shown; one that no Linux process has where it was not recorded.
fn pid_of(vm: VmId, inventory: &Inventory) -> i32 {
    let unknown = 0x4000_0000 | (vm.0 >> 6) as u32 & 0x3fff_ffff;
    inventory.tgid(vm).unwrap_or(unknown) as i32
}

fn uuid(kind: u64, a: u64, b: u64) -> Uuid {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&a.to_le_bytes());
    bytes[16..].copy_from_slice(&b.to_le_bytes());
    Uuid(hash(&bytes))
}

/// FNV-1a, so that the same trace gives the same file.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_slices_get_a_lane_each_and_free_lanes_are_used_again() {
        let mut tracks = Tracks::default();
        let a = tracks.lane(ROOT, "windows", Nanos(10), Nanos(20));
        let b = tracks.lane(ROOT, "windows", Nanos(15), Nanos(18));
        let c = tracks.lane(ROOT, "windows", Nanos(18), Nanos(30));
        assert_ne!(a, b);
        assert_eq!(b, c);
        assert_eq!(tracks.take_new().len(), 2);
    }
}
