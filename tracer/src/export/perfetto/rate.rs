//! Counters: marks and faults per second, by VM.

use std::collections::BTreeMap;

use crate::event::{Event, EventKind, Evidence, Nanos, Operation, Plan, VmId};

/// Counts per stretch of trace time.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// What stands for a mark and for a fault under the trace's plan.
    has_marks: bool,
    has_faults: bool,
    bucket: u64,
    counts: BTreeMap<VmId, Counts>,
}

/// What happened in one stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub marks: u64,
    pub faults: u64,
}

/// The rates of one VM from `at` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub vm: VmId,
    pub at: Nanos,
    pub counts: Counts,
}

/// Length of a stretch.
const BUCKET_NS: u64 = 100_000_000;

/// Stretches per second.
pub(super) const PER_SECOND: u64 = 1_000_000_000 / BUCKET_NS;

impl Rates {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            has_marks: plan.evidence(Operation::Mark) == Evidence::Direct,
            has_faults: plan.evidence(Operation::Fault) == Evidence::Direct,
            ..Self::default()
        }
    }

    /// Takes the next event; the rates of the stretch before it, if it begins a new one.
    pub(super) fn take(&mut self, event: &Event) -> Vec<Rate> {
        let bucket = event.span.hi.0 / BUCKET_NS;
        let done = if self.bucket < bucket { self.end(bucket) } else { Vec::new() };
        let counts = self.counts.entry(event.vm).or_default();
        match event.kind {
            EventKind::Mark { .. } => counts.marks += u64::from(self.has_marks),
            EventKind::RingPush { .. } => counts.marks += u64::from(!self.has_marks),
            EventKind::SpteSet { logging, ring, .. } => {
                // In ring mode the push beside it is the mark.
                counts.marks += u64::from(!self.has_marks && logging && !ring);
                counts.faults += u64::from(!self.has_faults);
            }
            EventKind::Fault { .. } => counts.faults += u64::from(self.has_faults),
            EventKind::FastFault { .. } => counts.faults += u64::from(!self.has_faults),
            _ => {}
        }
        done
    }

    /// The rates of the stretch that ends at the trace's end or where `next` begins.
    pub(super) fn end(&mut self, next: u64) -> Vec<Rate> {
        let at = Nanos(self.bucket * BUCKET_NS);
        let mut rates: Vec<Rate> =
            self.counts.iter().map(|(&vm, &counts)| Rate { vm, at, counts }).collect();
        if self.bucket + 1 < next {
            let still = Nanos((self.bucket + 1) * BUCKET_NS);
            let quiet = |&vm| Rate { vm, at: still, counts: Counts::default() };
            rates.extend(self.counts.keys().map(quiet));
        }
        self.bucket = next;
        self.counts.values_mut().for_each(|counts| *counts = Counts::default());
        rates
    }
}
