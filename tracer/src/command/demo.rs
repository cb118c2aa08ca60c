//! `demo`: a small KVM guest of our own under a migration-like harvest loop, traced like any other VMM.

use std::io::IsTerminal as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::capture::Capture;
use super::cost::GuestTimes;
use super::guest::GuestProcess;
use super::harvest_time::{HarvestTime, ProgramCost, programs, programs_text};
use super::live::{LiveSource, facts};
use super::tee::Tee;
use super::{recording, report, screen};
use crate::cli::{DemoArgs, TraceArgs};
use crate::demo::config::GuestConfig;
use crate::demo::protocol::GuestReport;
use crate::event::Setup;
use crate::export::report::{Document, Judged};
use crate::feed::Feed;
use crate::live::Drops;
use crate::outcome::Outcome;
use crate::summary::Summary;
use crate::trace::Origin;

/// A guest without tracing runs this long first, so that the harvest times can be compared.
const BASELINE_SECONDS: f64 = 1.0;

/// The guest does nothing but fault: the probe may take whatever it needs.
const BUDGET_PERCENT: u32 = 10_000;

/// The longest the probe may need for what the guest did last.
const SETTLE: Duration = Duration::from_millis(200);

/// The demo's JSON document: the report of `check --json` joined with the guest's own.
#[derive(Serialize)]
struct DemoDocument {
    #[serde(flatten)]
    report: Document,
    oracle: Oracle,
    harvest_time: HarvestTime,
    /// Empty where the kernel does not measure programs.
    programs: Vec<ProgramCost>,
    /// Records dropped because a ring was full, by CPU and hook.
    drops: Vec<DropRow>,
    guest: GuestReport,
}

/// What page contents say.
#[derive(Serialize)]
struct Oracle {
    /// Pages whose content shows a write no harvest reported.
    lost_pages: usize,
    /// Pages compared.
    compared: u64,
    /// Exit status with the verdicts joined in.
    exit_status: u8,
}

/// Records of one hook that found no room on one CPU.
#[derive(Serialize)]
struct DropRow {
    cpu: u16,
    hook: &'static str,
    records: u64,
}

impl DropRow {
    fn new(drops: &Drops) -> Self {
        Self { cpu: drops.cpu, hook: drops.hook, records: drops.records }
    }
}

/// What a demo run came to.
struct Run {
    summary: Arc<Summary>,
    setup: Setup,
    guest: GuestReport,
    baseline: Option<GuestReport>,
    programs: Vec<ProgramCost>,
    drops: Vec<Drops>,
}

/// Runs `demo`.
///
/// # Errors
/// The guest or the trace failed for a reason other than a host that forbids them.
pub fn run(args: &DemoArgs) -> Result<Outcome> {
    args.guest.check()?;
    if let Some(path) = &args.output {
        recording::must_be_new(path)?;
    }
    if args.bundled {
        return super::bundled::play(args, "asked for with --bundled");
    }
    let run = match traced(args) {
        Ok(run) => run,
        Err(Trouble::Forbidden(reason)) => {
            return super::bundled::play(args, &format!("{reason:#}"));
        }
        Err(Trouble::Failed(error)) => return Err(error),
    };
    let outcome = joined(&run);
    if args.json {
        let document = DemoDocument {
            report: Document::new(&Judged::live(&run.summary, &run.setup)),
            oracle: Oracle {
                lost_pages: run.guest.lost_pages(),
                compared: run.guest.vms.iter().map(|vm| vm.compared).sum(),
                exit_status: outcome.status(),
            },
            harvest_time: HarvestTime::new(run.baseline.as_ref(), &run.guest),
            programs: run.programs,
            drops: run.drops.iter().map(DropRow::new).collect(),
            guest: run.guest,
        };
        report::print(&(serde_json::to_string_pretty(&document)? + "\n"))?;
    } else {
        report::print_text(&run.summary, &run.setup)?;
        report::print(&oracle_text(&run))?;
    }
    Ok(outcome)
}

/// What keeps a demo from running.
enum Trouble {
    /// The host does not allow it: a recording can be shown instead.
    Forbidden(anyhow::Error),
    /// Anything else.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn traced(args: &DemoArgs) -> Result<Run, Trouble> {
    let is_headless = args.headless || args.json || !std::io::stdout().is_terminal();
    let settings = screen::settings(&args.screen)?;
    // What the guest says of a host without KVM is not an error of the demo.
    let (mut guest, ready) = GuestProcess::start(&args.guest).map_err(Trouble::Forbidden)?;
    let trace = TraceArgs {
        duration: None,
        is_final: true,
        wait: true,
        ready_file: None,
        budget: BUDGET_PERCENT,
        ring_size: args.ring_size,
    };
    let mut source = LiveSource::attach(ready.pid, &trace).map_err(Trouble::Forbidden)?;
    // The baseline is taken only once it is sure that there will be something to compare.
    let baseline = baseline(&args.guest);
    if let (Some(untraced), Some(harvests)) = (&baseline, guest.take_harvests()) {
        source.compare_with(GuestTimes::new(&untraced.ioctl_times, harvests));
    }
    let setup = source.setup().clone();
    let tee: Option<Box<dyn Tee>> = match &args.output {
        Some(path) => {
            let header = recording::header(Origin::Demo, &setup, ready.pid);
            Some(Box::new(recording::Plain::create(path, &header)?))
        }
        None => None,
    };
    let facts = facts(ready.pid, args.output.as_deref());
    let ending = source.ending();
    let (capture, feed) = Capture::start(source, tee, setup.clone(), facts);
    guest.go()?;
    let report = if is_headless { finish(guest) } else { shown(guest, feed, settings) }?;
    std::thread::sleep(SETTLE);
    let summary = capture.stop()?;
    let ended = std::mem::take(&mut *ending.lock().unwrap_or_else(PoisonError::into_inner));
    let programs = programs(&ended.costs);
    Ok(Run { summary, setup, guest: report, baseline, programs, drops: ended.drops })
}

/// Harvest times of the same guest with nothing attached to it. The probe is attached to another process by now, and
/// every hook of it leaves at once: that cost is the host's, not this guest's, and stays out of the comparison.
fn baseline(config: &GuestConfig) -> Option<GuestReport> {
    let config = GuestConfig { seconds: config.seconds.min(BASELINE_SECONDS), ..config.clone() };
    let (mut guest, _) = GuestProcess::start(&config).ok()?;
    guest.go().ok()?;
    guest.finish().ok()
}

/// Waits for the guest's report. A signal ends the guest early, with its final harvest.
fn finish(mut guest: GuestProcess) -> Result<GuestReport> {
    let is_asked = super::live::on_signals()?;
    while guest.poll_report(Duration::from_millis(100))?.is_none() {
        if is_asked.swap(false, Ordering::AcqRel) {
            guest.stop()?;
        }
    }
    guest.finish()
}

/// Shows the dashboard while the guest runs and after, until the user quits.
fn shown(
    mut guest: GuestProcess,
    feed: Feed,
    settings: crate::tui::Settings,
) -> Result<GuestReport> {
    let closing = screen::show(feed, settings)?;
    screen::after(&closing);
    // A guest that has ended already takes no more words.
    let _ = guest.stop();
    guest.finish()
}

fn joined(run: &Run) -> Outcome {
    if 0 < run.guest.lost_pages() { Outcome::Hazard } else { Outcome::of(&run.summary) }
}

fn oracle_text(run: &Run) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let compared: u64 = run.guest.vms.iter().map(|vm| vm.compared).sum();
    let _ = writeln!(
        text,
        "\noracle     {} of {compared} pages differ from what the harvests reported",
        run.guest.lost_pages()
    );
    for vm in &run.guest.vms {
        for page in vm.lost.iter().take(20) {
            let _ = writeln!(text, "  lost write gfn {:#x} of slot {}", page.gfn, page.slot);
        }
    }
    text += &HarvestTime::new(run.baseline.as_ref(), &run.guest).text();
    text += &programs_text(&run.programs);
    for Drops { cpu, hook, records } in &run.drops {
        let _ = writeln!(text, "dropped    {records} records of {hook} on cpu{cpu}");
    }
    text
}

/// Runs the hidden `demo-guest`.
///
/// # Errors
/// The guest's own sentence.
pub fn guest(config: &GuestConfig) -> Result<Outcome> {
    let args = crate::demo::cli::DemoGuestArgs { config: config.clone() };
    let report = crate::demo::cli::main(&args)?;
    Ok(if report.lost_pages() == 0 { Outcome::Clean } else { Outcome::Hazard })
}
