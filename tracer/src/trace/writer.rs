//! The writer: batches in, a file out, before any analysis has seen them.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::TraceError;
use super::frame::{FrameHead, FrameKind};
use super::framer::{Done, FrameSink, Framer};
use super::header::Header;
use super::index::{IndexBuilder, IndexEntry, TRAILER_BYTES, trailer};
use super::limits::FRAME_RECORDS_MAX;
use crate::event::{Batch, Nanos, RawEvent};

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
    /// Trace time after which a frame is written even if it is not full, in nanoseconds. What is not written yet is
    /// lost with the process.
    pub flush_after_ns: u64,
    /// zstd level.
    pub level: i32,
}

impl WriteLimits {
    /// Full frames under load, one frame per second without. Half the largest frame takes 2 % more bytes and reads
    /// faster, because its columns fit into a CPU's cache; a higher zstd level gains less than 1 % and writes slower.
    pub const STANDARD: Self =
        Self { frame_records: FRAME_RECORDS_MAX / 2, flush_after_ns: 1_000_000_000, level: 1 };
}

/// Writes one recording.
pub struct Writer {
    framer: Framer,
    tail: Tail,
}

/// The end of a file that grows.
pub(super) struct Tail {
    medium: Box<dyn Medium>,
    /// End of the last complete frame.
    offset: u64,
    /// Watermark of that frame.
    watermark: Nanos,
    index: IndexBuilder,
    is_ended: bool,
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
        let framer = Framer::new(limits).map_err(|source| TraceError::Compress { source })?;
        Ok(Self { framer, tail: Tail::new(medium, header)? })
    }

    /// Takes the next batch. It is in the file once its frame is full, old enough or flushed.
    ///
    /// # Errors
    /// A frame could not be written: the recording ends with the frame before, and this writer with it.
    pub fn write(&mut self, batch: &Batch) -> Result<(), TraceError> {
        self.tail.check()?;
        self.framer.push(batch, &mut self.tail)
    }

    /// Writes everything taken so far.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&mut self) -> Result<(), TraceError> {
        self.tail.check()?;
        self.framer.flush(&mut self.tail)
    }

    /// Writes what is left, the index and the trailer.
    ///
    /// # Errors
    /// As [`Self::write`]; the recording is valid without index.
    pub fn finish(mut self) -> Result<(), TraceError> {
        self.flush()?;
        self.tail.finish(&self.framer.done)
    }

    /// Bytes of the file so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tail.offset
    }

    /// Records in the file so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.framer.done.records
    }
}

impl Tail {
    pub fn new(medium: Box<dyn Medium>, header: &Header) -> Result<Self, TraceError> {
        let frame = header.to_bytes()?;
        let mut tail = Self {
            medium,
            offset: 0,
            watermark: Nanos(0),
            index: IndexBuilder::new(),
            is_ended: false,
            frame,
        };
        tail.append(0)?;
        Ok(tail)
    }

    fn check(&self) -> Result<(), TraceError> {
        if self.is_ended { Err(TraceError::Ended) } else { Ok(()) }
    }

    /// Writes index and trailer behind the frames that `done` counts.
    pub fn finish(&mut self, done: &Done) -> Result<(), TraceError> {
        let index_at = self.offset;
        let plain = self.index.to_bytes();
        let payload = zstd::bulk::compress(&plain, zstd::DEFAULT_COMPRESSION_LEVEL)
            .map_err(|source| TraceError::Compress { source })?;
        let head = FrameHead {
            payload_bytes: payload.len() as u32,
            plain_bytes: plain.len() as u32,
            payload_crc: crc32fast::hash(&payload),
            ..done.next_head(FrameKind::Index)
        };
        self.frame.clear();
        head.put(&mut self.frame);
        self.frame.extend_from_slice(&payload);
        let file_bytes = index_at + (self.frame.len() + TRAILER_BYTES) as u64;
        self.frame.extend_from_slice(&trailer(index_at, file_bytes));
        self.append(0)?;
        let offset = self.offset;
        self.medium.sync().map_err(|source| TraceError::Write { offset, source })
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

impl FrameSink for Tail {
    fn take(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        _records: &[RawEvent],
    ) -> Result<(), TraceError> {
        self.frame.clear();
        head.put(&mut self.frame);
        self.frame.extend_from_slice(payload);
        let offset = self.offset;
        self.append(u64::from(head.records))?;
        self.index.push(IndexEntry {
            offset,
            records_before: head.records_before,
            watermark_before: self.watermark,
            first_ts: head.first_ts,
            last_ts: head.last_ts,
        });
        self.watermark = head.watermark;
        Ok(())
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
