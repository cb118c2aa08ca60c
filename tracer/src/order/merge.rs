//! The merge: records of many lanes become one sequence, and jumps of a lane's numbers become located gaps.
//!
//! Sorting is by `(end, cpu, class, seq)` up to the watermark, so how records were cut into batches or shuffled within
//! one changes nothing. It is a merge step, not an order: what really precedes what is said by [`super::relation()`].

use std::cmp::Ordering;

use crate::event::{Anomaly, AnomalyKind, Batch, Class, Gap, Lane, Nanos, Place, RawEvent};

use super::number::{LaneState, Numbers};

/// What the merge hands out, in merge order.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// The next record.
    Record(&'a RawEvent),
    /// What is to be said before it.
    Note(Note),
    /// The records that come next, each of which is handed out by itself then.
    Ahead(&'a [&'a RawEvent]),
}

/// What the merge found out about records.
#[derive(Clone, Copy, Debug)]
pub enum Note {
    /// Records are missing; handed out before the record that showed it, or when its end has passed.
    Gap(Gap),
    /// Numbers counted as missing turned up late: so many fewer are dropped.
    Found(u64),
    /// A record came after the watermark had passed it.
    Late(Anomaly),
}

/// Merges batches.
#[derive(Clone, Debug, Default)]
pub struct Merge {
    /// Records beyond the watermark.
    held: Vec<RawEvent>,
    /// Gaps whose end is beyond the watermark.
    held_gaps: Vec<Gap>,
    lanes: Vec<LaneState>,
    watermark: Nanos,
    /// Reused: what was held while a batch is taken.
    released: Vec<RawEvent>,
}

/// Records announced at a time: so many of their cache misses overlap.
const AHEAD: usize = 32;

impl Merge {
    /// Takes a batch and hands out everything up to its watermark.
    pub fn push(&mut self, batch: &Batch, mut out: impl FnMut(Item<'_>)) {
        let passed = self.watermark;
        self.watermark = passed.max(batch.watermark);
        let mut gaps = DueGaps::new(self.take_gaps(batch));
        let mut released = std::mem::take(&mut self.released);
        std::mem::swap(&mut released, &mut self.held);
        let mut runs = Runs::default();
        split(&released, |run| runs.push(self.hold_back(run)));
        split(&batch.records, |run| {
            let late = run.partition_point(|record| record.ts_ns < passed.0);
            for record in &run[..late] {
                let at = Nanos(record.ts_ns);
                let lane = Lane::of(record);
                out(Item::Note(Note::Late(Anomaly { at, lane, kind: AnomalyKind::Late })));
            }
            runs.push(self.hold_back(&run[late..]));
        });

        let mut numbers = Numbers::of(&released, &batch.records);
        let mut sorted = runs.sorted();
        let mut ahead = Vec::with_capacity(AHEAD);
        loop {
            ahead.clear();
            ahead.extend(sorted.by_ref().take(AHEAD));
            if ahead.is_empty() {
                break;
            }
            out(Item::Ahead(&ahead));
            for record in &ahead {
                if gaps.next < record.ts_ns {
                    gaps.hand_out_before(record.ts_ns, &mut out);
                }
                self.check_number(record, &mut numbers, &mut out);
                out(Item::Record(record));
            }
        }
        gaps.gaps.for_each(|gap| out(Item::Note(Note::Gap(gap))));
        released.clear();
        self.released = released;
    }

    /// Keeps what of a run lies beyond the watermark, and gives back the rest.
    fn hold_back<'a>(&mut self, run: &'a [RawEvent]) -> &'a [RawEvent] {
        let passed = run.partition_point(|record| record.ts_ns <= self.watermark.0);
        self.held.extend_from_slice(&run[passed..]);
        &run[..passed]
    }

    /// Hands out what is held back: nothing more will come.
    pub fn finish(&mut self, out: impl FnMut(Item<'_>)) {
        let last = self.held.iter().map(|record| record.ts_ns).max().unwrap_or(0);
        let gap = self.held_gaps.iter().map(|gap| gap.to.0).max().unwrap_or(0);
        let watermark = self.watermark.max(Nanos(last)).max(Nanos(gap));
        self.push(&Batch { watermark, ..Batch::default() }, out);
    }

    /// Everything up to this has been handed out.
    #[must_use]
    pub const fn watermark(&self) -> Nanos {
        self.watermark
    }

    /// The gaps that end by the watermark, by their end.
    fn take_gaps(&mut self, batch: &Batch) -> Vec<Gap> {
        self.held_gaps.extend_from_slice(&batch.gaps);
        if self.held_gaps.is_empty() {
            return Vec::new();
        }
        self.held_gaps.sort_by_key(|gap| (gap.to, gap.from, gap.lane, gap.hook, gap.dropped));
        let passed = self.held_gaps.partition_point(|gap| gap.to <= self.watermark);
        self.held_gaps.drain(..passed).collect()
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneState {
        let index = usize::from(lane.cpu.0) * Class::ALL.len() + lane.class as usize;
        if self.lanes.len() <= index {
            self.lanes.resize(index + 1, LaneState::default());
        }
        &mut self.lanes[index]
    }

    /// Compares the record's number with its lane's.
    #[inline]
    fn check_number(
        &mut self,
        record: &RawEvent,
        numbers: &mut Numbers<'_>,
        out: &mut impl FnMut(Item<'_>),
    ) {
        let state = self.lane(Lane::of(record));
        let place = state.sequence.place(record.seq);
        if place != Place::Next
            && let Some(note) = state.jump(place, record, numbers)
        {
            out(Item::Note(note));
        }
        state.last = Nanos(record.ts_ns);
    }
}

/// Gaps on their way out, by their end.
struct DueGaps {
    gaps: std::vec::IntoIter<Gap>,
    /// End of the next one; no record is later than that of none.
    next: u64,
}

impl DueGaps {
    fn new(gaps: Vec<Gap>) -> Self {
        let gaps = gaps.into_iter();
        let next = Self::end_of_next(&gaps);
        Self { gaps, next }
    }

    fn end_of_next(gaps: &std::vec::IntoIter<Gap>) -> u64 {
        gaps.as_slice().first().map_or(u64::MAX, |gap| gap.to.0)
    }

    /// Hands out those that end before `ts_ns`.
    #[cold]
    fn hand_out_before(&mut self, ts_ns: u64, out: &mut impl FnMut(Item<'_>)) {
        while self.next < ts_ns
            && let Some(gap) = self.gaps.next()
        {
            out(Item::Note(Note::Gap(gap)));
            self.next = Self::end_of_next(&self.gaps);
        }
    }
}

/// Where a record sorts: its time, then cpu, class and number. Equal for two records only as `RawEvent` allows.
type Key = (u64, u64);

fn key_of(record: &RawEvent) -> Key {
    let class = u64::from(record.flags >> kvmdirty_common::raw::CLASS_SHIFT);
    (record.ts_ns, u64::from(record.cpu) << 34 | class << 32 | u64::from(record.seq))
}

/// Cuts records into runs that are sorted without ties.
///
/// Lanes are drained one after the other and each is sorted, almost always, so a batch is a few runs.
fn split<'a>(records: &'a [RawEvent], run: impl FnMut(&'a [RawEvent])) {
    let is_after = |a: &RawEvent, b: &RawEvent| a.ts_ns < b.ts_ns || key_of(a) < key_of(b);
    records.chunk_by(is_after).for_each(run);
}

/// Up to this many runs are merged by looking at the heads of all; more are sorted.
const RUNS_MAX: usize = 16;

/// Sorted runs of records.
#[derive(Default)]
struct Runs<'a> {
    runs: [&'a [RawEvent]; RUNS_MAX],
    count: usize,
    /// All records, once the runs are too many, each beside its time: that is compared again and again.
    all: Vec<(u64, &'a RawEvent)>,
}

impl<'a> Runs<'a> {
    fn push(&mut self, run: &'a [RawEvent]) {
        if run.is_empty() {
            return;
        }
        if self.count == RUNS_MAX {
            let runs = std::mem::take(&mut self.runs);
            self.all.extend(runs.into_iter().flatten().map(timed));
            self.count = 0;
        }
        if self.all.is_empty() {
            self.runs[self.count] = run;
            self.count += 1;
        } else {
            self.all.extend(run.iter().map(timed));
        }
    }

    /// The records in merge order.
    fn sorted(self) -> Sorted<'a> {
        let Self { runs, count, mut all } = self;
        all.sort_by(|(time, a), (other, b)| time.cmp(other).then_with(|| by_key(a, b)));
        Sorted { all: all.into_iter(), heads: Heads::of(runs, count), first: 0, limit: 0 }
    }
}

/// Records in merge order: of few runs by their heads, of many as they were sorted.
struct Sorted<'a> {
    all: std::vec::IntoIter<(u64, &'a RawEvent)>,
    heads: Heads<'a>,
    /// The run that comes first until a record of it is not before `limit`.
    first: usize,
    limit: u64,
}

impl<'a> Iterator for Sorted<'a> {
    type Item = &'a RawEvent;

    #[inline]
    fn next(&mut self) -> Option<&'a RawEvent> {
        if self.limit <= self.heads.times[self.first] {
            if self.heads.count == 0 {
                return self.all.next().map(|(_, record)| record);
            }
            self.heads.drop_if_empty(self.first);
            (self.first, self.limit) = self.heads.first();
        }
        self.heads.take(self.first)
    }
}

/// The runs that are left, and the times of their next records apart from them: those are compared for each record.
struct Heads<'a> {
    times: [u64; RUNS_MAX],
    rest: [std::slice::Iter<'a, RawEvent>; RUNS_MAX],
    count: usize,
}

impl<'a> Heads<'a> {
    fn of(runs: [&'a [RawEvent]; RUNS_MAX], count: usize) -> Self {
        Self { times: runs.map(time_of_first), rest: runs.map(<[RawEvent]>::iter), count }
    }

    /// The run whose next record comes first, and the time at which another's may: without a branch on which it is,
    /// as nobody can predict it.
    #[inline]
    fn first(&self) -> (usize, u64) {
        let (mut first, mut least, mut limit) = (0, self.times[0], u64::MAX);
        for (run, &time) in self.times[..self.count].iter().enumerate().skip(1) {
            let is_before = time < least;
            limit = limit.min(if is_before { least } else { time });
            first = if is_before { run } else { first };
            least = least.min(time);
        }
        if limit == least { (self.first_of_equals(least), limit) } else { (first, limit) }
    }

    /// Several records have this time, the earliest.
    #[cold]
    fn first_of_equals(&self, least: u64) -> usize {
        let heads = self.rest[..self.count].iter().enumerate();
        let equals = heads.filter_map(|(run, rest)| Some((run, rest.as_slice().first()?)));
        let equals = equals.filter(|(_, record)| record.ts_ns == least);
        let first = equals.min_by(|(_, a), (_, b)| by_key(a, b));
        first.map_or(0, |(run, _)| run)
    }

    #[inline]
    fn take(&mut self, run: usize) -> Option<&'a RawEvent> {
        let record = self.rest[run].next();
        self.times[run] = time_of_first(self.rest[run].as_slice());
        record
    }

    /// Puts the last run in the place of one that has come to its end.
    fn drop_if_empty(&mut self, run: usize) {
        if self.rest[run].as_slice().is_empty() {
            self.count -= 1;
            self.times[run] = self.times[self.count];
            self.rest[run] = std::mem::take(&mut self.rest[self.count]);
        }
    }
}

const fn timed(record: &RawEvent) -> (u64, &RawEvent) {
    (record.ts_ns, record)
}

/// The time of the run's next record; of an empty run the greatest.
fn time_of_first(run: &[RawEvent]) -> u64 {
    run.first().map_or(u64::MAX, |record| record.ts_ns)
}

/// Merge order.
fn by_key(a: &RawEvent, b: &RawEvent) -> Ordering {
    key_of(a).cmp(&key_of(b)).then_with(|| by_content(a, b))
}

/// Two records with one number at one time (`RawEvent`): any fixed order will do.
fn by_content(a: &RawEvent, b: &RawEvent) -> Ordering {
    let key = |r: &RawEvent| (r.vm, r.tid, r.kind, r.flags, r.span_ns, r.args);
    key(a).cmp(&key(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cpu: u16, seq: u32, ts_ns: u64) -> RawEvent {
        RawEvent { ts_ns, cpu, seq, kind: 2, ..RawEvent::default() }
    }

    /// One line per item: `ts` of records, `gap from..to n` of gaps.
    fn merged(batches: &[(&[RawEvent], u64)]) -> Vec<String> {
        let mut merge = Merge::default();
        let mut lines = Vec::new();
        let mut note = |item: Item<'_>| {
            lines.push(match item {
                Item::Ahead(_) => return,
                Item::Record(record) => format!("{}", record.ts_ns),
                Item::Note(Note::Gap(gap)) => {
                    format!("gap {}..{} {}", gap.from.0, gap.to.0, gap.dropped)
                }
                Item::Note(Note::Found(n)) => format!("found {n}"),
                Item::Note(Note::Late(_)) => String::from("late"),
            });
        };
        for (records, watermark) in batches {
            let batch =
                Batch { records: records.to_vec(), gaps: vec![], watermark: Nanos(*watermark) };
            merge.push(&batch, &mut note);
        }
        merge.finish(&mut note);
        lines
    }

    #[test]
    fn how_records_are_cut_into_batches_changes_nothing() {
        let all = [record(0, 1, 10), record(1, 7, 12), record(0, 2, 15), record(1, 9, 11)];
        let whole = merged(&[(&all, 20)]);
        assert_eq!(merged(&[(&all[..2], 10), (&all[2..], 20)]), whole);
        assert_eq!(merged(&[(&all, 0)]), whole);
    }

    #[test]
    fn few_runs_and_many_come_out_in_the_same_order() {
        let lanes = |count: u16| -> Vec<RawEvent> {
            let of = |cpu: u16| {
                (0..5).map(move |n| record(cpu, n, 7 + u64::from(n) * 3 + u64::from(cpu % 4)))
            };
            (0..count).flat_map(of).collect()
        };
        for count in [1, 2, RUNS_MAX as u16, RUNS_MAX as u16 + 1, 40] {
            let mut sorted = lanes(count);
            sorted.sort_by_key(|record| (record.ts_ns, record.cpu, record.seq));
            let expected: Vec<String> = sorted.iter().map(|r| r.ts_ns.to_string()).collect();
            assert_eq!(merged(&[(&lanes(count), 100)]), expected, "{count} lanes");
        }
    }

    #[test]
    fn a_jump_is_a_gap_between_the_neighbours_of_its_lane() {
        let lines = merged(&[(&[record(0, 1, 10), record(1, 5, 12), record(0, 4, 20)], 20)]);
        assert_eq!(lines, ["10", "12", "gap 10..20 2", "20"]);
    }

    #[test]
    fn repeated_and_wrapping_numbers_are_no_loss() {
        let records = [record(0, u32::MAX, 1), record(0, u32::MAX, 2), record(0, 0, 3)];
        assert_eq!(merged(&[(&records, 3)]), ["1", "2", "3"]);
    }

    /// ```text
    /// program A                    program B, preempting A
    /// takes number 2
    ///                              takes number 3, its time is 20
    /// its time is 30
    /// ```
    #[test]
    fn a_record_whose_program_was_preempted_is_no_gap() {
        let records = [record(0, 1, 10), record(0, 3, 20), record(0, 2, 30), record(0, 4, 40)];
        assert_eq!(merged(&[(&records, 40)]), ["10", "20", "30", "40"]);
        // It arrived and is held back.
        assert_eq!(merged(&[(&records, 25)]), ["10", "20", "30", "40"]);
        // Beside a real drop only that is counted.
        let records = [record(0, 1, 10), record(0, 4, 20), record(0, 2, 30), record(0, 5, 40)];
        assert_eq!(merged(&[(&records, 40)]), ["10", "gap 10..20 1", "20", "30", "40"]);
        let records = [
            record(0, u32::MAX - 1, 10),
            record(0, 1, 20),
            record(0, u32::MAX, 30),
            record(0, 0, 40),
        ];
        assert_eq!(merged(&[(&records, 40)]), ["10", "20", "30", "40"]);
    }

    #[test]
    fn a_number_that_turns_up_later_was_not_dropped() {
        let batches: [(&[RawEvent], u64); 2] =
            [(&[record(0, 1, 1), record(0, 3, 2)], 2), (&[record(0, 2, 3), record(0, 4, 4)], 4)];
        assert_eq!(merged(&batches), ["1", "gap 1..2 1", "2", "found 1", "3", "4"]);
    }

    #[test]
    fn a_record_behind_the_watermark_is_an_anomaly() {
        let lines = merged(&[(&[record(0, 1, 10)], 20), (&[record(0, 2, 15)], 30)]);
        assert_eq!(lines, ["10", "late"]);
    }
}
