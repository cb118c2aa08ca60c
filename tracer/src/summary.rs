//! The read model: everything views and exports may know, as plain data that is cheap to clone.
//!
//! Bounded everywhere: long lists keep the newest (harvests), the longest (windows) or the first (findings) entries and
//! say how many there were.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::event::{
    Anomaly, Evidence, Gap, Gfn, IoctlOp, Kind, Nanos, Operation, SlotId, Tid, VcpuId, VmId,
};
use crate::verdict::{Finding, RuleId, UnknownCause, Verdict, Window, WindowKind};

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

/// Cells of a slot's heat map.
pub const HEAT_CELLS: usize = 256;

/// One range of a slot's heat map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeatCell {
    /// Pages harvested.
    pub harvested: u64,
    /// Times a page of it became writable.
    pub opened: u64,
    /// Third-case windows.
    pub windows: u64,
    /// Worst verdict, if any was given.
    pub worst: Option<Verdict>,
}

/// One harvest: GET, CLEAR or RESET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Harvest {
    /// Its number over the whole trace, from 1.
    pub id: u64,
    /// The VM.
    pub vm: VmId,
    /// The slot (GET, CLEAR); 0:0 for RESET, which is of the whole VM.
    pub slot: SlotId,
    /// Which ioctl.
    pub op: IoctlOp,
    /// n-th harvest of this slot, from 1.
    pub iteration: u64,
    /// The thread.
    pub tid: Tid,
    /// Ioctl entry.
    pub begin: Nanos,
    /// Ioctl return.
    pub end: Nanos,
    /// The ioctl's return value.
    pub ret: i64,
    /// Bitmap words (or ring batches) with bits.
    pub words: u64,
    /// Pages taken (manual-protect GET: read).
    pub pages: u64,
    /// First word to last word, in nanoseconds.
    pub protect_ns: u64,
    /// The flush inside, in nanoseconds; `None`: no flush was seen.
    pub flush_ns: Option<u64>,
    /// The VM's flush counter moved between begin and end.
    pub flush_counter_moved: bool,
    /// Begin, end and all records between were seen.
    pub is_complete: bool,
    /// Worst verdict on its pages.
    pub worst: Option<Verdict>,
}

/// Verdict counts. A *judgement* is one page at one harvest that took it, or one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the verdicts")]
pub struct VerdictCounts {
    pub lost: u64,
    pub at_risk: u64,
    pub exposed: u64,
    pub safe: u64,
    pub unknown: u64,
}

impl VerdictCounts {
    /// Counts `n` judgements of one verdict.
    pub fn add(&mut self, verdict: Verdict, n: u64) {
        match verdict {
            Verdict::Lost => self.lost += n,
            Verdict::AtRisk => self.at_risk += n,
            Verdict::Exposed => self.exposed += n,
            Verdict::Safe => self.safe += n,
            Verdict::Unknown => self.unknown += n,
        }
    }

    /// The count of one verdict.
    #[must_use]
    pub const fn get(&self, verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Lost => self.lost,
            Verdict::AtRisk => self.at_risk,
            Verdict::Exposed => self.exposed,
            Verdict::Safe => self.safe,
            Verdict::Unknown => self.unknown,
        }
    }
}

/// Windows of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowStats {
    /// Windows that closed.
    pub closed: u64,
    /// Windows open now.
    pub open: u64,
    /// Windows a harvest can have fallen into.
    pub with_harvest: u64,
    /// `histogram[n]` counts durations in `[2^n, 2^(n+1))` ns; durations of 0 ns are in 0, of 2^39 ns and more in 39.
    pub histogram: Vec<u64>,
    /// The ten longest, longest first.
    pub longest: Vec<Window>,
}

/// Buckets of a window histogram.
pub const HISTOGRAM_BUCKETS: usize = 40;

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
