//! Numbers of a lane: which jump is a drop, and which a record that only comes later.

use crate::event::{Gap, GapCause, Lane, Nanos, RawEvent};

use super::merge::Note;

/// A lane's numbers so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneState {
    pub is_known: bool,
    /// The number that comes next.
    pub next: u32,
    pub last: Nanos,
    /// The newest missing numbers, `missing.0..missing.1`.
    missing: (u32, u32),
    /// Missing numbers whose records are at hand and come later.
    stragglers: u64,
}

impl LaneState {
    /// The lane's number is not the one that was expected.
    #[cold]
    pub fn jump(&mut self, record: &RawEvent, numbers: &mut Numbers<'_>) -> Option<Note> {
        let (next, (from, to)) = (self.next, self.missing);
        let ahead = record.seq.wrapping_sub(next);
        let was_known = std::mem::replace(&mut self.is_known, true);
        if !was_known {
            self.next = record.seq.wrapping_add(1);
            None
        } else if ahead < 1 << 31 {
            let lane = Lane::of(record);
            let stragglers = numbers.count(lane, next, record.seq).min(ahead.into());
            self.stragglers = stragglers;
            self.missing = (next, record.seq);
            self.next = record.seq.wrapping_add(1);
            let missing = u64::from(ahead) - stragglers;
            (missing != 0).then_some(Note::Gap(Gap {
                lane: Some(lane),
                hook: None,
                cause: GapCause::RingFull,
                from: self.last,
                to: Nanos(record.ts_ns),
                dropped: missing,
            }))
        } else {
            // The number was not dropped: an interrupting program took the next one and an earlier time.
            let was_missing = record.seq.wrapping_sub(from) < to.wrapping_sub(from);
            let was_expected = was_missing && 0 < self.stragglers;
            self.stragglers -= u64::from(was_expected);
            (was_missing && !was_expected).then_some(Note::Found(1))
        }
    }
}

/// The numbers of all records at hand: a program that is preempted between its number and its time (raw tracepoints of
/// 7.x) has a later time than the one with the next number, and none of the two was dropped.
pub struct Numbers<'a> {
    of: [&'a [RawEvent]; 2],
    /// By lane and number; made at the first jump.
    sorted: Option<Vec<(Lane, u32)>>,
}

impl<'a> Numbers<'a> {
    /// Of these records.
    pub fn of(held: &'a [RawEvent], came: &'a [RawEvent]) -> Self {
        Self { of: [held, came], sorted: None }
    }

    /// How many records of the lane have a number in `from..to`, which may wrap.
    #[cold]
    fn count(&mut self, lane: Lane, from: u32, to: u32) -> u64 {
        let of = self.of;
        let sorted = self.sorted.get_or_insert_with(|| {
            let records = of.into_iter().flatten();
            let mut numbers: Vec<_> =
                records.map(|record| (Lane::of(record), record.seq)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        });
        let below = |number| sorted.partition_point(|&entry| entry < (lane, number)) as u64;
        let wraps = to < from;
        let end = sorted.partition_point(|&(of, _)| of <= lane) as u64;
        let begin = sorted.partition_point(|&(of, _)| of < lane) as u64;
        if wraps { end - below(from) + (below(to) - begin) } else { below(to) - below(from) }
    }
}
