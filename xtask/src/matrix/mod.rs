//! `cargo xtask lab matrix`: healthy kernels, every memory management and log mode, clean or not.

mod table;

use std::{collections::BTreeMap, fs, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    lab::{
        kernel::{self, KERNELS, Kernel},
        machine::{self, Mmu, Output, Shape},
        payload::{Command, Job},
        report::Report,
    },
    workspace,
};

/// Where the tables of a complete run go.
const DOCUMENT: &str = "docs/kernels.md";

/// Flags of `lab matrix`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Kernels to run; all of them without a name. If all ran, docs/kernels.md is written.
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Seconds each guest runs.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
}

/// One machine of the matrix; several guests run in it one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// Its kernel.
    pub kernel: &'static Kernel,
    /// Its memory management.
    pub mmu: Mmu,
    /// Its CPUs.
    pub cpus: u32,
}

/// One guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// The log mode.
    pub mode: &'static str,
    /// Its vCPUs.
    pub vcpus: u32,
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
    let mut rows = Vec::new();
    for cell in kernels.into_iter().flat_map(cells) {
        eprintln!("matrix: {} {} on {} CPUs", cell.kernel.name, mmu_name(cell.mmu), cell.cpus);
        rows.extend(run_cell(cell, flags.seconds)?);
    }
    let document = table::document(&rows);
    print!("{document}");
    if flags.kernels.is_empty() && rows.iter().all(|row| row.result.is_ok()) {
        let path = workspace::root().join(DOCUMENT);
        fs::write(&path, document).with_context(|| format!("write {}", path.display()))?;
    }
    let is_clean = rows.iter().all(|row| row.complaints().is_empty());
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The machines of one kernel.
fn cells(kernel: &'static Kernel) -> Vec<Cell> {
    let shapes = [(Mmu::Tdp, 2), (Mmu::Tdp, 4), (Mmu::Shadow, 2), (Mmu::Npt0, 2)];
    shapes.map(|(mmu, cpus)| Cell { kernel, mmu, cpus }).to_vec()
}

/// The guests of one machine.
fn guests(kernel: &Kernel) -> Vec<Guest> {
    ["get", "manual", "manual-initset", "ring"]
        .into_iter()
        // The dirty ring came with 5.11.
        .filter(|&mode| mode != "ring" || kernel.name != "5.10")
        .flat_map(|mode| [1, 2].map(|vcpus| Guest { mode, vcpus }))
        .collect()
}

fn run_cell(cell: Cell, seconds: u32) -> Result<Vec<Row>> {
    let guests = guests(cell.kernel);
    let job = Job::with_tool(Command::Shell(script(&guests, seconds)))?;
    let shape = Shape { mmu: cell.mmu, cpus: cell.cpus, memory_mib: 1536, timeout_s: 600 };
    let folder = format!("matrix/{}-{}-{}", cell.kernel.name, mmu_name(cell.mmu), cell.cpus);
    let ran = machine::run(cell.kernel, &shape, &job, &folder, Output::Kept);
    let row = |guest: Guest| {
        let (release, result) = match &ran {
            Ok(run) => {
                let report = run.folder.join("out").join(format!("{}.json", guest.name()));
                let result = Report::read(&report).map_err(|error| format!("{error:#}"));
                (run.release.clone(), result)
            }
            Err(error) => (String::new(), Err(format!("{error:#}"))),
        };
        Row { cell, guest, release, result }
    };
    Ok(guests.into_iter().map(row).collect())
}

/// Runs the guests in turn, each with a report of its own.
fn script(guests: &[Guest], seconds: u32) -> String {
    let runs = guests.iter().map(|guest| {
        let Guest { mode, vcpus } = guest;
        let name = guest.name();
        format!(
            "kvmdirty-trace demo --headless --json --seconds {seconds} --mode {mode} \
             --vcpus {vcpus} > /out/{name}.json 2> /out/{name}.errors\n"
        )
    });
    runs.collect()
}

impl Guest {
    fn name(self) -> String {
        format!("{}-{}", self.mode, self.vcpus)
    }
}

/// The word the command line has for it.
pub fn mmu_name(mmu: Mmu) -> &'static str {
    match mmu {
        Mmu::Tdp => "tdp",
        Mmu::Shadow => "shadow",
        Mmu::Npt0 => "npt0",
    }
}

/// Events of every kind, added up over the guests of a kernel and memory management.
pub fn events_by_kind<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for report in rows.filter_map(|row| row.result.as_ref().ok()) {
        for (kind, count) in &report.events_by_kind {
            *sums.entry(kind.clone()).or_default() += count;
        }
    }
    sums
}
