//! Framing: batches in, frames out, whoever keeps them.

use std::io;

use super::encode::Encoder;
use super::frame::{FrameHead, FrameKind};
use super::limits::{FRAME_GAPS_MAX, FRAME_RECORDS_MAX};
use super::{TraceError, WriteLimits};
use crate::event::{Batch, Gap, Nanos, RawEvent};

/// Where frames go: a file, or the memory of a flight recorder.
pub(super) trait FrameSink {
    /// Takes one frame, whole or not at all; `records` are what its payload holds.
    fn take(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        records: &[RawEvent],
    ) -> Result<(), TraceError>;
}

/// Cuts batches into frames.
pub(super) struct Framer {
    limits: WriteLimits,
    encoder: Encoder,
    /// Not yet in a frame; its watermark is that of the last batch.
    pending: Batch,
    /// What the frames so far hold.
    pub done: Done,
    payload: Vec<u8>,
}

/// What the frames so far hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub frames: u64,
    pub records: u64,
    pub watermark: Nanos,
    pub ts_max: Nanos,
}

impl Done {
    /// A header without payload that follows these frames.
    pub fn next_head(&self, kind: FrameKind) -> FrameHead {
        FrameHead {
            kind,
            payload_bytes: 0,
            plain_bytes: 0,
            records: 0,
            gaps: 0,
            number: self.frames,
            records_before: self.records,
            first_ts: Nanos(0),
            last_ts: Nanos(0),
            watermark: self.watermark,
            ts_before: self.ts_max,
            payload_crc: 0,
            lanes: Vec::new(),
        }
    }

    /// Counts a frame.
    pub fn add(&mut self, head: &FrameHead) {
        self.frames += 1;
        self.records += u64::from(head.records);
        self.watermark = head.watermark;
        self.ts_max = self.ts_max.max(head.last_ts);
    }
}

impl Framer {
    pub fn new(limits: WriteLimits) -> io::Result<Self> {
        Ok(Self {
            limits,
            encoder: Encoder::new(limits.level)?,
            pending: Batch::default(),
            done: Done::default(),
            payload: Vec::new(),
        })
    }

    /// Takes the next batch and passes on the frames it completes.
    pub fn push(&mut self, batch: &Batch, sink: &mut impl FrameSink) -> Result<(), TraceError> {
        self.pending.records.extend_from_slice(&batch.records);
        self.pending.gaps.extend_from_slice(&batch.gaps);
        // What stays behind is older than the batch's watermark, so a frame in between keeps the previous one.
        let previous = std::mem::replace(&mut self.pending.watermark, batch.watermark);
        let frame_records = self.limits.frame_records.clamp(1, FRAME_RECORDS_MAX);
        if self.limits.flush_after_ns <= batch.watermark.since(self.done.watermark) {
            self.emit(frame_records, true, previous, sink)?;
        } else if frame_records <= self.pending.records.len() {
            self.emit(frame_records, false, previous, sink)?;
        }
        Ok(())
    }

    /// Passes on everything taken so far.
    pub fn flush(&mut self, sink: &mut impl FrameSink) -> Result<(), TraceError> {
        let Batch { records, gaps, watermark } = &self.pending;
        if !records.is_empty() || !gaps.is_empty() || self.done.watermark < *watermark {
            self.emit(FRAME_RECORDS_MAX, true, *watermark, sink)?;
        }
        Ok(())
    }

    /// Passes on frames of `frame_records` records; the last, incomplete one only if `all`.
    ///
    /// `previous` is the watermark before the last batch, which all frames have but the one that ends with that batch.
    fn emit(
        &mut self,
        frame_records: usize,
        all: bool,
        previous: Nanos,
        sink: &mut impl FrameSink,
    ) -> Result<(), TraceError> {
        let mut records = std::mem::take(&mut self.pending.records);
        let mut gaps = std::mem::take(&mut self.pending.gaps);
        let watermarks = (previous, self.pending.watermark);
        let (mut records_at, mut gaps_at) = (0, 0);
        // A frame without records still says how far the trace is complete; one of them is enough.
        let mut is_first = true;
        loop {
            let (rest, rest_gaps) = (&records[records_at..], &gaps[gaps_at..]);
            let is_partial = rest.len() < frame_records && rest_gaps.len() <= FRAME_GAPS_MAX;
            let is_done = rest.is_empty() && rest_gaps.is_empty() && !is_first;
            if is_done || is_partial && !all {
                break;
            }
            is_first = false;
            let some = &rest[..rest.len().min(frame_records)];
            let some_gaps = &rest_gaps[..rest_gaps.len().min(FRAME_GAPS_MAX)];
            let is_last = some.len() == rest.len() && some_gaps.len() == rest_gaps.len();
            records_at += self.emit_frame(some, some_gaps, is_last, watermarks, sink)?;
            gaps_at += some_gaps.len();
        }
        records.drain(..records_at);
        gaps.drain(..gaps_at);
        (self.pending.records, self.pending.gaps) = (records, gaps);
        Ok(())
    }

    /// Passes on one frame with the first of these records; returns how many it took.
    fn emit_frame(
        &mut self,
        records: &[RawEvent],
        gaps: &[Gap],
        is_last: bool,
        (previous, last): (Nanos, Nanos),
        sink: &mut impl FrameSink,
    ) -> Result<usize, TraceError> {
        let (taken, encoded) = self
            .encoder
            .encode(records, gaps, &mut self.payload)
            .map_err(|source| TraceError::Compress { source })?;
        let is_last = is_last && taken == records.len();
        let times = || records[..taken].iter().map(|record| record.ts_ns);
        let head = FrameHead {
            payload_bytes: self.payload.len() as u32,
            plain_bytes: encoded.plain_bytes,
            records: taken as u32,
            gaps: gaps.len() as u32,
            first_ts: Nanos(times().min().unwrap_or(0)),
            last_ts: Nanos(times().max().unwrap_or(0)),
            watermark: if is_last { last } else { previous }.max(self.done.watermark),
            payload_crc: crc32fast::hash(&self.payload),
            lanes: encoded.lanes,
            ..self.done.next_head(FrameKind::Records)
        };
        let mut done = self.done;
        done.add(&head);
        sink.take(head, &self.payload, &records[..taken])?;
        self.done = done;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(Vec<u32>);

    impl FrameSink for Count {
        fn take(&mut self, head: FrameHead, _: &[u8], _: &[RawEvent]) -> Result<(), TraceError> {
            self.0.push(head.records);
            Ok(())
        }
    }

    #[test]
    fn a_quiet_second_is_one_empty_frame() {
        let mut framer = Framer::new(WriteLimits::STANDARD).unwrap();
        let mut frames = Count(Vec::new());
        for second in 1..=3 {
            let watermark = Nanos(second * 1_000_000_000);
            framer.push(&Batch { watermark, ..Batch::default() }, &mut frames).unwrap();
        }
        assert_eq!(frames.0, [0, 0, 0]);
    }
}
