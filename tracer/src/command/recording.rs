//! Opening and writing recordings: headers, the plain recorder, a whole file through the pipeline.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use super::progress::Progress;
use super::tee::{Keep, Tee};
use crate::event::{Batch, Setup};
use crate::export::report::{DamageRow, Judged, Provenance};
use crate::pipeline::Pipeline;
use crate::trace::litmus::Litmus;
use crate::trace::{Damage, Ending, Header, Origin, Reader, StartClock, Vmm, Writer};

/// The header of a recording that begins now.
#[must_use]
pub fn header(origin: Origin, setup: &Setup, pid: u32) -> Header {
    let monotonic_ns = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
    let wall_ns = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = command
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Header {
        started: StartClock { wall_ns, monotonic_ns },
        cpus: std::thread::available_parallelism().map_or(0, |cpus| cpus.get() as u32),
        host: host.trim_end().to_owned(),
        vmm: Some(Vmm { pid, command }),
        mmu: super::live::mmu(),
        ..Header::new(origin, setup.clone())
    }
}

/// A new file at `path`, or an error if there is one: a recording is evidence and is never overwritten.
///
/// # Errors
/// The file exists.
pub fn must_be_new(path: &Path) -> Result<()> {
    if path.exists() {
        bail!(
            "{} exists already: name another file, recordings are not overwritten",
            path.display()
        );
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder
        && !folder.is_dir()
    {
        bail!("there is no folder {}: create it first, or name another file", folder.display());
    }
    Ok(())
}

/// Writes every batch to one file.
pub struct Plain(Option<Writer>);

impl Plain {
    /// Creates the file.
    ///
    /// # Errors
    /// It exists or cannot be created.
    pub fn create(path: &Path, header: &Header) -> Result<Self> {
        must_be_new(path)?;
        Ok(Self(Some(Writer::create(path, header)?)))
    }
}

impl Tee for Plain {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        match &mut self.0 {
            Some(writer) => writer.write(batch).context("write the recording"),
            None => Ok(()),
        }
    }

    fn keep(&mut self, _: Keep) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        match self.0.take() {
            Some(writer) => writer.finish().context("complete the recording"),
            None => Ok(()),
        }
    }
}

/// What the user may change about a recording's setup.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    /// `--final`.
    pub is_final: bool,
    /// `--epsilon`.
    pub epsilon_ns: Option<u64>,
}

impl Overrides {
    /// Applies them.
    pub fn apply(self, setup: &mut Setup) {
        setup.is_final |= self.is_final;
        if let Some(epsilon_ns) = self.epsilon_ns {
            setup.epsilon_ns = epsilon_ns;
        }
    }
}

/// A file that went through the pipeline.
pub struct JudgedFile {
    /// With everything judged.
    pub pipeline: Pipeline,
    /// What the file says of itself, and what is wrong with it.
    pub provenance: Provenance,
}

impl JudgedFile {
    /// On its way into a report.
    #[must_use]
    pub fn judged(&self) -> Judged<'_> {
        let Self { pipeline, provenance } = self;
        Judged {
            summary: pipeline.summary(),
            setup: pipeline.setup(),
            provenance: Some(provenance),
        }
    }
}

/// Reads a recording or a litmus file (by its ending) through the pipeline.
///
/// # Errors
/// The file cannot be read or is none of ours.
pub fn judge(path: &Path, overrides: Overrides) -> Result<JudgedFile> {
    if is_litmus(path) {
        return judge_litmus(path, overrides);
    }
    let name = || path.display().to_string();
    let mut reader = Reader::open(path).with_context(name)?;
    let mut setup = reader.header().setup.clone();
    overrides.apply(&mut setup);
    let mut pipeline = Pipeline::new(setup);
    let mut progress = Progress::to_terminal();
    let mut batch = Batch::default();
    while reader.next_batch(&mut batch).with_context(name)?.is_some() {
        pipeline.push(&batch);
        progress.show(reader.progress());
    }
    progress.clear();
    pipeline.finish();
    Ok(JudgedFile { pipeline, provenance: provenance(&reader, name()) })
}

fn provenance(reader: &Reader, file: String) -> Provenance {
    let Header { tool, origin, started, host, vmm, .. } = reader.header();
    let (damages, damages_total) = reader.damages();
    Provenance {
        file,
        origin: origin.name(),
        tool: tool.clone(),
        host: host.clone(),
        vmm: vmm.as_ref().map(|vmm| vmm.command.join(" ")).unwrap_or_default(),
        started_s: started.wall_ns / 1_000_000_000,
        cut_at: match reader.ending() {
            Some(Ending::Cut { offset }) => Some(offset),
            Some(Ending::Finished) | None => None,
        },
        damages: damages
            .iter()
            .map(|&Damage { offset, bytes, kind, records }| DamageRow {
                offset,
                bytes,
                what: kind.name(),
                records,
            })
            .collect(),
        damages_total,
    }
}

/// The file is a litmus file, by its ending.
#[must_use]
pub fn is_litmus(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "litmus")
}

/// Reads a litmus file.
///
/// # Errors
/// It cannot be read, or a line of it means nothing.
pub fn read_litmus(path: &Path) -> Result<Litmus> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Litmus::read(&text).with_context(|| path.display().to_string())
}

fn judge_litmus(path: &Path, overrides: Overrides) -> Result<JudgedFile> {
    let Litmus { mut setup, batch, .. } = read_litmus(path)?;
    overrides.apply(&mut setup);
    let mut pipeline = Pipeline::new(setup);
    pipeline.push(&batch);
    pipeline.finish();
    let file = path.display().to_string();
    let origin = Origin::Litmus.name();
    Ok(JudgedFile { pipeline, provenance: Provenance { file, origin, ..Provenance::default() } })
}
