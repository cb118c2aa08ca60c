//! The merge: records of many lanes become one sequence, and jumps of a lane's numbers become located gaps.
//!
//! Sorting is by `(end, cpu, class, seq)` up to the watermark, so how records were cut into batches or shuffled within
//! one changes nothing. It is a merge step, not an order: what really precedes what is said by [`super::relation()`].

use std::cmp::Ordering;

use crate::event::{
    Anomaly, AnomalyKind, Batch, Class, CpuId, Gap, GapCause, Lane, Nanos, RawEvent,
};

/// What the merge hands out, in merge order.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// The next record.
    Record(&'a RawEvent),
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
    /// Reused.
    ready: Vec<Key>,
    ready_records: Vec<RawEvent>,
}

/// Where a record sorts and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    ts_ns: u64,
    /// cpu, class, seq.
    rank: u64,
    index: usize,
}

/// A lane's numbers so far.
#[derive(Clone, Copy, Debug, Default)]
struct LaneState {
    is_known: bool,
    /// The number that comes next.
    next: u32,
    last: Nanos,
    /// The newest missing numbers, `missing.0..missing.1`.
    missing: (u32, u32),
}

impl Merge {
    /// Takes a batch and hands out everything up to its watermark.
    pub fn push(&mut self, batch: &Batch, mut out: impl FnMut(Item<'_>)) {
        let passed = self.watermark;
        self.watermark = passed.max(batch.watermark);
        let mut gaps = self.take_gaps(batch);
        let mut next_gap = gaps.drain(..).peekable();
        let mut ready = std::mem::take(&mut self.ready);
        let records = self.take_ready(batch, passed, &mut ready, &mut out);
        for key in &ready {
            let record = records.get(&batch.records, key.index);
            while let Some(gap) = next_gap.next_if(|gap| gap.to.0 < record.ts_ns) {
                out(Item::Gap(gap));
            }
            self.check_number(record, &mut out);
            out(Item::Record(record));
        }
        next_gap.for_each(|gap| out(Item::Gap(gap)));
        ready.clear();
        self.ready = ready;
        self.ready_records = records.held;
        self.ready_records.clear();
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

    /// Fills `ready` with the records up to the watermark in merge order.
    fn take_ready(
        &mut self,
        batch: &Batch,
        passed: Nanos,
        ready: &mut Vec<Key>,
        out: &mut impl FnMut(Item<'_>),
    ) -> Records {
        let mut held = std::mem::take(&mut self.ready_records);
        std::mem::swap(&mut held, &mut self.held);
        let from_held = held.len();
        ready.reserve(from_held + batch.records.len());
        for (index, record) in held.iter().chain(&batch.records).enumerate() {
            if self.watermark.0 < record.ts_ns {
                self.held.push(*record);
            } else if index >= from_held && record.ts_ns < passed.0 {
                let lane = lane_of(record);
                let at = Nanos(record.ts_ns);
                out(Item::Late(Anomaly { at, lane, kind: AnomalyKind::Late }));
            } else {
                let class = u64::from(record.flags >> kvmdirty_common::raw::CLASS_SHIFT);
                let rank = u64::from(record.cpu) << 34 | class << 32 | u64::from(record.seq);
                ready.push(Key { ts_ns: record.ts_ns, rank, index });
            }
        }
        let records = Records { held };
        if !ready.is_sorted_by(|a, b| (a.ts_ns, a.rank) < (b.ts_ns, b.rank)) {
            ready.sort_by(|a, b| {
                (a.ts_ns, a.rank).cmp(&(b.ts_ns, b.rank)).then_with(|| {
                    let of = |key: &Key| records.get(&batch.records, key.index);
                    by_content(of(a), of(b))
                })
            });
        }
        records
    }

    /// Compares the record's number with its lane's.
    fn check_number(&mut self, record: &RawEvent, out: &mut impl FnMut(Item<'_>)) {
        let lane = lane_of(record);
        let index = usize::from(lane.cpu.0) * Class::ALL.len() + lane.class as usize;
        if self.lanes.len() <= index {
            self.lanes.resize(index + 1, LaneState::default());
        }
        let state = &mut self.lanes[index];
        let at = Nanos(record.ts_ns);
        let ahead = record.seq.wrapping_sub(state.next);
        if ahead == 0 || !state.is_known {
            state.next = record.seq.wrapping_add(1);
        } else if ahead < 1 << 31 {
            state.missing = (state.next, record.seq);
            state.next = record.seq.wrapping_add(1);
            out(Item::Gap(Gap {
                lane: Some(lane),
                hook: None,
                cause: GapCause::RingFull,
                from: state.last,
                to: at,
                dropped: u64::from(ahead),
            }));
        } else if record.seq.wrapping_sub(state.missing.0)
            < state.missing.1.wrapping_sub(state.missing.0)
        {
            // The number was not dropped: an interrupting program took the next one and an earlier time.
            out(Item::Found(1));
        }
        state.is_known = true;
        state.last = at;
    }
}

/// Held records and the batch's, under one index.
struct Records {
    held: Vec<RawEvent>,
}

impl Records {
    fn get<'a>(&'a self, batch: &'a [RawEvent], index: usize) -> &'a RawEvent {
        match self.held.get(index) {
            Some(record) => record,
            None => &batch[index - self.held.len()],
        }
    }
}

fn lane_of(record: &RawEvent) -> Lane {
    let class = Class::from_u8(record.flags >> kvmdirty_common::raw::CLASS_SHIFT);
    Lane { class: class.unwrap_or(Class::Page), cpu: CpuId(record.cpu) }
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
                Item::Record(record) => format!("{}", record.ts_ns),
                Item::Gap(gap) => format!("gap {}..{} {}", gap.from.0, gap.to.0, gap.dropped),
                Item::Found(n) => format!("found {n}"),
                Item::Late(_) => String::from("late"),
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
    fn a_jump_is_a_gap_between_the_neighbours_of_its_lane() {
        let lines = merged(&[(&[record(0, 1, 10), record(1, 5, 12), record(0, 4, 20)], 20)]);
        assert_eq!(lines, ["10", "12", "gap 10..20 2", "20"]);
    }

    #[test]
    fn repeated_and_wrapping_numbers_are_no_loss() {
        let records = [record(0, u32::MAX, 1), record(0, u32::MAX, 2), record(0, 0, 3)];
        assert_eq!(merged(&[(&records, 3)]), ["1", "2", "3"]);
    }

    #[test]
    fn a_number_that_turns_up_later_was_not_dropped() {
        let records = [record(0, 1, 1), record(0, 3, 2), record(0, 2, 3), record(0, 4, 4)];
        assert_eq!(merged(&[(&records, 4)]), ["1", "gap 1..2 1", "2", "found 1", "3", "4"]);
    }

    #[test]
    fn a_record_behind_the_watermark_is_an_anomaly() {
        let lines = merged(&[(&[record(0, 1, 10)], 20), (&[record(0, 2, 15)], 30)]);
        assert_eq!(lines, ["10", "late"]);
    }
}
