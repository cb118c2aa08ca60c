//! `export`: a recording in the forms other tools read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::progress::Progress;
use super::recording::{self, Overrides};
use crate::cli::{ExportArgs, ExportFormat};
use crate::event::Batch;
use crate::export::{
    Export, Exporter, Filter, Origin, Table, Totals, csv, jsonl, perfetto, std_form,
};
use crate::outcome::Outcome;
use crate::trace::Reader;
use crate::trace::litmus::Litmus;
use crate::verdict::RuleId;

/// Runs `export`.
///
/// # Errors
/// The recording cannot be read, a filter means nothing, or the output cannot be written.
pub fn run(args: &ExportArgs) -> Result<Outcome> {
    let filter = filter(args)?;
    let done = match args.format {
        ExportFormat::Litmus => litmus(args, &filter),
        ExportFormat::Jsonl => stream(args, filter, |out| Ok(Box::new(jsonl::Jsonl::new(out)))),
        ExportFormat::Csv => {
            let table = csv_table(args)?;
            stream(args, filter, |out| Ok(Box::new(csv::Csv::new(out, table))))
        }
        ExportFormat::Perfetto => {
            stream(args, filter, |out| Ok(Box::new(perfetto::Perfetto::new(out))))
        }
        ExportFormat::Std => stream(args, filter, |out| Ok(Box::new(std_form::StdForm::new(out)))),
        ExportFormat::Parquet => parquet(args, filter),
    };
    match done {
        Err(error) if is_broken_pipe(&error) => Ok(Outcome::Clean),
        done => done.map(|()| Outcome::Clean),
    }
}

/// The reader of our output has seen enough, as `head` does: that is its wish, not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(|json| json.io_error_kind());
        io.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    })
}

fn filter(args: &ExportArgs) -> Result<Filter> {
    fn all<T: std::str::FromStr>(texts: &[String]) -> Result<Vec<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        texts.iter().map(|text| Ok(text.parse()?)).collect()
    }
    let rules = args.rule.iter().map(|text| {
        RuleId::from_name(text).with_context(|| format!("`{text}` is no rule: K01 to K15"))
    });
    Ok(Filter {
        from: args.from.as_deref().map(str::parse).transpose()?,
        to: args.to.as_deref().map(str::parse).transpose()?,
        vms: all(&args.vm)?,
        slots: all(&args.slot)?,
        gfns: all(&args.gfn)?,
        rules: rules.collect::<Result<_>>()?,
        kinds: all(&args.kind)?,
    })
}

/// The table of a CSV: the one `--kind` names, else the events.
fn csv_table(args: &ExportArgs) -> Result<Table> {
    let mut tables = args.kind.iter().filter_map(|name| Table::from_name(name));
    let table = tables.next().unwrap_or(Table::Events);
    match tables.next() {
        None => Ok(table),
        Some(_) => bail!("a CSV file holds one table: name one of them with --kind"),
    }
}

type Sink = Box<dyn Export>;

fn stream(
    args: &ExportArgs,
    filter: Filter,
    sink: impl FnOnce(Box<dyn Write>) -> Result<Sink>,
) -> Result<()> {
    let mut sink = sink(open(args.output.as_deref())?)?;
    feed(args, filter, sink.as_mut())
}

#[cfg(feature = "parquet")]
fn parquet(args: &ExportArgs, filter: Filter) -> Result<()> {
    let Some(folder) = args.output.as_ref().filter(|folder| *folder != Path::new("-")) else {
        bail!("parquet is a folder of tables: name it with --output");
    };
    let mut sink = crate::export::parquet::Parquet::in_folder(folder)?;
    feed(args, filter, &mut sink)
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &ExportArgs, _: Filter) -> Result<()> {
    bail!("this build has no parquet: build it with `cargo build --release --features parquet`")
}

fn feed(args: &ExportArgs, filter: Filter, sink: &mut dyn Export) -> Result<()> {
    let name = || args.file.display().to_string();
    let overrides = Overrides { is_final: args.is_final, epsilon_ns: None };
    if recording::is_litmus(&args.file) {
        let Litmus { mut setup, batch, .. } = recording::read_litmus(&args.file)?;
        overrides.apply(&mut setup);
        let origin = Origin { host: String::new(), setup };
        let mut exporter = Exporter::begin(&origin, filter, sink)?;
        exporter.push(&batch)?;
        return told(exporter.finish()?);
    }
    let mut reader = Reader::open(&args.file).with_context(name)?;
    let mut setup = reader.header().setup.clone();
    overrides.apply(&mut setup);
    let origin = Origin { host: reader.header().host.clone(), setup };
    let mut exporter = Exporter::begin(&origin, filter, sink)?;
    let mut progress = Progress::to_terminal();
    let mut batch = Batch::default();
    while reader.next_batch(&mut batch).with_context(name)?.is_some() {
        exporter.push(&batch)?;
        progress.show(reader.progress());
    }
    let totals = exporter.finish()?;
    progress.clear();
    told(totals)
}

fn told(Totals { records, items }: Totals) -> Result<()> {
    eprintln!("{records} records read, {items} items written");
    Ok(())
}

fn open(path: Option<&Path>) -> Result<Box<dyn Write>> {
    Ok(match path {
        Some(path) if path != Path::new("-") => {
            recording::must_be_new(path)?;
            let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
        Some(_) | None => Box::new(BufWriter::new(std::io::stdout())),
    })
}

/// Every finding the filter keeps as a litmus file: one to stdout or a file, several into a folder.
fn litmus(args: &ExportArgs, filter: &Filter) -> Result<()> {
    let overrides = Overrides { is_final: args.is_final, epsilon_ns: None };
    let pipeline = recording::judge(&args.file, overrides)?.pipeline;
    let findings = pipeline.summary().findings.iter().filter(|finding| {
        (filter.rules.is_empty() || filter.rules.contains(&finding.rule))
            && (filter.gfns.is_empty()
                || finding.gfn.is_some_and(|gfn| {
                    filter.gfns.iter().any(|range| range.first <= gfn && gfn < range.end)
                }))
    });
    let mut out = open(args.output.as_deref())?;
    let mut written = 0;
    for finding in findings {
        let text = Litmus::from_finding(finding, pipeline.setup()).write();
        writeln!(out, "{text}").context("write the litmus file")?;
        written += 1;
    }
    out.flush().context("write the litmus file")?;
    eprintln!("{written} findings written");
    Ok(())
}
