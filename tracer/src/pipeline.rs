//! The pipeline: records in, a [`Summary`] out; the same for live rings and for recordings.
//!
//! ```text
//! push(batch) -> merge (order) -> decode (event) -> engine (order, verdict) -> summary
//! ```

use crate::event::{Batch, Setup};
use crate::summary::Summary;
use crate::verdict::Window;

/// Records to judgements. Fails never, waits never.
#[derive(Clone, Debug)]
pub struct Pipeline {
    setup: Setup,
    summary: Summary,
    follows_windows: bool,
    windows: Vec<Window>,
}

impl Pipeline {
    /// A pipeline for one trace.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self { setup, summary: Summary::default(), follows_windows: false, windows: Vec::new() }
    }

    /// Takes the next batch. How records are cut into batches changes nothing.
    pub fn push(&mut self, batch: &Batch) {
        self.summary.events += batch.records.len() as u64;
    }

    /// The trace has ended: everything still held back is judged.
    pub fn finish(&mut self) {}

    /// Keeps every window that closes until [`Self::take_windows`] asks for it; the summary keeps only the longest.
    pub fn follow_windows(&mut self) {
        self.follows_windows = true;
    }

    /// The windows that closed since the last call, and after [`Self::finish`] those left open.
    pub fn take_windows(&mut self) -> Vec<Window> {
        std::mem::take(&mut self.windows)
    }

    /// What is known now.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// What the pipeline was told.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }
}
