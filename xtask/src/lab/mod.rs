//! `cargo xtask lab`: emulated machines with stock kernels, nested virtualization and real guests.

pub mod guest;
pub mod kernel;
pub mod machine;
pub mod payload;
pub mod report;

mod cpio;
mod modules;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::{finding, import, long, matrix, mutants};
use machine::{Output, Shape};
use payload::{Command, Job};
use report::INCONCLUSIVE;

/// Flags of `lab`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Flags {
    #[command(subcommand)]
    task: Option<Task>,
    /// Kernels to boot, one after the other: 5.10, 6.1, 6.12, 7.3.
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    #[command(flatten)]
    shape: Shape,
    /// What to run in the machine: one word is a shell line, several are a program and its
    /// arguments. `kvmdirty-trace` is on its PATH, and what it leaves in /out comes back to
    /// target/lab/KERNEL/out. Without it, a self-check runs.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What the lab does besides running a command.
#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Rebuilds kvm.ko with one planted bug each and checks that the tool names the lost pages.
    #[command(after_help = "Example: cargo xtask lab mutants harvest-unprotected")]
    Mutants(mutants::Flags),
    /// Reproduces what docs/findings/ describes, on stock kernels.
    #[command(after_help = "Example: cargo xtask lab finding ring-reset")]
    Finding(finding::Flags),
    /// Records a guest with trace-cmd and with the tool at once, imports the one and compares it with the other.
    #[command(after_help = "Example: cargo xtask lab import 6.12")]
    Import(import::Flags),
    /// Runs every kernel, memory management and log mode, and writes docs/kernels.md.
    #[command(after_help = "Example: cargo xtask lab matrix 6.12")]
    Matrix(matrix::Flags),
    /// Traces a healthy kernel for ten million events and judges the recording on this machine.
    #[command(after_help = "Example: cargo xtask lab long --seconds 300")]
    Long(long::Flags),
}

/// Says what the machine offers; fails if KVM is not usable in it.
pub const SELF_CHECK: &str = "set -e
echo \"kernel $(uname -r), $(nproc) CPUs\"
test -c /dev/kvm
for parameter in kvm/parameters/tdp_mmu kvm_amd/parameters/npt kvm_amd/parameters/nested; do
    echo \"$parameter $(cat /sys/module/$parameter)\"
done
test -e /sys/kernel/btf/vmlinux
test -e /sys/kernel/tracing/events/kvm/kvm_exit
ls /sys/kernel/btf | grep -q '^kvm$' && echo 'kvm has BTF' || echo 'kvm has no BTF'
kvmdirty-trace --version";

/// Boots every kernel named and runs the command in each; the worst exit status is ours.
///
/// # Errors
///
/// An unknown kernel, something that cannot be fetched, or a machine that does not run.
pub fn run(flags: &Flags) -> Result<ExitCode> {
    match &flags.task {
        Some(Task::Mutants(flags)) => mutants::run(flags),
        Some(Task::Finding(flags)) => finding::run(flags),
        Some(Task::Import(flags)) => import::run(flags),
        Some(Task::Matrix(flags)) => matrix::run(flags),
        Some(Task::Long(flags)) => long::run(flags),
        None => run_command(flags),
    }
}

fn run_command(flags: &Flags) -> Result<ExitCode> {
    ensure!(!flags.kernels.is_empty(), "name at least one kernel, such as `cargo xtask lab 6.12`");
    let kernels =
        flags.kernels.iter().map(|name| kernel::named(name)).collect::<Result<Vec<_>>>()?;
    let command = match flags.command.as_slice() {
        [] => Command::Shell(SELF_CHECK.to_owned()),
        words => Command::from_words(words),
    };
    let job = Job::with_tool(command)?;
    let mut worst = 0;
    for kernel in kernels {
        eprintln!("lab {}: booting", kernel.name);
        let (run, resets) = guest::run(kernel, &flags.shape, &job, kernel.name, Output::Streamed)
            .with_context(|| format!("lab {}", kernel.name))?;
        let status = if guest::is_every_run(resets) { INCONCLUSIVE } else { run.status };
        eprintln!(
            "lab {}: {}: exit status {} (up after {:.1} s, off after {:.1} s, {} retries)",
            kernel.name,
            run.release,
            status,
            run.boot.as_secs_f64(),
            run.whole.as_secs_f64(),
            run.retries,
        );
        worst = [worst, status].into_iter().max_by_key(|&status| severity(status)).unwrap_or(0);
    }
    Ok(ExitCode::from(worst))
}

/// Ranks exit statuses: a failure above a hazard, a hazard above an inconclusive run.
fn severity(status: u8) -> u8 {
    match status {
        0 => 0,
        3 => 1,
        1 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_outranks_hazard_and_hazard_outranks_inconclusive() {
        let ranked = [0, 3, 1, 2].map(severity);
        assert!(ranked.is_sorted(), "{ranked:?}");
    }
}
