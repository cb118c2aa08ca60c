//! Completeness: is every number that was taken on a lane accounted for, as a record or as a drop?
//!
//! The probe takes a record's number before it reads the record's time. So: read the clock, read the numbers, drain;
//! if then every lane has delivered as many records as it took numbers and did not drop, nothing older than the
//! clock's reading can still arrive. That reading is the watermark.

use std::collections::BTreeMap;

use kvmdirty_common::raw::CLASS_SHIFT;
use kvmdirty_common::{Class, RawEvent};

use super::mapped::Counters;
use crate::event::{CpuId, Gap, GapCause, Lane, Nanos};

/// Words of `Lanes` in the probe: `seq` and `dropped`, one number per class, and two words of nothing.
pub const LANE_WORDS: u32 = 8;

/// The per-CPU counters of the probe.
pub struct Lanes {
    counters: Counters,
    seen: BTreeMap<Lane, Seen>,
    taken: BTreeMap<Lane, Taken>,
}

/// What a lane has delivered.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    records: u64,
    last_seq: u32,
    last_ts: u64,
}

/// What the probe counted on a lane.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    seq: u64,
    dropped: u64,
}

impl Lanes {
    /// Watches the counters.
    #[must_use]
    pub fn new(counters: Counters) -> Self {
        Self { counters, seen: BTreeMap::new(), taken: BTreeMap::new() }
    }

    /// Reads the probe's counters.
    pub fn read(&mut self) {
        for cpu in 0..self.counters.words() / LANE_WORDS {
            for class in Class::ALL {
                let word = cpu * LANE_WORDS + class as u32;
                let seq = self.counters.word(word);
                if seq != 0 {
                    let lane = Lane { class, cpu: CpuId(cpu as u16) };
                    let dropped = self.counters.word(word + 3);
                    self.taken.insert(lane, Taken { seq, dropped });
                }
            }
        }
    }

    /// Takes note of a delivered record.
    pub fn deliver(&mut self, record: &RawEvent) {
        let class = Class::from_u8(record.flags >> CLASS_SHIFT).unwrap_or(Class::Page);
        let seen = self.seen.entry(Lane { class, cpu: CpuId(record.cpu) }).or_default();
        seen.records += 1;
        seen.last_seq = record.seq;
        seen.last_ts = record.ts_ns;
    }

    /// Every number the last [`Self::read`] showed is a delivered record or a counted drop.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.taken.iter().all(|(lane, taken)| {
            let delivered = self.seen.get(lane).map_or(0, |seen| seen.records);
            taken.seq <= delivered + taken.dropped
        })
    }

    /// Records dropped so far, over all lanes.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.taken.values().map(|taken| taken.dropped).sum()
    }

    /// Drops after a lane's last record: no later record's number shows them. For the end of the trace.
    #[must_use]
    pub fn trailing_gaps(&self, now: Nanos) -> Vec<Gap> {
        let gap = |(lane, taken): (&Lane, &Taken)| {
            let seen = self.seen.get(lane).copied().unwrap_or_default();
            let next = if seen.records == 0 { 0 } else { seen.last_seq.wrapping_add(1) };
            let dropped = (taken.seq as u32).wrapping_sub(next);
            let is_gap = dropped != 0 && u64::from(dropped) <= taken.dropped;
            is_gap.then_some(Gap {
                lane: Some(*lane),
                hook: None,
                cause: GapCause::RingFull,
                from: Nanos(seen.last_ts),
                to: now,
                dropped: dropped.into(),
            })
        };
        self.taken.iter().filter_map(gap).collect()
    }
}
