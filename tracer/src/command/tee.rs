//! What a running trace is written to, whatever that is.

use anyhow::Result;

use crate::event::Batch;

/// Where batches go before anybody looks at them: the recording.
pub trait Tee: Send + 'static {
    /// Writes one batch.
    ///
    /// # Errors
    /// The recording cannot be continued; what it holds stays readable.
    fn write(&mut self, batch: &Batch) -> Result<()>;

    /// Something worth keeping has happened: a flight recorder writes its memory.
    ///
    /// # Errors
    /// As [`Tee::write`].
    fn keep(&mut self, why: Keep) -> Result<()>;

    /// Completes the recording.
    ///
    /// # Errors
    /// As [`Tee::write`].
    fn finish(&mut self) -> Result<()>;
}

/// Why something is worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The user asked for it (SIGUSR1).
    Asked,
    /// The analysis has found a hazard; it may find the next one right after.
    Hazard,
}
