//! Concurrency: what no order separates may be stamped, merged and delivered either way, and is judged the same.

use std::collections::BTreeMap;

use kvmdirty_trace::event::{CpuId, Nanos, RawEvent, Span, decode, encode};
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::trace::litmus::Expectation;
use kvmdirty_trace::verdict::Verdict;

use super::deliver::mixed;
use super::judge::{batch, failure, heat, judge};
use super::rng::Rng;
use super::run::Run;
use super::seeds::{self, claim};

/// The trace as other clocks would have stamped it: each CPU's reads only every `tick` ns, from a phase of its own, and
/// shows of the readings in between their order. So no reading is wrong by a tick, what a thread did keeps its order,
/// and what was ordered between CPUs by less may now be the other way round.
fn coarse(records: &[RawEvent], tick: u64, phase: impl Fn(u16) -> u64) -> Vec<RawEvent> {
    let mut readings: BTreeMap<u16, BTreeMap<u64, u64>> = BTreeMap::new();
    for event in records.iter().map(|raw| decode(raw).expect("a record of the model")) {
        let own = readings.entry(event.lane.cpu.0).or_default();
        own.extend([(event.span.lo.0, 0), (event.span.hi.0, 0)]);
    }
    for (cpu, own) in &mut readings {
        let (mut shown, mut count) = (0, 0);
        for (at, to) in own.iter_mut() {
            let tick_of = at.saturating_sub(phase(*cpu)) / tick * tick + phase(*cpu);
            count = if tick_of == shown { count + 1 } else { 0 };
            (shown, *to) = (tick_of, tick_of + count);
        }
    }
    let change = |raw: &RawEvent| {
        let mut event = decode(raw).expect("a record of the model");
        let own = &readings[&event.lane.cpu.0];
        event.span = Span { lo: Nanos(own[&event.span.lo.0]), hi: Nanos(own[&event.span.hi.0]) };
        encode(&event)
    };
    records.iter().map(change).collect()
}

/// The same with other numbers for the CPUs: of two records with one time, the other is merged first.
fn mirrored(records: &[RawEvent]) -> Vec<RawEvent> {
    let change = |raw: &RawEvent| {
        let mut event = decode(raw).expect("a record of the model");
        event.lane.cpu = CpuId(40 - event.lane.cpu.0);
        encode(&event)
    };
    records.iter().map(change).collect()
}

/// A page that one judgement calls a hazard is one in the other, or `unknown`: never safe, and never merely exposed.
fn contradiction(one: &Summary, other: &Summary) -> Option<String> {
    let (one, other) = (heat(one), heat(other));
    let mut cells = one.iter().filter_map(|(cell, one)| {
        let (one, other) = (one.worst, other.get(cell)?.worst);
        let is_hazard = |worst: Option<Verdict>| worst.is_some_and(Verdict::is_hazard);
        let is_open = |worst| is_hazard(worst) || worst == Some(Verdict::Unknown);
        let is_allowed = is_hazard(one) <= is_open(other) && is_hazard(other) <= is_open(one);
        (!is_allowed).then(|| format!("cell {cell:?} is {one:?} here, {other:?} there"))
    });
    cells.next()
}

/// Of a healthy kernel nothing is a hazard, whatever the clocks. (What is dropped at the very end of a lane is located by
/// the probe's counters, which the model does not have.)
fn is_accused(run: &Run, summary: &Summary) -> bool {
    let is_whole = summary.events == run.records.len() as u64;
    is_whole
        && run.config.fault.is_none()
        && summary.hazards().any(|finding| finding.known.is_none())
}

/// A run as coarse clocks stamp it, its setup, and how coarse they are.
fn stamped(seed: u64) -> (Run, Vec<RawEvent>, u64) {
    let (mut run, records) = mixed(seed);
    let tick = *Rng::new(seed ^ 0x33).pick(&[1, 3, 10, 50]);
    // The clocks of the run may be apart already.
    run.setup.epsilon_ns += tick;
    (run, records, tick)
}

/// Records of two CPUs with one timestamp are concurrent, and merged by the number of the CPU: other numbers, another
/// merge, the same pages. (A hazard at the very instant of a harvest may be told as `unknown`, by another rule, or once
/// less.)
#[test]
fn which_of_two_simultaneous_records_is_merged_first_acquits_nobody() {
    let test = "sim::concurrent::which_of_two_simultaneous_records_is_merged_first_acquits_nobody";
    seeds::each(test, 40, |seed| {
        let (run, records, tick) = stamped(seed);
        let here = coarse(&records, tick, |_| 0);
        let whole = judge(&run.setup, [&batch(&here)]);
        let found = judge(&run.setup, [&batch(&mirrored(&here))]);
        claim(!is_accused(&run, &whole) && !is_accused(&run, &found), || {
            failure("accused by coarse clocks", &run, &here, vec![Expectation::NoHazard])
        })?;
        match contradiction(&whole, &found) {
            Some(what) => Err(failure(&format!("with mirrored CPUs: {what}"), &run, &here, vec![])),
            None => Ok(()),
        }
    });
}

/// Other readings of the clocks within epsilon move what touches: other intervals overlap, and other records are merged
/// first. Both recordings allow the order in which the run truly went, so they cannot contradict each other: a hazard
/// may be `unknown` to the other, `lost` may be `at-risk`, and neither may be safe.
#[test]
fn clocks_that_differ_within_epsilon_acquit_and_accuse_nobody() {
    let test = "sim::concurrent::clocks_that_differ_within_epsilon_acquit_and_accuse_nobody";
    seeds::each(test, 40, |seed| {
        let (run, records, tick) = stamped(seed);
        let rng = Rng::new(seed ^ 0x66);
        let phases: Vec<u64> = (0..64).map(|_| rng.below(tick)).collect();
        let here = coarse(&records, tick, |_| 0);
        let there = coarse(&records, tick, |cpu| phases[usize::from(cpu)]);
        let one = judge(&run.setup, [&batch(&here)]);
        let other = judge(&run.setup, [&batch(&there)]);
        claim(!is_accused(&run, &other), || {
            failure("accused by other clocks", &run, &there, vec![Expectation::NoHazard])
        })?;
        match contradiction(&one, &other) {
            Some(what) => Err(failure(&what, &run, &here, vec![])),
            None => Ok(()),
        }
    });
}
