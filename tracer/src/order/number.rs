//! Numbers of a lane: which jump is a drop, and which a record that only comes later.

use crate::event::{Gap, GapCause, Lane, Nanos, Place, RawEvent, Sequence};

use super::merge::Note;

/// What is known of a lane in merge order.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneState {
    pub sequence: Sequence,
    pub last: Nanos,
    /// Missing numbers whose records are at hand and come later.
    stragglers: u64,
}

impl LaneState {
    /// The record's number is not the one that was expected.
    #[cold]
    pub fn jump(
        &mut self,
        place: Place,
        record: &RawEvent,
        numbers: &mut Numbers<'_>,
    ) -> Option<Note> {
        match place {
            Place::Next | Place::Again => None,
            Place::Behind(from) => {
                let lane = Lane::of(record);
                let ahead = u64::from(record.seq.wrapping_sub(from));
                self.stragglers = numbers.count(lane, from, record.seq).min(ahead);
                let dropped = ahead - self.stragglers;
                (dropped != 0).then_some(Note::Gap(Gap {
                    lane: Some(lane),
                    hook: None,
                    cause: GapCause::RingFull,
                    from: self.last,
                    to: Nanos(record.ts_ns),
                    dropped,
                }))
            }
            Place::Missing => {
                // Not dropped; unless it was expected, it was counted as such.
                let was_expected = 0 < self.stragglers;
                self.stragglers -= u64::from(was_expected);
                (!was_expected).then_some(Note::Found(1))
            }
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
