//! Completeness: is every record that was begun on a lane accounted for, as a record or as a drop?
//!
//! The probe counts a record as begun before it reads the record's time, and as ended once it is submitted or dropped.
//! So: read the clock, find on every CPU a moment at which nothing is begun and not ended, drain; if then every lane
//! has delivered as many records as had ended and were not dropped, nothing older than the reading can still arrive.
//! That reading is the watermark. Counting numbers instead of ends would not do: where programs are preemptible (raw
//! tracepoints of 7.x) two of them take the same number, and the count of records runs ahead of the numbers for good.
//!
//! Drops show as jumps of a lane's numbers once a later record arrives. Those that never do (after a lane's last
//! record, before its first, behind a number that was taken twice) are told as gaps when the trace ends.

use std::collections::BTreeMap;

use kvmdirty_common::{Class, RawEvent};

use crate::event::{CpuId, Gap, GapCause, Lane, Nanos, Place, Sequence};

/// Words of `Lanes` in the probe, per CPU: `seq`, `dropped` and `ended`, one number per class each, then `begun`.
pub const LANE_WORDS: u32 = 16;

const BEGUN: u32 = 9;

/// The probe begins thousands of records in a millisecond at most; each takes a fraction of a microsecond.
const ATTEMPTS: u32 = 64;

/// What is known of every lane.
#[derive(Debug, Default)]
pub struct Lanes {
    seen: BTreeMap<Lane, Seen>,
    counted: BTreeMap<Lane, Counted>,
    /// The same when the trace ended: what was dropped later is none of it.
    at_end: Option<BTreeMap<Lane, Counted>>,
    /// Some CPU was inside a record at every attempt.
    is_busy: bool,
}

/// What a lane has delivered.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    records: u64,
    /// Records behind the end of the trace.
    passed: u64,
    sequence: Sequence,
    last_ts: u64,
    /// Drops that jumps of the numbers showed.
    known: u64,
}

/// What the probe counted on a lane, at a moment when it was not at work there.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    seq: u64,
    dropped: u64,
    ended: u64,
}

impl Lanes {
    /// Reads the counters of `cpus` CPUs; `word` gives one 64-bit word as it is now.
    pub fn read(&mut self, cpus: u32, word: impl Fn(u32) -> u64) {
        self.is_busy = false;
        let has_records = |&cpu: &u32| word(cpu * LANE_WORDS + BEGUN) != 0;
        for cpu in (0..cpus).filter(has_records) {
            match (0..ATTEMPTS).find_map(|_| at_rest(cpu, &word)) {
                Some(counted) => {
                    for (class, counted) in Class::ALL.into_iter().zip(counted) {
                        if counted.seq != 0 {
                            self.counted.insert(Lane { class, cpu: CpuId(cpu as u16) }, counted);
                        }
                    }
                }
                None => self.is_busy = true,
            }
        }
    }

    /// The trace ends with what the last [`Self::read`] counted: what is dropped from here on is none of it. Unless a
    /// CPU was inside a record; then everything is told.
    pub fn end(&mut self) {
        self.at_end = (!self.is_busy).then(|| self.counted.clone());
    }

    /// Takes note of a record that is delivered to nobody: its number shows nothing.
    pub fn pass(&mut self, record: &RawEvent) {
        self.seen.entry(Lane::of(record)).or_default().passed += 1;
    }

    /// Takes note of a delivered record.
    pub fn deliver(&mut self, record: &RawEvent) {
        let seen = self.seen.entry(Lane::of(record)).or_default();
        match seen.sequence.place(record.seq) {
            Place::Next | Place::Again => {}
            Place::Behind(from) => seen.known += u64::from(record.seq.wrapping_sub(from)),
            Place::Missing => seen.known = seen.known.saturating_sub(1),
        }
        seen.records += 1;
        seen.last_ts = record.ts_ns;
    }

    /// Every record the last [`Self::read`] saw ended is delivered or a counted drop, and no CPU was inside one.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.is_busy
            && self.counted.iter().all(|(lane, counted)| {
                let delivered = self.seen.get(lane).map_or(0, |seen| seen.records + seen.passed);
                counted.ended <= delivered + counted.dropped
            })
    }

    /// Records dropped so far, over all lanes.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counted.values().map(|counted| counted.dropped).sum()
    }

    /// Drops that no record's number has shown, for the end of the trace. Right only while [`Self::is_complete`].
    #[must_use]
    pub fn untold(&self, end: Nanos) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for (&lane, counted) in self.at_end.as_ref().unwrap_or(&self.counted) {
            let seen = self.seen.get(&lane).copied().unwrap_or_default();
            let owed = counted.dropped.saturating_sub(seen.known);
            let trailing = owed.min(seen.sequence.missing_before(counted.seq as u32).into());
            let gap = |lane, from, dropped| Gap {
                lane,
                hook: None,
                cause: GapCause::RingFull,
                from,
                to: end,
                dropped,
            };
            if 0 < trailing {
                gaps.push(gap(Some(lane), Nanos(seen.last_ts), trailing));
            }
            if trailing < owed {
                gaps.push(gap(None, Nanos(0), owed - trailing));
            }
        }
        gaps
    }

    /// Records begun that will not be waited for: of a program that some other task keeps from running.
    #[must_use]
    pub fn unfinished(&self, from: Nanos, to: Nanos) -> Option<Gap> {
        let owed = |(lane, counted): (&Lane, &Counted)| {
            let delivered = self.seen.get(lane).map_or(0, |seen| seen.records + seen.passed);
            counted.ended.saturating_sub(delivered + counted.dropped)
        };
        let dropped = self.counted.iter().map(owed).sum::<u64>() + u64::from(self.is_busy);
        let gap = Gap { lane: None, hook: None, cause: GapCause::ProbeMissed, from, to, dropped };
        (!self.is_complete()).then_some(gap)
    }
}

/// The counters of a CPU by class, unless a record was begun or not ended while they were read.
fn at_rest(cpu: u32, word: impl Fn(u32) -> u64) -> Option<[Counted; 3]> {
    let first = cpu * LANE_WORDS;
    let [seq, dropped, ended] = [0, 3, 6];
    let read = |of| [0, 1, 2].map(|class| word(first + of + class));
    // Ends before begins: each only grows and no end comes before its begin, so equal sums mean that neither moved.
    let ends = read(ended);
    let (drops, seqs) = (read(dropped), read(seq));
    let begun = word(first + BEGUN);
    let counted =
        |class: usize| Counted { seq: seqs[class], dropped: drops[class], ended: ends[class] };
    (ends.iter().sum::<u64>() == begun).then(|| [0, 1, 2].map(counted))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// One CPU's counters with page records only.
    fn words(seq: u64, dropped: u64, ended: u64, begun: u64) -> impl Fn(u32) -> u64 {
        move |index| match index {
            0 => seq,
            3 => dropped,
            6 => ended,
            9 => begun,
            _ => 0,
        }
    }

    fn record(seq: u32, ts_ns: u64) -> RawEvent {
        RawEvent { seq, ts_ns, ..RawEvent::default() }
    }

    fn told(lanes: &Lanes, now: u64) -> Vec<(bool, u64, u64)> {
        let gaps = lanes.untold(Nanos(now));
        gaps.iter().map(|gap| (gap.lane.is_some(), gap.from.0, gap.dropped)).collect()
    }

    #[test]
    fn a_record_in_the_making_holds_the_watermark() {
        let mut lanes = Lanes::default();
        lanes.deliver(&record(0, 5));
        lanes.read(1, words(2, 0, 1, 2));
        assert!(!lanes.is_complete());
        let gap = lanes.unfinished(Nanos(5), Nanos(9));
        assert_eq!(gap.map(|gap| (gap.from.0, gap.to.0, gap.dropped)), Some((5, 9, 1)));
        lanes.read(1, words(2, 0, 2, 2));
        assert!(!lanes.is_complete(), "ended and not delivered");
        lanes.deliver(&record(1, 6));
        assert!(lanes.is_complete());
        assert_eq!(lanes.unfinished(Nanos(5), Nanos(9)), None);
    }

    /// Numbers alone said "complete" here: two numbers, two records delivered, one still to come.
    ///
    /// ```text
    /// program A               program B, preempting A
    /// takes number 0
    ///                         takes number 0, submits
    ///                         takes number 1, submits
    /// counter := 1 (stale)
    /// (submits later)
    /// ```
    #[test]
    fn a_number_taken_twice_completes_nothing() {
        let mut lanes = Lanes::default();
        lanes.deliver(&record(0, 5));
        lanes.deliver(&record(1, 6));
        lanes.read(1, words(1, 0, 2, 3));
        assert!(!lanes.is_complete());
        lanes.read(1, words(1, 0, 3, 3));
        lanes.deliver(&record(0, 4));
        assert!(lanes.is_complete());
        assert_eq!(told(&lanes, 10), []);
    }

    #[test]
    fn a_moment_of_rest_is_found_between_records() {
        let mut lanes = Lanes::default();
        let reads = Cell::new(0);
        let word = |index| {
            reads.set(reads.get() + 1);
            words(2, 0, 1 + u64::from(40 < reads.get()), 2)(index)
        };
        lanes.read(1, word);
        lanes.deliver(&record(0, 5));
        lanes.deliver(&record(1, 6));
        assert!(lanes.is_complete());
    }

    #[test]
    fn drops_that_a_later_record_shows_are_not_told() {
        let mut lanes = Lanes::default();
        lanes.deliver(&record(0, 5));
        lanes.read(1, words(3, 2, 3, 3));
        assert!(lanes.is_complete());
        assert_eq!(told(&lanes, 10), [(true, 5, 2)]);
        lanes.deliver(&record(4, 12));
        lanes.read(1, words(5, 3, 5, 5));
        assert_eq!(told(&lanes, 20), []);
    }

    #[test]
    fn drops_that_no_number_shows_are_told_of_every_lane() {
        let mut lanes = Lanes::default();
        // Two were dropped before the lane's first record, one behind a counter that a stale store had set back.
        lanes.deliver(&record(2, 5));
        lanes.read(1, words(2, 3, 4, 4));
        assert_eq!(told(&lanes, 20), [(false, 0, 3)]);
        assert_eq!(lanes.dropped(), 3);
    }

    #[test]
    fn drops_that_a_record_behind_the_end_would_show_are_told() {
        let mut lanes = Lanes::default();
        lanes.deliver(&record(0, 5));
        lanes.pass(&record(3, 50));
        lanes.read(1, words(4, 2, 4, 4));
        assert!(lanes.is_complete());
        assert_eq!(told(&lanes, 10), [(true, 5, 2)]);
    }

    /// Detaching takes seconds on a busy machine, and a guest that runs on fills rings that nobody drains any more.
    #[test]
    fn drops_behind_the_end_are_none_of_the_trace() {
        let mut lanes = Lanes::default();
        lanes.deliver(&record(0, 5));
        lanes.read(1, words(2, 1, 2, 2));
        lanes.end();
        lanes.pass(&record(2, 50));
        lanes.read(1, words(900, 898, 900, 900));
        assert!(lanes.is_complete());
        assert_eq!(told(&lanes, 10), [(true, 5, 1)]);
    }

    #[test]
    fn an_end_inside_a_record_leaves_no_drop_out() {
        let mut lanes = Lanes::default();
        lanes.deliver(&record(0, 5));
        lanes.read(1, words(2, 0, 1, 2));
        lanes.end();
        lanes.read(1, words(2, 1, 2, 2));
        assert_eq!(told(&lanes, 10), [(true, 5, 1)]);
    }

    #[test]
    fn a_lane_of_drops_only_is_told_without_a_place_among_numbers() {
        let mut lanes = Lanes::default();
        lanes.read(1, words(2, 2, 2, 2));
        assert!(lanes.is_complete());
        assert_eq!(told(&lanes, 10), [(false, 0, 2)]);
    }
}
