//! The writer: batches in, frames out, before any analysis has seen them.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::TraceError;
use super::encode::Encoder;
use super::frame::{FrameHead, FrameKind};
use super::header::Header;
use super::index::{IndexBuilder, IndexEntry, trailer};
use super::limits::{FRAME_GAPS_MAX, FRAME_RECORDS_MAX};
use crate::event::{Batch, Gap, Nanos, RawEvent};

/// What a recording is written to.
pub trait Medium: Write + Send {
    /// Shortens it to its first `bytes` bytes, so that a frame that could not be written whole leaves no trace.
    ///
    /// # Errors
    /// The system's answer.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;

    /// Waits until what was written is safe.
    ///
    /// # Errors
    /// The system's answer.
    fn sync(&mut self) -> io::Result<()>;
}

/// When frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteLimits {
    /// Records that fill a frame.
    pub frame_records: usize,
    /// Trace time after which a frame is written even if it is not full, in nanoseconds. What is not written yet is lost
    /// with the process.
    pub flush_after_ns: u64,
    /// zstd level.
    pub level: i32,
}

impl WriteLimits {
    /// Full frames under load, one frame per second without.
    pub const STANDARD: Self =
        Self { frame_records: FRAME_RECORDS_MAX, flush_after_ns: 1_000_000_000, level: 1 };
}

/// Writes one recording.
pub struct Writer {
    medium: Box<dyn Medium>,
    limits: WriteLimits,
    encoder: Encoder,
    /// Not yet written; its watermark is that of the last batch.
    pending: Batch,
    /// Watermark of the last frame.
    flushed: Nanos,
    /// End of the last complete frame.
    offset: u64,
    frames: u64,
    records: u64,
    ts_max: Nanos,
    index: IndexBuilder,
    is_ended: bool,
    payload: Vec<u8>,
    frame: Vec<u8>,
}

impl Writer {
    /// Creates a recording with the standard limits, replacing a file of that name.
    ///
    /// # Errors
    /// The file cannot be created or the header not be written.
    pub fn create(path: &Path, header: &Header) -> Result<Self, TraceError> {
        let file = File::create(path)
            .map_err(|source| TraceError::Create { path: path.to_owned(), source })?;
        Self::new(Box::new(file), header, WriteLimits::STANDARD)
    }

    /// Begins a recording.
    ///
    /// # Errors
    /// The header cannot be written.
    pub fn new(
        medium: Box<dyn Medium>,
        header: &Header,
        limits: WriteLimits,
    ) -> Result<Self, TraceError> {
        let encoder =
            Encoder::new(limits.level).map_err(|source| TraceError::Write { offset: 0, source })?;
        let mut writer = Self {
            medium,
            limits,
            encoder,
            pending: Batch::default(),
            flushed: Nanos(0),
            offset: 0,
            frames: 0,
            records: 0,
            ts_max: Nanos(0),
            index: IndexBuilder::new(),
            is_ended: false,
            payload: Vec::new(),
            frame: header.to_bytes()?,
        };
        writer.append(0)?;
        Ok(writer)
    }

    /// Takes the next batch. It is in the file once its frame is full, old enough or flushed.
    ///
    /// # Errors
    /// A frame could not be written: the recording ends with the frame before, and this writer with it.
    pub fn write(&mut self, batch: &Batch) -> Result<(), TraceError> {
        if self.is_ended {
            return Err(TraceError::Ended);
        }
        self.pending.records.extend_from_slice(&batch.records);
        self.pending.gaps.extend_from_slice(&batch.gaps);
        let frame_records = self.limits.frame_records.clamp(1, FRAME_RECORDS_MAX);
        let is_due = self.limits.flush_after_ns <= batch.watermark.since(self.flushed);
        if is_due || frame_records <= self.pending.records.len() {
            // What stays behind is older than the batch's watermark, so a frame in between keeps the previous one.
            let previous = self.pending.watermark;
            self.emit(frame_records, is_due, previous, batch.watermark)?;
        }
        self.pending.watermark = batch.watermark;
        Ok(())
    }

    /// Writes everything taken so far.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&mut self) -> Result<(), TraceError> {
        if self.is_ended {
            return Err(TraceError::Ended);
        }
        let watermark = self.pending.watermark;
        let has_news = !self.pending.records.is_empty()
            || !self.pending.gaps.is_empty()
            || self.flushed < watermark;
        if has_news {
            self.emit(FRAME_RECORDS_MAX, true, watermark, watermark)?;
        }
        Ok(())
    }

    /// Writes what is left, the index and the trailer.
    ///
    /// # Errors
    /// As [`Self::write`]; the recording is valid without index.
    pub fn finish(mut self) -> Result<(), TraceError> {
        self.flush()?;
        let index_at = self.offset;
        let plain = self.index.to_bytes();
        self.payload = zstd::bulk::compress(&plain, self.limits.level)
            .map_err(|source| TraceError::Write { offset: index_at, source })?;
        let head = FrameHead {
            kind: FrameKind::Index,
            plain_bytes: plain.len() as u32,
            ..self.head(&[], self.flushed)
        };
        self.frame.clear();
        head.put(&mut self.frame);
        self.frame.extend_from_slice(&self.payload);
        let file_bytes = index_at + (self.frame.len() + super::index::TRAILER_BYTES) as u64;
        self.frame.extend_from_slice(&trailer(index_at, file_bytes));
        self.append(0)?;
        let offset = self.offset;
        self.medium.sync().map_err(|source| TraceError::Write { offset, source })
    }

    /// Bytes of the file so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Records in the file so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Writes frames of `frame_records` records; the last, incomplete one only if `all`.
    ///
    /// `watermark` is that of the batch that was just taken, `previous` the one before.
    fn emit(
        &mut self,
        frame_records: usize,
        all: bool,
        previous: Nanos,
        watermark: Nanos,
    ) -> Result<(), TraceError> {
        let records = std::mem::take(&mut self.pending.records);
        let gaps = std::mem::take(&mut self.pending.gaps);
        let (mut records_at, mut gaps_at) = (0, 0);
        loop {
            let rest = &records[records_at..];
            let is_partial = rest.len() < frame_records && gaps.len() - gaps_at <= FRAME_GAPS_MAX;
            if rest.is_empty() && gaps_at == gaps.len() && records_at + gaps_at != 0
                || is_partial && !all
            {
                break;
            }
            let some = &rest[..rest.len().min(frame_records)];
            let some_gaps = &gaps[gaps_at..gaps.len().min(gaps_at + FRAME_GAPS_MAX)];
            let is_last = some.len() == rest.len() && gaps_at + some_gaps.len() == gaps.len();
            let watermarks = (previous, if is_last { watermark } else { previous });
            records_at += self.emit_frame(some, some_gaps, watermarks)?;
            gaps_at += some_gaps.len();
        }
        self.pending.records.extend_from_slice(&records[records_at..]);
        self.pending.gaps.extend_from_slice(&gaps[gaps_at..]);
        Ok(())
    }

    /// Writes one frame with the first of these records; returns how many it took.
    ///
    /// Its watermark is the second one given if it took all, else the first.
    fn emit_frame(
        &mut self,
        records: &[RawEvent],
        gaps: &[Gap],
        (partial, whole): (Nanos, Nanos),
    ) -> Result<usize, TraceError> {
        let offset = self.offset;
        let (taken, encoded) = self
            .encoder
            .encode(records, gaps, &mut self.payload)
            .map_err(|source| TraceError::Write { offset, source })?;
        let records = if taken < records.len() { &records[..taken] } else { records };
        let watermark = if taken < records.len() { partial } else { whole };
        let head = FrameHead {
            plain_bytes: encoded.plain_bytes,
            gaps: gaps.len() as u32,
            lanes: encoded.lanes,
            ..self.head(records, watermark.max(self.flushed))
        };
        self.frame.clear();
        head.put(&mut self.frame);
        self.frame.extend_from_slice(&self.payload);
        self.append(taken as u64)?;
        self.index.push(IndexEntry {
            offset,
            records_before: head.records_before,
            watermark_before: self.flushed,
            first_ts: head.first_ts,
            last_ts: head.last_ts,
        });
        self.frames += 1;
        self.records += taken as u64;
        self.ts_max = self.ts_max.max(head.last_ts);
        self.flushed = head.watermark;
        Ok(taken)
    }

    /// A header for the payload that is ready.
    fn head(&self, records: &[RawEvent], watermark: Nanos) -> FrameHead {
        let times = || records.iter().map(|record| record.ts_ns);
        FrameHead {
            kind: FrameKind::Records,
            payload_bytes: self.payload.len() as u32,
            plain_bytes: 0,
            records: records.len() as u32,
            gaps: 0,
            number: self.frames,
            records_before: self.records,
            first_ts: Nanos(times().min().unwrap_or(0)),
            last_ts: Nanos(times().max().unwrap_or(0)),
            watermark,
            ts_before: self.ts_max,
            payload_crc: crc32fast::hash(&self.payload),
            lanes: Vec::new(),
        }
    }

    /// Appends the bytes that are ready, which hold that many records; whole or not at all.
    fn append(&mut self, records: u64) -> Result<(), TraceError> {
        let Err(source) = self.medium.write_all(&self.frame).and_then(|()| self.medium.flush())
        else {
            self.offset += self.frame.len() as u64;
            return Ok(());
        };
        self.is_ended = true;
        let offset = self.offset;
        // If even this fails, the file ends with a torn frame, which readers expect.
        let _ = self.medium.cut(offset);
        Err(match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => TraceError::DiskFull { offset, dropped: records },
            _ => TraceError::Write { offset, source },
        })
    }
}

impl Medium for File {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
