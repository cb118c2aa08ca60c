//! The recording that ships with the tool, for hosts that allow neither KVM nor BPF.

use std::io::{Cursor, IsTerminal as _};

use anyhow::{Context as _, Result};

use super::{replay, report, screen};
use crate::cli::{DemoArgs, ReportFormat};
use crate::event::Batch;
use crate::export::report::Judged;
use crate::outcome::Outcome;
use crate::pipeline::Pipeline;
use crate::trace::Reader;

/// `demo --mode get --seconds 1 --pages 512` on a stock 6.12 kernel in the lab, kprobe plan.
const RECORDING: &[u8] = include_bytes!("../../assets/demo.kdt");

/// Plays the bundled recording and says why.
///
/// # Errors
/// The recording in this build is damaged, or standard output is gone.
pub fn play(args: &DemoArgs, reason: &str) -> Result<Outcome> {
    report_reason(reason);
    let mut reader = Reader::new(Cursor::new(RECORDING)).context("read the bundled recording")?;
    let mut setup = reader.header().setup.clone();
    setup.is_final = true;
    if !args.headless && !args.json && std::io::stdout().is_terminal() {
        let facts = replay::facts(reader.header(), String::from("the bundled recording"));
        return replay::show(reader, setup, facts, screen::settings(&args.screen)?).map(foreign);
    }
    let mut pipeline = Pipeline::new(setup);
    let mut batch = Batch::default();
    while reader.next_batch(&mut batch).context("read the bundled recording")?.is_some() {
        pipeline.push(&batch);
    }
    pipeline.finish();
    let format = if args.json { ReportFormat::Json } else { ReportFormat::Text };
    let judged = Judged::live(pipeline.summary(), pipeline.setup());
    report::print(&report::render(&judged, format)?)?;
    Ok(foreign(Outcome::of(pipeline.summary())))
}

/// What was shown is not this host: that proves nothing about it.
const fn foreign(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Clean | Outcome::Inconclusive => Outcome::Inconclusive,
        Outcome::Hazard | Outcome::Failed => outcome,
    }
}

fn report_reason(reason: &str) {
    eprintln!("playing the bundled recording of another machine: {reason}");
}
