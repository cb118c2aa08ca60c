//! `cargo xtask`: builds, checks and the kernel lab of this repository.

mod cli;
mod ebpf;
mod finding;
mod import;
mod lab;
mod long;
mod matrix;
mod mutants;
mod process;
mod suite;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::Parser as _;

/// Exit status of a task that could not do its work, as opposed to one whose check failed.
const STATUS_FAILED: u8 = 2;

fn main() -> ExitCode {
    match ebpf::become_rustc_if_asked().and_then(|()| cli::run(cli::Cli::parse())) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(STATUS_FAILED)
        }
    }
}
