//! `cargo xtask lab matrix`: healthy kernels, every memory management and log mode, clean or not.
//!
//! A machine boots once per cell (kernel, memory management, CPUs) and runs its guests one after the
//! other. What a cell brings back stays in `target/lab/matrix/`, so that cells may be run one at a
//! time; a kernel's section of the document is made of all that are there, and names those that are
//! not.

mod cell;
pub mod document;
mod paths;
mod table;

use std::process::ExitCode;

use anyhow::Result;

use crate::lab::{
    kernel::{self, KERNELS, Kernel},
    machine::Mmu,
    report::Report,
};
use cell::{Cell, Guest};
use document::{DOCUMENT, Section};

/// Flags of `lab matrix`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Kernels to run; all of them without a name. Their sections of docs/kernels.md are written
    /// anew, those of other kernels stay as they are.
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Run only the cells with this memory management.
    #[arg(long, value_enum)]
    mmu: Option<Mmu>,
    /// Run only the cells with this number of CPUs; 0 runs none and writes what has run before.
    #[arg(long)]
    cpus: Option<u32>,
    /// Run only these guests of a cell that has run, by name and vCPUs, such as `manual-1`.
    #[arg(long = "guest", value_name = "NAME")]
    guests: Vec<String>,
    /// Seconds each guest runs.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
}

/// What came of one guest.
#[derive(Debug)]
pub struct Row {
    /// Where it ran.
    pub cell: Cell,
    /// What ran.
    pub guest: Guest,
    /// The kernel's release.
    pub release: String,
    /// The tool's report, or why there is none.
    pub result: Result<Report, String>,
    /// Runs before this one that say nothing, because the emulator reset the guest.
    pub resets: usize,
}

impl Row {
    /// What is not as it should be on a healthy kernel.
    pub fn complaints(&self) -> Vec<String> {
        match &self.result {
            Ok(report) => report.complaints(),
            Err(reason) => vec![reason.clone()],
        }
    }
}

/// Runs the matrix; the status is 1 if anything is not clean.
///
/// # Errors
///
/// An unknown kernel, or a tool that does not build.
pub fn run(flags: &Flags) -> Result<ExitCode> {
    let kernels: Vec<&'static Kernel> = match flags.kernels.as_slice() {
        [] => KERNELS.iter().collect(),
        names => names.iter().map(|name| kernel::named(name)).collect::<Result<_>>()?,
    };
    let mut is_clean = true;
    for kernel in kernels {
        for cell in cell::of_kernel(kernel) {
            let is_wanted = flags.mmu.is_none_or(|mmu| mmu == cell.mmu)
                && flags.cpus.is_none_or(|cpus| cpus == cell.cpus);
            if !is_wanted {
                continue;
            }
            eprintln!("matrix: {cell}");
            for row in cell.run(flags.seconds, &flags.guests)? {
                eprintln!("  {}", table::row_in_words(&row));
                is_clean &= row.complaints().is_empty();
            }
        }
        write_section(kernel)?;
    }
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts the section of a kernel into the document, if any of its cells has run.
fn write_section(kernel: &'static Kernel) -> Result<()> {
    let (ran, missing): (Vec<Cell>, Vec<Cell>) =
        cell::of_kernel(kernel).into_iter().partition(Cell::has_run);
    if ran.is_empty() {
        eprintln!("{DOCUMENT} is left as it is: {} has not run", kernel.name);
        return Ok(());
    }
    let rows: Vec<Row> = ran.iter().flat_map(Cell::rows).collect();
    let section = document::section(kernel, &rows, &missing)?;
    document::write(Section::Kernel(kernel), &section)
}

/// The word the command line has for it.
pub fn mmu_name(mmu: Mmu) -> &'static str {
    match mmu {
        Mmu::Tdp => "tdp",
        Mmu::Shadow => "shadow",
        Mmu::Npt0 => "npt0",
    }
}
