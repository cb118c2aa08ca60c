//! What `record` writes to: one file, several that follow each other, or the memory of a flight recorder.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::recording::{self, Plain};
use super::tee::{Keep, Tee};
use crate::cli::RecordArgs;
use crate::event::{Batch, Nanos};
use crate::trace::{Flight, FlightLimits, Header, Rotation, RotationLimits, WriteLimits};

/// A file smaller than this would hold little more than its header.
const FILE_BYTES_MIN: u64 = 64 << 10;

/// The recorder the command line asks for.
///
/// # Errors
/// The limits mean nothing, or a file of that name is there already.
pub fn recorder(args: &RecordArgs, header: Header) -> Result<Box<dyn Tee>> {
    let path = &args.output;
    Ok(match (args.max_size, args.last) {
        (Some(bytes_max), _) => {
            Box::new(Rotating::create(path, header, bytes_max, args.max_files)?)
        }
        (None, Some(last)) => Box::new(FlightRecorder::new(path, header, last, args.max_files)?),
        (None, None) => Box::new(Plain::create(path, &header)?),
    })
}

/// Refuses what cannot work before a probe is attached.
///
/// # Errors
/// As [`recorder`].
pub fn check(args: &RecordArgs) -> Result<()> {
    recording::must_be_new(&args.output)?;
    if args.max_size.is_some() || args.last.is_some() {
        no_file_of_the_series(&args.output)?;
    }
    if args.max_size.is_some_and(|bytes| bytes < FILE_BYTES_MIN) {
        bail!("--max-size is at least 64k: a smaller file holds little more than its header");
    }
    if args.last.is_some_and(|last| last < Duration::from_millis(100)) {
        bail!("--last is at least 100ms: frames are forgotten as a whole");
    }
    Ok(())
}

/// `vm.2.kdt` and so on must not be there, or the series would break off in the middle of the trace.
fn no_file_of_the_series(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("read folder {}", folder.display()))?;
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (stem, ending) = (path.file_stem(), path.extension());
    for entry in entries {
        let other = entry.with_context(|| format!("read folder {}", folder.display()))?.path();
        let inner = match ending {
            Some(_) if other.extension() != ending => continue,
            Some(_) => other.with_extension(""),
            None => other.clone(),
        };
        let is_number = inner
            .extension()
            .is_some_and(|number| number.to_str().is_some_and(|text| text.parse::<u32>().is_ok()));
        if is_number && inner.file_stem() == stem {
            bail!(
                "{} is there already and would be in the way of {}: name another file, recordings are not overwritten",
                other.display(),
                name(path).unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// One trace in several files.
struct Rotating(Option<Rotation>);

impl Rotating {
    fn create(path: &Path, header: Header, bytes_max: u64, files_max: Option<u32>) -> Result<Self> {
        let limits = RotationLimits { bytes_max, files_max, write: WriteLimits::STANDARD };
        Ok(Self(Some(Rotation::create(path, header, limits)?)))
    }
}

impl Tee for Rotating {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        match &mut self.0 {
            Some(rotation) => rotation.write(batch).context("write the recording"),
            None => Ok(()),
        }
    }

    fn keep(&mut self, _: Keep) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let Some(rotation) = self.0.take() else {
            return Ok(());
        };
        let files = rotation.files();
        rotation.finish().context("complete the recording")?;
        let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        eprintln!("recorded: {}", names.join(", "));
        Ok(())
    }
}

/// Writes its memory when asked to, at the end, and when a hazard has come up - but for hazards at most twice within
/// the time it remembers, or a host with a broken kernel would write without end. Nothing is forgotten by waiting: what
/// waits is younger than what is remembered.
struct FlightRecorder {
    flight: Flight,
    remembers_ns: u64,
    /// Watermark of the last batch.
    now: Nanos,
    /// When the last file was written.
    written: Option<Nanos>,
    /// A hazard waits to be written until then.
    due: Option<Nanos>,
    files: VecDeque<PathBuf>,
    files_max: Option<u32>,
}

impl FlightRecorder {
    fn new(path: &Path, header: Header, last: Duration, files_max: Option<u32>) -> Result<Self> {
        let remembers_ns = u64::try_from(last.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self {
            flight: Flight::new(path, header, FlightLimits::last(remembers_ns))?,
            remembers_ns,
            now: Nanos(0),
            written: None,
            due: None,
            files: VecDeque::new(),
            files_max,
        })
    }

    fn write_out(&mut self) -> Result<()> {
        self.due = None;
        let is_short = self.flight.is_short();
        let Some(path) = self.flight.keep().context("write the flight recorder's memory")? else {
            return Ok(());
        };
        self.written = Some(self.now);
        let short =
            if is_short { ", less than asked for: the memory limit was reached" } else { "" };
        eprintln!("recorded: {}{short}", path.display());
        self.files.push_back(path);
        while self.files_max.is_some_and(|max| (max.max(1) as usize) < self.files.len()) {
            if let Some(oldest) = self.files.pop_front() {
                std::fs::remove_file(&oldest)
                    .with_context(|| format!("remove {}", oldest.display()))?;
            }
        }
        Ok(())
    }
}

impl Tee for FlightRecorder {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.flight.write(batch).context("compress the recording")?;
        self.now = self.now.max(batch.watermark);
        if self.due.is_some_and(|due| due <= self.now) { self.write_out() } else { Ok(()) }
    }

    fn keep(&mut self, why: Keep) -> Result<()> {
        match why {
            Keep::Asked => self.write_out(),
            Keep::Hazard => {
                let next = self
                    .written
                    .map_or(Nanos(0), |at| Nanos(at.0.saturating_add(self.remembers_ns / 2)));
                self.due.get_or_insert(next);
                Ok(())
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.write_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{RawEvent, Setup};
    use crate::trace::Origin;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("kvmdirty-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn files(&self) -> Vec<String> {
            let names = std::fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> =
                names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn second(n: u64) -> Batch {
        let record = RawEvent { ts_ns: n * 1_000_000_000, seq: n as u32, ..RawEvent::default() };
        let watermark = Nanos(record.ts_ns);
        Batch { records: vec![record], gaps: Vec::new(), watermark }
    }

    fn flight(folder: &Folder, files_max: Option<u32>) -> FlightRecorder {
        let header = Header::new(Origin::Simulator, Setup::complete("test"));
        let last = Duration::from_secs(10);
        FlightRecorder::new(&folder.0.join("vm.kdt"), header, last, files_max).unwrap()
    }

    #[test]
    fn hazard_after_hazard_writes_two_files_in_the_time_remembered() {
        let folder = Folder::new("recorder-hazards");
        let mut flight = flight(&folder, None);
        for n in 1..=20 {
            flight.write(&second(n)).unwrap();
            flight.keep(Keep::Hazard).unwrap();
        }
        // At once after the first, then every five seconds: 2, 7, 12, 17.
        assert_eq!(folder.files(), ["vm.2.kdt", "vm.3.kdt", "vm.4.kdt", "vm.kdt"]);
        flight.finish().unwrap();
        assert_eq!(folder.files().len(), 5);
    }

    #[test]
    fn asked_is_at_once_and_only_the_newest_files_are_kept() {
        let folder = Folder::new("recorder-asked");
        let mut flight = flight(&folder, Some(2));
        for n in 1..=4 {
            flight.write(&second(n)).unwrap();
            flight.keep(Keep::Asked).unwrap();
        }
        assert_eq!(folder.files(), ["vm.3.kdt", "vm.4.kdt"]);
    }

    #[test]
    fn a_file_that_the_series_would_reach_is_refused_at_the_start() {
        let folder = Folder::new("recorder-series");
        let path = folder.0.join("vm.kdt");
        assert!(no_file_of_the_series(&path).is_ok());
        std::fs::write(folder.0.join("vm.old.kdt"), "").unwrap();
        std::fs::write(folder.0.join("other.2.kdt"), "").unwrap();
        assert!(no_file_of_the_series(&path).is_ok());
        std::fs::write(folder.0.join("vm.12.kdt"), "").unwrap();
        let error = no_file_of_the_series(&path).unwrap_err().to_string();
        assert!(error.contains("vm.12.kdt is there already"), "{error}");
    }
}
