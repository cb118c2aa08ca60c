//! A machine of the matrix, its guests, and the folder with what they brought back.

use std::{
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{Row, mmu_name, paths};
use crate::{
    lab::{
        guest::{self, Ran},
        kernel::Kernel,
        machine::{self, Mmu, Output, Shape},
        payload::{Command, Job},
    },
    workspace,
};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its name in tables and file names.
    pub name: &'static str,
    /// The log mode.
    pub mode: &'static str,
    /// Its vCPUs.
    pub vcpus: u32,
    /// What else the demo is told.
    pub flags: &'static str,
    /// Its recording is brought back.
    pub is_recorded: bool,
}

/// The machines of one kernel.
pub fn of_kernel(kernel: &'static Kernel) -> Vec<Cell> {
    let mmus = [Mmu::Tdp, Mmu::Shadow, Mmu::Npt0];
    mmus.into_iter().flat_map(|mmu| [2, 4].map(|cpus| Cell { kernel, mmu, cpus })).collect()
}

/// The log modes a kernel has: the dirty ring came with 5.11.
pub fn modes(kernel: &Kernel) -> impl Iterator<Item = &'static str> {
    let has_ring = kernel.name != "5.10";
    ["get", "manual", "manual-initset", "ring"]
        .into_iter()
        .filter(move |&m| m != "ring" || has_ring)
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} on {} CPUs", self.kernel.name, mmu_name(self.mmu), self.cpus)
    }
}

impl Cell {
    /// One and two vCPUs on two CPUs, two on four; on two CPUs of the TDP MMU and of shadow paging
    /// the guests of [`paths`] as well.
    pub fn guests(&self) -> Vec<Guest> {
        let vcpus: &[u32] = if self.cpus == 2 { &[1, 2] } else { &[2] };
        let plain = |mode, vcpus| Guest { name: mode, mode, vcpus, flags: "", is_recorded: false };
        let mut guests: Vec<Guest> = modes(self.kernel)
            .flat_map(|mode| vcpus.iter().map(move |&vcpus| plain(mode, vcpus)))
            .collect();
        if self.cpus == 2 && self.mmu != Mmu::Shadow {
            let has_ring = modes(self.kernel).any(|mode| mode == "ring");
            guests.extend(paths::guests(self.mmu).filter(|guest| guest.mode != "ring" || has_ring));
        }
        guests
    }

    /// Where its results lie.
    pub fn folder(&self) -> PathBuf {
        workspace::root().join("target/lab").join(self.name())
    }

    fn name(&self) -> String {
        format!("matrix/{}-{}-{}", self.kernel.name, mmu_name(self.mmu), self.cpus)
    }

    /// Boots the machine and runs the guests, or only those named; what the others brought back stays.
    ///
    /// # Errors
    ///
    /// The tool does not build, or a guest's files cannot be moved.
    pub fn run(&self, seconds: u32, only: &[String]) -> Result<Vec<Row>> {
        let mut guests = self.guests();
        guests.retain(|guest| only.is_empty() || only.contains(&guest.file()));
        let job = Job::with_tool(Command::Shell(script(&guests, seconds)))?;
        let shape = Shape { mmu: self.mmu, cpus: self.cpus, memory_mib: 1536, timeout_s: 900 };
        let again = if only.is_empty() { "" } else { "-again" };
        match machine::run(self.kernel, &shape, &job, &(self.name() + again), Output::Kept) {
            Ok(run) if run.folder != self.folder() => self.take_over(&run.folder)?,
            Ok(run) => {
                let stamp = self.folder().join("release");
                fs::write(&stamp, run.release)
                    .with_context(|| format!("write {}", stamp.display()))?;
            }
            Err(error) => eprintln!("{self}: {error:#}"),
        }
        Ok(self.rows())
    }

    /// Puts what a machine brought back in the place of what was there.
    fn take_over(&self, folder: &Path) -> Result<()> {
        let (from, to) = (folder.join("out"), self.folder().join("out"));
        for file in fs::read_dir(&from).with_context(|| format!("read {}", from.display()))? {
            let file = file.context("read a folder")?;
            let place = to.join(file.file_name());
            fs::rename(file.path(), &place)
                .with_context(|| format!("write {}", place.display()))?;
        }
        Ok(())
    }

    /// The machine has run to its end.
    pub fn has_run(&self) -> bool {
        self.folder().join("release").is_file()
    }

    /// What its guests came to, as far as the machine has run.
    pub fn rows(&self) -> Vec<Row> {
        let release = fs::read_to_string(self.folder().join("release")).unwrap_or_default();
        let row = |guest: Guest| {
            let Ran { report, resets } = Ran::read(&self.folder().join("out"), &guest.file());
            // Only the cause: the document names no path of the machine it was made on.
            let result = report.map_err(|error| error.root_cause().to_string());
            Row { cell: *self, guest, release: release.clone(), result, resets }
        };
        self.guests().into_iter().map(row).collect()
    }
}

/// Runs the guests in turn, each with a report of its own.
fn script(guests: &[Guest], seconds: u32) -> String {
    let mut text = guest::function();
    for guest in guests {
        let Guest { mode, vcpus, flags, .. } = guest;
        // What happens to such a guest happens between two harvests, a few times a second.
        let seconds = if guest.is_recorded { 3 * seconds } else { seconds };
        let file = guest.file();
        let record =
            if guest.is_recorded { format!("--output /out/{file}.kdt") } else { String::new() };
        let _ = writeln!(
            text,
            "guest {file} kvmdirty-trace demo --headless --json --seconds {seconds} --mode {mode} \
             --vcpus {vcpus} {flags} {record}"
        );
    }
    text
}

impl Guest {
    /// Its name without path and ending.
    pub fn file(&self) -> String {
        format!("{}-{}", self.name, self.vcpus)
    }
}
