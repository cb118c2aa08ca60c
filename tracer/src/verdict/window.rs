//! Windows: allowed stretches in which a page is writable or written and not yet reported.

use crate::event::{Gfn, Nanos, SlotId, Tid, VmId};

/// The kinds of window (DESIGN.md, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WindowKind {
    /// Third case: lockless fast fault, from the cmpxchg to the mark.
    FastFault,
    /// Third case: host write, from the copy to the mark.
    HostWrite,
    /// Measured only: mark to SPTE store, inside `mmu_lock`.
    SlowFault,
    /// Measured only: write-protect to flush.
    Tlb,
}

impl WindowKind {
    /// All kinds, in reading order.
    pub const ALL: [Self; 4] = [Self::FastFault, Self::HostWrite, Self::SlowFault, Self::Tlb];

    /// The kind in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FastFault => "fast-fault",
            Self::HostWrite => "host-write",
            Self::SlowFault => "slow-fault",
            Self::Tlb => "tlb",
        }
    }
}

/// One window that has closed, or that the trace's end left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which kind.
    pub kind: WindowKind,
    /// The VM.
    pub vm: VmId,
    /// The slot.
    pub slot: SlotId,
    /// The page; for `tlb` windows the first page protected.
    pub gfn: Gfn,
    /// The thread that opened it.
    pub tid: Tid,
    /// Earliest time it can have opened.
    pub opened: Nanos,
    /// Latest time it can have closed; `None`: still open.
    pub closed: Option<Nanos>,
    /// Harvests of the slot that can have fallen inside.
    pub harvests_inside: u32,
}

impl Window {
    /// Upper bound of its duration; `None` while open.
    #[must_use]
    pub fn open_for_ns(&self) -> Option<u64> {
        self.closed.map(|closed| closed.since(self.opened))
    }
}

/// Windows of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowStats {
    /// Windows that closed.
    pub closed: u64,
    /// Windows that nothing had closed when the trace ended.
    pub open: u64,
    /// Windows a harvest can have fallen into.
    pub with_harvest: u64,
    /// `histogram[n]` counts durations in `[2^n, 2^(n+1))` ns; durations of 0 ns are in 0, of 2^39 ns and more in 39.
    pub histogram: Vec<u64>,
    /// The ten longest, longest first.
    pub longest: Vec<Window>,
    /// Of those left open the first ten.
    pub left_open: Vec<Window>,
}

/// Buckets of a window histogram.
pub const HISTOGRAM_BUCKETS: usize = 40;

/// Windows kept one by one.
pub const LONGEST_MAX: usize = 10;

impl WindowStats {
    /// Takes a window that has closed.
    #[inline]
    pub fn add(&mut self, window: &Window) {
        let Some(length) = window.open_for_ns() else { return self.add_open(window) };
        self.closed += 1;
        self.with_harvest += u64::from(0 < window.harvests_inside);
        count_length(&mut self.histogram, length);
        let shortest = self.longest.last().and_then(Window::open_for_ns).unwrap_or(0);
        if self.longest.len() < LONGEST_MAX || shortest < length {
            self.keep_long(window, length);
        }
    }

    #[cold]
    #[inline(never)]
    fn add_open(&mut self, window: &Window) {
        self.open += 1;
        if self.left_open.len() < LONGEST_MAX {
            self.left_open.push(*window);
        }
    }

    #[cold]
    #[inline(never)]
    fn keep_long(&mut self, window: &Window, length: u64) {
        self.longest.reserve_exact(LONGEST_MAX + 1 - self.longest.len());
        let place =
            self.longest.partition_point(|kept| length <= kept.open_for_ns().unwrap_or(u64::MAX));
        self.longest.insert(place, *window);
        self.longest.truncate(LONGEST_MAX);
    }
}

/// Counts a duration in a histogram, which gets its buckets with the first.
#[inline]
pub(crate) fn count_length(histogram: &mut Vec<u64>, length_ns: u64) {
    let bucket = bucket(length_ns);
    match histogram.get_mut(bucket) {
        Some(count) => *count += 1,
        None => start_histogram(histogram, bucket),
    }
}

#[cold]
#[inline(never)]
fn start_histogram(histogram: &mut Vec<u64>, bucket: usize) {
    histogram.resize(HISTOGRAM_BUCKETS, 0);
    histogram[bucket] = 1;
}

/// The histogram bucket of a duration.
#[must_use]
pub const fn bucket(length_ns: u64) -> usize {
    let log2 = 63 - (length_ns | 1).leading_zeros() as usize;
    if log2 < HISTOGRAM_BUCKETS { log2 } else { HISTOGRAM_BUCKETS - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_longest_windows_are_kept_longest_first() {
        let mut stats = WindowStats::default();
        for length in [5, 900, 3, 70, 1, 2, 8, 900, 11, 12, 13, 14] {
            stats.add(&Window {
                kind: WindowKind::FastFault,
                vm: VmId(1),
                slot: SlotId::default(),
                gfn: Gfn(0),
                tid: Tid(1),
                opened: Nanos(100),
                closed: Some(Nanos(100 + length)),
                harvests_inside: 0,
            });
        }
        let lengths: Vec<_> = stats.longest.iter().filter_map(Window::open_for_ns).collect();
        assert_eq!(lengths, [900, 900, 70, 14, 13, 12, 11, 8, 5, 3]);
        assert_eq!(stats.histogram.iter().sum::<u64>(), stats.closed);
    }

    #[test]
    fn buckets_are_powers_of_two_and_never_overflow() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1023), 9);
        assert_eq!(bucket(1024), 10);
        assert_eq!(bucket(u64::MAX), HISTOGRAM_BUCKETS - 1);
    }
}
