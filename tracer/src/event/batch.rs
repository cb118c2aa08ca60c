//! Batches: what one drain of the rings, or one frame of a recording, delivers.

use super::id::{Lane, Nanos};
use kvmdirty_common::{Hook, RawEvent};

/// The records of one drain, with what is known about their completeness.
///
/// Records of different lanes come in any order; within a lane they come by `seq`, almost by time. Two sources fill
/// batches (live rings, recordings) and the same pipeline takes them; how records are cut into batches changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The records, as the probe wrote them.
    pub records: Vec<RawEvent>,
    /// Gaps that no jump in a lane's sequence shows: missed probes, a full thread table, damaged frames.
    pub gaps: Vec<Gap>,
    /// Every record with `ts_ns` up to this has been delivered, in this batch or an earlier one, and with it every
    /// record of its lane that has a lower number.
    pub watermark: Nanos,
}

/// Records that are missing, located.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// On which lane; `None`: any lane (the counter does not tell).
    pub lane: Option<Lane>,
    /// Which hook missed; `None`: any.
    pub hook: Option<Hook>,
    /// Why.
    pub cause: GapCause,
    /// Missing records are not older than this.
    pub from: Nanos,
    /// Missing records are not younger than this.
    pub to: Nanos,
    /// How many records are missing.
    pub dropped: u64,
}

/// Why records are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapCause {
    /// The ring was full; the probe counted what it could not reserve.
    RingFull,
    /// The kernel did not run the probe (`nmissed`, recursion).
    ProbeMissed,
    /// A bracket could not be opened because the thread table was full.
    ThreadTable,
    /// The overhead budget stopped tracing.
    Budget,
    /// A configured memory limit was reached.
    MemoryLimit,
    /// A frame of the recording is damaged or cut off.
    Damaged,
}

impl GapCause {
    /// All causes, in the order of their names' numbers on disk.
    pub const ALL: [Self; 6] = [
        Self::RingFull,
        Self::ProbeMissed,
        Self::ThreadTable,
        Self::Budget,
        Self::MemoryLimit,
        Self::Damaged,
    ];

    /// The cause in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring-full",
            Self::ProbeMissed => "probe-missed",
            Self::ThreadTable => "thread-table",
            Self::Budget => "budget",
            Self::MemoryLimit => "memory-limit",
            Self::Damaged => "damaged",
        }
    }
}
