//! Joins what a mutant did, what page contents prove, and what the tool said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{
    REPORT,
    mutant::{Mutant, Proof},
};
use crate::lab::guest::{self, Ran};

/// Pages by number; which slot they belong to follows from it.
type Pages = BTreeSet<u64>;

/// A run of one mutant, in sets of pages.
#[derive(Debug, Default)]
pub struct Judgement {
    /// On which the bug fired, by its own account.
    pub fired: Pages,
    /// Whose content shows a write no harvest reported.
    pub lost: Pages,
    /// Named `lost` or `at-risk`, with the rules they were named under.
    pub named: BTreeMap<u64, BTreeSet<String>>,
    /// Pages and windows called exposed.
    pub exposed: u64,
    /// Contradictions between the trace and the locks it assumes.
    pub integrity: u64,
    /// The tool's exit status.
    pub status: u8,
    /// Runs before this one that the emulator ended.
    pub resets: usize,
    /// Records that were dropped.
    pub dropped: u64,
    /// Pages the tool had no verdict for.
    pub unknown: u64,
    /// Parts of the guest's load that could not be done, with the reason.
    pub skipped: Vec<String>,
}

impl Judgement {
    /// Reads what a run brought back. A finding names the first of `reach` pages.
    ///
    /// # Errors
    ///
    /// The tool wrote no report, or one that is not understood.
    pub fn read(folder: &Path, reach: u64) -> Result<Self> {
        let Ran { report, resets } = Ran::read(folder, REPORT);
        let report = report?;
        let trace = folder.join("fired");
        let trace =
            fs::read_to_string(&trace).with_context(|| format!("read {}", trace.display()))?;
        let status = guest::status(folder, REPORT)?;
        let mut named: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        for finding in &report.hazards {
            let Some(first) = finding.page() else { continue };
            for gfn in first..first + reach {
                named.entry(gfn).or_default().insert(finding.rule.clone());
            }
        }
        let skipped = report.guest.workloads.iter().filter_map(|workload| {
            let reason = workload.skipped.as_ref()?;
            Some(format!("{}: {reason}", workload.workload))
        });
        let lost = report.guest.vms.iter().flat_map(|vm| &vm.lost).map(|page| page.gfn).collect();
        Ok(Self {
            fired: fired(&trace, report.guest.pid),
            lost,
            named,
            exposed: report.verdicts.exposed,
            integrity: report.integrity_violations,
            status,
            resets,
            dropped: report.dropped_events,
            unknown: report.verdicts.unknown,
            skipped: skipped.collect(),
        })
    }

    /// Lost pages the tool did not name under a rule the bug is known by.
    pub fn missed(&self, mutant: &Mutant) -> Pages {
        let is_named = |gfn: &&u64| self.named.get(gfn).is_some_and(|rules| expects(mutant, rules));
        self.lost.iter().filter(|gfn| !is_named(gfn)).copied().collect()
    }

    /// Named pages on which the bug did not fire.
    pub fn strays(&self) -> Pages {
        self.named.keys().filter(|gfn| !self.fired.contains(gfn)).copied().collect()
    }

    /// Pages named under a rule the bug is known by.
    pub fn named_as_expected(&self, mutant: &Mutant) -> usize {
        self.named.values().filter(|rules| expects(mutant, rules)).count()
    }

    /// Pages named by rules the bug is not known by.
    pub fn beside(&self, mutant: &Mutant) -> BTreeMap<&str, usize> {
        let mut beside = BTreeMap::new();
        let rules = self.named.values().flatten().map(String::as_str);
        for rule in rules.filter(|rule| !mutant.rules.contains(rule)) {
            *beside.entry(rule).or_default() += 1;
        }
        beside
    }

    /// What is not as it should be, one sentence each; nothing if the mutant was caught.
    pub fn complaints(&self, mutant: &Mutant) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut complain = |is_wrong: bool, what: String| {
            if is_wrong {
                complaints.push(what);
            }
        };
        let missed = self.missed(mutant).len();
        complain(0 < missed, format!("{missed} lost pages not named under an expected rule"));
        let strays = self.strays().len();
        complain(0 < strays, format!("{strays} pages named on which the bug did not fire"));
        let is_broken = mutant.is_broken();
        complain(is_broken && self.fired.is_empty(), "the bug never fired".to_owned());
        let has_proof = mutant.proof != Proof::Expected || !self.lost.is_empty();
        complain(!has_proof, "no page was lost by content".to_owned());
        let is_named = !is_broken || 0 < self.named_as_expected(mutant);
        let has_clean_status = is_broken || self.status == 0;
        complain(!has_clean_status, format!("the tool ended with status {}", self.status));
        complain(!is_named, format!("no page was named under {}", mutant.rules.join(" or ")));
        complain(0 < self.dropped, format!("{} records were dropped", self.dropped));
        for skipped in &self.skipped {
            complain(true, format!("not done, {skipped}"));
        }
        complaints
    }
}

fn expects(mutant: &Mutant, rules: &BTreeSet<String>) -> bool {
    mutant.rules.iter().any(|rule| rules.contains(*rule))
}

/// Lines of the trace buffer: "mutant fired <process> <gfn> <pages>", the last two hexadecimal. Other
/// processes are guests that were not traced.
fn fired(trace: &str, pid: u32) -> Pages {
    let mut pages = Pages::new();
    let mine = format!("mutant fired {pid} ");
    for line in trace.lines() {
        let Some((_, range)) = line.split_once(&mine) else { continue };
        let mut numbers = range.split_whitespace().map(|word| u64::from_str_radix(word, 16));
        if let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) {
            pages.extend(first..first + count);
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::catalogue;

    fn mutant(name: &str) -> &'static Mutant {
        catalogue::all().into_iter().find(|mutant| mutant.name == name).expect("a known name")
    }

    fn named(gfn: u64, rule: &str) -> BTreeMap<u64, BTreeSet<String>> {
        [(gfn, [rule.to_owned()].into())].into()
    }

    #[test]
    fn trace_lines_of_the_traced_guest_name_ranges() {
        let trace = "  vcpu0-12 [001] 5.1: mutant fired 9 425 1\n x: mutant fired 9 600 3\nother\n\
                     mutant fired 8 700 1\n";
        assert_eq!(fired(trace, 9), Pages::from([0x425, 0x600, 0x601, 0x602]));
    }

    #[test]
    fn caught_mutant_has_no_complaint() {
        let fired = Pages::from([0x425]);
        let judgement = Judgement {
            lost: fired.clone(),
            fired,
            named: named(0x425, "K01"),
            ..Default::default()
        };
        assert_eq!(judgement.complaints(mutant("fast-fault-unmarked")), Vec::<String>::new());
    }

    #[test]
    fn lost_page_without_a_name_and_a_stray_are_complained_about() {
        let pages = Pages::from([0x425]);
        let judgement = Judgement {
            lost: pages.clone(),
            fired: pages,
            named: named(7, "K01"),
            ..Default::default()
        };
        let expected = [
            "1 lost pages not named under an expected rule",
            "1 pages named on which the bug did not fire",
        ];
        assert_eq!(judgement.complaints(mutant("fast-fault-unmarked")), expected);
    }

    #[test]
    fn page_named_on_a_healthy_kernel_is_a_stray() {
        let judgement = Judgement { named: named(7, "K04"), ..Default::default() };
        let expected = ["1 pages named on which the bug did not fire"];
        assert_eq!(judgement.complaints(mutant("healthy")), expected);
    }
}
