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
    /// The same by kind of event.
    pub events_by_kind: BTreeMap<String, u64>,
    /// Harvests seen from begin to end.
    pub harvests: u64,
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

/// The exit status of a trace with gaps.
const INCONCLUSIVE: u8 = 3;

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
        let counts = [
            (self.new_hazards().count() as u64, "hazards"),
            (self.dropped_events, "dropped records"),
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
            complaints.push("inconclusive: a record came out of order".to_owned());
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
}

impl Finding {
    /// The page's number.
    pub fn page(&self) -> Option<u64> {
        u64::from_str_radix(self.gfn.as_deref()?.strip_prefix("0x")?, 16).ok()
    }
}
