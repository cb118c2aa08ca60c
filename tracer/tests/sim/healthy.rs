//! A healthy kernel is never accused, on any configuration, and is not waved through as unknown either.

use std::collections::BTreeMap;

use kvmdirty_trace::trace::litmus::Expectation;
use kvmdirty_trace::verdict::{UnknownCause, VerdictCounts};

use super::config::{Combination, Config, ProbePlan};
use super::judge::{failure, judge_records};
use super::run::run;
use super::seeds;

/// Of all judgements on the kprobe plan, in percent, so many may be unknown.
const UNKNOWN_MAX: f64 = 5.0;

/// Judgements of one group of runs.
#[derive(Default)]
struct Tally {
    counts: VerdictCounts,
    causes: BTreeMap<UnknownCause, u64>,
    runs: u64,
}

impl Tally {
    fn share(&self) -> f64 {
        let VerdictCounts { lost, at_risk, exposed, safe, unknown } = self.counts;
        100.0 * unknown as f64 / (lost + at_risk + exposed + safe + unknown).max(1) as f64
    }

    fn print(&self, name: &str) {
        let VerdictCounts { exposed, safe, unknown, .. } = self.counts;
        let share = self.share();
        let causes: Vec<String> =
            self.causes.iter().map(|(cause, n)| format!("{cause:?} {n}")).collect();
        println!(
            "{name:<44} {:>5} {safe:>8} {exposed:>7} {unknown:>7} {share:>5.1} % {}",
            self.runs,
            causes.join(", ")
        );
    }
}

#[test]
fn a_healthy_run_has_no_hazard_in_any_configuration() {
    let test = "sim::healthy::a_healthy_run_has_no_hazard_in_any_configuration";
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut by_plan: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut failures = seeds::Failures::new(test);
    for combination in Combination::all() {
        failures.run(3, |seed| {
            let run = run(Config::of(seed, combination));
            let summary = judge_records(&run.setup, &run.records);
            let hazards = summary.hazards().filter(|finding| finding.known.is_none()).count();
            let is_clean = hazards == 0 && summary.integrity_total == 0;
            let is_complete = summary.dropped_events == 0 && summary.anomalies_total == 0;
            seeds::claim(is_clean && is_complete, || {
                let integrity = summary.integrity_total;
                let what = format!("{hazards} hazards, {integrity} integrity violations");
                failure(&what, &run, &run.records, vec![Expectation::NoHazard])
            })?;
            let plan = combination.plan.name();
            for tally in [
                tallies.entry(combination.to_string()).or_default(),
                by_plan.entry(plan).or_default(),
            ] {
                tally.runs += 1;
                tally.counts.safe += summary.verdicts.safe;
                tally.counts.exposed += summary.verdicts.exposed;
                tally.counts.unknown += summary.verdicts.unknown;
                for (cause, n) in &summary.unknown_causes {
                    *tally.causes.entry(*cause).or_default() += n;
                }
            }
            Ok(())
        });
    }
    println!("{:<44} {:>5} {:>8} {:>7} {:>7}", "", "runs", "safe", "exposed", "unknown");
    tallies.iter().for_each(|(name, tally)| tally.print(name));
    by_plan.iter().for_each(|(name, tally)| tally.print(name));
    failures.settle();
    let share = by_plan[ProbePlan::Kprobe.name()].share();
    if seeds::are_all() {
        assert!(share < UNKNOWN_MAX, "{share:.1} % unknown on the kprobe plan");
    }
}
