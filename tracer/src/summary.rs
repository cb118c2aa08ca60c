//! The read model: everything views and exports may know, as plain data that is cheap to clone.
//!
//! Bounded everywhere: long lists keep the newest (harvests), the longest (windows) or the first (findings) entries and
//! say how many there were.

pub mod check;
pub mod series;
pub mod words;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::event::{
    Anomaly, Event, EventKind, Evidence, Gap, Gfn, IoctlOp, Kind, Nanos, Operation, SlotId, Tid,
    VcpuId, VmId,
};
use crate::verdict::window::count_length;
use crate::verdict::{Finding, RuleId, UnknownCause, WindowKind};

pub use check::{Check, SelfCheck, State};
pub use series::{Bucket, Series};

pub use crate::verdict::harvest::Harvest;
pub use crate::verdict::tally::{HEAT_CELLS, HeatCell, VerdictCounts};
pub use crate::verdict::window::{HISTOGRAM_BUCKETS, WindowStats};

/// What is known now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Time of the first record.
    pub begin: Option<Nanos>,
    /// Time up to which everything has been judged.
    pub now: Nanos,
    /// Records taken.
    pub events: u64,
    /// Records per kind, indexed by [`Kind`] number.
    pub by_kind: Counts,
    /// Records dropped, over all gaps.
    pub dropped_events: u64,
    /// The gaps, first [`GAPS_MAX`].
    pub gaps: Vec<Gap>,
    /// Gaps in all.
    pub gaps_total: u64,
    /// Records that made no sense, first [`GAPS_MAX`].
    pub anomalies: Vec<Anomaly>,
    /// Anomalies in all.
    pub anomalies_total: u64,
    /// Integrity violations (K03, SPTE chain breaks, overlapping exclusive brackets), in all.
    pub integrity_total: u64,
    /// The VMs in order of appearance.
    pub vms: Vec<VmSummary>,
    /// Threads that were seen in KVM_RUN.
    pub vcpus: BTreeMap<Tid, (VmId, VcpuId)>,
    /// Harvests, the newest [`HARVESTS_MAX`].
    pub harvests: VecDeque<Harvest>,
    /// Harvests in all.
    pub harvests_total: u64,
    /// Verdicts over pages and windows.
    pub verdicts: VerdictCounts,
    /// Why verdicts are unknown.
    pub unknown_causes: BTreeMap<UnknownCause, u64>,
    /// Findings, hazards and exposures alike, the first ones up to the configured limit.
    pub findings: Vec<Arc<Finding>>,
    /// Findings in all.
    pub findings_total: u64,
    /// Benign look-alikes by name.
    pub benign: BTreeMap<&'static str, u64>,
    /// Windows per kind.
    pub windows: [WindowStats; 4],
    /// Rules that are off, and the operation each misses.
    pub rules_off: Vec<(RuleId, Operation, Evidence)>,
    /// Activity per second of trace time.
    pub series: Series,
    /// mmu_lock waits as seen from outside.
    pub lock_waits: LockWaits,
    /// Whether what is attached fires.
    pub self_check: SelfCheck,
}

/// Gaps and anomalies kept one by one.
pub const GAPS_MAX: usize = 1024;

pub use crate::verdict::detector::HARVESTS_MAX;

/// Threads whose lock waits are kept one by one.
pub const LOCK_THREADS_MAX: usize = 4096;

/// vCPU threads kept by name.
pub const VCPUS_MAX: usize = 65_536;

/// Records per [`Kind`] number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts(pub [u64; 64]);

/// One VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmSummary {
    /// Which.
    pub vm: VmId,
    /// Process that created it, 0 if not known.
    pub tgid: u32,
    /// `manual_dirty_log_protect` of the VM: bit 0 manual protect, bit 1 initially set.
    pub manual_protect: u32,
    /// Bytes of each dirty ring, 0 in bitmap mode.
    pub ring_bytes: u32,
    /// Destroyed.
    pub is_gone: bool,
    /// Its slots by id.
    pub slots: BTreeMap<SlotId, SlotSummary>,
}

/// One memslot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotSummary {
    /// First gfn.
    pub base: Gfn,
    /// Pages.
    pub npages: u64,
    /// Dirty logging is on.
    pub is_logging: bool,
    /// Since when.
    pub logging_since: Option<Nanos>,
    /// Harvests of this slot.
    pub harvests: u64,
    /// Pages they took, in all.
    pub pages_harvested: u64,
    /// Heat map: the slot cut into [`HEAT_CELLS`] equal ranges of gfns.
    pub heat: Vec<HeatCell>,
}

/// Waits for `mmu_lock`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockWaits {
    /// Waits seen.
    pub waits: u64,
    /// Their time, in nanoseconds.
    pub wait_ns: u64,
    /// Readers among them.
    pub readers: u64,
    /// Writers among them.
    pub writers: u64,
    /// Per thread: waits, nanoseconds, longest.
    pub by_thread: BTreeMap<Tid, (u64, u64, u64)>,
    /// Log2 histogram of waits, as in [`WindowStats::histogram`].
    pub histogram: Vec<u64>,
    /// Faults whose bracket touches a harvest ioctl of their VM: what they wait for `mmu_lock` is in their length.
    pub beside_harvest: FaultTimes,
    /// All other faults.
    pub apart: FaultTimes,
    /// Per VM, by VM.
    pub(crate) harvesting: Vec<Harvesting>,
}

/// The harvests of a VM, as far as they may hold up its faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Harvesting {
    vm: VmId,
    /// Harvest ioctls that have not returned.
    open: u32,
    /// Return of the last that did.
    last: Nanos,
}

/// How long faults took, from bracket to bracket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultTimes {
    /// Faults.
    pub faults: u64,
    /// The longest, in nanoseconds.
    pub longest_ns: u64,
    /// Log2 histogram of their lengths, as in [`WindowStats::histogram`].
    pub histogram: Vec<u64>,
}

impl FaultTimes {
    #[inline]
    fn add(&mut self, ns: u64) {
        self.faults += 1;
        self.longest_ns = self.longest_ns.max(ns);
        count_length(&mut self.histogram, ns);
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Counts {
    /// Records of one kind.
    #[must_use]
    pub const fn get(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }
}

impl LockWaits {
    /// `LCB_F_READ` of include/trace/events/lock.h.
    const LCB_F_READ: u32 = 1 << 1;
    /// `LCB_F_WRITE`.
    const LCB_F_WRITE: u32 = 1 << 2;

    /// A fault has ended.
    #[inline]
    fn add_fault(&mut self, event: &Event) {
        let place = self.harvesting.binary_search_by_key(&event.vm, |harvesting| harvesting.vm);
        let is_beside = place.is_ok_and(|place| {
            let Harvesting { open, last, .. } = self.harvesting[place];
            0 < open || (last != Nanos(0) && event.span.lo <= last)
        });
        let times = if is_beside { &mut self.beside_harvest } else { &mut self.apart };
        times.add(event.span.len_ns());
    }

    /// A harvest ioctl begins or has returned.
    fn add_ioctl(&mut self, event: &Event, op: IoctlOp, has_ended: bool) {
        match op {
            IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog | IoctlOp::ResetDirtyRings => {}
            IoctlOp::SetMemory | IoctlOp::EnableCap => return,
        }
        let vm = event.vm;
        let place = self.harvesting.binary_search_by_key(&vm, |harvesting| harvesting.vm);
        let place = place.unwrap_or_else(|place| {
            self.harvesting.insert(place, Harvesting { vm, ..Harvesting::default() });
            place
        });
        let Harvesting { open, last, .. } = &mut self.harvesting[place];
        if has_ended {
            *open = open.saturating_sub(1);
            *last = event.span.hi;
        } else {
            *open += 1;
        }
    }

    fn add(&mut self, tid: Tid, lcb_flags: u32, wait_ns: u64) {
        self.waits += 1;
        self.wait_ns += wait_ns;
        self.readers += u64::from(lcb_flags & Self::LCB_F_READ != 0);
        self.writers += u64::from(lcb_flags & Self::LCB_F_WRITE != 0);
        if LOCK_THREADS_MAX <= self.by_thread.len() && !self.by_thread.contains_key(&tid) {
            self.by_thread.pop_last();
        }
        let (waits, total, longest) = self.by_thread.entry(tid).or_default();
        *waits += 1;
        *total += wait_ns;
        *longest = wait_ns.max(*longest);
        count_length(&mut self.histogram, wait_ns);
    }
}

impl Summary {
    /// Counts an event. Judgements come from the detector, not from here.
    // Where the event's kind is known, this is a few counters.
    #[inline(always)]
    pub fn observe(&mut self, event: &Event) {
        let at = event.span.hi;
        self.by_kind.0[event.kind.kind() as usize & 63] += 1;
        self.self_check.observe(event);
        self.series.add(at, |bucket| bucket.count(event));
        match event.kind {
            EventKind::Fault { .. } => self.lock_waits.add_fault(event),
            EventKind::IoctlBegin { op, .. } => self.lock_waits.add_ioctl(event, op.op, false),
            EventKind::IoctlEnd { op, .. } => self.lock_waits.add_ioctl(event, op.op, true),
            EventKind::LockWait { lcb_flags, .. } => {
                self.lock_waits.add(event.tid, lcb_flags, event.span.len_ns());
            }
            EventKind::RunBegin { vcpu } => {
                let is_new = !self.vcpus.contains_key(&event.tid);
                if is_new && VCPUS_MAX <= self.vcpus.len() {
                    self.vcpus.pop_first();
                }
                self.vcpus.insert(event.tid, (event.vm, vcpu));
            }
            EventKind::VmSeen { .. }
            | EventKind::VmGone
            | EventKind::SlotState { .. }
            | EventKind::Flush { .. }
            | EventKind::RingReset { .. }
            | EventKind::SlotProtect { .. }
            | EventKind::Invalidate { .. }
            | EventKind::Mark { .. }
            | EventKind::SpteChange { .. }
            | EventKind::FastFault { .. }
            | EventKind::HarvestWord { .. }
            | EventKind::UserWord { .. }
            | EventKind::RmapAdd { .. }
            | EventKind::HostWrite { .. }
            | EventKind::RingPush { .. }
            | EventKind::SpteSet { .. }
            | EventKind::RunEnd { .. }
            | EventKind::Split { .. }
            | EventKind::Zap { .. } => {}
        }
    }

    /// Notes a gap.
    pub fn add_gap(&mut self, gap: &Gap) {
        self.dropped_events += gap.dropped;
        self.gaps_total += 1;
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(*gap);
        }
        self.series.add(gap.to, |bucket| bucket.dropped += gap.dropped);
    }

    /// Notes a record that made no sense.
    pub fn add_anomaly(&mut self, anomaly: Anomaly) {
        self.anomalies_total += 1;
        if self.anomalies.len() < GAPS_MAX {
            self.anomalies.push(anomaly);
        }
    }

    /// The windows of one kind.
    #[must_use]
    pub const fn windows(&self, kind: WindowKind) -> &WindowStats {
        &self.windows[kind as usize]
    }

    /// The hazards among the findings.
    pub fn hazards(&self) -> impl Iterator<Item = &Arc<Finding>> {
        self.findings.iter().filter(|finding| finding.verdict.is_hazard())
    }

    /// Seconds of trace time covered.
    #[must_use]
    pub fn covered_ns(&self) -> u64 {
        self.begin.map_or(0, |begin| self.now.since(begin))
    }
}
