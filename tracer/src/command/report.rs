//! `check`: a recording judged, and reports printed.

use std::io::Write as _;

use anyhow::{Context as _, Result};

use super::recording::{self, Overrides};
use crate::cli::{CheckArgs, ReportFormat};
use crate::event::Setup;
use crate::export::report::{Document, Judged, html, markdown, text};
use crate::outcome::Outcome;
use crate::summary::Summary;

/// Runs `check`.
///
/// # Errors
/// The file cannot be read or the report not be written.
pub fn check(args: &CheckArgs) -> Result<Outcome> {
    let overrides = Overrides { is_final: args.is_final, epsilon_ns: args.epsilon };
    let file = recording::judge(&args.file, overrides)?;
    let format = if args.json { ReportFormat::Json } else { args.format };
    let report = render(&file.judged(), format)?;
    match &args.output {
        Some(path) => {
            std::fs::write(path, report).with_context(|| format!("write {}", path.display()))?;
        }
        None => print(&report)?,
    }
    Ok(Outcome::of(file.pipeline.summary()))
}

/// One report.
///
/// # Errors
/// It cannot be put into JSON.
pub fn render(judged: &Judged<'_>, format: ReportFormat) -> Result<String> {
    Ok(match format {
        ReportFormat::Json => {
            let mut text = serde_json::to_string_pretty(&Document::new(judged))?;
            text.push('\n');
            text
        }
        ReportFormat::Text => text::report(judged),
        ReportFormat::Markdown => markdown::report(judged),
        ReportFormat::Html => html::report(judged),
    })
}

/// Prints the text report of a trace that was judged live.
///
/// # Errors
/// Standard output is gone.
pub fn print_text(summary: &Summary, setup: &Setup) -> Result<()> {
    print(&text::report(&Judged::live(summary, setup)))
}

/// Prints to standard output; a closed pipe is the reader's wish, not an error.
///
/// # Errors
/// Standard output cannot be written for another reason.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to standard output"),
    }
}
