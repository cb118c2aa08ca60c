//! A finding in the JSON report, with its witness.

use serde::Serialize;

use crate::order::Instant;
use crate::verdict::{EdgeKind, Finding, Witness};

/// One finding.
#[derive(Debug, Serialize)]
pub(super) struct FindingRow {
    verdict: &'static str,
    rule: &'static str,
    vm: String,
    slot: String,
    gfn: Option<String>,
    first_ns: u64,
    last_ns: u64,
    count: u64,
    sentence: String,
    known: Option<&'static str>,
    witness: WitnessRow,
}

#[derive(Debug, Serialize)]
struct WitnessRow {
    steps: Vec<StepRow>,
    edges: Vec<EdgeRow>,
    losing: Option<usize>,
    /// Instants the kernel does not show, and what bounds them.
    instants: Vec<InstantRow>,
    /// Predictive findings: the kind of edge the kernel promises and that is not there.
    missing: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct StepRow {
    from_ns: u64,
    to_ns: u64,
    tid: u32,
    cpu: u16,
    kind: &'static str,
    note: &'static str,
}

#[derive(Debug, Serialize)]
struct InstantRow {
    step: usize,
    what: &'static str,
    from_ns: u64,
    to_ns: u64,
    from_by: &'static str,
    to_by: &'static str,
}

#[derive(Debug, Serialize)]
struct EdgeRow {
    from: usize,
    to: usize,
    kind: &'static str,
}

impl FindingRow {
    pub(super) fn new(finding: &Finding) -> Self {
        let Finding { verdict, rule, vm, slot, gfn, first, last, count, sentence, known, witness } =
            finding;
        Self {
            verdict: verdict.name(),
            rule: rule.name(),
            vm: vm.to_string(),
            slot: slot.to_string(),
            gfn: gfn.map(|gfn| gfn.to_string()),
            first_ns: first.0,
            last_ns: last.0,
            count: *count,
            sentence: sentence.clone(),
            known: *known,
            witness: WitnessRow::new(witness),
        }
    }
}

impl WitnessRow {
    fn new(witness: &Witness) -> Self {
        let Witness { steps, edges, losing, instants, missing, gaps: _ } = witness;
        Self {
            steps: steps
                .iter()
                .map(|step| StepRow {
                    from_ns: step.event.span.lo.0,
                    to_ns: step.event.span.hi.0,
                    tid: step.event.tid.0,
                    cpu: step.event.lane.cpu.0,
                    kind: step.event.kind.kind().name(),
                    note: step.note,
                })
                .collect(),
            edges: edges
                .iter()
                .map(|edge| EdgeRow { from: edge.from, to: edge.to, kind: edge.kind.name() })
                .collect(),
            losing: *losing,
            instants: instants
                .iter()
                .map(|&(step, Instant { what, within, lo, hi })| InstantRow {
                    step,
                    what: what.name(),
                    from_ns: within.lo.0,
                    to_ns: within.hi.0,
                    from_by: lo.name(),
                    to_by: hi.name(),
                })
                .collect(),
            missing: missing.map(EdgeKind::name),
        }
    }
}
