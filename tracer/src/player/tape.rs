//! What a player reads: batches in order, from any place it has been at before.

use crate::event::Batch;
use crate::trace::{Place, Reader, TraceError};

/// A recording that can be read again from a place it was read at before.
pub trait Tape: Send + 'static {
    /// A place between two batches.
    type Place: Clone + std::fmt::Debug + Send;

    /// Replaces `batch` by the next one; `false` at the end.
    ///
    /// # Errors
    /// What the system refuses to read. Damage is no error but a gap in the batch.
    fn next_batch(&mut self, batch: &mut Batch) -> Result<bool, TraceError>;

    /// The place of the next batch.
    fn place(&self) -> Self::Place;

    /// Continues at a place.
    ///
    /// # Errors
    /// What the system refuses to read.
    fn go_to(&mut self, place: &Self::Place) -> Result<(), TraceError>;

    /// How far it has been read, and how far that can go, in any unit.
    fn progress(&self) -> (u64, u64);
}

impl Tape for Reader {
    type Place = Place;

    fn next_batch(&mut self, batch: &mut Batch) -> Result<bool, TraceError> {
        Ok(Self::next_batch(self, batch)?.is_some())
    }

    fn place(&self) -> Place {
        Self::place(self)
    }

    fn go_to(&mut self, place: &Place) -> Result<(), TraceError> {
        self.return_to(place)
    }

    fn progress(&self) -> (u64, u64) {
        Self::progress(self)
    }
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

    fn next_batch(&mut self, batch: &mut Batch) -> Result<bool, TraceError> {
        let Some(next) = self.batches.get(self.next) else { return Ok(false) };
        batch.clone_from(next);
        self.next += 1;
        Ok(true)
    }

    fn place(&self) -> usize {
        self.next
    }

    fn go_to(&mut self, place: &usize) -> Result<(), TraceError> {
        self.next = *place;
        Ok(())
    }

    fn progress(&self) -> (u64, u64) {
        (self.next as u64, self.batches.len() as u64)
    }
}
