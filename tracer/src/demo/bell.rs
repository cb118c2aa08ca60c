//! What wakes the harvester: the clock, a full ring, the controlling side, a failure.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::demo::DemoError;

/// Why the harvester woke up.
#[derive(Debug)]
pub enum Wake {
    /// The interval is over.
    Interval,
    /// A dirty ring is full.
    RingFull,
    /// The controlling side said `stop` or went away.
    Stop,
}

#[derive(Debug, Default)]
struct BellState {
    go: bool,
    stop: bool,
    ring_full: bool,
    failure: Option<DemoError>,
}

/// What the harvester listens to while it waits.
#[derive(Clone, Debug, Default)]
pub struct Bell {
    shared: Arc<(Mutex<BellState>, Condvar)>,
}

impl Bell {
    /// The controlling side said `go`.
    pub fn go(&self) {
        self.ring(|state| state.go = true);
    }

    /// The controlling side said `stop` or went away.
    pub fn stop(&self) {
        self.ring(|state| state.stop = true);
    }

    /// A dirty ring is full.
    pub fn ring_full(&self) {
        self.ring(|state| state.ring_full = true);
    }

    /// Something failed on another thread; only the first failure is kept.
    pub fn fail(&self, error: DemoError) {
        self.ring(|state| {
            state.failure.get_or_insert(error);
        });
    }

    /// Waits for `go`.
    ///
    /// # Errors
    ///
    /// [`DemoError::NeverStarted`] if the controlling side stops or goes away first, or the failure
    /// of another thread.
    pub fn await_go(&self) -> Result<(), DemoError> {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            if state.go {
                return Ok(());
            }
            if state.stop {
                return Err(DemoError::NeverStarted);
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until something happens, at most for `interval`.
    ///
    /// # Errors
    ///
    /// The failure of another thread.
    pub fn wait(&self, interval: Duration) -> Result<Wake, DemoError> {
        let (state, changed) = &*self.shared;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet =
            |state: &mut BellState| !state.stop && !state.ring_full && state.failure.is_none();
        let (mut state, _) = changed
            .wait_timeout_while(state, interval, quiet)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        let ring_full = std::mem::take(&mut state.ring_full);
        Ok(match (state.stop, ring_full) {
            (true, _) => Wake::Stop,
            (false, true) => Wake::RingFull,
            (false, false) => Wake::Interval,
        })
    }

    fn ring(&self, change: impl FnOnce(&mut BellState)) {
        let (state, changed) = &*self.shared;
        change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_wakes_the_harvester_once() {
        let bell = Bell::default();
        bell.ring_full();
        assert!(matches!(bell.wait(Duration::ZERO), Ok(Wake::RingFull)));
        assert!(matches!(bell.wait(Duration::ZERO), Ok(Wake::Interval)));
    }

    #[test]
    fn stop_before_go_means_never_started() {
        let bell = Bell::default();
        bell.stop();
        assert!(matches!(bell.await_go(), Err(DemoError::NeverStarted)));
    }
}
