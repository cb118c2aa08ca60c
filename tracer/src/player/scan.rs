//! Looks through the whole tape for the events of one page, a slice at a time.

use std::sync::Arc;
use std::time::Duration;

use crate::event::{Batch, Nanos};
use crate::feed::{Follower, Journey, Request};
use crate::player::deck::Deck;
use crate::player::tape::Tape;
use crate::trace::TraceError;

/// Events of one page kept of a recording.
const EVENTS_MAX: usize = 1 << 18;

/// A scan that is under way, or done.
#[derive(Debug)]
pub(super) struct Scan<T: Tape> {
    follower: Follower,
    place: T::Place,
    is_done: bool,
}

impl<T: Tape> Scan<T> {
    /// A scan for the page of a [`Request::Follow`].
    pub(super) fn new(request: Request, deck: &Deck<T>) -> Self {
        let mut follower = Follower::keeping(EVENTS_MAX);
        follower.ask(request);
        Self { follower, place: deck.begin(), is_done: false }
    }

    /// There is more to read.
    pub(super) const fn is_running(&self) -> bool {
        !self.is_done
    }

    /// Reads on for about `slice`.
    pub(super) fn go_on(&mut self, deck: &mut Deck<T>, slice: Duration) -> Result<(), TraceError> {
        let until = super::session::now() + slice;
        let Self { follower, place, is_done } = self;
        deck.aside(&place.clone(), |tape| {
            let mut batch = Batch::default();
            while super::session::now() < until {
                if !tape.next_batch(&mut batch)? {
                    *is_done = true;
                    break;
                }
                follower.take(&batch);
            }
            *place = tape.place();
            Ok(())
        })
    }

    /// The events found up to a time.
    pub(super) fn journey(&self, time: Nanos) -> Option<Arc<Journey>> {
        let journey = self.follower.journey()?;
        let mut journey = journey.until(time);
        let excess = journey.events.len().saturating_sub(Journey::EVENTS_MAX);
        journey.events.drain(..excess);
        Some(Arc::new(journey))
    }
}
