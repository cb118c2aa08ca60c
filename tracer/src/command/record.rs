//! `record`: events to a file, without a dashboard.

use anyhow::Result;

use super::capture::Capture;
use super::live::{LiveSource, Watched, facts, follow};
use super::{recorder, recording};
use crate::cli::RecordArgs;
use crate::outcome::Outcome;
use crate::trace::Origin;

/// Runs `record`.
///
/// # Errors
/// The trace could not start or go on; what was recorded so far stays readable.
pub fn run(args: &RecordArgs) -> Result<Outcome> {
    recorder::check(args)?;
    let pid = args.target.pid;
    let source = LiveSource::attach(pid, &args.trace)?;
    let setup = source.setup().clone();
    let mut header = recording::header(Origin::Live, &setup, pid);
    if args.redact {
        header.redact();
    }
    let tee = recorder::recorder(args, header)?;
    let facts = facts(pid, Some(&args.output));
    let (capture, feed) = Capture::start(source, Some(tee), setup.clone(), facts);
    follow(&capture, feed, &args.trace, Watched::Process(pid), &mut std::io::stderr())?;
    let summary = capture.stop()?;
    super::report::print_text(&summary, &setup)?;
    Ok(Outcome::of(&summary))
}
