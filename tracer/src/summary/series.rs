//! Activity over the time of the trace.

use std::collections::VecDeque;

use crate::event::{Event, EventKind, Nanos};

/// Activity per bucket of trace time, the newest [`Series::BUCKETS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// The buckets, oldest first.
    pub buckets: VecDeque<Bucket>,
}

impl Series {
    /// Length of a bucket.
    pub const BUCKET_NS: u64 = 250_000_000;
    /// Buckets kept: five minutes.
    pub const BUCKETS: usize = 1200;

    /// Adds to the bucket of `at`, which is made with all before it; times before the newest bucket count in the
    /// newest.
    #[inline(always)]
    pub(super) fn add(&mut self, at: Nanos, add: impl Fn(&mut Bucket)) {
        if let Some(newest) = self.buckets.back_mut()
            && at.since(newest.start) < Self::BUCKET_NS
        {
            return add(newest);
        }
        self.extend_to(at);
        if let Some(newest) = self.buckets.back_mut() {
            add(newest);
        }
    }

    #[cold]
    #[inline(never)]
    fn extend_to(&mut self, at: Nanos) {
        let start = Nanos(at.0 - at.0 % Self::BUCKET_NS);
        let newest = self.buckets.back().map(|bucket| bucket.start);
        if newest.is_none_or(|newest| newest < start) {
            self.extend(newest, start);
        }
    }

    fn extend(&mut self, newest: Option<Nanos>, start: Nanos) {
        // Of a long silence only what is kept is made.
        let kept = Nanos(start.0.saturating_sub((Self::BUCKETS as u64 - 1) * Self::BUCKET_NS));
        let mut next = newest
            .map_or(start, |newest| Nanos(newest.0.saturating_add(Self::BUCKET_NS)).max(kept));
        while next <= start {
            if self.buckets.len() == Self::BUCKETS {
                self.buckets.pop_front();
            }
            self.buckets.push_back(Bucket { start: next, ..Bucket::default() });
            next.0 = next.0.saturating_add(Self::BUCKET_NS);
        }
    }
}

/// What happened in one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the operations counted")]
pub struct Bucket {
    pub start: Nanos,
    pub events: u64,
    pub marks: u64,
    pub fast_faults: u64,
    pub slow_faults: u64,
    pub harvested_pages: u64,
    pub flushes: u64,
    pub host_writes: u64,
    pub ring_pushes: u64,
    pub dropped: u64,
    pub lock_waits: u64,
    pub lock_wait_ns: u64,
}

impl Bucket {
    /// Counts an event.
    #[inline(always)]
    pub(super) fn count(&mut self, event: &Event) {
        self.events += 1;
        match event.kind {
            EventKind::Mark { .. } => self.marks += 1,
            EventKind::FastFault { fixed, .. } => self.fast_faults += u64::from(fixed),
            EventKind::Fault { .. } | EventKind::SpteSet { .. } => self.slow_faults += 1,
            EventKind::HarvestWord { mask, .. } | EventKind::UserWord { mask, .. } => {
                self.harvested_pages += u64::from(mask.count_ones());
            }
            EventKind::Flush { .. } => self.flushes += 1,
            EventKind::HostWrite { .. } => self.host_writes += 1,
            EventKind::RingPush { .. } => self.ring_pushes += 1,
            EventKind::LockWait { .. } => {
                self.lock_waits += 1;
                self.lock_wait_ns += event.span.len_ns();
            }
            EventKind::VmSeen { .. }
            | EventKind::VmGone
            | EventKind::SlotState { .. }
            | EventKind::IoctlBegin { .. }
            | EventKind::IoctlEnd { .. }
            | EventKind::RingReset { .. }
            | EventKind::SlotProtect { .. }
            | EventKind::Invalidate { .. }
            | EventKind::SpteChange { .. }
            | EventKind::RmapAdd { .. }
            | EventKind::RunBegin { .. }
            | EventKind::RunEnd { .. }
            | EventKind::Split { .. }
            | EventKind::Zap { .. } => {}
        }
    }
}
