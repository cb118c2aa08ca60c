//! A plan that does not show one operation: no file may then accuse a page it did not accuse before, and no page it
//! accused may become `safe` under rules that still call themselves on.
//!
//! What a real plan lacks is like that: a function that the compiler inlined, a probe that a `trace-cmd` user did not
//! set. An absence is evidence only where the presence would have been seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use kvmdirty_common::raw::CLASS_SHIFT;
use kvmdirty_trace::event::{Evidence, Kind, Operation, RawEvent, SlotId, VmId};
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::trace::litmus::Litmus;
use kvmdirty_trace::verdict::RuleId;
use kvmdirty_trace::verdict::rule::RuleSet;

use super::corpus::{corpus, is_filtered, judge};

/// Operations that records of their own show, and these records. Flushes are not among them: the counter of the VM, which
/// ioctls carry, would still tell of them, and litmus files need not keep it.
const SHOWN_BY: &[(Operation, &[Kind])] = &[
    (Operation::Run, &[Kind::RunBegin, Kind::RunEnd]),
    (Operation::Mark, &[Kind::Mark]),
    (Operation::HarvestWord, &[Kind::HarvestWord, Kind::UserWord]),
    (Operation::SpteChange, &[Kind::SpteChange, Kind::SpteSet]),
    (Operation::FastFault, &[Kind::FastFault]),
    (Operation::Fault, &[Kind::Fault]),
    (Operation::RmapAdd, &[Kind::RmapAdd]),
    (Operation::HostWrite, &[Kind::HostWrite]),
    (Operation::RingPush, &[Kind::RingPush]),
    (Operation::RingReset, &[Kind::RingReset]),
    (Operation::Split, &[Kind::Split]),
    (Operation::Zap, &[Kind::Zap, Kind::Invalidate]),
    (Operation::LockWait, &[Kind::LockWait]),
];

/// The trace as a plan without these operations would have recorded it; `None`: it has no record of one of them.
fn without(litmus: &Litmus, missing: &[&(Operation, &[Kind])]) -> Option<Litmus> {
    let mut stripped = litmus.clone();
    for (operation, kinds) in missing {
        let before = stripped.batch.records.len();
        let is_kept = |record: &RawEvent| kinds.iter().all(|kind| record.kind != *kind as u8);
        stripped.batch.records.retain(is_kept);
        if stripped.batch.records.len() == before {
            return None;
        }
        for entry in &mut stripped.setup.plan.entries {
            if entry.operation == *operation {
                entry.evidence = Evidence::None;
            }
        }
    }
    renumber(&mut stripped.batch.records);
    stripped.notes.clear();
    Some(stripped)
}

/// Numbers each lane anew, in the order of its old numbers: a probe that is not there uses none.
fn renumber(records: &mut [RawEvent]) {
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|&index| records[index].seq);
    let mut next = BTreeMap::new();
    for index in order {
        let record = &mut records[index];
        let number = next.entry((record.cpu, record.flags >> CLASS_SHIFT)).or_insert(record.seq);
        record.seq = *number;
        *number += 1;
    }
}

/// The numbers of a file's lanes have no jump: it does not test what dropped records do.
fn is_whole(litmus: &Litmus) -> bool {
    let mut lanes: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for record in &litmus.batch.records {
        let lane = (record.cpu, record.flags >> CLASS_SHIFT);
        lanes.entry(lane).or_default().push(u64::from(record.seq));
    }
    lanes.values_mut().all(|numbers| {
        numbers.sort_unstable();
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1)
    })
}

type Page = (VmId, SlotId, u64);

/// The rules that accuse each page.
fn accused(summary: &Summary) -> BTreeMap<Page, BTreeSet<RuleId>> {
    let mut pages: BTreeMap<Page, BTreeSet<RuleId>> = BTreeMap::new();
    for finding in summary.hazards() {
        if let Some(gfn) = finding.gfn {
            pages.entry((finding.vm, finding.slot, gfn.0)).or_default().insert(finding.rule);
        }
    }
    pages
}

/// One operation, and each two of them.
fn selections() -> Vec<Vec<&'static (Operation, &'static [Kind])>> {
    let mut selections = Vec::new();
    for (index, first) in SHOWN_BY.iter().enumerate() {
        selections.push(vec![first]);
        selections.extend(SHOWN_BY[..index].iter().map(|second| vec![second, first]));
    }
    selections
}

/// What is wrong with the judgement of a trace without some operations.
fn complaints(whole: &BTreeMap<Page, BTreeSet<RuleId>>, stripped: &Litmus) -> Vec<String> {
    let rules = RuleSet::new(&stripped.setup.plan);
    let summary = judge(stripped);
    let found = accused(&summary);
    let new = found.iter().filter(|(page, _)| !whole.contains_key(page));
    let new = new.map(|(page, by)| format!("{page:x?} accused by {by:?}"));
    let is_doubted = 0 < summary.verdicts.unknown;
    let cleared = whole.iter().filter(|(page, by)| {
        let is_on = by.iter().all(|&rule| rules.is_whole(rule));
        is_on && !is_doubted && !found.contains_key(page)
    });
    new.chain(cleared.map(|(page, by)| format!("{page:x?} cleared of {by:?}"))).collect()
}

#[test]
fn an_operation_that_is_not_observed_accuses_nobody_and_clears_nobody() {
    let mut failures = String::new();
    let mut judged = 0;
    for file in corpus() {
        if file.litmus.setup.plan.name == "tracepoint" || !is_whole(&file.litmus) {
            continue;
        }
        let whole = accused(&judge(&file.litmus));
        for missing in selections() {
            let Some(stripped) = without(&file.litmus, &missing) else { continue };
            judged += 1;
            for complaint in complaints(&whole, &stripped) {
                let names: Vec<_> = missing.iter().map(|(operation, _)| operation.name()).collect();
                let _ = writeln!(failures, "{} without {names:?}: {complaint}", file.name);
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(is_filtered() || 1000 < judged, "only {judged} traces");
    println!("{judged} traces without one operation, or two");
}
