//! What passes from the reader to the analysis, and how much of it may wait there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::event::Batch;
use crate::feed::{Overhead, ProbeCount};

/// What passes from reader to analysis.
pub enum Parcel {
    /// Records, gaps and a watermark.
    Batch(Batch),
    /// What tracing costs, by program, and nanoseconds that harvest programs have run.
    Cost(Overhead, Vec<ProbeCount>, Option<u64>),
    /// Nothing more will come, and why.
    Stopped(&'static str),
}

/// Records that wait for the analysis, counted on both sides.
#[derive(Debug, Default)]
pub struct Waiting(AtomicUsize);

impl Waiting {
    /// The most, a batch more or less: 64 MiB.
    const MAX: usize = 1 << 20;

    fn has_room(&self) -> bool {
        self.0.load(Ordering::Acquire) <= Self::MAX
    }

    /// Hands a batch to the analysis, once that has few enough records before it; `false`: it has ended.
    pub fn pass(&self, batch: Batch, parcels: &Sender<Parcel>, stop: &AtomicBool) -> bool {
        // Whoever stops the trace has seen an analysis that has ended.
        while !self.has_room() && !stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.0.fetch_add(batch.records.len(), Ordering::AcqRel);
        parcels.send(Parcel::Batch(batch)).is_ok()
    }

    /// The analysis has taken a batch.
    pub fn taken(&self, batch: &Batch) {
        self.0.fetch_sub(batch.records.len(), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::event::RawEvent;

    /// Sixty-four batches that nobody had taken yet stopped the reader, and a guest on a busy machine filled its ring
    /// meanwhile (7.3, `slots`).
    #[test]
    fn only_records_hold_up_the_reader() {
        let (waiting, stop) = (Waiting::default(), AtomicBool::new(false));
        let (parcels, inbox) = mpsc::channel();
        for _ in 0..10_000 {
            assert!(waiting.pass(Batch::default(), &parcels, &stop));
        }
        assert!(waiting.has_room());
        let records = vec![RawEvent::default(); Waiting::MAX + 1];
        assert!(waiting.pass(Batch { records, ..Batch::default() }, &parcels, &stop));
        assert!(!waiting.has_room());
        for parcel in inbox.try_iter() {
            if let Parcel::Batch(batch) = parcel {
                waiting.taken(&batch);
            }
        }
        assert!(waiting.has_room());
        drop(inbox);
        assert!(!waiting.pass(Batch::default(), &parcels, &stop));
    }
}
