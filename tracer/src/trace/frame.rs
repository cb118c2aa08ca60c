//! Frames: the unit that is written, checked and lost as a whole.
//!
//! ```text
//! offset  0       4     5    8        12     16       20    24      32      40        48       56         64
//!         "KDTF"  kind  0    payload  plain  records  gaps  number  before  first ts  last ts  watermark  ts before
//!         72      76           80          84          88              88 + 16 * lanes
//!         lanes   payload CRC  lane CRC    header CRC  lane table      payload
//! ```
//!
//! All numbers are little-endian. The header CRC covers bytes 0..84, so that a reader looking for the next frame can
//! tell one by its first 88 bytes; the other two cover the lane table and the payload. `before` and `ts before` say how
//! many records all earlier frames hold and the youngest time among them: a reader that had to skip frames knows
//! exactly how many records it misses, and between which times.

use super::limits::{FRAME_BYTES_MAX, FRAME_GAPS_MAX, FRAME_LANES_MAX, FRAME_RECORDS_MAX};
use crate::event::{Class, CpuId, Lane, Nanos};

/// The first bytes of every frame.
pub const FRAME_MAGIC: [u8; 4] = *b"KDTF";

/// Bytes before the lane table.
pub const FRAME_HEAD_BYTES: usize = 88;

/// Bytes of one entry of the lane table.
pub const LANE_BYTES: usize = 16;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Records and gaps.
    Records,
    /// The index: the last frame of a finished recording.
    Index,
    /// A kind of a later version of the tool; skipped.
    Other(u8),
}

/// The header of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What it holds.
    pub kind: FrameKind,
    /// Bytes of the payload in the file.
    pub payload_bytes: u32,
    /// Bytes of the payload once decompressed.
    pub plain_bytes: u32,
    /// Records in it.
    pub records: u32,
    /// Gaps in it.
    pub gaps: u32,
    /// Its number, from 0.
    pub number: u64,
    /// Records in all earlier frames.
    pub records_before: u64,
    /// Oldest `ts_ns` of its records; 0 if there are none.
    pub first_ts: Nanos,
    /// Youngest `ts_ns` of its records; 0 if there are none.
    pub last_ts: Nanos,
    /// Every record with `ts_ns` up to this is in this frame or an earlier one.
    pub watermark: Nanos,
    /// Youngest `ts_ns` in all earlier frames.
    pub ts_before: Nanos,
    /// CRC32 of the payload in the file.
    pub payload_crc: u32,
    /// Which records of which lanes.
    pub lanes: Vec<LaneRange>,
}

/// The records of one lane in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRange {
    /// CPU of the lane.
    pub cpu: u16,
    /// The two class bits of the records' flags, whatever they name.
    pub class_bits: u8,
    /// Records.
    pub records: u32,
    /// `seq` of the first.
    pub first_seq: u32,
    /// `seq` of the last.
    pub last_seq: u32,
}

impl LaneRange {
    /// The lane, if its class has a name.
    #[must_use]
    pub fn lane(&self) -> Option<Lane> {
        Class::from_u8(self.class_bits).map(|class| Lane { class, cpu: CpuId(self.cpu) })
    }
}

impl FrameHead {
    /// Appends the header and the lane table as they stand in the file.
    pub fn put(&self, out: &mut Vec<u8>) {
        let Self {
            kind,
            payload_bytes,
            plain_bytes,
            records,
            gaps,
            number,
            records_before,
            first_ts,
            last_ts,
            watermark,
            ts_before,
            payload_crc,
            lanes,
        } = self;
        let start = out.len();
        out.extend_from_slice(&FRAME_MAGIC);
        out.extend_from_slice(&[kind.number(), 0, 0, 0]);
        for word in [*payload_bytes, *plain_bytes, *records, *gaps] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let times = [first_ts.0, last_ts.0, watermark.0, ts_before.0];
        for word in [*number, *records_before].into_iter().chain(times) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&(lanes.len() as u32).to_le_bytes());
        out.extend_from_slice(&payload_crc.to_le_bytes());
        let crc_at = out.len();
        out.extend_from_slice(&[0; 8]);
        let table_at = out.len();
        for lane in lanes {
            out.extend_from_slice(&lane.cpu.to_le_bytes());
            out.extend_from_slice(&[lane.class_bits, 0]);
            for word in [lane.records, lane.first_seq, lane.last_seq] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        let lane_crc = crc32fast::hash(&out[table_at..]);
        out[crc_at..crc_at + 4].copy_from_slice(&lane_crc.to_le_bytes());
        let head_crc = crc32fast::hash(&out[start..crc_at + 4]);
        out[crc_at + 4..table_at].copy_from_slice(&head_crc.to_le_bytes());
    }

    /// The header without its lane table, and the table's size; `None` if this is no frame header.
    ///
    /// Checks every length against its limit, so that it may be allocated.
    #[must_use]
    pub fn parse(head: &[u8; FRAME_HEAD_BYTES]) -> Option<(Self, LaneTable)> {
        if head[..4] != FRAME_MAGIC || crc32fast::hash(&head[..84]) != word(head, 84) {
            return None;
        }
        let time = |at: usize| Nanos(double(head, at));
        let lanes = word(head, 72) as usize;
        let parsed = Self {
            kind: FrameKind::from_number(head[4]),
            payload_bytes: word(head, 8),
            plain_bytes: word(head, 12),
            records: word(head, 16),
            gaps: word(head, 20),
            number: double(head, 24),
            records_before: double(head, 32),
            first_ts: time(40),
            last_ts: time(48),
            watermark: time(56),
            ts_before: time(64),
            payload_crc: word(head, 76),
            lanes: Vec::new(),
        };
        let fits = parsed.payload_bytes <= FRAME_BYTES_MAX
            && parsed.plain_bytes <= FRAME_BYTES_MAX
            && parsed.records as usize <= FRAME_RECORDS_MAX
            && parsed.gaps as usize <= FRAME_GAPS_MAX
            && lanes <= FRAME_LANES_MAX;
        fits.then_some((parsed, LaneTable { bytes: lanes * LANE_BYTES, crc: word(head, 80) }))
    }

    /// Bytes of the whole frame in the file.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        (FRAME_HEAD_BYTES + self.lanes.len() * LANE_BYTES) as u64 + u64::from(self.payload_bytes)
    }
}

/// The lane table a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneTable {
    /// Its size in the file.
    pub bytes: usize,
    crc: u32,
}

impl LaneTable {
    /// The lanes, if the table is whole.
    #[must_use]
    pub fn parse(self, table: &[u8]) -> Option<Vec<LaneRange>> {
        let is_whole = table.len() == self.bytes && crc32fast::hash(table) == self.crc;
        let entry = |entry: &[u8]| LaneRange {
            cpu: u16::from_le_bytes([entry[0], entry[1]]),
            class_bits: entry[2],
            records: word(entry, 4),
            first_seq: word(entry, 8),
            last_seq: word(entry, 12),
        };
        is_whole.then(|| table.chunks_exact(LANE_BYTES).map(entry).collect())
    }
}

impl FrameKind {
    const fn number(self) -> u8 {
        match self {
            Self::Records => 1,
            Self::Index => 2,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Records,
            2 => Self::Index,
            other => Self::Other(other),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn double(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_and_every_flipped_bit_shows() {
        let lane = LaneRange { cpu: 3, class_bits: 1, records: 2, first_seq: 9, last_seq: 10 };
        let head = FrameHead {
            kind: FrameKind::Records,
            payload_bytes: 77,
            plain_bytes: 99,
            records: 2,
            gaps: 1,
            number: 5,
            records_before: 1 << 40,
            first_ts: Nanos(1),
            last_ts: Nanos(2),
            watermark: Nanos(3),
            ts_before: Nanos(4),
            payload_crc: 0xdead_beef,
            lanes: vec![lane],
        };
        let mut bytes = Vec::new();
        head.put(&mut bytes);
        let parse = |bytes: &[u8]| {
            let (head, table) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>().unwrap();
            let (parsed, lanes) = FrameHead::parse(head)?;
            Some(FrameHead { lanes: lanes.parse(table)?, ..parsed })
        };
        assert_eq!(parse(&bytes), Some(head));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&flipped), None, "bit {bit}");
        }
    }
}
