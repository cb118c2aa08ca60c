//! The read model: everything views and exports may know, as plain data that is cheap to clone.
//!
//! Bounded everywhere: long lists keep the newest (harvests), the longest (windows) or the first (findings) entries and
//! say how many there were.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::event::{
    Anomaly, Evidence, Gap, Gfn, Kind, Nanos, Operation, SlotId, Tid, VcpuId, VmId,
};
use crate::verdict::{Finding, RuleId, UnknownCause, WindowKind};

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
}

/// Gaps and anomalies kept one by one.
pub const GAPS_MAX: usize = 1024;

/// Harvests kept one by one.
pub const HARVESTS_MAX: usize = 4096;

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

/// Activity per bucket of trace time, the newest [`Series::BUCKETS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// The buckets, oldest first.
    pub buckets: VecDeque<Bucket>,
}

impl Series {
    /// Length of a bucket.
    pub const BUCKET_NS: u64 = 250_000_000;
    /// Buckets kept: five minutes.
    pub const BUCKETS: usize = 1200;
}

/// What happened in one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the operations counted")]
pub struct Bucket {
    pub start: Nanos,
    pub events: u64,
    pub marks: u64,
    pub fast_faults: u64,
    pub slow_faults: u64,
    pub harvested_pages: u64,
    pub flushes: u64,
    pub host_writes: u64,
    pub ring_pushes: u64,
    pub dropped: u64,
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

impl Summary {
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
