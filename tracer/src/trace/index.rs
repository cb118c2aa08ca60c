//! The index: where the frames of a finished recording begin, and which times they hold.
//!
//! It is the payload of the last frame. Behind that frame stands the trailer, the last bytes of the file:
//!
//! ```text
//! offset  0       4      8                     16
//!         "KDTE"  CRC32  index frame's offset  size of the file
//! ```
//!
//! The CRC32 covers bytes 8..24. A recording without index or trailer is as good, only slower to seek in.

use super::limits::INDEX_ENTRIES_MAX;
use crate::event::Nanos;

/// The first bytes of the trailer.
pub const TRAILER_MAGIC: [u8; 4] = *b"KDTE";

/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = 24;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 40;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where it begins in the file.
    pub offset: u64,
    /// Records in all earlier frames.
    pub records_before: u64,
    /// Watermark of the frame before: every record in this frame or a later one is younger.
    pub watermark_before: Nanos,
    /// Oldest time in it.
    pub first_ts: Nanos,
    /// Youngest time in it.
    pub last_ts: Nanos,
}

/// Collects entries while a recording is written, in bounded memory.
#[derive(Debug)]
pub(super) struct IndexBuilder {
    entries: Vec<IndexEntry>,
    /// Every n-th frame has an entry.
    stride: u64,
    frames: u64,
}

impl IndexBuilder {
    pub fn new() -> Self {
        Self { entries: Vec::new(), stride: 1, frames: 0 }
    }

    pub fn push(&mut self, entry: IndexEntry) {
        if self.frames.is_multiple_of(self.stride) {
            if self.entries.len() == INDEX_ENTRIES_MAX {
                let mut keeps = false;
                self.entries.retain(|_| {
                    keeps = !keeps;
                    keeps
                });
                self.stride *= 2;
            }
            if self.frames.is_multiple_of(self.stride) {
                self.entries.push(entry);
            }
        }
        self.frames += 1;
    }

    /// The payload of the index frame, not yet compressed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for entry in &self.entries {
            let IndexEntry { offset, records_before, watermark_before, first_ts, last_ts } = *entry;
            for number in [offset, records_before, watermark_before.0, first_ts.0, last_ts.0] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes
    }
}

/// The entries of an index frame's payload; `None` if it is none.
pub(super) fn parse_entries(bytes: &[u8]) -> Option<Vec<IndexEntry>> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    let entry = |bytes: &[u8; ENTRY_BYTES]| {
        let (numbers, _) = bytes.as_chunks::<8>();
        let number = |index: usize| u64::from_le_bytes(numbers[index]);
        IndexEntry {
            offset: number(0),
            records_before: number(1),
            watermark_before: Nanos(number(2)),
            first_ts: Nanos(number(3)),
            last_ts: Nanos(number(4)),
        }
    };
    rest.is_empty().then(|| entries.iter().map(entry).collect())
}

/// The trailer of a file whose index frame begins at `index` and whose last byte is this trailer's.
pub(super) fn trailer(index: u64, file_bytes: u64) -> [u8; TRAILER_BYTES] {
    let mut bytes = [0; TRAILER_BYTES];
    bytes[..4].copy_from_slice(&TRAILER_MAGIC);
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..].copy_from_slice(&file_bytes.to_le_bytes());
    let crc = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Where the index frame begins, if these are the last bytes of a finished file of that size.
pub(super) fn parse_trailer(bytes: &[u8; TRAILER_BYTES], file_bytes: u64) -> Option<u64> {
    let (numbers, _) = bytes.as_chunks::<8>();
    let index = u64::from_le_bytes(numbers[1]);
    (trailer(index, file_bytes) == *bytes && index < file_bytes).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_recording_has_an_entry_for_every_nth_frame() {
        let mut builder = IndexBuilder::new();
        let frames = 5 * INDEX_ENTRIES_MAX as u64;
        for frame in 0..frames {
            builder.push(IndexEntry {
                offset: frame,
                records_before: frame,
                watermark_before: Nanos(frame),
                first_ts: Nanos(frame),
                last_ts: Nanos(frame),
            });
        }
        let entries = parse_entries(&builder.to_bytes()).unwrap();
        assert!(entries.len() <= INDEX_ENTRIES_MAX && frames / 8 <= entries.len() as u64);
        let steps: Vec<u64> =
            entries.windows(2).map(|pair| pair[1].offset - pair[0].offset).collect();
        assert!(steps.iter().all(|&step| step == 8));
    }
}
