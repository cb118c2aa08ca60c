//! `cargo xtask lab long`: a healthy kernel traced for millions of events, judged there and, from its recording, here.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{
    lab::{
        guest::{self, Ran},
        kernel,
        machine::{self, Mmu, Output, Shape},
        payload::{self, Command, Job},
        report::{Report, Verdicts},
    },
    matrix::document::{self, Section},
    process,
};

/// Flags of `lab long`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The kernel.
    #[arg(value_name = "KERNEL", default_value = "6.12")]
    kernel: String,
    /// Seconds the guest runs.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Events the recording must have.
    #[arg(long, default_value_t = 10_000_000)]
    events: u64,
}

/// The guest: two vCPUs that fault as often as they can.
const GUEST: &str = "--mode get --vcpus 2 --pages 4096 --interval 5";

/// The part of `check --json` that is compared and shown.
#[derive(Debug, Clone, Deserialize)]
struct Checked {
    events: u64,
    dropped_events: u64,
    harvests: u64,
    integrity_violations: u64,
    verdicts: Verdicts,
    unknown_causes: BTreeMap<String, u64>,
}

/// A run that came to its end.
struct Run {
    release: String,
    seconds: u64,
    /// What the tool said in the lab, while the guest ran.
    live: Report,
    /// What the recording says on this machine.
    checked: Checked,
    /// Size of the recording.
    bytes: u64,
}

/// Traces the guest, checks its recording here, and writes both down; the status is 1 if something is not as it should
/// be on a healthy kernel.
///
/// # Errors
///
/// An unknown kernel, a machine that does not run, or a recording that cannot be read.
pub fn run(flags: &Flags) -> Result<ExitCode> {
    let run = record(flags)?;
    let section = section(&run);
    print!("{section}");
    document::write(Section::Long, &section)?;
    let complaints = complaints(&run, flags.events);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn record(flags: &Flags) -> Result<Run> {
    let Flags { kernel, seconds, .. } = flags;
    let script = guest::function()
        + &format!(
            "guest long kvmdirty-trace demo --headless --json --seconds {seconds} {GUEST} \
             --output /out/long.kdt"
        );
    let job = Job::with_tool(Command::Shell(script))?;
    // Twice the guest's time: the emulated clock lags behind on a busy machine. And twice that: see [`guest`].
    let timeout_s = 4 * seconds + 300;
    let shape = Shape { mmu: Mmu::Tdp, cpus: 2, memory_mib: 2048, timeout_s };
    let folder = format!("long/{kernel}");
    let run = machine::run(kernel::named(kernel)?, &shape, &job, &folder, Output::Kept)?;
    let out = run.folder.join("out");
    let recording = out.join("long.kdt");
    let Ran { report, resets } = Ran::read(&out, "long");
    let live = report.with_context(|| format!("long run ({})", run.folder.display()))?;
    if 0 < resets {
        eprintln!("{}", guest::in_words(resets));
    }
    let bytes = fs::metadata(&recording).map_or(0, |file| file.len());
    let checked = check(&recording)?;
    Ok(Run { release: run.release, seconds: *seconds, live, checked, bytes })
}

/// Judges a recording on this machine.
fn check(recording: &Path) -> Result<Checked> {
    let mut check = std::process::Command::new(payload::static_tool()?);
    check.arg("check").arg(recording).args(["--final", "--json"]);
    // Any status: the numbers are judged by [`complaints`].
    let output = check.output().context("start the tool")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!text.is_empty(), "the recording was not checked: {}", process::tail(&errors, 5));
    serde_json::from_str(&text).context("read the report of the recording")
}

fn section(run: &Run) -> String {
    let Run { release, seconds, live, checked, bytes } = run;
    let mut text = format!(
        "{}\nWritten by `cargo xtask lab long`: {release}, TDP MMU, `{GUEST}`, {seconds} s.\nThe \
         lab's tool judged while the guest ran; `check --final` judged the recording ({bytes} bytes) on the \
         machine\nthe lab ran on.\n\n\
         | judged | events | dropped | integrity | harvests | lost | at risk | exposed | safe | unknown | content |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n",
        document::heading(Section::Long)
    );
    let here = Checked {
        events: live.events,
        dropped_events: live.dropped_events,
        harvests: live.harvests,
        integrity_violations: live.integrity_violations,
        verdicts: live.verdicts.clone(),
        unknown_causes: live.unknown_causes.clone(),
    };
    let oracle = &live.oracle;
    let content = format!("{} of {} lost", oracle.lost_pages, oracle.compared);
    for (place, checked, content) in [("live", &here, content.as_str()), ("recording", checked, "")]
    {
        let Checked { events, dropped_events, harvests, integrity_violations, verdicts, .. } =
            checked;
        let Verdicts { lost, at_risk, exposed, safe, unknown } = verdicts;
        let _ = writeln!(
            text,
            "| {place} | {events} | {dropped_events} | {integrity_violations} | {harvests} | {lost} | \
             {at_risk} | {exposed} | {safe} | {unknown} ({:.4} %) | {content} |",
            share(verdicts),
        );
    }
    for (cause, count) in &checked.unknown_causes {
        let _ = writeln!(text, "\nUnknown by cause: {cause} {count}.");
    }
    text
}

/// Percent of all verdicts that are `unknown`.
fn share(verdicts: &Verdicts) -> f64 {
    let Verdicts { lost, at_risk, exposed, safe, unknown } = *verdicts;
    100.0 * unknown as f64 / (lost + at_risk + exposed + safe + unknown).max(1) as f64
}

fn complaints(run: &Run, events_min: u64) -> Vec<String> {
    let Run { live, checked, .. } = run;
    let mut complaints = live.complaints();
    let Checked { events, dropped_events, integrity_violations, verdicts, .. } = checked;
    let wrong = [
        (
            *events < events_min,
            format!("{events} events, not {events_min}: a longer --seconds makes more"),
        ),
        (*events != live.events, format!("{} events live, {events} recorded", live.events)),
        (0 < *dropped_events, format!("{dropped_events} dropped records in the recording")),
        (0 < *integrity_violations, format!("{integrity_violations} integrity violations")),
        (0 < verdicts.lost + verdicts.at_risk, "hazards in the recording".to_owned()),
    ];
    complaints.extend(wrong.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, what)| what));
    complaints
}
