//! `kvmdirty-trace --pid PID`: the live dashboard, or text lines where there is no terminal.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::capture::{Capture, Drain};
use super::cost::{self, GuestTimes};
use super::tee::Tee;
use super::{recording, screen};
use crate::cli::{LiveArgs, TraceArgs};
use crate::event::{Batch, Setup, Tid};
use crate::feed::{Facts, Feed, Overhead, ProbeCount, Stage};
use crate::live::{Cost, Drops, Options, Session, Target, urgency};
use crate::outcome::Outcome;
use crate::summary::Summary;
use crate::trace::Origin;

/// A session with its cost measured between two looks.
pub struct LiveSource {
    session: Session,
    pid: u32,
    budget_percent: u32,
    last: Reading,
    guest: Option<GuestTimes>,
    ended: Ending,
}

/// What only the end of a trace tells.
#[derive(Debug, Default)]
pub struct Ended {
    /// What each program of the probe cost.
    pub costs: Vec<Cost>,
    /// What could not be reserved, per CPU and hook.
    pub drops: Vec<Drops>,
}

/// Filled in when the trace has ended.
pub type Ending = Arc<Mutex<Ended>>;

/// Times read together: of this process, of the probe, of the clock.
#[derive(Clone, Copy, Default)]
struct Reading {
    wall_ns: u64,
    tool_ns: u64,
    probe_ns: u64,
}

impl LiveSource {
    /// Attaches to the VMs of a process.
    ///
    /// # Errors
    /// The session's own sentence, with the remedy.
    pub fn attach(pid: u32, args: &TraceArgs) -> Result<Self> {
        let options = Options {
            wait: args.wait,
            measure: true,
            is_final: args.is_final,
            page_ring_bytes: args.ring_size.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
            ..Options::default()
        };
        let session = Session::attach(Target::Pid(pid), &options)?;
        if let Some(path) = &args.ready_file {
            std::fs::write(path, "ready\n")
                .with_context(|| format!("create {}", path.display()))?;
        }
        Ok(Self {
            session,
            pid,
            budget_percent: args.budget,
            last: Reading::default(),
            guest: None,
            ended: Ending::default(),
        })
    }

    /// A VMM that says itself how long its harvests take: the added time is then known.
    pub fn compare_with(&mut self, times: GuestTimes) {
        self.guest = Some(times);
    }

    /// Where what is known at the end will be found.
    #[must_use]
    pub fn ending(&self) -> Ending {
        Arc::clone(&self.ended)
    }

    /// What the pipeline must be told.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        self.session.setup()
    }

    fn read(&self) -> Reading {
        let clock = |id| {
            nix::time::clock_gettime(id)
                .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
        };
        Reading {
            wall_ns: clock(nix::time::ClockId::CLOCK_MONOTONIC),
            tool_ns: clock(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID),
            probe_ns: self.session.overhead().iter().map(|cost| cost.run_ns).sum(),
        }
    }
}

impl Drain for LiveSource {
    fn begin(&mut self) {
        urgency::raise();
    }

    fn drain(&mut self) -> Result<Batch> {
        Ok(self.session.drain()?)
    }

    fn finish(mut self) -> Result<Batch> {
        self.session.detach();
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) =
            Ended { costs: self.session.overhead(), drops: self.session.drops() };
        Ok(self.session.finish()?)
    }

    fn overhead(&mut self) -> Option<Overhead> {
        let now = self.read();
        let last = std::mem::replace(&mut self.last, now);
        let wall_ns = now.wall_ns.saturating_sub(last.wall_ns).max(1) as f64;
        let percent = |now: u64, last: u64| 100.0 * now.saturating_sub(last) as f64 / wall_ns;
        (last.wall_ns != 0).then(|| Overhead {
            probe_percent: percent(now.probe_ns, last.probe_ns),
            tool_percent: percent(now.tool_ns, last.tool_ns),
            budget_percent: f64::from(self.budget_percent),
            harvest: self.guest.as_mut().and_then(GuestTimes::cost),
        })
    }

    fn probes(&self) -> Vec<ProbeCount> {
        cost::probes(self.session.overhead(), &self.session.misses())
    }

    fn harvest_run_ns(&self) -> Option<u64> {
        cost::harvest_run_ns(&self.session.overhead())
    }

    fn ended(&mut self) -> Option<&'static str> {
        (!is_running(self.pid)).then_some("the VMM has exited")
    }
}

/// Which MMU the host's KVM uses, as its modules' parameters say: `tdp mmu (ept)`, `shadow mmu`.
#[must_use]
pub fn mmu() -> String {
    let is_on = |name: &str| {
        std::fs::read_to_string(format!("/sys/module/{name}"))
            .is_ok_and(|text| matches!(text.trim(), "Y" | "1"))
    };
    let paging = [("kvm_intel/parameters/ept", "ept"), ("kvm_amd/parameters/npt", "npt")]
        .into_iter()
        .find(|(name, _)| Path::new("/sys/module").join(name).exists());
    match paging {
        Some((name, paging)) if is_on(name) && is_on("kvm/parameters/tdp_mmu") => {
            format!("tdp mmu ({paging})")
        }
        Some((name, paging)) if is_on(name) => format!("{paging} without tdp mmu"),
        Some(_) => String::from("shadow mmu"),
        // PVM runs guests without the CPU's help: it has nothing but shadow page tables.
        None if Path::new("/sys/module/kvm_pvm").exists() => String::from("shadow mmu (pvm)"),
        None => String::new(),
    }
}

/// Runs the command.
///
/// # Errors
/// The trace could not start or go on; the text says what to do.
pub fn run(args: &LiveArgs) -> Result<Outcome> {
    let pid = args.pid.expect("clap requires --pid here");
    let is_headless = args.headless || !std::io::stdout().is_terminal();
    let settings = screen::settings(&args.screen)?;
    let source = LiveSource::attach(pid, &args.trace)?;
    let setup = source.setup().clone();
    let tee: Option<Box<dyn Tee>> = match &args.output {
        Some(path) => {
            let header = recording::header(Origin::Live, &setup, pid);
            Some(Box::new(recording::Plain::create(path, &header)?))
        }
        None => None,
    };
    let facts = facts(pid, args.output.as_deref());
    let (capture, feed) = Capture::start(source, tee, setup.clone(), facts);
    if is_headless {
        follow(&capture, feed, &args.trace, Watched::Process(pid), &mut std::io::stdout())?;
        let summary = capture.stop()?;
        super::report::print_text(&summary, &setup)?;
        Ok(Outcome::of(&summary))
    } else {
        // A terminal that is gone must not cost the recording its end.
        let shown = screen::show(feed, settings);
        let summary = capture.stop()?;
        screen::after(&shown?);
        super::report::print_text(&summary, &setup)?;
        Ok(Outcome::of(&summary))
    }
}

/// The process exists and is no zombie: a VMM whose parent does not look keeps its entry in `/proc`.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in parentheses and may hold anything; the state is the first field after it.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}

/// What a session is about, for the screen.
#[must_use]
pub fn facts(pid: u32, file: Option<&Path>) -> Facts {
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Facts {
        pid,
        command: command.trim_end().to_owned(),
        mmu: mmu(),
        file: file.map(|path| path.display().to_string()).unwrap_or_default(),
        threads: threads(pid),
    }
}

/// Names of the process's threads: `CPU 0/KVM`, `live_migration`. Those that only have the process's own name are as
/// well told apart by their number.
fn threads(pid: u32) -> BTreeMap<Tid, String> {
    let name = |path: &Path| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
    let own = name(&Path::new("/proc").join(pid.to_string()));
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return BTreeMap::new();
    };
    let named = entries.flatten().filter_map(|entry| {
        let tid: u32 = entry.file_name().to_string_lossy().parse().ok()?;
        let name = name(&entry.path());
        (name != own && !name.trim().is_empty())
            .then(|| (Tid(tid), format!("{} (tid {tid})", name.trim())))
    });
    named.collect()
}

/// What ends a trace besides the user.
#[derive(Clone, Copy, Debug)]
pub enum Watched {
    /// The process is gone.
    Process(u32),
}

/// Waits until the trace is to end: a signal, the duration, the VMM's exit, the source's end. Prints one line per
/// second.
///
/// # Errors
/// Signals cannot be taken, or the lines not be written.
pub fn follow(
    capture: &Capture,
    mut feed: Feed,
    args: &TraceArgs,
    watched: Watched,
    lines: &mut dyn Write,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).context("take SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("take SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("take SIGHUP")?;
        let mut keep = signal(SignalKind::user_defined1()).context("take SIGUSR1")?;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let end = tokio::time::sleep(args.duration.unwrap_or(Duration::MAX / 4));
        tokio::pin!(end);
        let mut ticks = 0_u32;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => return Ok(()),
                _ = keep.recv() => capture.keep(),
                () = &mut end => return Ok(()),
                _ = tick.tick() => {
                    let Watched::Process(pid) = watched;
                    // Asked first: what has ended has already said why.
                    let has_ended = capture.has_ended();
                    let _ = feed.newest();
                    if let Stage::Ended(why) = &feed.seen().stage {
                        writeln!(lines, "{why}").context("print a line")?;
                        return Ok(());
                    }
                    if has_ended {
                        return Ok(());
                    }
                    if !is_running(pid) {
                        writeln!(lines, "process {pid} has exited").context("print a line")?;
                        return Ok(());
                    }
                    ticks += 1;
                    if ticks.is_multiple_of(10) {
                        writeln!(lines, "{}", line(&feed.seen().summary, feed.seen().overhead))
                            .context("print a line")?;
                    }
                }
            }
        }
    })
}

/// SIGINT, SIGTERM and SIGHUP end nothing from now on; the flag tells that one came.
///
/// # Errors
/// Signals cannot be taken.
pub fn on_signals() -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let flag = Arc::new(AtomicBool::new(false));
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("take SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("take SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("take SIGHUP")?;
    drop(guard);
    let raised = Arc::clone(&flag);
    // Not joined: it waits for signals as long as the process lives.
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                raised.store(true, Ordering::Release);
            }
        });
    });
    Ok(flag)
}

/// One line of progress.
fn line(summary: &Arc<Summary>, overhead: Option<Overhead>) -> String {
    let verdicts = &summary.verdicts;
    let cost = overhead.map_or(String::new(), |overhead| {
        format!("  probe {:.1} %  tool {:.1} %", overhead.probe_percent, overhead.tool_percent)
    });
    format!(
        "{:>6.1} s  events {}  dropped {}  harvests {}  lost {}  at-risk {}  exposed {}  unknown {}  safe {}{cost}",
        summary.covered_ns() as f64 / 1e9,
        summary.events,
        summary.dropped_events,
        summary.harvests_total,
        verdicts.lost,
        verdicts.at_risk,
        verdicts.exposed,
        verdicts.unknown,
        verdicts.safe,
    )
}
