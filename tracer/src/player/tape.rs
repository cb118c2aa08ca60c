//! What a player reads: batches in order, from any place it has been at before.

use std::io;

use thiserror::Error;

use crate::event::Batch;

/// A recording that can be read again from a place it was read at before.
pub trait Tape: Send + 'static {
    /// A place between two batches.
    type Place: Clone + std::fmt::Debug + Send;

    /// Replaces `batch` by the next one; `false` at the end.
    ///
    /// # Errors
    /// What the system refuses to read. Damage is no error but a gap in the batch.
    fn next_batch(&mut self, batch: &mut Batch) -> Result<bool, TapeError>;

    /// The place of the next batch.
    fn place(&self) -> Self::Place;

    /// Continues at a place.
    ///
    /// # Errors
    /// What the system refuses to read.
    fn go_to(&mut self, place: &Self::Place) -> Result<(), TapeError>;

    /// How far it has been read, and how far that can go, in any unit.
    fn progress(&self) -> (u64, u64);
}

/// Why a tape cannot be read on.
#[derive(Debug, Error)]
pub enum TapeError {
    /// The system refused.
    #[error("read the recording")]
    Read(#[source] io::Error),
    /// Another layer's error, which names its own operation.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// Batches in memory: litmus files, and tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryTape {
    batches: Vec<Batch>,
    next: usize,
}

impl MemoryTape {
    /// A tape of these batches.
    #[must_use]
    pub fn new(batches: Vec<Batch>) -> Self {
        Self { batches, next: 0 }
    }
}

impl Tape for MemoryTape {
    type Place = usize;

    fn next_batch(&mut self, batch: &mut Batch) -> Result<bool, TapeError> {
        let Some(next) = self.batches.get(self.next) else { return Ok(false) };
        batch.clone_from(next);
        self.next += 1;
        Ok(true)
    }

    fn place(&self) -> usize {
        self.next
    }

    fn go_to(&mut self, place: &usize) -> Result<(), TapeError> {
        self.next = *place;
        Ok(())
    }

    fn progress(&self) -> (u64, u64) {
        (self.next as u64, self.batches.len() as u64)
    }
}
