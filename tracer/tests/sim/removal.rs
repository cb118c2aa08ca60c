//! Removal: dropped records, each located by a jump of its lane's numbers, accuse nobody and acquit nobody.

use std::collections::BTreeMap;

use kvmdirty_trace::event::{EventKind, Gfn, Lane, RawEvent, Setup, decode};
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::trace::litmus::Expectation;
use kvmdirty_trace::verdict::{UnknownCause, Verdict};

use super::config::Config;
use super::fault::Fault;
use super::huge::{HUGE, region};
use super::judge::{failure, judge_records};
use super::miss::{heat_of, is_unknown};
use super::rng::Rng;
use super::run::{Run, run};
use super::seeds::{self, claim};

/// Worst hazard per page; findings of a whole slot are under `None`.
fn hazards(summary: &Summary) -> BTreeMap<Option<u64>, Verdict> {
    let mut worst = BTreeMap::new();
    for finding in summary.hazards().filter(|finding| finding.known.is_none()) {
        let gfn = finding.gfn.map(|Gfn(gfn)| gfn);
        let entry = worst.entry(gfn).or_insert(finding.verdict);
        *entry = (*entry).max(finding.verdict);
    }
    worst
}

fn lane_of(raw: &RawEvent) -> Lane {
    decode(raw).expect("a record of the model").lane
}

/// Which records are dropped: a single one, a burst, a lane, a class. The first and last record of a lane stay, so that
/// the jump is seen.
fn drop_some(rng: &Rng, records: &[RawEvent]) -> (&'static str, Vec<RawEvent>) {
    let mut ends: BTreeMap<Lane, (usize, usize)> = BTreeMap::new();
    for (index, raw) in records.iter().enumerate() {
        ends.entry(lane_of(raw)).or_insert((index, index)).1 = index;
    }
    let at = rng.below(records.len() as u64) as usize;
    let lane = lane_of(&records[at]);
    let length = rng.between(2, 30) as usize;
    let (how, is_hit): (_, Box<dyn Fn(usize, Lane) -> bool>) = match rng.below(4) {
        0 => ("one record", Box::new(move |index, _| index == at)),
        1 => {
            ("a burst", Box::new(move |index, of| of == lane && (at..at + length).contains(&index)))
        }
        2 => ("a lane", Box::new(move |_, of| of == lane)),
        _ => ("a class", Box::new(move |_, of| of.class == lane.class)),
    };
    let kept = records.iter().enumerate().filter(|&(index, raw)| {
        let of = lane_of(raw);
        let (first, last) = ends[&of];
        index == first || index == last || !is_hit(index, of)
    });
    (how, kept.map(|(_, raw)| *raw).collect())
}

fn check(run: &Run, full: &Summary, how: &str, kept: &[RawEvent]) -> Result<(), String> {
    let cut = judge_records(&run.setup, kept);
    let (before, after) = (hazards(full), hazards(&cut));
    for (gfn, verdict) in &after {
        let was = before.get(gfn).copied().unwrap_or(Verdict::Safe);
        claim(*verdict <= was, || {
            let what =
                format!("without {how}: {gfn:x?} is {} and was {}", verdict.name(), was.name());
            failure(&what, run, kept, vec![Expectation::NoHazard])
        })?;
    }
    let (safe, was_safe) = (cut.verdicts.safe, full.verdicts.safe);
    claim(safe <= was_safe, || {
        let what = format!("without {how}: {safe} are safe and {was_safe} were");
        failure(&what, run, kept, vec![])
    })?;
    let is_acquitted = before.keys().any(|gfn| !after.contains_key(gfn));
    let dropped = cut.unknown_causes.get(&UnknownCause::Dropped).copied().unwrap_or_default();
    claim(!is_acquitted || 0 < dropped, || {
        let what = format!("without {how}: a hazard is gone and nothing is unknown");
        failure(&what, run, kept, vec![])
    })?;
    acquits_no_page(run, (full, &cut), how, kept)?;
    claim(cut.dropped_events == (run.records.len() - kept.len()) as u64, || {
        failure(&format!("without {how}: {} dropped", cut.dropped_events), run, kept, vec![])
    })
}

/// Page by page: what was a hazard is one, or `unknown`; or records that name the page are among the dropped, or without
/// them it was not judged at all, and nothing is said of it any more.
fn acquits_no_page(
    run: &Run,
    (full, cut): (&Summary, &Summary),
    how: &str,
    kept: &[RawEvent],
) -> Result<(), String> {
    let named = hazards(cut);
    let seen = |summary: &Summary, page| heat_of(summary, page).map(|c| (c.harvested, c.opened));
    for (gfn, was) in hazards(full) {
        let Some(page) = gfn else { continue };
        // The map keeps what was withdrawn as soon as the gap was seen.
        let is_warned =
            heat_of(cut, page).and_then(|cell| cell.worst).is_some_and(Verdict::is_hazard);
        let is_open = named.contains_key(&gfn) || is_unknown(cut, page) || is_warned;
        let is_less = seen(full, page) != seen(cut, page);
        let is_mute =
            || is_less || run.records.iter().any(|raw| !kept.contains(raw) && names(raw, page));
        claim(is_open || is_mute(), || {
            let what = format!("without {how}: gfn {page:x} is acquitted and was {}", was.name());
            failure(&what, run, kept, vec![])
        })?;
    }
    Ok(())
}

/// The record speaks of that page.
fn names(raw: &RawEvent, gfn: u64) -> bool {
    let first_and_count = match decode(raw).expect("a record of the model").kind {
        EventKind::Mark { gfn, .. } | EventKind::RmapAdd { gfn, .. } => (gfn.0, 1),
        EventKind::HarvestWord { first, .. } => (first.0, 64),
        // Whether its pages are logged at all.
        EventKind::SlotState { base, npages, .. } => (base.0, npages),
        EventKind::HostWrite { gpa, .. } => (gpa >> 12, 1),
        EventKind::Fault { addr, .. } => (addr >> 12, 1),
        EventKind::SpteChange { page, .. }
        | EventKind::FastFault { page, .. }
        | EventKind::Split { page, .. } => match page.level {
            0 | 1 => (page.gfn.0, 1),
            _ => (region(page.gfn.0), HUGE),
        },
        _ => return false,
    };
    gfn.checked_sub(first_and_count.0).is_some_and(|offset| offset < first_and_count.1)
}

#[test]
fn dropped_records_of_a_healthy_run_accuse_nobody() {
    let test = "sim::removal::dropped_records_of_a_healthy_run_accuse_nobody";
    seeds::each(test, 60, |seed| {
        let run = run(Config::healthy(seed));
        let full = judge_records(&run.setup, &run.records);
        let rng = Rng::new(seed ^ 0x11);
        (0..4).try_for_each(|_| {
            let (how, kept) = drop_some(&rng, &run.records);
            check(&run, &full, how, &kept)
        })
    });
}

#[test]
fn dropped_records_of_a_broken_run_weaken_its_verdicts() {
    let test = "sim::removal::dropped_records_of_a_broken_run_weaken_its_verdicts";
    seeds::each(test, 29, |seed| {
        let fault = Fault::ALL[seed as usize % Fault::ALL.len()];
        let mut config = Config::broken(seed, fault);
        (config.pages, config.iterations) = (config.pages.min(12), config.iterations.min(3));
        if config.huge {
            config.pages = HUGE;
        }
        let run = run(config);
        let full = judge_records(&run.setup, &run.records);
        let rng = Rng::new(seed ^ 0x22);
        (0..2).try_for_each(|_| {
            let (how, kept) = drop_some(&rng, &run.records);
            check(&run, &full, how, &kept)
        })
    });
}

/// A prefix claims only its own span: what it names, the whole trace names as well.
#[test]
fn a_prefix_names_nothing_that_the_whole_does_not() {
    let test = "sim::removal::a_prefix_names_nothing_that_the_whole_does_not";
    seeds::each(test, 60, |seed| {
        let run = run(Config::healthy(seed));
        names_nothing_new(&run, seed)
    });
}

#[test]
fn a_prefix_of_a_broken_run_names_nothing_that_the_whole_does_not() {
    let test = "sim::removal::a_prefix_of_a_broken_run_names_nothing_that_the_whole_does_not";
    seeds::each(test, 29, |seed| {
        let fault = Fault::ALL[seed as usize % Fault::ALL.len()];
        let run = run(Config::broken(seed, fault));
        names_nothing_new(&run, seed)
    });
}

fn names_nothing_new(run: &Run, seed: u64) -> Result<(), String> {
    let setup = Setup { is_final: false, ..run.setup.clone() };
    let rng = Rng::new(seed ^ 0x44);
    let whole = hazards(&judge_records(&setup, &run.records));
    let mut records = run.records.clone();
    records.sort_by_key(|raw| raw.ts_ns);
    (0..4).try_for_each(|_| {
        let prefix = &records[..rng.below(records.len() as u64) as usize];
        let named = hazards(&judge_records(&setup, prefix));
        let new = named.iter().find(|(gfn, _)| !whole.contains_key(gfn));
        claim(new.is_none(), || failure(&format!("the prefix names {new:x?}"), run, prefix, vec![]))
    })
}
