//! The subcommands, one file each: the only place that wires sources, pipeline and sinks together.

mod bundled;
mod capture;
mod cost;
mod demo;
mod diff;
mod doctor;
mod export;
mod guest;
mod handover;
mod harvest_time;
mod import;
mod inspect;
mod live;
mod progress;
mod record;
mod recorder;
mod recording;
mod replay;
mod report;
mod screen;
mod tee;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::outcome::Outcome;

/// Runs what the command line asks for.
///
/// # Errors
/// One sentence that names the cause and the remedy.
pub fn run(cli: &Cli) -> Result<Outcome> {
    match &cli.command {
        None => live::run(&cli.live),
        Some(Command::Record(args)) => record::run(args),
        Some(Command::Replay(args)) => replay::run(args),
        Some(Command::Check(args)) => report::check(args),
        Some(Command::Export(args)) => export::run(args),
        Some(Command::Import(args)) => import::run(args),
        Some(Command::Diff(args)) => diff::run(args),
        Some(Command::Doctor(args)) => doctor::run(args),
        Some(Command::List(args)) => inspect::list(args),
        Some(Command::Explain(args)) => inspect::explain(args),
        Some(Command::Demo(args)) => demo::run(args),
        Some(Command::DemoGuest(config)) => demo::guest(config),
        Some(Command::Schema(args)) => inspect::schema(args),
        Some(Command::Completions(args)) => inspect::completions(args),
        Some(Command::Man) => inspect::man(),
    }
}
