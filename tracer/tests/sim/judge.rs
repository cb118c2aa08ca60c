//! The engine over a run of the model, and what a failed property leaves behind: the trace as a litmus file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use kvmdirty_trace::event::{Batch, Nanos, RawEvent, Setup, SlotId};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::summary::{HeatCell, Summary};
use kvmdirty_trace::trace::litmus::{Expectation, Litmus, name_threads};

use super::config::Config;
use super::run::Run;

/// All records in one batch.
pub fn batch(records: &[RawEvent]) -> Batch {
    let watermark = Nanos(records.iter().map(|raw| raw.ts_ns).max().unwrap_or_default());
    Batch { records: records.to_vec(), gaps: Vec::new(), watermark }
}

/// The judgement of a trace that comes in these batches.
pub fn judge<'a>(setup: &Setup, batches: impl IntoIterator<Item = &'a Batch>) -> Summary {
    let mut pipeline = Pipeline::new(setup.clone());
    for batch in batches {
        pipeline.push(batch);
    }
    pipeline.finish();
    pipeline.summary().clone()
}

/// The judgement of these records, delivered at once.
pub fn judge_records(setup: &Setup, records: &[RawEvent]) -> Summary {
    judge(setup, [&batch(records)])
}

/// The cells of the map; in the model a page has one of its own, or shares it with one neighbour. Where nothing worse
/// than safe was said, `worst` is empty.
pub fn heat(summary: &Summary) -> BTreeMap<(SlotId, usize), HeatCell> {
    let slots = summary.vms.iter().flat_map(|vm| &vm.slots);
    let cells = slots.flat_map(|(id, slot)| {
        slot.heat.iter().enumerate().map(|(cell, heat)| ((*id, cell), *heat))
    });
    cells.collect()
}

/// What a failed claim says: the run, what the engine found, and where the trace lies for `check`.
pub fn failure(what: &str, run: &Run, records: &[RawEvent], expected: Vec<Expectation>) -> String {
    let summary = judge_records(&run.setup, records);
    let mut text = format!("{what}\n{:?}\n", run.config);
    for finding in summary.findings.iter().filter(|finding| finding.verdict.is_hazard()).take(8) {
        let (verdict, rule) = (finding.verdict.name(), finding.rule.name());
        let _ = writeln!(text, "  {verdict} {rule} {:?}: {}", finding.gfn, finding.sentence);
    }
    let path = keep(what, run, records, expected);
    let _ = write!(text, "the trace: kvmdirty-trace check {}", path.display());
    text
}

/// Writes the trace as a litmus file.
fn keep(what: &str, run: &Run, records: &[RawEvent], expectations: Vec<Expectation>) -> PathBuf {
    let batch = batch(records);
    let fault = run.config.fault.map_or("healthy", |fault| fault.name());
    let litmus = Litmus {
        title: format!("simulator, {fault}, seed {:#x}\n{what}", run.config.seed),
        setup: run.setup.clone(),
        threads: name_threads(&batch),
        batch,
        notes: Default::default(),
        expectations,
    };
    let Config { seed, kernel, mode, mmu, vcpus, pml, huge, .. } = run.config;
    let plan = run.config.plan.name();
    let name = format!(
        "sim-{fault}-{seed:#x}-{plan}-{kernel:?}-{mode:?}-{mmu:?}-{vcpus}{}{}.litmus",
        if pml { "-pml" } else { "" },
        if huge { "-huge" } else { "" },
    );
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, litmus.write()).expect("a file in the build's own directory");
    path
}
