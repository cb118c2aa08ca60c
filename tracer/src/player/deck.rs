//! The deck: one pipeline that stands at a moment of the tape, and restart points to go back to.

use crate::event::{Batch, Nanos, Setup};
use crate::pipeline::Pipeline;
use crate::player::tape::Tape;
use crate::summary::Summary;
use crate::trace::TraceError;
use crate::verdict::{PageRange, PageState, Window};

/// Restart points kept. Each holds the state of a pipeline: 16 MiB of recent records and 16 bytes per page that was
/// seen, so that twelve of them stay below a GiB for a guest of 16 GiB.
const RESTARTS_MAX: usize = 12;

/// Records between two restart points at first; doubled whenever the points are thinned.
const RESTART_RECORDS: u64 = 1 << 18;

/// A pipeline at a moment of a tape.
#[derive(Debug)]
pub struct Deck<T: Tape> {
    tape: T,
    begin: T::Place,
    setup: Setup,
    pipeline: Pipeline,
    /// Everything up to here has been read from the tape.
    read_up_to: Nanos,
    /// The pipeline's watermark.
    position: Nanos,
    /// The tape has no more.
    is_over: bool,
    /// Invariant: ascending by position.
    restarts: Vec<Restart<T::Place>>,
    records: u64,
    restart_records: u64,
    batch: Batch,
}

/// A state to go back to: everything read has been taken in.
#[derive(Clone, Debug)]
struct Restart<P> {
    place: P,
    position: Nanos,
    records: u64,
    pipeline: Pipeline,
}

impl<T: Tape> Deck<T> {
    /// A deck at the begin of a tape.
    #[must_use]
    pub fn new(tape: T, setup: Setup) -> Self {
        let mut pipeline = Pipeline::new(setup.clone());
        pipeline.follow_windows();
        Self {
            begin: tape.place(),
            tape,
            setup,
            pipeline,
            read_up_to: Nanos(0),
            position: Nanos(0),
            is_over: false,
            restarts: Vec::new(),
            records: 0,
            restart_records: RESTART_RECORDS,
            batch: Batch::default(),
        }
    }

    /// The moment the summary is of.
    #[must_use]
    pub const fn position(&self) -> Nanos {
        self.position
    }

    /// The tape has been read to its end and everything in it was judged.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// What is known at the position.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        self.pipeline.summary()
    }

    /// The state of each cell of a range of pages at the position.
    #[must_use]
    pub fn page_states(&self, range: &PageRange) -> Vec<PageState> {
        self.pipeline.page_states(range)
    }

    /// The windows that closed since the last call.
    pub fn take_windows(&mut self) -> Vec<Window> {
        self.pipeline.take_windows()
    }

    /// How far the tape has been read.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        self.tape.progress()
    }

    /// Takes the next whole batch in and shows it; `None` at the end, where everything held back has been judged.
    ///
    /// # Errors
    /// As [`Tape::next_batch`].
    pub fn take_batch(&mut self) -> Result<Option<&Batch>, TraceError> {
        if self.is_over {
            return Ok(None);
        }
        self.keep_restart();
        if !self.tape.next_batch(&mut self.batch)? {
            self.pipeline.finish();
            self.is_over = true;
            return Ok(None);
        }
        self.read_up_to = self.read_up_to.max(self.batch.watermark);
        self.records += self.batch.records.len() as u64;
        self.pipeline.push(&self.batch);
        self.position = self.read_up_to;
        Ok(Some(&self.batch))
    }

    /// Goes on towards `target` by at most one batch; `true` when it is reached.
    ///
    /// # Errors
    /// As [`Tape::next_batch`].
    pub fn step_towards(&mut self, target: Nanos) -> Result<bool, TraceError> {
        if target <= self.position || self.is_over {
            return Ok(true);
        }
        if self.position < self.read_up_to {
            // The records are in the pipeline already, held back by the watermark.
            self.position = target.min(self.read_up_to);
            let watermark = self.position;
            self.pipeline.push(&Batch { watermark, ..Batch::default() });
            return Ok(target <= self.position);
        }
        self.keep_restart();
        if !self.tape.next_batch(&mut self.batch)? {
            self.pipeline.finish();
            self.is_over = true;
            return Ok(true);
        }
        self.read_up_to = self.read_up_to.max(self.batch.watermark);
        self.records += self.batch.records.len() as u64;
        self.batch.watermark = self.read_up_to.min(target);
        self.position = self.position.max(self.batch.watermark);
        self.pipeline.push(&self.batch);
        Ok(target <= self.position)
    }

    /// Goes back, if need be, to a point from which `target` lies ahead.
    ///
    /// # Errors
    /// As [`Tape::go_to`].
    pub fn rewind_before(&mut self, target: Nanos) -> Result<(), TraceError> {
        if self.position <= target && !self.is_over {
            return Ok(());
        }
        let after = self.restarts.partition_point(|restart| restart.position <= target);
        let Some(restart) = after.checked_sub(1).map(|index| self.restarts[index].clone()) else {
            let begin = self.begin.clone();
            self.tape.go_to(&begin)?;
            self.pipeline = Pipeline::new(self.setup.clone());
            self.pipeline.follow_windows();
            (self.position, self.read_up_to, self.records) = (Nanos(0), Nanos(0), 0);
            self.is_over = false;
            return Ok(());
        };
        self.tape.go_to(&restart.place)?;
        self.pipeline = restart.pipeline;
        (self.position, self.read_up_to) = (restart.position, restart.position);
        self.records = restart.records;
        self.is_over = false;
        Ok(())
    }

    /// Reads elsewhere on the tape without moving the deck.
    ///
    /// # Errors
    /// As `read` and [`Tape::go_to`].
    pub fn aside<R>(
        &mut self,
        place: &T::Place,
        read: impl FnOnce(&mut T) -> Result<R, TraceError>,
    ) -> Result<R, TraceError> {
        let here = self.tape.place();
        self.tape.go_to(place)?;
        let result = read(&mut self.tape);
        self.tape.go_to(&here)?;
        result
    }

    /// The begin of the tape.
    #[must_use]
    pub fn begin(&self) -> T::Place {
        self.begin.clone()
    }

    /// Keeps a restart point where enough records lie behind the last one and everything read was taken in.
    fn keep_restart(&mut self) {
        let last = self.restarts.last().map_or(0, |restart| restart.records);
        let is_due = last + self.restart_records <= self.records;
        if !is_due || self.position < self.read_up_to {
            return;
        }
        if self.restarts.len() == RESTARTS_MAX {
            // Every second point goes: those that remain are evenly spaced again.
            let mut index = 0;
            self.restarts.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            self.restart_records *= 2;
        }
        self.restarts.push(Restart {
            place: self.tape.place(),
            position: self.position,
            records: self.records,
            pipeline: self.pipeline.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RawEvent;
    use crate::player::tape::MemoryTape;

    /// Batches of `per_batch` records, one per microsecond.
    fn deck(batches: u64, per_batch: u64) -> Deck<MemoryTape> {
        let record = |n: u64| RawEvent { ts_ns: n * 1_000, seq: n as u32, ..RawEvent::default() };
        let batch = |index: u64| Batch {
            records: (index * per_batch..(index + 1) * per_batch).map(record).collect(),
            watermark: Nanos((index + 1) * per_batch * 1_000),
            ..Batch::default()
        };
        let tape = MemoryTape::new((0..batches).map(batch).collect());
        Deck::new(tape, Setup::complete("test"))
    }

    fn go(deck: &mut Deck<MemoryTape>, target: Nanos) {
        deck.rewind_before(target).expect("memory");
        while !deck.step_towards(target).expect("memory") {}
    }

    #[test]
    fn a_moment_inside_a_batch_is_reached_exactly() {
        let mut deck = deck(4, 10);
        go(&mut deck, Nanos(25_500));
        assert_eq!(deck.position(), Nanos(25_500));
        go(&mut deck, Nanos(3_000));
        assert_eq!(deck.position(), Nanos(3_000));
        go(&mut deck, Nanos(1_000_000));
        assert!(deck.is_over());
        assert_eq!(deck.summary().events, 40);
    }

    #[test]
    fn going_back_gives_the_summary_of_going_there_first() {
        let target = Nanos(1_500_000_000);
        let mut there = deck(20, 100_000);
        go(&mut there, target);
        let mut back = deck(20, 100_000);
        while back.take_batch().expect("memory").is_some() {}
        assert!(!back.restarts.is_empty());
        go(&mut back, target);
        assert_eq!(back.summary(), there.summary());
    }

    #[test]
    fn restart_points_are_thinned_and_stay_ordered() {
        let mut deck = deck(60, 100_000);
        deck.restart_records = 1_000;
        while deck.take_batch().expect("memory").is_some() {}
        assert!(deck.restarts.len() <= RESTARTS_MAX);
        assert!(deck.restarts.is_sorted_by_key(|restart| restart.position));
        assert!(1_000 < deck.restart_records);
    }
}
