//! Cases: findings with the records that make them.

use crate::event::{Gfn, Nanos, SlotId, VmId, decode};
use crate::order::Ordinal;
use crate::verdict::ledger::{Key, Proof};
use crate::verdict::{Edge, EdgeKind, Finding, RuleId, Step, Verdict, Witness};

use super::Detector;

/// A finding in the making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub rule: RuleId,
    pub verdict: Verdict,
    pub vm: usize,
    pub slot: Option<usize>,
    pub gfn: Option<Gfn>,
    pub at: Nanos,
    pub proof: Proof,
    pub known: Option<&'static str>,
}

/// The records that make a case, by ordinal, and what each does in it. Those that have left the spool are left out.
pub(crate) type Records<'a> = &'a [(Ordinal, &'static str)];

impl Detector {
    /// Reports a finding; `tell` makes its sentence and is called for the first one of its page only.
    pub(super) fn report(
        &mut self,
        case: Case,
        records: Records<'_>,
        tell: impl FnOnce() -> String,
    ) {
        let vm = &self.vms[case.vm];
        let (vm_id, slot_id) = (vm.id, case.slot.map_or(SlotId::default(), |s| vm.slots[s].id));
        let key: Key = (case.rule, vm_id, slot_id, case.gfn);
        let slot_origin = case.slot.and_then(|slot| vm.slots[slot].origin);
        let vm_origin = vm.origin;
        let Self { ledger, ctx, .. } = self;
        ledger.find(key, case.verdict, case.at, case.proof, || {
            let mut steps = Vec::with_capacity(records.len() + 2);
            let context = [(vm_origin, "describes the VM"), (slot_origin, "shows the slot")];
            for (record, note) in context {
                steps
                    .extend(record.and_then(|r| decode(&r).ok()).map(|event| Step { event, note }));
            }
            for (ordinal, note) in records {
                if let Some(event) = ctx.spool.event(*ordinal)
                    && !steps.iter().any(|step: &Step| step.event == event)
                {
                    steps.push(Step { event, note });
                }
            }
            finding(case, (vm_id, slot_id), steps, tell(), ctx.epsilon_ns)
        });
        self.note_worst(case);
    }

    fn note_worst(&mut self, case: Case) {
        if let (Some(slot), Some(gfn)) = (case.slot, case.gfn)
            && let Some(cell) = self.vms[case.vm].slots[slot].heat(gfn)
        {
            cell.worst = cell.worst.max(Some(case.verdict));
        }
    }
}

fn finding(
    case: Case,
    (vm, slot): (VmId, SlotId),
    mut steps: Vec<Step>,
    sentence: String,
    epsilon_ns: u64,
) -> Finding {
    steps.sort_by_key(|step| (step.event.span.hi, step.event.lane.cpu, step.event.seq));
    let losing = (!steps.is_empty()).then(|| steps.len() - 1);
    let edges = edges(&steps, epsilon_ns);
    let witness = Witness { steps, edges, losing };
    Finding {
        verdict: case.verdict,
        rule: case.rule,
        vm,
        slot,
        gfn: case.gfn,
        first: case.at,
        last: case.at,
        count: 1,
        sentence,
        known: case.known,
        witness,
    }
}

/// What orders the steps: the step before in the same thread, and the last step of any other thread that real time
/// puts before.
fn edges(steps: &[Step], epsilon_ns: u64) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (to, step) in steps.iter().enumerate() {
        let earlier = || steps[..to].iter().enumerate().rev();
        if let Some((from, _)) = earlier().find(|(_, other)| other.event.tid == step.event.tid) {
            edges.push(Edge { from, to, kind: EdgeKind::ProgramOrder });
        }
        let before = earlier().find(|(_, other)| {
            other.event.tid != step.event.tid
                && other.event.span.is_before(step.event.span, epsilon_ns)
        });
        if let Some((from, _)) = before {
            edges.push(Edge { from, to, kind: EdgeKind::RealTime });
        }
    }
    edges
}
