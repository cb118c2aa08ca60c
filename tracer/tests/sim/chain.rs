//! SPTE values: those of a healthy run fit into one chain per page, those of a store that is not atomic do not.

use kvmdirty_trace::event::{
    Class, CpuId, Event, EventKind, Gfn, Lane, Nanos, RawEvent, Span, Tid, VcpuId, encode,
};
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::trace::litmus::Expectation;
use kvmdirty_trace::verdict::{RuleId, Verdict};

use super::config::{Config, Kernel, Mmu};
use super::fault::Fault;
use super::judge::{failure, judge_records};
use super::probe::VM;
use super::run::{Run, run};
use super::seeds::{self, claim};

/// The trace goes on so long after the run: whatever was under way has left its record.
const QUIET_NS: u64 = 1_000_000_000;

fn with_quiet_end(run: &Run) -> Vec<RawEvent> {
    let last = run.records.iter().map(|raw| raw.ts_ns).max().unwrap_or_default();
    let end = Event {
        span: Span::at(Nanos(last + QUIET_NS)),
        vm: VM,
        tid: Tid(999),
        lane: Lane { class: Class::Boundary, cpu: CpuId(60) },
        seq: 0,
        kind: EventKind::RunBegin { vcpu: VcpuId(63) },
    };
    run.records.iter().copied().chain([encode(&end)]).collect()
}

/// Pages that an integrity violation names.
fn contradicted(summary: &Summary) -> Vec<Option<Gfn>> {
    let own = summary.findings.iter();
    own.filter(|finding| finding.rule == RuleId::K03 && finding.verdict == Verdict::Unknown)
        .map(|finding| finding.gfn)
        .collect()
}

#[test]
fn the_values_of_a_healthy_run_fit() {
    seeds::each("sim::chain::the_values_of_a_healthy_run_fit", 60, |seed| {
        let config =
            Config { mmu: Mmu::Tdp, pml: false, has_zapper: true, ..Config::healthy(seed) };
        let run = run(config);
        let records = with_quiet_end(&run);
        let summary = judge_records(&run.setup, &records);
        claim(summary.integrity_total == 0, || {
            failure("values that do not fit", &run, &records, vec![Expectation::NoHazard])
        })
    });
}

#[test]
fn a_store_that_is_not_atomic_breaks_a_chain() {
    let (mut fired, mut named) = (0, 0);
    seeds::each("sim::chain::a_store_that_is_not_atomic_breaks_a_chain", 60, |seed| {
        let config = Config::broken(seed, Fault::ClobberedSpte);
        if config.mmu == Mmu::Shadow || config.kernel == Kernel::V5_10 {
            return Ok(());
        }
        let run = run(config);
        let records = with_quiet_end(&run);
        let pages = contradicted(&judge_records(&run.setup, &records));
        fired += u64::from(!run.truth.fired.is_empty());
        named += u64::from(!pages.is_empty());
        let is_struck = |gfn: &Option<Gfn>| gfn.is_some_and(|gfn| run.truth.fired.contains(&gfn.0));
        claim(pages.iter().all(is_struck), || {
            failure(&format!("named without a reason: {pages:?}"), &run, &records, vec![])
        })
    });
    println!("a store that is not atomic: fired in {fired} runs, named in {named}");
    assert!(!seeds::are_all() || 0 < named, "fired in {fired} runs, never named");
}
