//! Steps that trace a real guest, on this host and in the lab.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{report::Tally, steps::SHAPE};
use crate::{
    lab::{
        kernel,
        machine::{self, Mmu, Output, Shape},
        payload::{self, Job},
        report::Report,
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

/// Exit status of a run in which records are missing.
const INCONCLUSIVE: u8 = 3;

/// Traces the demo's guest on a lab kernel in one log mode; an inconclusive run is repeated once.
pub fn in_lab(name: &str, mmu: Mmu, mode: &str) -> Result<Tally> {
    let words = ["demo", "--headless", "--json", "--seconds", SECONDS, "--mode", mode];
    let words = ["kvmdirty-trace"].iter().chain(&words).map(|&word| word.to_owned());
    let job = Job::with_tool(payload::Command::Program(words.collect()))?;
    let shape = Shape { mmu, ..SHAPE };
    let mut run = machine::run_guest(kernel::named(name)?, &shape, &job, name, Output::Kept)?;
    if run.status == INCONCLUSIVE {
        // It accused nobody and vouches for nothing; said, kept, and asked once more.
        let report = fs::read_to_string(run.folder.join("stdout")).unwrap_or_default();
        let kept = run.folder.join("inconclusive.json");
        fs::write(&kept, report).context("keep the report")?;
        println!("lab {name}: inconclusive, see {}; once more", kept.display());
        run = machine::run_guest(kernel::named(name)?, &shape, &job, name, Output::Kept)?;
    }
    let errors = fs::read_to_string(run.folder.join("stderr")).unwrap_or_default();
    ensure!(
        run.status == 0,
        "the demo ends with status {} ({}): {}",
        run.status,
        run.folder.display(),
        process::tail(&errors, 5)
    );
    judge(&Report::read(&run.folder.join("stdout"))?)
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
