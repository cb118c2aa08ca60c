//! The JSON report: one document, the same keys in the same order every time (`schema report`).

use std::collections::BTreeMap;

use serde::Serialize;

use super::check::CheckRow;
use super::count_row::{VerdictRow, WindowRow};
use super::finding_row::FindingRow;
use super::provenance::{Judged, Provenance};
use crate::event::{Evidence, Gap, Operation};
use crate::outcome::Outcome;
use crate::summary::{Harvest, Summary};
use crate::verdict::{Finding, RuleId, Verdict, WindowKind};

/// Version of the document; a key may be added without a new one.
pub const DOCUMENT_VERSION: u32 = 1;

/// Findings, harvests and gaps listed one by one; the totals beside the lists count all.
pub(super) const LIST_MAX: usize = 1000;

/// The report.
#[derive(Debug, Serialize)]
pub struct Document {
    version: u32,
    tool: &'static str,
    outcome: &'static str,
    exit_status: u8,
    /// The file the trace was read from; absent if it was judged live.
    #[serde(skip_serializing_if = "Option::is_none")]
    recording: Option<Provenance>,
    kernel: String,
    plan: String,
    epsilon_ns: u64,
    is_final: bool,
    begin_ns: Option<u64>,
    end_ns: u64,
    events: u64,
    events_by_kind: BTreeMap<&'static str, u64>,
    dropped_events: u64,
    gaps_total: u64,
    gaps: Vec<GapRow>,
    anomalies: u64,
    integrity_violations: u64,
    vms: Vec<VmRow>,
    harvests: u64,
    /// The newest, of which more than their number is kept; the next count is of these.
    harvests_kept: u64,
    harvests_complete: u64,
    harvest_list: Vec<HarvestRow>,
    rules_off: Vec<RuleOffRow>,
    verdicts: VerdictRow,
    unknown_causes: BTreeMap<String, u64>,
    hazards: Vec<FindingRow>,
    hazards_total: u64,
    exposed: Vec<FindingRow>,
    exposed_total: u64,
    findings_total: u64,
    /// Findings of any verdict that were counted and of which no more than that is known.
    findings_unkept: u64,
    windows: BTreeMap<&'static str, WindowRow>,
    benign: BTreeMap<&'static str, u64>,
    self_check: Vec<CheckRow>,
}

#[derive(Debug, Serialize)]
struct GapRow {
    lane: Option<String>,
    hook: Option<&'static str>,
    cause: &'static str,
    from_ns: u64,
    to_ns: u64,
    dropped: u64,
}

#[derive(Debug, Serialize)]
struct VmRow {
    vm: String,
    tgid: u32,
    manual_protect: u32,
    ring_bytes: u32,
    is_gone: bool,
    slots: Vec<SlotRow>,
}

#[derive(Debug, Serialize)]
struct SlotRow {
    slot: String,
    base: String,
    npages: u64,
    is_logging: bool,
    harvests: u64,
    pages_harvested: u64,
}

#[derive(Debug, Serialize)]
struct HarvestRow {
    id: u64,
    vm: String,
    slot: String,
    op: &'static str,
    iteration: u64,
    begin_ns: u64,
    ioctl_ns: u64,
    pages: u64,
    words: u64,
    protect_ns: u64,
    flush_ns: Option<u64>,
    flush_counter_moved: bool,
    is_complete: bool,
    worst: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct RuleOffRow {
    rule: &'static str,
    operation: &'static str,
    evidence: Evidence,
}

impl Document {
    /// The report of a judged trace.
    #[must_use]
    pub fn new(judged: &Judged<'_>) -> Self {
        let Judged { summary, setup, provenance } = *judged;
        let outcome = Outcome::of(summary);
        let rows = |verdict: fn(Verdict) -> bool| {
            let findings = summary.findings.iter().filter(|finding| verdict(finding.verdict));
            findings.take(LIST_MAX).map(|finding| FindingRow::new(finding)).collect()
        };
        let total = |verdict: fn(Verdict) -> bool| {
            summary.findings.iter().filter(|finding| verdict(finding.verdict)).count() as u64
        };
        Self {
            version: DOCUMENT_VERSION,
            tool: env!("CARGO_PKG_VERSION"),
            outcome: outcome.name(),
            exit_status: outcome.status(),
            recording: provenance.cloned(),
            kernel: setup.kernel.clone(),
            plan: setup.plan.name.clone(),
            epsilon_ns: setup.epsilon_ns,
            is_final: setup.is_final,
            begin_ns: summary.begin.map(|begin| begin.0),
            end_ns: summary.now.0,
            events: summary.events,
            events_by_kind: by_kind(summary),
            dropped_events: summary.dropped_events,
            gaps_total: summary.gaps_total,
            gaps: summary.gaps.iter().take(LIST_MAX).map(GapRow::new).collect(),
            anomalies: summary.anomalies_total,
            integrity_violations: summary.integrity_total,
            vms: summary.vms.iter().map(VmRow::new).collect(),
            harvests: summary.harvests_total,
            harvests_kept: summary.harvests.len() as u64,
            harvests_complete: summary.harvests.iter().filter(|harvest| harvest.is_complete).count()
                as u64,
            harvest_list: last_harvests(summary),
            rules_off: rules_off(summary),
            verdicts: VerdictRow::new(&summary.verdicts),
            unknown_causes: unknown_causes(summary),
            hazards: rows(Verdict::is_hazard),
            hazards_total: total(Verdict::is_hazard),
            exposed: rows(|verdict| verdict == Verdict::Exposed),
            exposed_total: total(|verdict| verdict == Verdict::Exposed),
            findings_total: summary.findings_total,
            findings_unkept: summary.findings_total.saturating_sub(summary.findings.len() as u64),
            windows: WindowKind::ALL
                .into_iter()
                .map(|kind| (kind.name(), WindowRow::new(summary.windows(kind))))
                .collect(),
            benign: summary.benign.clone(),
            self_check: super::check::rows(summary),
        }
    }
}

/// One finding as a document of its own.
#[must_use]
pub fn finding_json(finding: &Finding) -> String {
    serde_json::to_string_pretty(&FindingRow::new(finding))
        .expect("rows hold only text and numbers")
}

fn last_harvests(summary: &Summary) -> Vec<HarvestRow> {
    let first = summary.harvests.len().saturating_sub(LIST_MAX);
    summary.harvests.iter().skip(first).map(HarvestRow::new).collect()
}

fn rules_off(summary: &Summary) -> Vec<RuleOffRow> {
    let row = |&(rule, operation, evidence): &(RuleId, Operation, Evidence)| RuleOffRow {
        rule: rule.name(),
        operation: operation.name(),
        evidence,
    };
    summary.rules_off.iter().map(row).collect()
}

fn by_kind(summary: &Summary) -> BTreeMap<&'static str, u64> {
    crate::event::Kind::ALL
        .iter()
        .map(|&kind| (kind.name(), summary.by_kind.get(kind)))
        .filter(|&(_, count)| count != 0)
        .collect()
}

fn unknown_causes(summary: &Summary) -> BTreeMap<String, u64> {
    let mut causes = BTreeMap::new();
    for (cause, count) in &summary.unknown_causes {
        let name = match cause {
            crate::verdict::UnknownCause::NotObserved(operation) => {
                format!("{}:{}", cause.name(), operation.name())
            }
            cause => cause.name().to_owned(),
        };
        *causes.entry(name).or_insert(0) += count;
    }
    causes
}

impl GapRow {
    fn new(gap: &Gap) -> Self {
        let Gap { lane, hook, cause, from, to, dropped } = *gap;
        Self {
            lane: lane.map(|lane| lane.to_string()),
            hook: hook.map(kvmdirty_common::Hook::name),
            cause: cause.name(),
            from_ns: from.0,
            to_ns: to.0,
            dropped,
        }
    }
}

impl VmRow {
    fn new(vm: &crate::summary::VmSummary) -> Self {
        let slots = vm
            .slots
            .iter()
            .map(|(id, slot)| SlotRow {
                slot: id.to_string(),
                base: slot.base.to_string(),
                npages: slot.npages,
                is_logging: slot.is_logging,
                harvests: slot.harvests,
                pages_harvested: slot.pages_harvested,
            })
            .collect();
        Self {
            vm: vm.vm.to_string(),
            tgid: vm.tgid,
            manual_protect: vm.manual_protect,
            ring_bytes: vm.ring_bytes,
            is_gone: vm.is_gone,
            slots,
        }
    }
}

impl HarvestRow {
    fn new(harvest: &Harvest) -> Self {
        Self {
            id: harvest.id,
            vm: harvest.vm.to_string(),
            slot: harvest.slot.to_string(),
            op: crate::export::event_row::op_name(harvest.op),
            iteration: harvest.iteration,
            begin_ns: harvest.begin.0,
            ioctl_ns: harvest.end.since(harvest.begin),
            pages: harvest.pages,
            words: harvest.words,
            protect_ns: harvest.protect_ns,
            flush_ns: harvest.flush_ns,
            flush_counter_moved: harvest.flush_counter_moved,
            is_complete: harvest.is_complete,
            worst: harvest.worst.map(Verdict::name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_keys_scripts_rely_on() {
        let setup = crate::event::Setup::complete("test");
        let document = Document::new(&Judged::live(&Summary::default(), &setup));
        let value = serde_json::to_value(&document).unwrap();
        for key in ["events", "dropped_events", "harvests", "rules_off", "verdicts", "hazards"] {
            assert!(value.get(key).is_some(), "{key} is missing");
        }
        for key in ["lost", "at_risk", "exposed", "safe", "unknown"] {
            assert_eq!(value["verdicts"][key], 0);
        }
        assert_eq!(value["outcome"], "inconclusive");
    }
}
