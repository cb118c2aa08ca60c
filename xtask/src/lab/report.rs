//! The part of the tool's JSON report that the lab reads.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What `demo --json` prints.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// The attach plan.
    pub plan: String,
    /// Records that arrived.
    pub events: u64,
    /// Records that did not.
    pub dropped_events: u64,
    /// Stretches of time in which records are missing.
    pub gaps_total: u64,
    /// The first of them.
    pub gaps: Vec<Gap>,
    /// Records that made no sense, or came after what they belong to had been judged.
    pub anomalies: u64,
    /// Records that arrived, by kind of event.
    pub events_by_kind: BTreeMap<String, u64>,
    /// Harvests.
    pub harvests: u64,
    /// Those seen from begin to end.
    pub harvests_complete: u64,
    /// Contradictions between the trace and the locks it assumes.
    pub integrity_violations: u64,
    /// Pages and windows by verdict.
    pub verdicts: Verdicts,
    /// Findings that are `lost` or `at-risk`, as many as the report lists one by one.
    pub hazards: Vec<Finding>,
    /// Why pages are unknown.
    pub unknown_causes: BTreeMap<String, u64>,
    /// Whether what is attached fires.
    pub self_check: Vec<Check>,
    /// What page contents say.
    pub oracle: Oracle,
    /// Harvest ioctls with and without the probe.
    pub harvest_time: HarvestTime,
    /// What the guest itself reports.
    pub guest: Guest,
}

/// A stretch of time in which records are missing.
#[derive(Debug, Clone, Deserialize)]
pub struct Gap {
    /// The lane whose numbers jumped.
    pub lane: Option<String>,
    /// The program of the probe that was not run.
    pub hook: Option<String>,
    /// Why.
    pub cause: String,
    /// How many records.
    pub dropped: u64,
}

/// An operation inside the one that contains it.
#[derive(Debug, Clone, Deserialize)]
pub struct Check {
    /// The inner one.
    pub operation: String,
    /// The outer one.
    pub inside: String,
    /// Times the outer one ended.
    pub exits: u64,
    /// Times the inner one was seen.
    pub hits: u64,
    /// `fires`, `silent` or `not exercised`.
    pub state: String,
}

/// Harvest times of the same guest, untraced and traced.
#[derive(Debug, Clone, Deserialize)]
pub struct HarvestTime {
    /// Without anything attached to it.
    pub untraced: Option<Side>,
    /// Traced.
    pub traced: Side,
    /// What tracing added per page.
    pub added_ns_per_page: Option<f64>,
}

/// One of the two.
#[derive(Debug, Clone, Deserialize)]
pub struct Side {
    /// Time inside the harvest ioctls per page they reported.
    pub ns_per_page: Option<f64>,
}

/// Counts by verdict.
#[derive(Debug, Clone, Deserialize)]
pub struct Verdicts {
    /// The rule is broken in every order.
    pub lost: u64,
    /// It is broken in some.
    pub at_risk: u64,
    /// An allowed window that nothing harvested later.
    pub exposed: u64,
    /// The rule holds.
    pub safe: u64,
    /// Evidence is missing.
    pub unknown: u64,
}

/// A page and the rule it was named under.
#[derive(Debug, Clone, Deserialize)]
pub struct Finding {
    /// The rule's id.
    pub rule: String,
    /// The page, in hexadecimal; absent if the finding is about a slot.
    pub gfn: Option<String>,
    /// The known stock-kernel hazard it is, if it is one.
    pub known: Option<String>,
}

/// The content oracle.
#[derive(Debug, Clone, Deserialize)]
pub struct Oracle {
    /// Pages whose content shows a write no harvest reported.
    pub lost_pages: u64,
    /// Pages compared.
    pub compared: u64,
    /// How the demo ended, verdicts and content joined.
    pub exit_status: u8,
}

/// The guest's own report.
#[derive(Debug, Clone, Deserialize)]
pub struct Guest {
    /// Its process id.
    pub pid: u32,
    /// One entry per VM.
    pub vms: Vec<Vm>,
    /// What else was done to the VMs.
    pub workloads: Vec<Workload>,
}

/// A workload and what became of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Workload {
    /// Its name.
    pub workload: String,
    /// How often it was done.
    pub done: u64,
    /// Why it could not be done, if so.
    pub skipped: Option<String>,
}

/// What a VM lost.
#[derive(Debug, Clone, Deserialize)]
pub struct Vm {
    /// Pages that differ from their copy.
    pub lost: Vec<LostPage>,
}

/// One of them.
#[derive(Debug, Clone, Deserialize)]
pub struct LostPage {
    /// Its number.
    pub gfn: u64,
    /// Offset of the first word that differs.
    pub offset: u32,
    /// That word in the guest's memory.
    pub guest: u64,
    /// That word as the last harvest that reported the page left it.
    pub copied: u64,
}

/// The exit status of a trace of which nothing can be said, because records are missing for one.
pub const INCONCLUSIVE: u8 = 3;

/// Kinds of events without which nothing can be judged; every harvested guest causes them.
const CORE: [&str; 3] = ["ioctl-end", "slot-state", "run-end"];

impl Report {
    /// Reads a report from a file.
    ///
    /// # Errors
    ///
    /// It is not there, or not what the tool is known to print.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Reads a report from what the tool printed.
    ///
    /// # Errors
    ///
    /// It is not what the tool is known to print; the error shows how it begins.
    pub fn parse(text: &str) -> Result<Self> {
        let head = || text.chars().take(80).collect::<String>();
        serde_json::from_str(text).with_context(|| format!("the report begins {:?}", head()))
    }

    /// Hazards that are not known ones of the stock kernel.
    pub fn new_hazards(&self) -> impl Iterator<Item = &Finding> {
        self.hazards.iter().filter(|finding| finding.known.is_none())
    }

    /// What is not as it should be on a healthy kernel, one clause each.
    pub fn complaints(&self) -> Vec<String> {
        let dropped = format!("dropped records ({})", self.gaps_in_words());
        let counts = [
            (self.new_hazards().count() as u64, "hazards"),
            (self.dropped_events, dropped.as_str()),
            (self.integrity_violations, "integrity violations"),
            (self.oracle.lost_pages, "pages lost by content"),
        ];
        let mut complaints: Vec<String> = counts
            .iter()
            .filter(|(count, _)| 0 < *count)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if self.harvests == 0 {
            complaints.push("no harvest seen".to_owned());
        }
        if complaints.is_empty() && self.oracle.exit_status == INCONCLUSIVE {
            complaints.push(format!("inconclusive: {}", self.doubt()));
        }
        for Check { operation, inside, exits, .. } in
            self.self_check.iter().filter(|check| check.state == "silent")
        {
            complaints.push(format!("{operation} not seen in any of {exits} x {inside}"));
        }
        for kind in CORE {
            if !self.events_by_kind.contains_key(kind) {
                complaints.push(format!("no {kind}"));
            }
        }
        if self.events == 0 {
            complaints.push("no events".to_owned());
        }
        complaints
    }

    /// The gaps by cause and place, with the records missing in each.
    fn gaps_in_words(&self) -> String {
        let mut by_cause: BTreeMap<String, u64> = BTreeMap::new();
        for Gap { lane, hook, cause, dropped } in &self.gaps {
            let place = hook.as_ref().or(lane.as_ref()).map_or("any lane", String::as_str);
            *by_cause.entry(format!("{cause} {place}")).or_default() += dropped;
        }
        let mut words: Vec<String> =
            by_cause.iter().map(|(cause, dropped)| format!("{cause}: {dropped}")).collect();
        let untold = self.gaps_total.saturating_sub(self.gaps.len() as u64);
        if 0 < untold {
            words.push(format!("{untold} gaps more"));
        }
        words.join(", ")
    }

    /// Why a trace without hazards, dropped records and violations is not clean all the same.
    fn doubt(&self) -> String {
        if 0 < self.gaps_total {
            // Each was told when a number was missing, and taken back when its record came.
            format!("gaps whose records came later ({})", self.gaps_in_words())
        } else if 0 < self.anomalies {
            format!("{} records that make no sense", self.anomalies)
        } else if self.harvests_complete == 0 {
            format!("none of {} harvests was seen from begin to end", self.harvests)
        } else {
            "the report does not say why".to_owned()
        }
    }
}

impl Finding {
    /// The page's number.
    pub fn page(&self) -> Option<u64> {
        u64::from_str_radix(self.gfn.as_deref()?.strip_prefix("0x")?, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of a run without any complaint, with what is different.
    fn report(changes: &[(&str, serde_json::Value)]) -> Report {
        let mut value = serde_json::json!({
            "plan": "kprobe", "events": 9, "dropped_events": 0, "gaps_total": 0, "gaps": [],
            "anomalies": 0, "events_by_kind": { "ioctl-end": 1, "slot-state": 1, "run-end": 1 },
            "harvests": 4, "harvests_complete": 4, "integrity_violations": 0,
            "verdicts": { "lost": 0, "at_risk": 0, "exposed": 0, "safe": 1, "unknown": 0 },
            "hazards": [], "unknown_causes": {}, "self_check": [],
            "oracle": { "lost_pages": 0, "compared": 1, "exit_status": 3 },
            "harvest_time": {
                "untraced": null, "traced": { "ns_per_page": null }, "added_ns_per_page": null
            },
            "guest": { "pid": 1, "vms": [], "workloads": [] }
        });
        for (key, changed) in changes {
            value[key] = changed.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn dropped_records_are_told_by_cause_and_place() {
        let gap = |lane: Option<&str>, hook: Option<&str>, cause: &str, dropped: u64| serde_json::json!({ "lane": lane, "hook": hook, "cause": cause, "dropped": dropped });
        let gaps = serde_json::json!([
            gap(Some("page/cpu1"), None, "ring-full", 68_000),
            gap(Some("page/cpu1"), None, "ring-full", 483),
            gap(None, Some("run"), "probe-missed", 1),
        ]);
        let report =
            report(&[("dropped_events", 68_484.into()), ("gaps_total", 5.into()), ("gaps", gaps)]);
        let told =
            "68484 dropped records (probe-missed run: 1, ring-full page/cpu1: 68483, 2 gaps more)";
        assert_eq!(report.complaints(), [told]);
    }

    #[test]
    fn an_inconclusive_run_says_why() {
        let gap = serde_json::json!(
            [{ "lane": "page/cpu0", "hook": null, "cause": "ring-full", "dropped": 1 }]
        );
        let late = report(&[("gaps_total", 1.into()), ("gaps", gap)]);
        let late = late.complaints();
        assert_eq!(late, ["inconclusive: gaps whose records came later (ring-full page/cpu0: 1)"]);
        let partial = report(&[("harvests_complete", 0.into())]).complaints();
        assert_eq!(partial, ["inconclusive: none of 4 harvests was seen from begin to end"]);
    }
}
