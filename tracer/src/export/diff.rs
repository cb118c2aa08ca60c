//! Two judged traces side by side, such as before and after a kernel change, and whether the second is worse.
//!
//! Nothing is judged anew: verdicts, harvests and windows are those of the two summaries. What times cost says how a
//! change feels; only verdicts say whether it is worse.

mod conclusion;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use conclusion::Conclusion;

use self::conclusion::conclude;
use super::report::count_row::{VerdictRow, WindowRow};
use super::report::figures::nth_percentile;
use crate::event::{IoctlOp, Setup};
use crate::outcome::Outcome;
use crate::summary::{Harvest, Summary};
use crate::verdict::{Finding, RuleId, Verdict, WindowKind};

/// Version of the document; a key may be added without a new one.
pub const DIFF_VERSION: u32 = 1;

/// Hazards listed one by one.
const LIST_MAX: usize = 100;

/// A judged trace.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What the user calls it: its file.
    pub name: &'a str,
    /// What it came to.
    pub summary: &'a Summary,
    /// What the pipeline was told.
    pub setup: &'a Setup,
}

/// The comparison; its serialized form is the JSON document.
#[derive(Debug, Serialize)]
pub struct Diff {
    version: u32,
    conclusion: Conclusion,
    reason: String,
    before: SideRow,
    after: SideRow,
    rules: Vec<RuleRow>,
    appeared: Vec<HazardRow>,
    vanished: Vec<HazardRow>,
    hazards_in_both: u64,
    harvests: BTreeMap<&'static str, Pair<CostRow>>,
    windows: BTreeMap<&'static str, Pair<WindowRow>>,
}

#[derive(Debug, Serialize)]
struct Pair<T> {
    before: T,
    after: T,
}

#[derive(Debug, Serialize)]
struct SideRow {
    file: String,
    kernel: String,
    plan: String,
    epsilon_ns: u64,
    outcome: &'static str,
    covered_ns: u64,
    events: u64,
    dropped_events: u64,
    gaps: u64,
    integrity_violations: u64,
    harvests: u64,
    verdicts: VerdictRow,
    /// Findings that the list below cannot tell of, because it is bounded.
    findings_unlisted: u64,
    rules_off: BTreeSet<&'static str>,
}

#[derive(Debug, Serialize)]
struct RuleRow {
    rule: &'static str,
    name: &'static str,
    hazards: Pair<u64>,
    exposed: Pair<u64>,
}

/// One hazard, by what it is of; addresses of VMs differ from run to run and stay out.
#[derive(Debug, Serialize)]
struct HazardRow {
    verdict: &'static str,
    rule: &'static str,
    slot: String,
    gfn: Option<String>,
    count: u64,
    sentence: String,
    known: Option<&'static str>,
}

/// What the harvests of one ioctl cost; times in nanoseconds, absent without harvests.
#[derive(Debug, Default, Serialize)]
struct CostRow {
    harvests: u64,
    pages: u64,
    ioctl_p50_ns: Option<u64>,
    ioctl_p90_ns: Option<u64>,
    ioctl_p99_ns: Option<u64>,
    ioctl_max_ns: Option<u64>,
}

impl Diff {
    /// Compares two judged traces.
    #[must_use]
    pub fn new(before: &Side<'_>, after: &Side<'_>) -> Self {
        let (conclusion, reason) = conclude(before, after);
        let (appeared, both) = only_in(after.summary, before.summary);
        let (vanished, _) = only_in(before.summary, after.summary);
        let ops = [IoctlOp::GetDirtyLog, IoctlOp::ClearDirtyLog, IoctlOp::ResetDirtyRings];
        let costs = ops.into_iter().map(|op| {
            let cost = |side: &Side<'_>| CostRow::new(side.summary, op);
            (super::event_row::op_name(op), Pair { before: cost(before), after: cost(after) })
        });
        let windows = WindowKind::ALL.into_iter().map(|kind| {
            let row = |side: &Side<'_>| WindowRow::new(side.summary.windows(kind));
            (kind.name(), Pair { before: row(before), after: row(after) })
        });
        Self {
            version: DIFF_VERSION,
            conclusion,
            reason,
            before: SideRow::new(before),
            after: SideRow::new(after),
            rules: rules(before.summary, after.summary),
            appeared,
            vanished,
            hazards_in_both: both,
            harvests: costs
                .filter(|(_, pair)| 0 < pair.before.harvests + pair.after.harvests)
                .collect(),
            windows: windows
                .filter(|(_, Pair { before, after })| {
                    0 < before.closed + before.open + after.closed + after.open
                })
                .collect(),
        }
    }

    /// What it comes to.
    #[must_use]
    pub const fn conclusion(&self) -> Conclusion {
        self.conclusion
    }

    /// The comparison for a person.
    #[must_use]
    pub fn text(&self) -> String {
        text::text(self)
    }
}

fn rules_off(summary: &Summary) -> BTreeSet<&'static str> {
    summary.rules_off.iter().map(|(rule, ..)| rule.name()).collect()
}

fn rules(before: &Summary, after: &Summary) -> Vec<RuleRow> {
    let count = |summary: &Summary, rule, wanted: fn(Verdict) -> bool| -> u64 {
        let found = summary.findings.iter();
        found.filter(|f| f.rule == rule && wanted(f.verdict)).map(|f| f.count).sum()
    };
    let row = |rule: RuleId| {
        let pair = |wanted| Pair {
            before: count(before, rule, wanted),
            after: count(after, rule, wanted),
        };
        RuleRow {
            rule: rule.name(),
            name: rule.rule().name,
            hazards: pair(Verdict::is_hazard),
            exposed: pair(|verdict| verdict == Verdict::Exposed),
        }
    };
    let is_found = |row: &RuleRow| {
        0 < row.hazards.before + row.hazards.after + row.exposed.before + row.exposed.after
    };
    RuleId::ALL.into_iter().map(row).filter(is_found).collect()
}

/// The hazards of `one` that `other` has not, and how many it has.
fn only_in(one: &Summary, other: &Summary) -> (Vec<HazardRow>, u64) {
    let key = |finding: &Finding| (finding.rule, finding.slot, finding.gfn);
    let known: BTreeSet<_> = other.hazards().map(|finding| key(finding)).collect();
    let mut both = 0;
    let mut rows = Vec::new();
    for finding in one.hazards() {
        if known.contains(&key(finding)) {
            both += 1;
        } else if rows.len() < LIST_MAX {
            rows.push(HazardRow::new(finding));
        }
    }
    (rows, both)
}

impl SideRow {
    fn new(side: &Side<'_>) -> Self {
        let Side { name, summary, setup } = *side;
        Self {
            file: name.to_owned(),
            kernel: setup.kernel.clone(),
            plan: setup.plan.name.clone(),
            epsilon_ns: setup.epsilon_ns,
            outcome: Outcome::of(summary).name(),
            covered_ns: summary.covered_ns(),
            events: summary.events,
            dropped_events: summary.dropped_events,
            gaps: summary.gaps_total,
            integrity_violations: summary.integrity_total,
            harvests: summary.harvests_total,
            verdicts: VerdictRow::new(&summary.verdicts),
            findings_unlisted: summary.findings_total.saturating_sub(summary.findings.len() as u64),
            rules_off: rules_off(summary),
        }
    }
}

impl HazardRow {
    fn new(finding: &Finding) -> Self {
        Self {
            verdict: finding.verdict.name(),
            rule: finding.rule.name(),
            slot: finding.slot.to_string(),
            gfn: finding.gfn.map(|gfn| gfn.to_string()),
            count: finding.count,
            sentence: finding.sentence.clone(),
            known: finding.known,
        }
    }
}

impl CostRow {
    fn new(summary: &Summary, op: IoctlOp) -> Self {
        let of_op = || summary.harvests.iter().filter(|harvest| harvest.op == op);
        let ioctl_ns = |harvest: &Harvest| harvest.end.since(harvest.begin);
        let mut times: Vec<u64> = of_op().map(ioctl_ns).collect();
        times.sort_unstable();
        let percentile = |percent| nth_percentile(&times, percent);
        Self {
            harvests: times.len() as u64,
            pages: of_op().map(|harvest| harvest.pages).sum(),
            ioctl_p50_ns: percentile(50),
            ioctl_p90_ns: percentile(90),
            ioctl_p99_ns: percentile(99),
            ioctl_max_ns: percentile(100),
        }
    }
}

#[cfg(test)]
mod tests;
