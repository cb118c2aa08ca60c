//! The spool: the recent past of the trace, so that a verdict can look back and a witness can be drawn.
//!
//! A ring of raw records indexed by *ordinal*, the number of a record in merge order. Pages keep 32-bit stamps of
//! ordinals ([`Stamp`]); a stamp whose record has left the spool still says "before everything in the spool".

use crate::event::{Event, Nanos, RawEvent, decode};

/// Number of a record in merge order, from 3. Ordinals whose low 32 bits are less are never used: those are the
/// stamps [`Stamp::NONE`], [`Stamp::FORGOTTEN`] and [`Stamp::OLD`].
pub type Ordinal = u64;

/// The low half of an ordinal, as pages keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(u32);

/// Low halves that stand for no record.
const RESERVED: u32 = 3;

impl Stamp {
    /// Never happened.
    pub const NONE: Self = Self(0);
    /// Happened before anything that can be looked up, and records were dropped since.
    pub const FORGOTTEN: Self = Self(1);
    /// Happened before anything that can be looked up; nothing was dropped since.
    pub const OLD: Self = Self(2);

    /// The stamp of an ordinal.
    #[must_use]
    pub const fn of(ordinal: Ordinal) -> Self {
        Self(ordinal as u32)
    }

    /// The ordinal, given the newest one; of the stamps that stand for no record their own number, which is less than
    /// any ordinal.
    ///
    /// Right for stamps less than 2^32 records old: see [`Self::aged`].
    #[must_use]
    pub const fn ordinal(self, newest: Ordinal) -> Ordinal {
        if self.0 < RESERVED {
            return self.0 as u64;
        }
        newest - (newest as u32).wrapping_sub(self.0) as u64
    }

    /// The stamp as it must be kept once 2^31 more records have come, so that it never means a later record: one from
    /// before `floor` only says whether records were dropped since.
    #[must_use]
    pub const fn aged(self, newest: Ordinal, floor: Ordinal, known_since: Ordinal) -> Self {
        Self::of(aged(self.ordinal(newest), floor, known_since))
    }
}

/// [`Stamp::aged`] for an ordinal that is compared with such stamps, or with `known_since`.
#[must_use]
pub const fn aged(ordinal: Ordinal, floor: Ordinal, known_since: Ordinal) -> Ordinal {
    if ordinal == 0 || floor <= ordinal {
        ordinal
    } else if ordinal < known_since {
        Stamp::FORGOTTEN.0 as u64
    } else {
        Stamp::OLD.0 as u64
    }
}

/// The ring of recent records.
#[derive(Clone, Debug)]
pub struct Spool {
    records: Vec<RawEvent>,
    mask: u64,
    newest: Ordinal,
    /// A record of some while ago and its end; and the one that comes in its place next.
    past: [(Ordinal, Nanos); 2],
}

impl Spool {
    /// Records kept: 2^18 records are 16 MiB.
    pub const RECORDS: usize = 1 << 18;

    /// Records after which another one stands for the past.
    const PAST: u64 = 1 << 12;

    /// An empty spool of `records` records, rounded up to a power of two.
    #[must_use]
    pub fn new(records: usize) -> Self {
        let records = records.max(2).next_power_of_two();
        let newest = u64::from(RESERVED) - 1;
        Self { records: Vec::new(), mask: records as u64 - 1, newest, past: Default::default() }
    }

    /// Appends a record and returns its ordinal.
    #[inline(always)]
    pub fn push(&mut self, record: &RawEvent) -> Ordinal {
        self.newest += 1;
        if self.newest % Self::PAST < u64::from(RESERVED) {
            self.turn(Nanos(record.ts_ns));
        }
        let slot = (self.newest & self.mask) as usize;
        if let Some(place) = self.records.get_mut(slot) {
            *place = *record;
        } else {
            self.grow(slot, record);
        }
        self.newest
    }

    /// A number that is reserved is left out, and one in every [`Self::PAST`] stands for the past.
    #[cold]
    #[inline(never)]
    fn turn(&mut self, time: Nanos) {
        self.newest += u64::from(RESERVED.saturating_sub(self.newest as u32));
        if self.newest.is_multiple_of(Self::PAST) {
            self.past = [self.past[1], (self.newest, time)];
        }
    }

    /// Grows once to its full size by doubling, then never again.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, slot: usize, record: &RawEvent) {
        self.records.resize(slot + 1, RawEvent::default());
        self.records[slot] = *record;
    }

    /// Ordinal of the newest record.
    #[must_use]
    pub const fn newest(&self) -> Ordinal {
        self.newest
    }

    /// Ordinal of the oldest record still kept.
    #[must_use]
    pub const fn oldest(&self) -> Ordinal {
        let oldest = self.newest.saturating_sub(self.mask);
        if oldest < RESERVED as u64 { RESERVED as u64 } else { oldest }
    }

    /// The record of that ordinal, while it is kept.
    #[must_use]
    pub fn record(&self, ordinal: Ordinal) -> Option<&RawEvent> {
        if ordinal < self.oldest() || self.newest < ordinal {
            return None;
        }
        self.records.get((ordinal & self.mask) as usize)
    }

    /// The records kept whose ordinal lies above `after`, oldest first.
    pub fn after(&self, after: Ordinal) -> impl Iterator<Item = (Ordinal, &RawEvent)> {
        let ordinals = self.oldest().max(after.saturating_add(1))..=self.newest;
        // The numbers that are never given would find what stood in their place before.
        let ordinals = ordinals.filter(|&ordinal| RESERVED <= ordinal as u32);
        ordinals.filter_map(|ordinal| Some((ordinal, self.record(ordinal)?)))
    }

    /// The operation of that ordinal had ended before `time`, or has left the spool (and `time` is not 0).
    ///
    /// Records come by their ends: what is older than one that ended before need not be looked up.
    #[must_use]
    pub fn has_ended_before(&self, ordinal: Ordinal, time: Nanos) -> bool {
        let (past, end) = self.past[0];
        let looked_up = || self.record(ordinal).map_or(0, |record| record.ts_ns);
        ordinal <= past && end < time || looked_up() < time.0
    }

    /// The event of that ordinal, while it is kept.
    #[must_use]
    pub fn event(&self, ordinal: Ordinal) -> Option<Event> {
        self.record(ordinal).and_then(|record| decode(record).ok())
    }

    /// When the record of that ordinal had certainly ended: at its end, or by the end of the oldest record kept.
    #[must_use]
    pub fn ended_by(&self, ordinal: Ordinal) -> Nanos {
        let record = self.record(ordinal).or_else(|| self.record(self.oldest()));
        record.map_or(Nanos(u64::MAX), |record| Nanos(record.ts_ns))
    }

    /// As if records of no consequence up to `newest` had come, at the time of the one before.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, newest: Ordinal) {
        let last = self.record(self.newest).copied().unwrap_or_default();
        let record = RawEvent { ts_ns: last.ts_ns, ..RawEvent::default() };
        self.records = vec![record; self.mask as usize + 1];
        self.newest = newest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ts_ns: u64) -> RawEvent {
        RawEvent { ts_ns, kind: 2, ..RawEvent::default() }
    }

    #[test]
    fn a_full_spool_forgets_the_oldest_record() {
        let mut spool = Spool::new(4);
        let first = spool.push(&at(1));
        for ts in 2..=4 {
            spool.push(&at(ts));
        }
        assert_eq!(spool.record(first).map(|r| r.ts_ns), Some(1));
        let last = spool.push(&at(5));
        assert_eq!(spool.record(first), None);
        assert_eq!(spool.record(last).map(|r| r.ts_ns), Some(5));
        assert_eq!(spool.record(last + 1), None);
        let after = |ordinal| spool.after(ordinal).map(|(_, r)| r.ts_ns).collect::<Vec<_>>();
        assert_eq!((after(0), after(last - 1), after(last)), (vec![2, 3, 4, 5], vec![5], vec![]));
    }

    #[test]
    fn stamps_find_their_ordinal_across_the_wrap() {
        let newest = (3 << 32) + 10;
        assert_eq!(Stamp::of(newest - 12).ordinal(newest), newest - 12);
        assert_eq!(Stamp::of(newest).ordinal(newest), newest);
        assert!(Stamp::OLD.ordinal(newest) < Spool::new(2).oldest());
    }

    #[test]
    fn an_aged_stamp_tells_only_on_which_side_of_a_gap_it_lies() {
        let (newest, floor) = (5_000, 4_000);
        let aged = |ordinal, known_since| Stamp::of(ordinal).aged(newest, floor, known_since);
        assert_eq!(aged(4_000, 4_500), Stamp::of(4_000));
        assert_eq!(
            [aged(3_000, 0), aged(3_000, 3_000), aged(3_000, 3_001)],
            [Stamp::OLD, Stamp::OLD, Stamp::FORGOTTEN]
        );
        // A later gap forgets what was only old; nothing makes it known again.
        let again = |stamp: Stamp, known_since| stamp.aged(newest, floor, known_since);
        assert_eq!(again(Stamp::OLD, 4_500), Stamp::FORGOTTEN);
        assert_eq!(again(Stamp::OLD, aged_floor()), Stamp::OLD);
        assert_eq!(again(Stamp::FORGOTTEN, aged_floor()), Stamp::FORGOTTEN);
        assert_eq!(again(Stamp::NONE, 4_500), Stamp::NONE);
    }

    /// `known_since` of a gap that is older than every stamp that is kept.
    fn aged_floor() -> Ordinal {
        aged(3_000, 4_000, 0)
    }
}
