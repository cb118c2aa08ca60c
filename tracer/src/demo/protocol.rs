//! The lines a demo guest and its parent exchange.
//!
//! The parent writes the words `go` (once, when its probes are attached) and `stop` (optional). The
//! guest writes one JSON object per line with a single key that names what it is; times are
//! CLOCK_MONOTONIC nanoseconds, the clock of `bpf_ktime_get_ns`.
//!
//! ```text
//! {"ready":…}       process and VMs exist (no VM yet with --late-vm), waiting for go
//! {"vm":…}          a VM was created after go
//! {"phase":…}       the run enters a phase
//! {"harvest":…}     one harvest of one slot (ring: of one VM) is complete, its pages are copied
//! {"report":…}      the end, with the verdict of the content oracle
//! ```

use serde::{Deserialize, Serialize};

use crate::demo::config::Mode;
use crate::demo::workload::Workload;

/// One line that the guest writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// The guest waits for `go`.
    Ready(Ready),
    /// A VM was created after `go`.
    Vm(VmFacts),
    /// The run enters a phase.
    Phase(PhaseMark),
    /// A harvest is complete.
    Harvest(Harvest),
    /// The run is over.
    Report(GuestReport),
}

/// A demo guest that waits for `go`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Process id to attach to.
    pub pid: u32,
    /// How the log will be read.
    pub mode: Mode,
    /// The VMs that exist already.
    pub vms: Vec<VmFacts>,
}

/// What a VM is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmFacts {
    /// Index of the VM in its process.
    pub vm: u32,
    /// Its vCPUs.
    pub vcpus: Vec<VcpuFacts>,
    /// Its memslots.
    pub slots: Vec<SlotFacts>,
}

/// A vCPU and its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuFacts {
    /// KVM's id of the vCPU.
    pub vcpu: u32,
    /// The thread that runs it.
    pub tid: i32,
}

/// A memslot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotFacts {
    /// Its number.
    pub slot: u32,
    /// Its first page in the guest.
    pub gfn: u64,
    /// Its size in small pages.
    pub pages: u64,
    /// Its first byte in this process.
    pub hva: u64,
}

/// The parts of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The vCPUs run, nothing is logged yet.
    Running,
    /// Logging is on and every page was copied once.
    Logging,
    /// The vCPUs have stopped; the harvests that follow are the final iteration.
    Final,
    /// Logging is off.
    Done,
}

/// The moment a phase began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseMark {
    /// The phase that begins.
    pub phase: Phase,
    /// When.
    pub at_ns: u64,
}

/// One harvest: of a slot in the bitmap modes, of all slots of a VM in ring mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harvest {
    /// The VM.
    pub vm: u32,
    /// Counts the passes over all slots, from 1.
    pub iteration: u64,
    /// Whether it is meant to be the last; the vCPUs have stopped then, unless a mistake is asked for.
    pub is_final: bool,
    /// The slot; absent in ring mode.
    pub slot: Option<u32>,
    /// Pages (ring: entries) that KVM reported.
    pub reported: u64,
    /// Pages copied to the shadow, fewer than `reported` only by sabotage or ring duplicates.
    pub copied: u64,
    /// Time inside `KVM_GET_DIRTY_LOG`.
    pub get_ns: u64,
    /// Number of `KVM_CLEAR_DIRTY_LOG` calls.
    pub clears: u64,
    /// Time inside them, together.
    pub clear_ns: u64,
    /// Number of `KVM_RESET_DIRTY_RINGS` calls.
    pub resets: u64,
    /// Time inside them, together.
    pub reset_ns: u64,
    /// Collected ring entries that RESET did not count.
    pub unreset: u64,
    /// Before the first ioctl.
    pub begin_ns: u64,
    /// After the last copy.
    pub end_ns: u64,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestReport {
    /// The process that ran it.
    pub pid: u32,
    /// How the log was read.
    pub mode: Mode,
    /// From `go` to the end of the final harvest.
    pub elapsed_ns: u64,
    /// One entry per VM.
    pub vms: Vec<VmReport>,
    /// Host-side times of the harvest ioctls.
    pub ioctl_times: IoctlTimes,
    /// What else was done to the VMs, and what could not be.
    pub workloads: Vec<WorkloadReport>,
}

impl GuestReport {
    /// Pages whose content shows a write that no harvest reported, over all VMs.
    pub fn lost_pages(&self) -> usize {
        self.vms.iter().map(|vm| vm.lost.len()).sum()
    }
}

/// What a VM did and what the content oracle found in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmReport {
    /// Index of the VM in its process.
    pub vm: u32,
    /// Passes over all its slots.
    pub iterations: u64,
    /// Pages (ring: entries) reported over all harvests.
    pub reported: u64,
    /// Pages copied over all harvests.
    pub copied: u64,
    /// Stores the guest counted in its increment loops.
    pub stores: u64,
    /// Why the vCPUs left the guest.
    pub exits: ExitCounts,
    /// Pages the oracle compared.
    pub compared: u64,
    /// Pages that the guest changed after the first full copy.
    pub changed: u64,
    /// Pages that differ from their shadow: written, never reported.
    pub lost: Vec<LostPage>,
    /// Ring entries that were collected and that RESET did not count.
    pub unreset: u64,
}

/// A page with a write that no harvest reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPage {
    /// The slot it belongs to.
    pub slot: u32,
    /// The page.
    pub gfn: u64,
    /// Offset of the first word that differs.
    pub offset: u32,
    /// That word in guest memory.
    pub guest: u64,
    /// That word in the last copy.
    pub copied: u64,
}

/// How often the vCPUs left the guest, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitCounts {
    /// The `out` at the end of a walk.
    pub out: u64,
    /// An access to a hole.
    pub mmio: u64,
    /// A signal from the VMM.
    pub interrupted: u64,
    /// A dirty ring reached its soft limit.
    pub ring_full: u64,
}

/// Times of each harvest ioctl, absent where it was never called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoctlTimes {
    /// `KVM_GET_DIRTY_LOG`.
    pub get: Option<Quantiles>,
    /// `KVM_CLEAR_DIRTY_LOG`.
    pub clear: Option<Quantiles>,
    /// `KVM_RESET_DIRTY_RINGS`.
    pub reset: Option<Quantiles>,
}

/// A set of durations in three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Number of calls.
    pub calls: u64,
    /// Half of them took no longer.
    pub median_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// None took longer.
    pub max_ns: u64,
    /// All together.
    pub total_ns: u64,
}

/// How a workload fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadReport {
    /// The workload.
    pub workload: Workload,
    /// How often it was done.
    pub done: u64,
    /// Why it could not be done here, if so.
    pub skipped: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_object_with_the_name_of_its_kind() {
        let mark = Line::Phase(PhaseMark { phase: Phase::Final, at_ns: 7 });
        let text = serde_json::to_string(&mark).unwrap();
        assert_eq!(text, r#"{"phase":{"phase":"final","at_ns":7}}"#);
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), mark);
    }
}
