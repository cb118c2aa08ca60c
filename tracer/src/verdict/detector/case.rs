//! Cases: findings with the records that make them.

use crate::event::{Gfn, Nanos, RawEvent, SlotId, VmId, decode};
use crate::order::Ordinal;
use crate::verdict::ledger::{Key, Proof};
use crate::verdict::{EdgeKind, Finding, RuleId, Step, Verdict, Witness};

use super::alone::Target;
use super::slot::Slot;
use super::{Ctx, Detector};

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
    /// Predictive: whole in this run, and this kind of edge, which the kernel promises on the path, is not there.
    pub missing: Option<EdgeKind>,
}

/// The records that make a case, by ordinal, and what each does in it. Those that have left the spool are left out.
pub(crate) type Records<'a> = &'a [(Ordinal, &'static str)];

impl Detector {
    /// Reports a finding; `tell` makes its sentence and is called for the first one of its page, and when it gets
    /// worse.
    pub(super) fn report(
        &mut self,
        case: Case,
        records: Records<'_>,
        tell: impl FnOnce() -> String,
    ) {
        let Self { ledger, ctx, vms, .. } = self;
        let vm = &vms[case.vm];
        let slot = case.slot.map(|slot| &vm.slots[slot]);
        let slot_id = slot.map_or(SlotId::default(), |slot| slot.id);
        let key: Key = (case.rule, vm.id, slot_id, case.gfn);
        ledger.find(key, case.verdict, case.at, case.proof, || {
            let origins = slot.map(|slot| [slot.shown_first, slot.origin]);
            let origins = origins.into_iter().flatten().flatten();
            let context: Vec<RawEvent> = vm.origin.into_iter().chain(origins).collect();
            let Case { rule, verdict, gfn, .. } = case;
            let target = Target { rule, verdict, vm: vm.id, slot: slot_id, gfn };
            let (steps, gaps) =
                ctx.sufficient(named(ctx, vm.origin, slot, records), &context, target);
            let witness = Witness { gaps, ..ctx.drawn(steps, &case) };
            finding(case, (vm.id, slot_id), tell(), witness)
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

/// The steps that the rule names, and what describes their VM and slot.
fn named(
    ctx: &Ctx,
    vm_origin: Option<RawEvent>,
    slot: Option<&Slot>,
    records: Records<'_>,
) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::with_capacity(records.len() + 2);
    let slot_origin = slot.and_then(|slot| slot.origin);
    for (record, note) in [(vm_origin, "describes the VM"), (slot_origin, "shows the slot")] {
        let event = record.and_then(|record| decode(&record).ok());
        steps.extend(event.map(|event| Step { event, note }));
    }
    for (ordinal, note) in records {
        if let Some(event) = ctx.spool.event(*ordinal)
            && !steps.iter().any(|step| step.event == event)
        {
            steps.push(Step { event, note });
        }
    }
    steps
}

fn finding(case: Case, (vm, slot): (VmId, SlotId), tell: String, witness: Witness) -> Finding {
    let sentence = match case.missing {
        Some(kind) => format!("{tell} (missing edge: {})", kind.name()),
        None => tell,
    };
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
