//! Cases: findings with the records that make them.

use crate::event::{Event, EventKind, Gfn, Nanos, RawEvent, SlotId, VmId, decode};
use crate::order::Ordinal;
use crate::verdict::ledger::{Key, Proof};
use crate::verdict::{EdgeKind, Finding, RuleId, Step, UnknownCause, Verdict, Witness};

use super::alone::Target;
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

/// A page by index of its VM and slot.
pub(crate) type PageAt = (usize, usize, Gfn);

impl Case {
    /// The plain case of one page: the records themselves make it, nothing is known of it, no edge is missing.
    pub(crate) fn on_page(
        rule: RuleId,
        verdict: Verdict,
        (vm, slot, gfn): PageAt,
        at: Nanos,
    ) -> Self {
        Self {
            rule,
            verdict,
            vm,
            slot: Some(slot),
            gfn: Some(gfn),
            at,
            proof: Proof::Absence,
            known: None,
            missing: None,
        }
    }
}

impl Detector {
    /// Counts an integrity violation, and makes its case (K03): what cannot have been so accuses nobody.
    pub(super) fn violation(&mut self, page: PageAt, at: Nanos) -> Case {
        self.ledger.integrity_total += 1;
        Case::on_page(RuleId::K03, Verdict::Unknown, page, at)
    }

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
            let (steps, gaps) = ctx.sufficient(named(ctx, &context, records), &context, target);
            let witness = Witness { gaps, ..ctx.drawn(steps, &case) };
            finding(case, (vm.id, slot_id), tell(), witness)
        });
        self.note_lost(&case);
        self.note_worst(case);
    }

    fn note_worst(&mut self, case: Case) {
        if let (Some(slot), Some(gfn)) = (case.slot, case.gfn) {
            self.note_verdict(case.vm, slot, gfn, case.verdict);
        }
    }

    /// The page cannot be judged, for this cause.
    pub(super) fn unknown_page(&mut self, (vm, slot, gfn): PageAt, cause: UnknownCause) {
        self.ledger.unknown(cause, 1);
        self.note_verdict(vm, slot, gfn, Verdict::Unknown);
    }

    /// Shows the verdict on the map of the slot.
    pub(super) fn note_verdict(&mut self, vm: usize, slot: usize, gfn: Gfn, verdict: Verdict) {
        if let Some(cell) = self.vms[vm].slots[slot].heat(gfn) {
            cell.worst = cell.worst.max(Some(verdict));
            cell.unknown += u64::from(verdict == Verdict::Unknown);
        }
    }
}

/// The steps that the rule names, what describes their VM and slot, and the begin of the ioctl in hand.
fn named(ctx: &Ctx, context: &[RawEvent], records: Records<'_>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::with_capacity(records.len() + context.len() + 1);
    let mut add = |event: Option<Event>, note: &'static str| {
        if let Some(event) = event
            && !steps.iter().any(|step| step.event == event)
        {
            steps.push(Step { event, note });
        }
    };
    for event in context.iter().map(decode) {
        let is_vm = matches!(event, Ok(Event { kind: EventKind::VmSeen { .. }, .. }));
        add(event.ok(), if is_vm { "describes the VM" } else { "shows the slot" });
    }
    for (ordinal, note) in records {
        add(ctx.spool.event(*ordinal), note);
    }
    add(ctx.spool.event(ctx.ioctl), "begins the ioctl");
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
