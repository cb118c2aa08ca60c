//! `demo`: a small KVM guest of our own under a migration-like harvest loop, traced like any other VMM.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::capture::{Capture, Tee};
use super::cost::GuestTimes;
use super::guest::GuestProcess;
use super::live::{LiveSource, facts};
use super::{recording, report, screen};
use crate::cli::{DemoArgs, TraceArgs};
use crate::demo::config::GuestConfig;
use crate::demo::protocol::{GuestReport, IoctlTimes};
use crate::event::Setup;
use crate::export::report::{Document, text};
use crate::feed::Feed;
use crate::outcome::Outcome;
use crate::summary::Summary;
use crate::trace::Origin;

/// A guest without tracing runs this long first, so that the harvest times can be compared.
const BASELINE_SECONDS: f64 = 1.0;

/// The longest the probe may need for what the guest did last.
const SETTLE: Duration = Duration::from_millis(200);

/// The demo's JSON document: the report of `check --json` joined with the guest's own.
#[derive(Serialize)]
struct DemoDocument {
    #[serde(flatten)]
    report: Document,
    oracle: Oracle,
    harvest_time: HarvestTime,
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

/// Host-side times of the harvest ioctls with and without the probe attached.
#[derive(Serialize)]
struct HarvestTime {
    untraced: Option<IoctlTimes>,
    traced: IoctlTimes,
}

/// What a demo run came to.
struct Run {
    summary: std::sync::Arc<Summary>,
    setup: Setup,
    guest: GuestReport,
    baseline: Option<IoctlTimes>,
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
            report: Document::new(&run.summary, &run.setup),
            oracle: Oracle {
                lost_pages: run.guest.lost_pages(),
                compared: run.guest.vms.iter().map(|vm| vm.compared).sum(),
                exit_status: outcome.status(),
            },
            harvest_time: HarvestTime { untraced: run.baseline, traced: run.guest.ioctl_times },
            guest: run.guest,
        };
        report::print(&(serde_json::to_string_pretty(&document)? + "\n"))?;
    } else {
        report::print(&text::report(&run.summary, &run.setup))?;
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
    let trace =
        TraceArgs { duration: None, is_final: true, wait: true, ready_file: None, budget: 400 };
    let mut source = LiveSource::attach(ready.pid, &trace).map_err(Trouble::Forbidden)?;
    // The baseline is taken only once it is sure that there will be something to compare.
    let baseline = baseline(&args.guest);
    if let (Some(untraced), Some(harvests)) = (&baseline, guest.take_harvests()) {
        source.compare_with(GuestTimes::new(untraced, harvests));
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
    let (capture, feed) = Capture::start(source, tee, setup.clone(), facts);
    guest.go()?;
    let report = if is_headless { finish(guest, feed) } else { shown(guest, feed, settings) }?;
    std::thread::sleep(SETTLE);
    let summary = capture.stop()?;
    Ok(Run { summary, setup, guest: report, baseline })
}

/// Harvest times of the same guest with nothing attached to it. The probe is attached to another process by now, and
/// every hook of it leaves at once: that cost is the host's, not this guest's, and stays out of the comparison.
fn baseline(config: &GuestConfig) -> Option<IoctlTimes> {
    let config = GuestConfig { seconds: config.seconds.min(BASELINE_SECONDS), ..config.clone() };
    let (mut guest, _) = GuestProcess::start(&config).ok()?;
    guest.go().ok()?;
    guest.finish().ok().map(|report| report.ioctl_times)
}

/// Waits for the guest's report; Ctrl-C ends the guest early, with its final harvest.
fn finish(guest: GuestProcess, _feed: Feed) -> Result<GuestReport> {
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
    let times = [
        ("get", run.guest.ioctl_times.get, run.baseline.and_then(|times| times.get)),
        ("clear", run.guest.ioctl_times.clear, run.baseline.and_then(|times| times.clear)),
        ("reset", run.guest.ioctl_times.reset, run.baseline.and_then(|times| times.reset)),
    ];
    for (name, traced, untraced) in times {
        let Some(traced) = traced else { continue };
        let untraced = untraced.map_or(String::from("not measured"), |times| {
            format!("{:.1} us", times.median_ns as f64 / 1e3)
        });
        let _ = writeln!(
            text,
            "harvest    {name}: median {:.1} us traced, {untraced} untraced; p99 {:.1} us, longest {:.1} us",
            traced.median_ns as f64 / 1e3,
            traced.p99_ns as f64 / 1e3,
            traced.max_ns as f64 / 1e3
        );
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
