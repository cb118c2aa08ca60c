//! Recovery: what is wrong with a recording, where, and where the next whole frame begins.

use std::io::{Read, Seek, SeekFrom};

use super::TraceError;
use super::frame::{FRAME_HEAD_BYTES, FRAME_MAGIC, FrameHead};
use crate::event::{Gap, GapCause, Nanos};

/// One damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes that were skipped.
    pub bytes: u64,
    /// What was found there.
    pub kind: DamageKind,
    /// Records that are missing, if that is known here; otherwise the next whole frame tells.
    pub records: Option<u64>,
}

/// What can be wrong with a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DamageKind {
    /// The file ends inside a frame.
    Cut,
    /// No frame begins where one should.
    NoFrame,
    /// The lane table of a frame does not match its checksum.
    LaneTable,
    /// The payload of a frame does not match its checksum.
    Checksum,
    /// The payload matches its checksum and cannot be decoded.
    Malformed,
    /// A frame repeats records that were read before.
    Repeated,
    /// Frames are missing where the file shows no damage.
    Missing,
    /// The index cannot be read; no record is missing for that.
    Index,
}

impl DamageKind {
    /// The damage in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cut => "the file ends inside a frame",
            Self::NoFrame => "no frame begins here",
            Self::LaneTable => "the lane table does not match its checksum",
            Self::Checksum => "the payload does not match its checksum",
            Self::Malformed => "the payload cannot be decoded",
            Self::Repeated => "a frame repeats earlier records",
            Self::Missing => "frames are missing",
            Self::Index => "the index cannot be read",
        }
    }
}

/// The gaps that stand for a frame whose header is whole and whose payload is not.
///
/// `read_up_to` is the watermark of the frame before.
pub(super) fn gaps_of_frame(head: &FrameHead, read_up_to: Nanos) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = head
        .lanes
        .iter()
        .map(|range| Gap {
            lane: range.lane(),
            hook: None,
            cause: GapCause::Damaged,
            from: head.first_ts,
            to: head.last_ts,
            dropped: u64::from(range.records),
        })
        .collect();
    if head.lanes.is_empty() && head.records != 0 {
        gaps.push(Gap { dropped: u64::from(head.records), ..unknown(head.first_ts, head.last_ts) });
    }
    if head.gaps != 0 {
        // The gaps the frame told of are gone with it; all that is known of them is when they were told.
        gaps.push(unknown(read_up_to, head.watermark.max(head.last_ts)));
    }
    gaps
}

/// A gap of which only the time is known.
pub(super) fn unknown(from: Nanos, to: Nanos) -> Gap {
    Gap { lane: None, hook: None, cause: GapCause::Damaged, from, to: to.max(from), dropped: 0 }
}

/// Bytes looked at together while searching.
const WINDOW_BYTES: usize = 1 << 16;

/// The offset of the next frame header at or after `offset`; `None` if there is none before the end of the file.
///
/// Looks at every byte once, whatever the file holds.
pub(super) fn find_frame(
    source: &mut (impl Read + Seek),
    offset: u64,
) -> Result<Option<u64>, TraceError> {
    let failed = |source| TraceError::Read { offset, source };
    source.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut window = Vec::with_capacity(WINDOW_BYTES);
    let mut begin = offset;
    loop {
        let wanted = (WINDOW_BYTES - window.len()) as u64;
        let read = source.by_ref().take(wanted).read_to_end(&mut window).map_err(failed)?;
        for (at, head) in window.windows(FRAME_HEAD_BYTES).enumerate() {
            if head[..4] != FRAME_MAGIC {
                continue;
            }
            if head.first_chunk().and_then(FrameHead::parse).is_some() {
                return Ok(Some(begin + at as u64));
            }
        }
        if read == 0 {
            return Ok(None);
        }
        // What is left is too short for a header; the next bytes may complete one.
        let done = window.len().saturating_sub(FRAME_HEAD_BYTES - 1);
        window.drain(..done);
        begin += done as u64;
    }
}
