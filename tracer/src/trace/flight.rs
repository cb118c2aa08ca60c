//! The flight recorder: the newest frames in memory, written when something worth keeping has happened.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::TraceError;
use super::carry::Carry;
use super::frame::FrameHead;
use super::framer::{Done, FrameSink, Framer};
use super::header::Header;
use super::rotate::{create_new, file_name};
use super::writer::{Tail, WriteLimits};
use crate::event::{Batch, Nanos, RawEvent};

/// What a flight recorder keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlightLimits {
    /// Trace time, in nanoseconds.
    pub keep_ns: u64,
    /// Bytes of compressed frames; beyond, the oldest frames go earlier.
    pub bytes_max: u64,
    /// When frames are made. Frames are forgotten as a whole, so they should be much shorter than `keep_ns`.
    pub write: WriteLimits,
}

impl FlightLimits {
    /// The last `keep_ns`, in at most 256 MiB.
    #[must_use]
    pub const fn last(keep_ns: u64) -> Self {
        let mut write = WriteLimits::STANDARD;
        if keep_ns / 16 < write.flush_after_ns {
            write.flush_after_ns = keep_ns / 16;
        }
        Self { keep_ns, bytes_max: 256 << 20, write }
    }
}

/// Keeps the end of a trace in bounded memory.
///
/// Every [`Self::keep`] writes a file and forgets what it wrote: files join without a gap, and a hazard that comes
/// again and again does not write the same records again and again.
pub struct Flight {
    path: PathBuf,
    header: Header,
    framer: Framer,
    memory: Memory,
    files: u32,
}

/// The frames that are kept.
struct Memory {
    limits: FlightLimits,
    frames: VecDeque<Kept>,
    bytes: u64,
    /// What was announced before the first of them.
    carry: Carry,
    /// Watermark before the first of them.
    begin: Nanos,
    /// The memory limit took frames that time alone would have left.
    is_short: bool,
}

struct Kept {
    head: FrameHead,
    payload: Vec<u8>,
    noted: Carry,
}

impl Flight {
    /// A flight recorder that writes to `path` when asked to, and to `.2`, `.3` and so on after that.
    ///
    /// # Errors
    /// zstd does not start.
    pub fn new(path: &Path, header: Header, limits: FlightLimits) -> Result<Self, TraceError> {
        let framer = Framer::new(limits.write).map_err(|source| TraceError::Compress { source })?;
        let memory = Memory {
            limits,
            frames: VecDeque::new(),
            bytes: 0,
            carry: Carry::default(),
            begin: Nanos(0),
            is_short: false,
        };
        Ok(Self { path: path.to_owned(), header, framer, memory, files: 0 })
    }

    /// Takes the next batch; forgets what is too old.
    ///
    /// # Errors
    /// Compression failed.
    pub fn write(&mut self, batch: &Batch) -> Result<(), TraceError> {
        self.framer.push(batch, &mut self.memory)
    }

    /// Writes what is remembered to the next file; returns its name, or `None` if nothing is remembered.
    ///
    /// # Errors
    /// The file exists or cannot be written; nothing is forgotten then.
    pub fn keep(&mut self) -> Result<Option<PathBuf>, TraceError> {
        self.framer.flush(&mut self.memory)?;
        if self.memory.frames.is_empty() {
            return Ok(None);
        }
        let path = file_name(&self.path, self.files + 1);
        let mut tail = Tail::new(Box::new(create_new(&path)?), &self.header)?;
        let mut done = Done::default();
        self.first_frame(&mut done, &mut tail)?;
        for Kept { head, payload, noted: _ } in &self.memory.frames {
            let head = FrameHead {
                number: done.frames,
                records_before: done.records,
                ts_before: done.ts_max,
                ..head.clone()
            };
            done.add(&head);
            tail.take(head, payload, &[])?;
        }
        tail.finish(&done)?;
        self.files += 1;
        while self.memory.forget_first() {}
        self.memory.is_short = false;
        Ok(Some(path))
    }

    /// Bytes of compressed frames in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory.bytes
    }

    /// The memory limit took frames that time alone would have left: less is remembered than was asked for.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.memory.is_short
    }

    /// Writes what was announced before the frames begin.
    fn first_frame(&mut self, done: &mut Done, tail: &mut Tail) -> Result<(), TraceError> {
        let begin = self.memory.begin;
        let batch =
            Batch { records: self.memory.carry.records(begin), gaps: Vec::new(), watermark: begin };
        if batch.records.is_empty() {
            return Ok(());
        }
        let mut framer = Framer::new(self.memory.limits.write)
            .map_err(|source| TraceError::Compress { source })?;
        framer.push(&batch, tail)?;
        framer.flush(tail)?;
        *done = framer.done;
        Ok(())
    }
}

impl Memory {
    /// Forgets the oldest frame; `false` if there was none.
    fn forget_first(&mut self) -> bool {
        let Some(Kept { head, payload, noted }) = self.frames.pop_front() else {
            return false;
        };
        self.bytes -= payload.len() as u64;
        self.carry.update(noted);
        self.begin = head.watermark;
        true
    }
}

impl FrameSink for Memory {
    fn take(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        records: &[RawEvent],
    ) -> Result<(), TraceError> {
        let watermark = head.watermark;
        self.bytes += payload.len() as u64;
        let mut noted = Carry::default();
        for record in records {
            noted.note(record);
        }
        self.frames.push_back(Kept { head, payload: payload.to_vec(), noted });
        let FlightLimits { keep_ns, bytes_max, .. } = self.limits;
        while let Some(first) = self.frames.front() {
            let is_old = keep_ns < watermark.since(first.head.watermark);
            let is_much = bytes_max < self.bytes;
            if !is_old && !is_much {
                break;
            }
            self.is_short |= is_much && !is_old;
            self.forget_first();
        }
        Ok(())
    }
}
