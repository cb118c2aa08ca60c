//! The model holds its own truth: a healthy run loses nothing, every fault does what its name says.

use std::collections::BTreeMap;

use kvmdirty_trace::event::decode;

use super::config::Config;
use super::fault::{Fault, Proof};
use super::run::run;
use super::seeds;

#[test]
fn a_healthy_run_loses_nothing() {
    seeds::each("sim::model::a_healthy_run_loses_nothing", 150, |seed| {
        let run = run(Config::healthy(seed));
        let truth = &run.truth;
        seeds::claim(truth.lost.is_empty(), || format!("lost {:x?}", truth.lost))?;
        seeds::claim(truth.unlogged.is_empty(), || {
            format!("unlogged {:x?} in {:?}", truth.unlogged, run.config)
        })
    });
}

#[test]
fn the_probe_numbers_every_record_and_names_a_span() {
    seeds::each("sim::model::the_probe_numbers_every_record_and_names_a_span", 40, |seed| {
        let run = run(Config::healthy(seed));
        let mut next = BTreeMap::new();
        for raw in &run.records {
            let event = decode(raw).map_err(|anomaly| format!("{anomaly:?}"))?;
            let seq = next.entry(event.lane).or_insert(0);
            seeds::claim(event.seq == *seq, || format!("{event:?} is not number {seq}"))?;
            *seq += 1;
        }
        let is_epsilon = run.setup.epsilon_ns == run.config.epsilon_ns;
        seeds::claim(is_epsilon && !run.records.is_empty(), || format!("{:?}", run.setup))
    });
}

/// Seeds tried until a fault has shown its harm; most show it at once.
const SEEDS_MAX: u64 = 120;

#[test]
fn a_fault_loses_only_pages_it_struck() {
    for &fault in Fault::ALL {
        let (mut fired, mut lost, mut runs) = (0, 0, 0);
        seeds::each("sim::model::a_fault_loses_only_pages_it_struck", SEEDS_MAX, |seed| {
            let is_shown = 0 < fired && (0 < lost || fault.proof() == Proof::Protocol);
            if is_shown && 5 <= runs {
                return Ok(());
            }
            let run = run(Config::broken(seed, fault));
            let truth = &run.truth;
            runs += 1;
            fired += u64::from(!truth.fired.is_empty());
            lost += u64::from(!truth.lost.is_empty());
            seeds::claim(truth.lost.is_subset(&truth.fired), || {
                format!("{}: lost {:x?}, fired {:x?}", fault.name(), truth.lost, truth.fired)
            })
        });
        println!("{:<34} {runs:>3} runs, fired in {fired:>2}, lost in {lost:>2}", fault.name());
        if seeds::are_all() {
            assert!(!fault.rules().is_empty(), "{} breaks no rule", fault.name());
            assert!(0 < fired, "{} never fired", fault.name());
            assert_eq!(0 < lost, fault.proof() == Proof::Content, "{}", fault.name());
        }
    }
}
