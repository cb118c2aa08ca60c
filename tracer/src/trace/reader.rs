//! The reader: a file in, batches out, and everything that is missing as a located gap.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::TraceError;
use super::decode::Decoder;
use super::frame::{FRAME_HEAD_BYTES, FrameHead, FrameKind};
use super::header::Header;
use super::index::{IndexEntry, TRAILER_BYTES, parse_entries, parse_trailer};
use super::limits::{DAMAGES_MAX, FRAME_BYTES_MAX};
use super::recover::{Damage, DamageKind, find_frame, gaps_of_frame, unknown};
use crate::event::{Batch, Gap, Nanos};

/// Something to read a recording from.
trait Source: Read + Seek + Send {}

impl<T: Read + Seek + Send> Source for T {}

/// Reads one recording of any version, whole or damaged, in bounded memory.
pub struct Reader {
    source: BufReader<Box<dyn Source>>,
    header: Header,
    decoder: Decoder,
    payload: Vec<u8>,
    /// Where the first frame begins.
    frames_at: u64,
    /// Bytes of the file when it was opened.
    file_bytes: u64,
    /// Where the next frame should begin.
    offset: u64,
    /// `None` after a seek, until a frame tells.
    seen: Option<Seen>,
    damages: Vec<Damage>,
    damages_total: u64,
    ending: Option<Ending>,
}

/// What has been delivered, or told as a gap.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    frames: u64,
    records: u64,
    watermark: Nanos,
    ts_max: Nanos,
}

/// A place between two batches of one recording, to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    offset: u64,
    seen: Option<Seen>,
}

/// How a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its index: the writer ended it on purpose.
    Finished,
    /// Without: the writer was killed, stopped by an error, or is still writing. Records after the last frame may be
    /// missing.
    Cut {
        /// Where the last whole frame ends.
        offset: u64,
    },
}

/// What stands at an offset.
enum Found {
    Frame(FrameHead),
    Damaged(FrameHead, Damage),
    Junk,
    /// The file ends here, or inside what begins here.
    End {
        bytes: u64,
        head: Option<FrameHead>,
    },
}

impl Reader {
    /// Opens a recording.
    ///
    /// # Errors
    /// The file cannot be read, is no recording, or was written by a newer tool.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let file = File::open(path)
            .map_err(|source| TraceError::Open { path: path.to_owned(), source })?;
        Self::new(file)
    }

    /// Reads a recording from anything that can seek.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn new(source: impl Read + Seek + Send + 'static) -> Result<Self, TraceError> {
        let mut source: BufReader<Box<dyn Source>> =
            BufReader::with_capacity(1 << 17, Box::new(source));
        let failed = |source| TraceError::Read { offset: 0, source };
        let file_bytes = source.seek(SeekFrom::End(0)).map_err(failed)?;
        source.seek(SeekFrom::Start(0)).map_err(failed)?;
        let (header, frames_at) = Header::read(&mut source)?;
        let decoder = Decoder::new().map_err(failed)?;
        Ok(Self {
            source,
            header,
            decoder,
            payload: Vec::new(),
            frames_at,
            file_bytes,
            offset: frames_at,
            seen: Some(Seen::default()),
            damages: Vec::new(),
            damages_total: 0,
            ending: None,
        })
    }

    /// What the recording says about itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes read, and bytes of the file when it was opened.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.offset.min(self.file_bytes), self.file_bytes)
    }

    /// The damaged places met so far, the first [`DAMAGES_MAX`] of them, and how many there were.
    #[must_use]
    pub fn damages(&self) -> (&[Damage], u64) {
        (&self.damages, self.damages_total)
    }

    /// How the recording ends, once the end has been read.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Replaces `batch` by the next frame's records and gaps; `None` at the end.
    ///
    /// # Errors
    /// Only what the system refuses to read. Damage is a gap in the batch, described by [`Self::damages`].
    pub fn next_batch(&mut self, batch: &mut Batch) -> Result<Option<()>, TraceError> {
        batch.records.clear();
        batch.gaps.clear();
        while self.ending.is_none() {
            let read_up_to = self.seen.map_or(Nanos(0), |seen| seen.watermark);
            batch.watermark = read_up_to;
            match self.find()? {
                Found::Junk => self.skip_junk(batch)?,
                Found::End { bytes: 0, .. } => {
                    self.ending = Some(Ending::Cut { offset: self.offset })
                }
                Found::End { bytes, head } => self.end_cut(bytes, head, batch),
                Found::Damaged(head, damage) => {
                    if self.advance(damage.offset, &head, batch) {
                        batch.gaps.extend(gaps_of_frame(&head, read_up_to));
                        self.report(damage);
                    }
                    if head.kind == FrameKind::Index {
                        self.ending = Some(Ending::Finished);
                    }
                }
                Found::Frame(head) => self.take_frame(&head, batch),
            }
            if !batch.records.is_empty() || !batch.gaps.is_empty() || read_up_to < batch.watermark {
                return Ok(Some(()));
            }
        }
        Ok(None)
    }

    /// Where the next batch begins.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { offset: self.offset, seen: self.seen }
    }

    /// Continues at a place this reader has been at: the same batches follow.
    ///
    /// # Errors
    /// What the system refuses to read.
    pub fn return_to(&mut self, place: &Place) -> Result<(), TraceError> {
        (self.offset, self.seen) = (place.offset, place.seen);
        self.ending = None;
        self.go_to(self.offset)
    }

    /// Continues at the last frame that the index names before `time`: every record with a later time follows.
    /// Without index, at the first frame.
    ///
    /// # Errors
    /// What the system refuses to read.
    pub fn seek(&mut self, time: Nanos) -> Result<(), TraceError> {
        let entries = self.index()?.unwrap_or_default();
        let after = entries.partition_point(|entry| entry.watermark_before < time);
        (self.offset, self.seen) = match after.checked_sub(1).map(|index| entries[index]) {
            Some(entry) if entry.records_before != 0 => (entry.offset, None),
            _ => (self.frames_at, Some(Seen::default())),
        };
        self.ending = None;
        self.go_to(self.offset)
    }

    /// The index; `None` if the recording has none or it is damaged.
    ///
    /// # Errors
    /// What the system refuses to read.
    pub fn index(&mut self) -> Result<Option<Vec<IndexEntry>>, TraceError> {
        let Some(trailer_at) = self.file_bytes.checked_sub(TRAILER_BYTES as u64) else {
            return Ok(None);
        };
        self.go_to(trailer_at)?;
        let trailer = self.read_up_to(TRAILER_BYTES)?;
        let index_at =
            trailer.first_chunk().and_then(|bytes| parse_trailer(bytes, self.file_bytes));
        let here = std::mem::replace(&mut self.offset, index_at.unwrap_or(self.file_bytes));
        self.go_to(self.offset)?;
        let found = self.find();
        self.offset = here;
        self.go_to(here)?;
        Ok(match found? {
            Found::Frame(head) if head.kind == FrameKind::Index => {
                zstd::bulk::decompress(&self.payload, FRAME_BYTES_MAX as usize)
                    .ok()
                    .and_then(|plain| parse_entries(&plain))
            }
            _ => None,
        })
    }

    /// Reads what stands at the current offset; a whole frame's payload is in `self.payload` then.
    fn find(&mut self) -> Result<Found, TraceError> {
        let bytes = self.read_up_to(FRAME_HEAD_BYTES)?;
        let Some(head) = bytes.first_chunk() else {
            return Ok(Found::End { bytes: bytes.len() as u64, head: None });
        };
        let Some((mut head, table)) = FrameHead::parse(head) else {
            return Ok(Found::Junk);
        };
        let mut have = FRAME_HEAD_BYTES as u64;
        let lanes = self.read_up_to(table.bytes)?;
        have += lanes.len() as u64;
        let frame_bytes =
            have - lanes.len() as u64 + table.bytes as u64 + u64::from(head.payload_bytes);
        let lanes = table.parse(&lanes);
        let mut kind = lanes.is_none().then_some(DamageKind::LaneTable);
        head.lanes = lanes.unwrap_or_default();
        self.payload = self.read_up_to(head.payload_bytes as usize)?;
        have += self.payload.len() as u64;
        if have < frame_bytes {
            return Ok(Found::End { bytes: have, head: Some(head) });
        }
        if crc32fast::hash(&self.payload) != head.payload_crc {
            kind = Some(DamageKind::Checksum);
        }
        let Some(kind) = kind else {
            return Ok(Found::Frame(head));
        };
        let records = Some(u64::from(head.records));
        let damage = Damage { offset: self.offset, bytes: frame_bytes, kind, records };
        self.offset += frame_bytes;
        Ok(Found::Damaged(head, damage))
    }

    /// A frame that is whole as far as its checksums tell.
    fn take_frame(&mut self, head: &FrameHead, batch: &mut Batch) {
        let (offset, frame_bytes) = (self.offset, head.frame_bytes());
        let read_up_to = batch.watermark;
        self.offset += frame_bytes;
        if !self.advance(offset, head, batch) {
            return;
        }
        match head.kind {
            FrameKind::Records => {}
            FrameKind::Index => {
                self.ending = Some(Ending::Finished);
                return;
            }
            FrameKind::Other(_) => return,
        }
        let gaps_before = batch.gaps.len();
        if self.decoder.decode(head, &self.payload, batch).is_err() {
            batch.records.clear();
            batch.gaps.truncate(gaps_before);
            batch.gaps.extend(gaps_of_frame(head, read_up_to));
            self.report(Damage {
                offset,
                bytes: frame_bytes,
                kind: DamageKind::Malformed,
                records: Some(u64::from(head.records)),
            });
        }
    }

    /// Compares a frame's place with what was read before it: what is missing becomes a gap. `false`: read before.
    fn advance(&mut self, offset: u64, head: &FrameHead, batch: &mut Batch) -> bool {
        let seen = self.seen.get_or_insert(Seen {
            frames: head.number,
            records: head.records_before,
            watermark: Nanos(0),
            ts_max: head.ts_before,
        });
        if head.number < seen.frames || head.records_before < seen.records {
            let bytes = head.frame_bytes();
            self.report(Damage { offset, bytes, kind: DamageKind::Repeated, records: Some(0) });
            return false;
        }
        let missing = head.records_before - seen.records;
        let is_missing = seen.frames < head.number || missing != 0;
        if is_missing {
            batch.gaps.push(Gap { dropped: missing, ..unknown(seen.watermark, head.ts_before) });
        }
        let is_index = head.kind == FrameKind::Index;
        *seen = Seen {
            frames: head.number.saturating_add(u64::from(!is_index)),
            records: head.records_before.saturating_add(u64::from(head.records)),
            watermark: seen.watermark.max(head.watermark),
            ts_max: seen.ts_max.max(head.ts_before).max(head.last_ts),
        };
        batch.watermark = seen.watermark;
        if is_missing {
            let records = Some(missing);
            self.report(Damage { offset, bytes: 0, kind: DamageKind::Missing, records });
        }
        true
    }

    /// No frame here: looks for the next one. What was skipped, that one's header tells.
    fn skip_junk(&mut self, batch: &mut Batch) -> Result<(), TraceError> {
        let begin = self.offset;
        let next = find_frame(&mut self.source, begin + 1)?;
        let end = next.unwrap_or(self.file_bytes.max(begin));
        self.report(Damage {
            offset: begin,
            bytes: end - begin,
            kind: DamageKind::NoFrame,
            records: None,
        });
        self.offset = end;
        self.go_to(end)?;
        if next.is_none() {
            self.end_unknown(begin, batch);
        }
        Ok(())
    }

    /// The file ends inside a frame.
    fn end_cut(&mut self, bytes: u64, head: Option<FrameHead>, batch: &mut Batch) {
        let offset = self.offset;
        let records = head.as_ref().map(|head| u64::from(head.records));
        self.report(Damage { offset, bytes, kind: DamageKind::Cut, records });
        match head {
            // A torn index costs no record.
            Some(head) if head.kind != FrameKind::Records => {
                self.ending = Some(Ending::Cut { offset });
            }
            Some(head) => {
                let read_up_to = batch.watermark;
                // The frame's own watermark is not reached: the recording claims what was read before it.
                if self.advance(offset, &head, batch) {
                    batch.gaps.extend(gaps_of_frame(&head, read_up_to));
                }
                batch.watermark = read_up_to;
                self.ending = Some(Ending::Cut { offset });
            }
            None => self.end_unknown(offset, batch),
        }
    }

    /// Nothing is known of what stood at the end; within the span that was read, records younger than the watermark can
    /// be missing.
    fn end_unknown(&mut self, offset: u64, batch: &mut Batch) {
        let Seen { watermark, ts_max, .. } = self.seen.unwrap_or_default();
        batch.gaps.push(unknown(watermark, ts_max));
        self.ending = Some(Ending::Cut { offset });
    }

    fn report(&mut self, damage: Damage) {
        self.damages_total += 1;
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(damage);
        }
    }

    fn go_to(&mut self, offset: u64) -> Result<(), TraceError> {
        self.source
            .seek(SeekFrom::Start(offset))
            .map(|_| ())
            .map_err(|source| TraceError::Read { offset, source })
    }

    /// Reads `bytes` bytes, or fewer at the end of the file.
    fn read_up_to(&mut self, bytes: usize) -> Result<Vec<u8>, TraceError> {
        let mut read = Vec::new();
        self.source
            .by_ref()
            .take(bytes as u64)
            .read_to_end(&mut read)
            .map_err(|source| TraceError::Read { offset: self.offset, source })?;
        Ok(read)
    }
}
