//! The tasks and their flags.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{ebpf, lab, suite, tidy};

/// Builds, checks and the kernel lab of kvmdirty-trace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
pub struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Builds the BPF object and writes it to `tracer/probe.bpf.o`.
    #[command(after_help = "Example: cargo xtask build-ebpf --check")]
    BuildEbpf(ebpf::Flags),
    /// Boots stock kernels in an emulated machine and runs a command in each.
    #[command(after_help = "Example: cargo xtask lab 6.1 6.12 -- kvmdirty-trace doctor")]
    Lab(lab::Flags),
    /// Checks the house style.
    Tidy(tidy::Flags),
    /// Sets up what it needs, runs everything this machine can run, and lists what it could not.
    Test(suite::Flags),
}

/// Runs one task.
///
/// # Errors
///
/// The task could not be carried out; the error says what is missing.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.task {
        Task::BuildEbpf(flags) => ebpf::run(flags),
        Task::Lab(flags) => lab::run(&flags),
        Task::Tidy(flags) => tidy::run(&flags),
        Task::Test(flags) => suite::run(&flags),
    }
}
