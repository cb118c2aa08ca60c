//! Arguments of the commands that write, read and compare files.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{TargetArgs, TraceArgs, duration, size};

/// `record`.
#[derive(Debug, Clone, Args)]
pub struct RecordArgs {
    /// The VMM.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The recording; it must not exist yet.
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: PathBuf,
    /// Bounds of the trace.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// Start a new file (vm.2.kdt, vm.3.kdt, ...) when one has reached this size, for example `512M`.
    #[arg(long, value_name = "SIZE", value_parser = size, group = "several")]
    pub max_size: Option<u64>,
    /// Keep only the newest this many files.
    #[arg(long, value_name = "N", requires = "several", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_files: Option<u32>,
    /// Flight recorder: keep only the last this long in memory; write it on a hazard, on SIGUSR1 and at the end.
    #[arg(long, value_name = "DURATION", value_parser = duration, group = "several")]
    pub last: Option<Duration>,
    /// Leave the VMM's command line out of the file.
    #[arg(long)]
    pub redact: bool,
}

/// `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The recording (or a litmus file, by its ending `.litmus`).
    pub file: PathBuf,
    /// One JSON document; the same as `--format json`.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// The report's form.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
    /// Write the report here instead of stdout.
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The last harvest of every slot is the final one: what is left over after it counts as a hazard.
    #[arg(long = "final")]
    pub is_final: bool,
    /// Clock uncertainty between CPUs in nanoseconds, instead of the recording's.
    #[arg(long, value_name = "NS")]
    pub epsilon: Option<u64>,
}

/// Forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For a person at a terminal.
    Text,
    /// One document, see `schema report`.
    Json,
    /// For a bug tracker or a mail.
    Markdown,
    /// One page with plots that needs nothing else, to be attached to a bug.
    Html,
}

/// `export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The recording.
    pub file: PathBuf,
    /// For which tool.
    #[arg(long, short = 'f', value_enum)]
    pub format: ExportFormat,
    /// File (parquet: folder) to write; `-` or nothing is stdout.
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only from this time on: nanoseconds, or an offset from the begin such as `1.5s`.
    #[arg(long)]
    pub from: Option<String>,
    /// Only up to this time.
    #[arg(long)]
    pub to: Option<String>,
    /// Only this VM: the address of its `struct kvm`, or the pid of its process.
    #[arg(long, value_delimiter = ',')]
    pub vm: Vec<String>,
    /// Only this slot, `as_id:id` or `id`.
    #[arg(long, value_delimiter = ',')]
    pub slot: Vec<String>,
    /// Only this gfn or range of gfns, `0x400` or `0x400..0x480`.
    #[arg(long, value_delimiter = ',')]
    pub gfn: Vec<String>,
    /// Only findings of this rule.
    #[arg(long, value_delimiter = ',')]
    pub rule: Vec<String>,
    /// Only events of these kinds, or rows of these tables, by name.
    #[arg(long, value_delimiter = ',')]
    pub kind: Vec<String>,
    /// The last harvest of every slot is the final one.
    #[arg(long = "final")]
    pub is_final: bool,
}

/// Forms of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated values, events only.
    Csv,
    /// Parquet tables for DuckDB, Polars, DataFusion.
    Parquet,
    /// For Perfetto and its trace processor.
    Perfetto,
    /// Findings as litmus files.
    Litmus,
    /// RAPID's STD form.
    Std,
}

/// `import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// `trace.dat` of trace-cmd, or the text of `trace-cmd report`.
    pub file: PathBuf,
    /// The recording to write; it must not exist yet.
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: PathBuf,
    /// A memslot, which tracepoints do not show: `as_id:id=FIRST+PAGES`, for example `0:1=0x400+0x800`.
    #[arg(long, value_name = "SLOT", value_delimiter = ',')]
    pub slot: Vec<String>,
    /// Clock uncertainty between CPUs in nanoseconds, instead of that of the clock it was recorded with.
    #[arg(long, value_name = "NS")]
    pub epsilon: Option<u64>,
    /// The last harvest of every slot is the final one.
    #[arg(long = "final")]
    pub is_final: bool,
}

/// `diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// The recording from before.
    pub before: PathBuf,
    /// The recording from after.
    pub after: PathBuf,
    /// One JSON document.
    #[arg(long)]
    pub json: bool,
    /// The last harvest of every slot is the final one.
    #[arg(long = "final")]
    pub is_final: bool,
}

/// `schema`.
#[derive(Debug, Clone, Args)]
pub struct SchemaArgs {
    /// Which document.
    #[arg(value_enum)]
    pub document: SchemaDocument,
}

/// Documents with a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaDocument {
    /// A line of `export --format jsonl`.
    Jsonl,
    /// The document of `check --json`.
    Report,
}
