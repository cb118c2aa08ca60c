//! Findings: verdicts worth showing one by one, each with the evidence that makes its case.

use super::{RuleId, Verdict};
use crate::event::{Event, Gap, Gfn, Nanos, SlotId, Tid, VmId};
use crate::order::Instant;

/// A verdict other than `safe`, on one page, by one rule. `lost` and `at-risk` findings are *hazards*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that speaks.
    pub rule: RuleId,
    /// The VM.
    pub vm: VmId,
    /// The slot.
    pub slot: SlotId,
    /// The page; `None` where the rule speaks of a whole slot (K09 and K11, unless the last harvest is declared final).
    pub gfn: Option<Gfn>,
    /// When it first happened.
    pub first: Nanos,
    /// When it last happened.
    pub last: Nanos,
    /// How often it happened to this page.
    pub count: u64,
    /// One sentence that says what went wrong here, with the values that prove it.
    pub sentence: String,
    /// A stock-kernel hazard that is listed for this kernel release, by name.
    pub known: Option<&'static str>,
    /// The evidence of the first time.
    pub witness: Witness,
}

impl Finding {
    /// When the last record that makes the case was written: not before then can it have been known.
    #[must_use]
    pub fn known_at(&self) -> Nanos {
        let steps = self.witness.steps.iter().map(|step| step.event.span.hi);
        steps.fold(self.first, Nanos::max)
    }
}

/// The smallest set of events that makes the case, in the order drawn: judged by itself it gives the same verdict, and
/// none of its events can be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// The events, earliest possible first.
    pub steps: Vec<Step>,
    /// What orders them; pairs of steps without an edge are concurrent.
    pub edges: Vec<Edge>,
    /// Index of the step at which the page is lost.
    pub losing: Option<usize>,
    /// The hidden instants of the steps, by index of the step, as the witness proves them by itself.
    pub instants: Vec<(usize, Instant)>,
    /// Predictive findings: the kind of edge that the kernel promises on this path and that is not there.
    pub missing: Option<EdgeKind>,
    /// Records dropped meanwhile, without which the verdict would be another.
    pub gaps: Vec<Gap>,
}

impl Witness {
    /// The threads, in the order of their first step.
    #[must_use]
    pub fn threads(&self) -> Vec<Tid> {
        let mut threads = Vec::new();
        for step in &self.steps {
            if !threads.contains(&step.event.tid) {
                threads.push(step.event.tid);
            }
        }
        threads
    }

    /// Pairs of steps, by index, that no chain of edges orders.
    #[must_use]
    pub fn unordered(&self) -> Vec<[usize; 2]> {
        let n = self.steps.len();
        let mut before = vec![vec![false; n]; n];
        for edge in self.edges.iter().filter(|edge| edge.from < n && edge.to < n) {
            before[edge.from][edge.to] = true;
        }
        for middle in 0..n {
            for from in 0..n {
                for to in 0..n {
                    before[from][to] |= before[from][middle] && before[middle][to];
                }
            }
        }
        let pairs = (0..n).flat_map(|a| (a + 1..n).map(move |b| [a, b]));
        pairs.filter(|&[a, b]| !before[a][b] && !before[b][a]).collect()
    }
}

/// One event of a witness and what it means here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The event.
    pub event: Event,
    /// What it does in this case: a short phrase such as `takes the bit`.
    pub note: &'static str,
}

/// An order between two steps of a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Index of the earlier step.
    pub from: usize,
    /// Index of the later step.
    pub to: usize,
    /// Why.
    pub kind: EdgeKind,
}

/// Why one operation precedes another.
///
/// *Observed* order is what this run shows: real time, reads-from, SPTE values. *Guaranteed* order is what the kernel
/// promises in every run: locks, SRCU, flush acknowledgement. Program order is in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeKind {
    /// Same thread.
    ProgramOrder,
    /// Disjoint intervals, clock uncertainty included.
    RealTime,
    /// A mask, ring index or word read shows it.
    ReadsFrom,
    /// SPTE value chain.
    SpteValue,
    /// Two brackets of one mmu_lock.
    MmuLock,
    /// slots_lock.
    SlotsLock,
    /// SRCU grace period at a memslot change.
    Srcu,
    /// Flush requested and acknowledged.
    FlushAck,
}

impl EdgeKind {
    /// All kinds, in reading order.
    pub const ALL: [Self; 8] = [
        Self::ProgramOrder,
        Self::RealTime,
        Self::ReadsFrom,
        Self::SpteValue,
        Self::MmuLock,
        Self::SlotsLock,
        Self::Srcu,
        Self::FlushAck,
    ];

    /// The edge in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProgramOrder => "program-order",
            Self::RealTime => "real-time",
            Self::ReadsFrom => "reads-from",
            Self::SpteValue => "spte-value",
            Self::MmuLock => "mmu-lock",
            Self::SlotsLock => "slots-lock",
            Self::Srcu => "srcu",
            Self::FlushAck => "flush-ack",
        }
    }
}
