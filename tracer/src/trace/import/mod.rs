//! Imports: recordings that others made, with trace-cmd or straight from tracefs, judged by the same pipeline.
//!
//! ```text
//! trace.dat --dat, ring, format--> record --+
//!                                           +--> survey (first pass) --> Setup
//! report text ------------text---> record --+--> translate (second) --> Batch
//! ```
//!
//! The plan of an import says what the file holds; a rule whose operations are missing is off, and what a tracepoint
//! does not tell is unknown, never guessed.

mod bytes;
mod dat;
mod fact;
mod format;
mod ring;
mod stream;
mod survey;
mod text;
mod translate;

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::event::{Batch, Gfn, Limits, Nanos, Setup, SlotId};

use self::fact::Record;
use self::stream::Stream;
use self::survey::Survey;
use self::text::Lines;
use self::translate::Translator;

/// A file being imported.
#[derive(Debug)]
pub struct Import {
    source: Source,
    translator: Translator,
    setup: Setup,
    host: String,
    /// Time of the newest record.
    newest: Nanos,
    is_over: bool,
    /// The damage that ended the file early; told after everything before it.
    damage: Option<ImportError>,
}

/// What the file does not say and the user may.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Memslots, which tracepoints do not show.
    pub slots: Vec<SlotLayout>,
    /// Clock uncertainty between CPUs; `None`: by the clock the file was recorded with.
    pub epsilon_ns: Option<u64>,
    /// The last harvest of every slot is the final one.
    pub is_final: bool,
}

/// A memslot, written `as_id:id=FIRST+PAGES`, for example `0:1=0x400+0x800`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLayout {
    /// Address space and id.
    pub id: SlotId,
    /// First page.
    pub first: Gfn,
    /// Pages.
    pub npages: u64,
}

/// Why a file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be opened.
    #[error("open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Reading failed.
    #[error("read at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The bytes make no sense.
    #[error("damaged at byte {offset}: {what}")]
    Malformed {
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A trace.dat of another version.
    #[error(
        "trace.dat of version {version:?}: versions 6 and 7 are read (see trace-cmd convert --file-version)"
    )]
    Version {
        /// Its version.
        version: String,
    },
    /// Compressed by something we do not have.
    #[error("compressed with {algorithm:?}: zstd is read (see trace-cmd convert --compression)")]
    Compression {
        /// Its name.
        algorithm: String,
    },
    /// The clock does not count nanoseconds, or not the same on all CPUs.
    #[error(
        "recorded with the clock {clock:?}, which counts no nanoseconds: record with `trace-cmd record -C mono`"
    )]
    Clock {
        /// Its name.
        clock: String,
    },
    /// Neither a trace.dat nor the text of one.
    #[error("neither a trace.dat nor the text of trace-cmd report")]
    Foreign,
    /// Nothing in it concerns KVM.
    #[error(
        "no event of kvm, kvmmmu or raw_syscalls, and no kprobe on KVM, is in it: record with `trace-cmd record -e kvm -e kvmmmu -e raw_syscalls`"
    )]
    Empty,
    /// A slot's text means nothing.
    #[error("`{text}` is no slot (as_id:id=FIRST+PAGES, for example 0:1=0x400+0x800)")]
    Slot {
        /// The text.
        text: String,
    },
}

#[derive(Debug)]
enum Source {
    Dat(Box<Stream>),
    Text(Box<Lines>),
}

/// Records of one batch.
const BATCH_RECORDS: usize = 1 << 15;

impl Import {
    /// Reads the file once to see what it holds, and stands at its begin again.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or holds nothing of KVM.
    pub fn open(path: &Path, options: &ImportOptions) -> Result<Self, ImportError> {
        let mut survey = Survey::default();
        let (mut source, origin) = Source::open(path)?;
        let damage = loop {
            match source.next() {
                Ok(Some(record)) => survey.take(&record),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if survey.records == 0 {
            return Err(damage.unwrap_or(ImportError::Empty));
        }
        let resolution_ns = source.resolution_ns();
        let epsilon_ns = epsilon_of(&origin.clock)?.max(resolution_ns);
        let setup = Setup {
            kernel: origin.kernel,
            epsilon_ns: options.epsilon_ns.unwrap_or(epsilon_ns),
            masks: survey.masks(),
            plan: survey.plan(!options.slots.is_empty()),
            is_final: options.is_final,
            limits: Limits::STANDARD,
        };
        let (source, _) = Source::open(path)?;
        let mut translator = Translator::new(survey);
        translator.begin(&options.slots);
        let (newest, is_over, damage) = (Nanos(0), false, None);
        Ok(Self { source, translator, setup, host: origin.host, newest, is_over, damage })
    }

    /// What the pipeline must be told.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Name of the traced host, empty if the file does not say.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Bytes read, and in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        self.source.progress()
    }

    /// Replaces `batch` by the next one; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read or is damaged; everything that could be read was in the batches before.
    pub fn next_batch(&mut self, batch: &mut Batch) -> Result<Option<()>, ImportError> {
        if self.is_over {
            return self.damage.take().map_or(Ok(None), Err);
        }
        let Translator { records, gaps, .. } = &mut self.translator;
        batch.records.clear();
        batch.gaps.clear();
        std::mem::swap(records, &mut batch.records);
        std::mem::swap(gaps, &mut batch.gaps);
        while self.translator.records.len() + batch.records.len() < BATCH_RECORDS {
            let record = match self.source.next() {
                Ok(Some(record)) => record,
                Ok(None) => {
                    self.is_over = true;
                    break;
                }
                Err(error) => {
                    (self.is_over, self.damage) = (true, Some(error));
                    break;
                }
            };
            self.newest = self.newest.max(Nanos(record.ts));
            self.translator.take(&record);
        }
        batch.records.append(&mut self.translator.records);
        batch.gaps.append(&mut self.translator.gaps);
        // A record of the same nanosecond may still come.
        batch.watermark =
            if self.is_over { self.newest } else { Nanos(self.newest.0.saturating_sub(1)) };
        Ok(Some(()))
    }
}

/// What the head of the file says of where it was made.
#[derive(Debug)]
struct Machine {
    clock: String,
    kernel: String,
    host: String,
}

impl Source {
    fn open(path: &Path) -> Result<(Self, Machine), ImportError> {
        let open = |source| ImportError::Open { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(open)?;
        let mut begin = [0; 10];
        let n = file.read(&mut begin).map_err(open)?;
        file.rewind().map_err(open)?;
        if !dat::is_dat(&begin[..n]) {
            // Text says neither clock nor kernel.
            let machine = Machine {
                clock: String::from("local"),
                kernel: String::from("unknown"),
                host: String::new(),
            };
            return Ok((Self::Text(Box::new(Lines::new(file)?)), machine));
        }
        let head = dat::read_head(&mut file)?;
        let mut words = head.uname.split_whitespace().skip(1).map(str::to_owned);
        let host = words.next().unwrap_or_default();
        let kernel = words.next().unwrap_or_else(|| String::from("unknown"));
        let machine = Machine { clock: head.clock.clone(), kernel, host };
        Ok((Self::Dat(Box::new(Stream::new(file, head))), machine))
    }

    fn next(&mut self) -> Result<Option<Record>, ImportError> {
        match self {
            Self::Dat(stream) => stream.next(),
            Self::Text(lines) => lines.next(),
        }
    }

    fn progress(&self) -> (u64, u64) {
        match self {
            Self::Dat(stream) => stream.progress(),
            Self::Text(lines) => lines.progress(),
        }
    }

    fn resolution_ns(&self) -> u64 {
        match self {
            Self::Dat(_) => 1,
            Self::Text(lines) => lines.resolution_ns(),
        }
    }
}

/// How far two CPUs' readings of a trace clock can differ.
fn epsilon_of(clock: &str) -> Result<u64, ImportError> {
    /// Two ticks of the slowest kernel (HZ=100): the per-CPU clocks are corrected at each tick [1].
    ///
    /// [1]: https://github.com/torvalds/linux/blob/v6.12/kernel/sched/clock.c#L1-L53
    const PER_CPU_NS: u64 = 20_000_000;
    /// One timekeeper for all CPUs; its lockless readers may be off by a clock update.
    const SHARED_NS: u64 = 1_000;
    match clock {
        "mono" | "mono_raw" | "boot" | "tai" | "global" => Ok(SHARED_NS),
        "local" | "perf" | "uptime" => Ok(PER_CPU_NS),
        _ => Err(ImportError::Clock { clock: clock.to_owned() }),
    }
}

impl FromStr for SlotLayout {
    type Err = ImportError;

    fn from_str(text: &str) -> Result<Self, ImportError> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        let parse = || {
            let (id, range) = text.split_once('=')?;
            let (as_id, id) = id.split_once(':').unwrap_or(("0", id));
            let (first, npages) = range.split_once('+')?;
            let id = SlotId { as_id: as_id.parse().ok()?, id: id.parse().ok()? };
            Some(Self { id, first: Gfn(number(first)?), npages: number(npages)? })
        };
        parse().ok_or_else(|| ImportError::Slot { text: text.to_owned() })
    }
}
