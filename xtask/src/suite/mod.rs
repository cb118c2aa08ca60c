//! `cargo xtask test`: runs everything this machine can run, and says what it could not.

mod dashboard;
mod needs;
mod readers;
mod report;
mod steps;
mod terminal;
mod traced;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use report::{Line, Outcome};

/// Flags of `test`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Run only steps whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Runs the steps one after the other and prints the list.
///
/// # Errors
///
/// None of the steps' own: a step that fails is in the list, and the exit status says so.
pub fn run(flags: &Flags) -> Result<ExitCode> {
    let wanted = |name: &str| flags.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut lines = Vec::new();
    for step in steps::STEPS.iter().filter(|step| wanted(step.name)) {
        println!("\n== {}", step.name);
        let started = Instant::now();
        let outcome = match step.needs.iter().find_map(|need| need.missing().err()) {
            Some(missing) => Outcome::Skipped(missing),
            None => (step.action)().map_or_else(Outcome::Failed, Outcome::Ran),
        };
        lines.push(Line { name: step.name, outcome, took: started.elapsed() });
    }
    Ok(report::print(&lines))
}
