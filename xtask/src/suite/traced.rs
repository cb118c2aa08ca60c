//! Steps that trace a real guest, on this host and in the lab.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{report::Tally, steps::SHAPE};
use crate::{
    lab::{
        guest::{self, Ran},
        kernel,
        machine::{self, Mmu, Output, Shape},
        payload::{self, Job},
        report::{INCONCLUSIVE, Report},
    },
    process, workspace,
};

/// Seconds a traced guest runs.
const SECONDS: &str = "5";

/// Traces the demo's guest on this host in one log mode.
pub fn on_this_host(mode: &str) -> Result<Tally> {
    let tool = release_tool()?;
    let mut demo = Command::new(tool);
    demo.args(["demo", "--headless", "--json", "--seconds", SECONDS, "--mode", mode]);
    let output = demo.output().context("start the tool")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the demo ends with {}: {}",
        output.status,
        process::tail(&errors, 5)
    );
    judge(&Report::parse(&String::from_utf8_lossy(&output.stdout))?)
}

/// Traces the demo's guest on a lab kernel in one log mode; an inconclusive run is repeated once.
pub fn in_lab(name: &str, mmu: Mmu, mode: &str) -> Result<Tally> {
    let script = guest::function()
        + &format!(
            "guest traced kvmdirty-trace demo --headless --json --seconds {SECONDS} --mode {mode}"
        );
    let job = Job::with_tool(payload::Command::Shell(script))?;
    let shape = Shape { mmu, ..SHAPE };
    let mut run = machine::run(kernel::named(name)?, &shape, &job, name, Output::Kept)?;
    if run.status == INCONCLUSIVE {
        // It accused nobody and vouches for nothing; said, kept, and asked once more.
        let report = run.folder.join("out/traced.json");
        let why = Report::read(&report).map(|report| report.complaints().join("; "));
        let why = why.unwrap_or_else(|error| format!("inconclusive: {error:#}"));
        let kept = workspace::root().join(format!("target/lab/{name}-inconclusive.json"));
        fs::copy(report, &kept).context("keep the report")?;
        println!("lab {name}: {why}; see {}; once more", kept.display());
        run = machine::run(kernel::named(name)?, &shape, &job, name, Output::Kept)?;
    }
    let out = run.folder.join("out");
    let ran = Ran::read(&out, "traced");
    if ran.has_no_result() {
        return Ok(Tally { skipped: 1, note: guest::no_result(), ..Tally::default() });
    }
    let errors = fs::read_to_string(out.join("traced.errors")).unwrap_or_default();
    ensure!(
        run.status == 0,
        "the demo ends with status {} ({}): {}",
        run.status,
        run.folder.display(),
        process::tail(&errors, 5)
    );
    let mut tally = judge(&ran.report?)?;
    if 0 < ran.resets {
        tally.note = format!("{}; {}", tally.note, guest::in_words(ran.resets));
    }
    Ok(tally)
}

/// Builds the tool as its users do.
fn release_tool() -> Result<PathBuf> {
    let folder = workspace::root().join("target");
    let mut cargo = process::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", "kvmdirty-trace", "--target-dir"]);
    process::run(cargo.arg(&folder))?;
    Ok(folder.join("release/kvmdirty-trace"))
}

fn judge(report: &Report) -> Result<Tally> {
    let complaints = report.complaints();
    ensure!(complaints.is_empty(), "{}", complaints.join("; "));
    Ok(Tally::one_passed(format!(
        "{} plan, {} events, {} harvests, {} pages compared",
        report.plan, report.events, report.harvests, report.oracle.compared
    )))
}
