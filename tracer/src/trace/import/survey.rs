//! The first pass: what the file holds, so that the plan says what can be judged from it.

use std::collections::{BTreeMap, BTreeSet};

use super::fact::{Fact, Function, Record, Request};
use crate::event::{Evidence, Operation, Plan, PlanEntry, SpteMasks, Tid, VcpuId, VmId};

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// Records per kind of fact.
    seen: BTreeMap<Seen, u64>,
    /// Addresses of `struct kvm` that kprobes showed.
    kvms: BTreeSet<u64>,
    vcpus: BTreeMap<Tid, VcpuId>,
    runs: BTreeMap<Tid, u64>,
    /// Threads per vCPU number; two at once are two VMs.
    threads_of_vcpu: BTreeMap<VcpuId, BTreeSet<Tid>>,
    /// Bits that a harvest cleared in entries that stayed writable.
    cleared: u64,
    has_lost_write: bool,
    ring_used_max: u32,
    open_words: BTreeSet<u32>,
    pub begin: u64,
    pub end: u64,
    pub records: u64,
}

/// A kind of fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    SpteChanged,
    SpteSet,
    FastFault,
    PageFault,
    Entry,
    UserExit,
    RingPush,
    RingReset,
    Split,
    Zap,
    Invalidate,
    Ioctl,
    Run,
    Clear,
    Probe(Function),
    Return(Function),
    /// The probe has the arguments that make it evidence.
    Complete(Function),
}

/// Distinct VMs and threads remembered; a file with more is judged as one of several VMs.
const REMEMBERED_MAX: usize = 65_536;

const WRITABLE: u64 = 1 << 1;

/// How an operation is seen, by what, and what is to be said of it.
type Evidenced = (Evidence, &'static [&'static str], &'static str);

const NONE: Evidenced = (Evidence::None, &[], "not recorded");

impl Survey {
    /// Takes the next record.
    pub(super) fn take(&mut self, record: &Record) {
        let tid = Tid(record.tid);
        if self.records == 0 {
            self.begin = record.ts;
        }
        self.records += 1;
        self.end = self.end.max(record.ts);
        let seen = match record.fact {
            Fact::SpteChanged { old, new, .. } => {
                self.note_protection(record.tid, old, new);
                Seen::SpteChanged
            }
            Fact::SpteSet { .. } => Seen::SpteSet,
            Fact::FastFault { .. } => Seen::FastFault,
            Fact::PageFault { vcpu, .. } => {
                self.note_vcpu(tid, vcpu);
                Seen::PageFault
            }
            Fact::Entry { vcpu } => {
                self.note_vcpu(tid, vcpu);
                Seen::Entry
            }
            Fact::UserExit { .. } => Seen::UserExit,
            Fact::RingPush { ring, dirty, .. } => {
                self.note_vcpu(tid, ring);
                self.ring_used_max = self.ring_used_max.max(dirty);
                Seen::RingPush
            }
            Fact::RingReset { .. } => Seen::RingReset,
            Fact::Split { .. } => Seen::Split,
            Fact::Zap { .. } => Seen::Zap,
            Fact::Invalidate { .. } => Seen::Invalidate,
            Fact::IoctlEnter { request: Request::Run { fd } } => {
                if self.runs.len() < REMEMBERED_MAX {
                    self.runs.insert(tid, fd);
                }
                Seen::Run
            }
            Fact::IoctlEnter { request: Request::Vm { op, .. } } => {
                if op == crate::event::IoctlOp::ClearDirtyLog {
                    self.count(Seen::Clear);
                }
                Seen::Ioctl
            }
            Fact::Probe { .. } => self.probe(record),
            Fact::SpteRequested
            | Fact::Exit
            | Fact::IoctlExit { .. }
            | Fact::Dropped(_)
            | Fact::Damaged => return,
        };
        self.count(seen);
    }

    fn probe(&mut self, record: &Record) -> Seen {
        let Fact::Probe { function, is_return, args } = record.fact else {
            unreachable!("called for probes only")
        };
        if self.kvms.len() < REMEMBERED_MAX {
            self.kvms.extend(args.kvm);
        }
        if function == Function::HarvestWord {
            if is_return {
                self.open_words.remove(&record.tid);
            } else if self.open_words.len() < REMEMBERED_MAX {
                self.open_words.insert(record.tid);
            }
        }
        if function == Function::ClearLog {
            self.count(Seen::Clear);
        }
        let is_complete = match function {
            Function::Mark => {
                args.gfn.is_some() && args.id.is_some() && (args.flags.or(args.bitmap)).is_some()
            }
            Function::HarvestWord => {
                args.offset.is_some()
                    && args.mask.is_some()
                    && args.base.is_some()
                    && args.id.is_some()
            }
            Function::GetLog | Function::ClearLog => args.slot.is_some(),
            Function::Flush | Function::ResetRings | Function::FastFault => true,
        };
        if is_return {
            return Seen::Return(function);
        }
        if is_complete {
            self.count(Seen::Complete(function));
        }
        Seen::Probe(function)
    }

    fn count(&mut self, seen: Seen) {
        *self.seen.entry(seen).or_default() += 1;
    }

    fn note_vcpu(&mut self, tid: Tid, vcpu: u32) {
        if self.vcpus.len() < REMEMBERED_MAX && vcpu != u32::MAX {
            self.vcpus.insert(tid, VcpuId(vcpu));
            self.threads_of_vcpu.entry(VcpuId(vcpu)).or_default().insert(tid);
        }
    }

    /// Whether this kernel's harvest clears W, or under PML D.
    fn note_protection(&mut self, tid: u32, old: u64, new: u64) {
        if !self.open_words.contains(&tid) || old & WRITABLE == 0 {
            return;
        }
        if new & WRITABLE == 0 {
            self.has_lost_write = true;
        } else {
            self.cleared |= old & !new;
        }
    }

    /// Records of that kind.
    pub(super) fn n(&self, seen: Seen) -> u64 {
        self.seen.get(&seen).copied().unwrap_or(0)
    }

    /// There are records of that kind.
    pub(super) fn has(&self, seen: Seen) -> bool {
        self.n(seen) != 0
    }

    /// The VM of records that name none: the only one there is, else unknown.
    pub(super) fn only_vm(&self) -> VmId {
        // No record names a VM, so any number will do; it is not a kernel address.
        const UNNAMED: VmId = VmId(1);
        let is_shared = self.threads_of_vcpu.values().any(|threads| 1 < threads.len());
        match (self.kvms.len(), self.kvms.first()) {
            (1, Some(&kvm)) => VmId(kvm),
            (0, _) if !is_shared => UNNAMED,
            _ => VmId::UNKNOWN,
        }
    }

    /// The vCPU a thread runs: by number where an event tells it, else by order of the vCPUs' files.
    pub(super) fn vcpu(&self, tid: Tid) -> VcpuId {
        self.vcpus.get(&tid).copied().unwrap_or_else(|| {
            let fds: BTreeSet<u64> = self.runs.values().copied().collect();
            let fd = self.runs.get(&tid).copied().unwrap_or(u64::MAX);
            VcpuId(fds.range(..fd).count() as u32)
        })
    }

    /// A lower bound of the dirty ring's size, 0 if no ring is used.
    pub(super) fn ring_bytes(&self) -> u32 {
        const ENTRY_BYTES: u32 = 16;
        const ENTRIES_MAX: u32 = 1 << 16;
        if !self.has(Seen::RingPush) && !self.has(Seen::RingReset) {
            return 0;
        }
        self.ring_used_max.clamp(1, ENTRIES_MAX).next_power_of_two() * ENTRY_BYTES
    }

    /// What entries of this kernel mean, as far as the file shows it.
    pub(super) fn masks(&self) -> SpteMasks {
        // D is bit 9 of EPT entries and bit 6 of others; A, which aging clears, is 8 and 5.
        const DIRTY: u64 = 1 << 9 | 1 << 6;
        let dirty = self.cleared & DIRTY;
        let pml = !self.has_lost_write && dirty != 0;
        SpteMasks { pml, dirty: if pml { dirty } else { 0 }, ..SpteMasks::W_ONLY }
    }

    /// The plan: what each operation is seen by.
    pub(super) fn plan(&self, has_slots: bool) -> Plan {
        let entries = Operation::ALL
            .iter()
            .map(|&operation| {
                let (evidence, points, note) = self.evidence(operation, has_slots);
                let points = points.iter().map(|&point| point.to_owned()).collect();
                PlanEntry { operation, evidence, points, note: note.to_owned() }
            })
            .collect();
        Plan { name: String::from("import"), entries }
    }

    fn evidence(&self, operation: Operation, has_slots: bool) -> Evidenced {
        match operation {
            Operation::Ioctl
            | Operation::Slot
            | Operation::Run
            | Operation::Flush
            | Operation::RingPush
            | Operation::RingReset => self.log_evidence(operation, has_slots),
            Operation::Mark
            | Operation::HarvestWord
            | Operation::WriteProtect
            | Operation::SpteChange
            | Operation::FastFault
            | Operation::Fault
            | Operation::Split
            | Operation::Zap => self.page_evidence(operation),
            Operation::FastFaultEvidence
            | Operation::RmapAdd
            | Operation::FlushCounter
            | Operation::HostWrite
            | Operation::HostWriteEvidence
            | Operation::LockWait => NONE,
        }
    }

    fn seen(
        &self,
        seen: Seen,
        evidence: Evidence,
        points: &'static [&'static str],
        note: &'static str,
    ) -> Evidenced {
        if self.has(seen) { (evidence, points, note) } else { NONE }
    }

    /// Ioctls, slots, rings and flushes.
    fn log_evidence(&self, operation: Operation, has_slots: bool) -> Evidenced {
        match operation {
            Operation::Ioctl => self.ioctl_evidence(),
            Operation::Slot if has_slots => {
                (Evidence::Nearest, &[], "as given on the command line")
            }
            Operation::Slot => self.seen(
                Seen::Complete(Function::HarvestWord),
                Evidence::Nearest,
                &["kprobe kvm_arch_mmu_enable_log_dirty_pt_masked"],
                "as its memslot argument shows it",
            ),
            Operation::Run if self.has(Seen::Run) => (Evidence::Direct, &["raw_syscalls"], ""),
            Operation::Run => {
                let points = &["kvm_entry", "kvm_userspace_exit"];
                self.seen(Seen::Entry, Evidence::Nearest, points, "")
            }
            Operation::Flush => self.seen(
                Seen::Probe(Function::Flush),
                self.bracketed(Function::Flush),
                &["kprobe kvm_flush_remote_tlbs"],
                "",
            ),
            Operation::RingPush => {
                self.seen(Seen::RingPush, Evidence::Direct, &["kvm_dirty_ring_push"], "")
            }
            Operation::RingReset => {
                self.seen(Seen::RingReset, Evidence::Nearest, &["kvm_dirty_ring_reset"], "")
            }
            _ => unreachable!("evidence passes on only the operations above"),
        }
    }

    /// Marks, harvest words and what the MMU did.
    fn page_evidence(&self, operation: Operation) -> Evidenced {
        match operation {
            Operation::Mark => self.seen(
                Seen::Complete(Function::Mark),
                self.bracketed(Function::Mark),
                &["kprobe mark_page_dirty_in_slot"],
                "",
            ),
            Operation::HarvestWord => self.seen(
                Seen::Complete(Function::HarvestWord),
                self.bracketed(Function::HarvestWord),
                &["kprobe kvm_arch_mmu_enable_log_dirty_pt_masked"],
                "",
            ),
            Operation::WriteProtect if self.has(Seen::SpteChanged) => self.seen(
                Seen::Complete(Function::HarvestWord),
                Evidence::Direct,
                &["kvm_tdp_mmu_spte_changed inside a harvest word"],
                "",
            ),
            Operation::SpteChange if self.has(Seen::SpteChanged) => {
                (Evidence::Direct, &["kvm_tdp_mmu_spte_changed"], "")
            }
            Operation::SpteChange => {
                let note = "old value unknown";
                self.seen(Seen::SpteSet, Evidence::Nearest, &["kvm_mmu_set_spte"], note)
            }
            Operation::FastFault => {
                self.seen(Seen::FastFault, Evidence::Direct, &["fast_page_fault"], "")
            }
            Operation::Fault if self.has(Seen::Entry) => {
                let points = &["kvm_page_fault", "kvm_entry"];
                self.seen(Seen::PageFault, Evidence::Nearest, points, "")
            }
            Operation::WriteProtect | Operation::Fault => NONE,
            Operation::Split => {
                self.seen(Seen::Split, Evidence::Direct, &["kvm_mmu_split_huge_page"], "")
            }
            Operation::Zap => {
                let points = &["kvm_mmu_prepare_zap_page", "kvm_unmap_hva_range"];
                self.seen(Seen::Zap, Evidence::Nearest, points, "")
            }
            _ => unreachable!("evidence passes on only the operations above"),
        }
    }

    fn ioctl_evidence(&self) -> Evidenced {
        let has_brackets = [Function::GetLog, Function::ClearLog]
            .into_iter()
            .any(|function| self.has(Seen::Complete(function)) && self.has(Seen::Return(function)));
        match (has_brackets, self.has(Seen::Ioctl)) {
            (true, _) => (
                Evidence::Direct,
                &["kprobe kvm_get_dirty_log_protect", "kprobe kvm_clear_dirty_log_protect"],
                "",
            ),
            (false, true) => (
                Evidence::Nearest,
                &["raw_syscalls"],
                "the slot is behind a pointer that the trace does not follow",
            ),
            (false, false) => NONE,
        }
    }

    /// A function whose return is seen is bracketed; else the thread's next record bounds it.
    fn bracketed(&self, function: Function) -> Evidence {
        if self.has(Seen::Return(function)) { Evidence::Direct } else { Evidence::Nearest }
    }
}
