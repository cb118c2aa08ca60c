//! No miss: a page that was truly lost is named, by a rule of the fault that lost it; and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use kvmdirty_trace::event::Gfn;
use kvmdirty_trace::summary::{HEAT_CELLS, HeatCell, Summary};
use kvmdirty_trace::trace::litmus::{Expectation, Place};
use kvmdirty_trace::verdict::{RuleId, Verdict};

use super::config::{Config, Kernel};
use super::fault::{Fault, Proof};
use super::huge::{HUGE, region};
use super::judge::{failure, judge_records};
use super::run::{Run, run};
use super::seeds::{self, Failures, claim};

/// Seeds per fault, and seeds tried until one of them has lost a page.
const SEEDS: u64 = 5;
const SEEDS_MAX: u64 = 120;

/// What the runs of one fault came to; pages are counted once per run.
#[derive(Default)]
struct Tally {
    runs: u64,
    fired: u64,
    losing: u64,
    lost: u64,
    named_lost: u64,
    named_at_risk: u64,
    /// Truly lost and not named where the plan does not show what decides.
    unknown: u64,
    /// Runs in which the fault was named at all.
    named: u64,
}

impl Tally {
    /// The fault fired, did its harm and was named.
    fn is_loud(&self, fault: Fault) -> bool {
        let harmed = 0 < self.losing || fault.proof() == Proof::Protocol;
        0 < self.fired && 0 < self.named && harmed
    }
}

/// Worst hazard per page, by the rules of the fault.
fn named(summary: &Summary, fault: Fault, is_huge: bool) -> BTreeMap<u64, Verdict> {
    let mut named = BTreeMap::new();
    for finding in summary.hazards().filter(|finding| fault.rules().contains(&finding.rule)) {
        if let Some(Gfn(gfn)) = finding.gfn {
            // A finding on a huge SPTE is one on all its pages.
            let is_huge = match fault {
                Fault::HugeOneMark => finding.rule == RuleId::K13,
                Fault::EnableNoSrcu => is_huge && gfn == region(gfn),
                _ => false,
            };
            let pages = if is_huge { region(gfn)..region(gfn) + HUGE } else { gfn..gfn + 1 };
            for gfn in pages {
                let worst = named.entry(gfn).or_insert(finding.verdict);
                *worst = (*worst).max(finding.verdict);
            }
        }
    }
    named
}

/// The engine says that it does not know about this page: its cell of the heat map holds a judgement that is `unknown`.
pub fn is_unknown(summary: &Summary, gfn: u64) -> bool {
    heat_of(summary, gfn).is_some_and(|cell| 0 < cell.unknown)
}

/// The page's cell of the map.
pub fn heat_of(summary: &Summary, gfn: u64) -> Option<HeatCell> {
    summary.vms.iter().flat_map(|vm| vm.slots.values()).find_map(|slot| {
        let offset = gfn.checked_sub(slot.base.0).filter(|offset| *offset < slot.npages)?;
        slot.heat.get((offset * HEAT_CELLS as u64 / slot.npages) as usize).copied()
    })
}

/// What the plan cannot show at all, not even that something is missing.
fn is_out_of_sight(run: &Run, fault: Fault) -> bool {
    match fault {
        // What the last harvest takes behind its word is in no record; an earlier one is found out by the next (K07).
        Fault::ProtectBeforeXchg => true,
        // The pages in a PML buffer are seen only as the marks made of them, and so are, on 5.10, those that a device
        // writes: its writing function does not name the VM.
        Fault::WrongGfn => {
            run.config.pml || run.config.kernel == Kernel::V5_10 && run.config.has_device
        }
        // While nothing logs, the CPU sets D and leaves no trace, so what an earlier enable has closed may be open.
        Fault::EnableNoProtect | Fault::EnableSkipsPage => {
            run.config.pml && 1 < run.config.migrations
        }
        _ => false,
    }
}

fn check(run: &Run, fault: Fault, tally: &mut Tally) -> Result<(), String> {
    let summary = judge_records(&run.setup, &run.records);
    let named = named(&summary, fault, run.config.huge);
    let truth = &run.truth;
    tally.runs += 1;
    tally.fired += u64::from(!truth.fired.is_empty());
    tally.losing += u64::from(!truth.lost.is_empty());
    tally.lost += truth.lost.len() as u64;
    tally.named += u64::from(!named.is_empty());
    for gfn in &truth.lost {
        match named.get(gfn) {
            Some(Verdict::Lost) => tally.named_lost += 1,
            Some(_) => tally.named_at_risk += 1,
            None => {}
        }
    }
    let missed: BTreeSet<u64> =
        truth.lost.iter().copied().filter(|gfn| !named.contains_key(gfn)).collect();
    let (unknown, missed): (BTreeSet<u64>, BTreeSet<u64>) =
        missed.into_iter().partition(|&gfn| is_unknown(&summary, gfn));
    tally.unknown += unknown.len() as u64;
    if !is_out_of_sight(run, fault) {
        claim(missed.is_empty(), || {
            let expected = missed.iter().map(|&gfn| expect(Gfn(gfn))).collect();
            let what = format!("{}: not named, though lost: {missed:x?}", fault.name());
            failure(&what, run, &run.records, expected)
        })?;
    }
    let strangers: Vec<String> = summary
        .hazards()
        .filter(|finding| finding.known.is_none())
        .filter(|finding| {
            let is_struck = finding.gfn.is_some_and(|Gfn(gfn)| truth.fired.contains(&gfn));
            !is_struck || !fault.rules().contains(&finding.rule)
        })
        .map(|finding| format!("{} {:x?}", finding.rule.name(), finding.gfn.map(|gfn| gfn.0)))
        .collect();
    claim(strangers.is_empty(), || {
        let what = format!("{}: named without a reason: {strangers:?}", fault.name());
        failure(&what, run, &run.records, vec![Expectation::NoHazard])
    })
}

fn expect(gfn: Gfn) -> Expectation {
    let place = Place { gfn: Some(gfn), ..Place::default() };
    Expectation::Verdict { verdict: Verdict::Lost, rule: None, place, missing: None }
}

#[test]
fn a_lost_page_is_named_and_no_other_page_is() {
    let mut failures = Failures::new("sim::miss::a_lost_page_is_named_and_no_other_page_is");
    println!(
        "{:<34} {:>5} {:>5} {:>6} {:>5} {:>5} {:>7} {:>7}",
        "fault", "seeds", "fired", "losing", "pages", "lost", "at-risk", "unknown"
    );
    let mut silent = Vec::new();
    for &fault in Fault::ALL {
        let mut tally = Tally::default();
        failures.run(SEEDS_MAX, |seed| {
            if SEEDS * seeds::factor() <= tally.runs && tally.is_loud(fault) {
                return Ok(());
            }
            check(&run(Config::broken(seed, fault)), fault, &mut tally)
        });
        let is_loud = tally.is_loud(fault);
        let Tally { runs, fired, losing, lost, named_lost, named_at_risk, unknown, .. } = tally;
        println!(
            "{:<34} {runs:>5} {fired:>5} {losing:>6} {lost:>5} {named_lost:>5} {named_at_risk:>7} {unknown:>7}",
            fault.name()
        );
        if !is_loud {
            silent.push(fault.name());
        }
    }
    failures.settle();
    if seeds::are_all() {
        assert!(
            silent.is_empty(),
            "these faults never fired, never lost a page or were never named: {silent:?}"
        );
    }
}
