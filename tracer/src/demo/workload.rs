//! What happens to a demo VM besides the guest's stores and the harvests, and which KVM paths that
//! reaches.
//!
//! | workload | what is done | KVM path |
//! |---|---|---|
//! | (always) | the guest increments words | write faults, fast faults after a harvest (TDP) |
//! | `zap` | host memory of a slot is unmapped and restored | mmu notifier, slow faults |
//! | `kvm-clock` | `KVM_SET_CLOCK` with a clock page | pvclock write by KVM at the next entry |
//! | `steal-time` | the vCPU has a steal-time area | write by KVM at sched-in and sched-out |
//! | `pv-eoi` | interrupts, ended through guest memory | EOI word written by KVM at injection |
//! | `smm` | vCPU 0 enters and leaves SMM | state saved by KVM, second address space, RSM |
//! | `crossing` | a store across the end of a slot | `kvm_vcpu_write_guest`, MMIO |
//! | `exchange` | `lock cmpxchg` on a page table | shadow MMU: `emulator_cmpxchg_emulated` |
//! | `forced-emulation` | store and `lock cmpxchg`, prefixed | emulator on every MMU |
//! | `move-slot` | a harvested slot moves | `KVM_MR_MOVE` under logging, zap of the slot |
//! | `recreate-slot` | it is deleted, made again | `KVM_MR_DELETE`, `KVM_MR_CREATE` |
//! | `second-vm` | another VM in the same process | everything, with two `struct kvm` |
//! | `ring-signals` | signals hit the resetting thread | early end of `kvm_dirty_ring_reset` |
//! | `drop-log` | logging ends before the final harvest | KVM frees a bitmap with set bits |
//! | `final-too-early` | the vCPUs stop after the final harvest | marks that nothing collects |
//!
//! The last two are mistakes of the VMM and lose pages on every kernel.
//!
//! `forced-emulation` needs the module parameter `kvm.force_emulation_prefix=1`. `ring-signals`
//! loses pages on kernels whose reset forgets the entries it has popped when a signal arrives (seen
//! on 6.18 and 7.3, not on 6.12).
//!
//! Huge pages, eager and lazy splitting are not workloads but configuration: `--huge-pages`, with
//! the host's `kvm.eager_page_split` and the mode deciding when KVM splits.

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::demo::config::{GuestConfig, Mode};
use crate::demo::protocol::WorkloadReport;

/// Something that happens to a VM while it is harvested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Host memory of a slot is unmapped or protected, and restored with its content.
    Zap,
    /// KVM writes the vCPUs' clock pages.
    KvmClock,
    /// KVM writes the vCPUs' steal-time areas.
    StealTime,
    /// KVM ends the guest's interrupts through a word in guest memory.
    PvEoi,
    /// A vCPU enters system management mode, which has an address space of its own.
    Smm,
    /// The guest stores across the end of a slot, which KVM emulates.
    Crossing,
    /// The guest exchanges a word of its own page table.
    Exchange,
    /// The guest stores and exchanges behind KVM's forced-emulation prefix.
    ForcedEmulation,
    /// A slot moves under logging.
    MoveSlot,
    /// A slot is deleted and created again under logging.
    RecreateSlot,
    /// A second VM runs in the same process.
    SecondVm,
    /// Signals interrupt the reset of the dirty rings.
    RingSignals,
    /// A mistake: logging is turned off with bits that no harvest has taken.
    DropLog,
    /// A mistake: the harvest that should be the last one is done while the vCPUs run.
    FinalTooEarly,
}

impl Workload {
    /// Whether the VM needs the movable slot for it.
    pub fn needs_movable_slot(self) -> bool {
        match self {
            Self::MoveSlot | Self::RecreateSlot => true,
            Self::Zap
            | Self::KvmClock
            | Self::StealTime
            | Self::PvEoi
            | Self::Smm
            | Self::Crossing
            | Self::Exchange
            | Self::ForcedEmulation
            | Self::SecondVm
            | Self::RingSignals
            | Self::DropLog
            | Self::FinalTooEarly => false,
        }
    }
}

/// What the host says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// KVM emulates instructions behind its test prefix.
    pub has_emulation_prefix: bool,
    /// KVM runs on VMX or SVM.
    pub has_hardware_virtualization: bool,
}

impl Host {
    /// Asks sysfs; what it does not say is not there.
    pub fn detect() -> Self {
        let prefix = std::fs::read_to_string("/sys/module/kvm/parameters/force_emulation_prefix");
        let vendors = ["/sys/module/kvm_intel", "/sys/module/kvm_amd"];
        Self {
            has_emulation_prefix: prefix.is_ok_and(|value| !["0", "N"].contains(&value.trim())),
            has_hardware_virtualization: vendors.iter().any(|path| Path::new(path).exists()),
        }
    }
}

/// The workloads asked for, with what became of them.
#[derive(Clone, Debug)]
pub struct Workloads {
    reports: Vec<WorkloadReport>,
    zap_every: u64,
}

impl Workloads {
    /// Takes the workloads of a configuration and skips those this host or mode rules out.
    ///
    /// What else is missing shows when the VM is made.
    pub fn new(config: &GuestConfig, host: &Host) -> Self {
        let mut reports: Vec<WorkloadReport> = Vec::new();
        for &workload in &config.workload {
            let skipped = match workload {
                Workload::ForcedEmulation if !host.has_emulation_prefix => {
                    Some("needs the module parameter kvm.force_emulation_prefix=1".to_owned())
                }
                Workload::PvEoi if !host.has_hardware_virtualization => {
                    Some("needs VMX or SVM (kvm_intel or kvm_amd)".to_owned())
                }
                Workload::RingSignals if config.mode != Mode::Ring => {
                    Some("needs --mode ring".to_owned())
                }
                Workload::DropLog | Workload::FinalTooEarly if config.mode == Mode::Ring => {
                    Some("needs a mode with a bitmap: rings outlive the logging".to_owned())
                }
                Workload::Zap
                | Workload::KvmClock
                | Workload::StealTime
                | Workload::PvEoi
                | Workload::Smm
                | Workload::Crossing
                | Workload::Exchange
                | Workload::ForcedEmulation
                | Workload::MoveSlot
                | Workload::RecreateSlot
                | Workload::SecondVm
                | Workload::RingSignals
                | Workload::DropLog
                | Workload::FinalTooEarly => None,
            };
            if reports.iter().all(|report| report.workload != workload) {
                reports.push(WorkloadReport { workload, done: 0, skipped });
            }
        }
        Self { reports, zap_every: config.zap_every }
    }

    /// Whether the workload is asked for and possible.
    pub fn wants(&self, workload: Workload) -> bool {
        let mut reports = self.reports.iter();
        reports.any(|report| report.workload == workload && report.skipped.is_none())
    }

    /// If a slot is to be zapped in that pass: how many were before.
    pub fn zap_turn(&self, iteration: u64) -> Option<u64> {
        let is_due = self.wants(Workload::Zap) && iteration.is_multiple_of(self.zap_every);
        is_due.then_some(iteration / self.zap_every)
    }

    /// Whether a slot is to be moved, or deleted and made again.
    pub fn wants_movable_slot(&self) -> bool {
        let mut reports = self.reports.iter();
        reports.any(|report| report.skipped.is_none() && report.workload.needs_movable_slot())
    }

    /// Notes that the workload turned out to be impossible.
    pub fn skip(&mut self, workload: Workload, reason: String) {
        for report in self.reports.iter_mut().filter(|report| report.workload == workload) {
            report.skipped.get_or_insert_with(|| reason.clone());
        }
    }

    /// Notes that the workload was done `times` more, unless it was skipped.
    pub fn done(&mut self, workload: Workload, times: u64) {
        let mut reports = self.reports.iter_mut();
        let done = reports.find(|report| report.workload == workload && report.skipped.is_none());
        if let Some(report) = done {
            report.done += times;
        }
    }

    /// What became of each.
    pub fn into_reports(self) -> Vec<WorkloadReport> {
        self.reports
    }
}
