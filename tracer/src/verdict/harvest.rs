//! Harvests as results.

use crate::event::{IoctlOp, Nanos, SlotId, Tid, VmId};

use super::Verdict;

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
