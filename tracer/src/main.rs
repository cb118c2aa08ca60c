//! The `kvmdirty-trace` command: parse, run, end with an exit status.

use std::process::ExitCode;

use clap::Parser as _;
use kvmdirty_trace::cli::Cli;
use kvmdirty_trace::command;
use kvmdirty_trace::outcome::Outcome;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match command::run(&cli) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            Outcome::Failed.into()
        }
    }
}
