//! `cargo xtask lab finding`: runs again, on stock kernels, what a page of docs/findings/ describes.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    lab::{
        guest::{self, Ran},
        kernel,
        machine::{self, Mmu, Output, Shape},
        payload::{Command, Job},
        report::LostPage,
    },
    workspace,
};

/// Flags of `lab finding`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Which finding.
    #[arg(value_enum)]
    finding: Finding,
    /// Kernels to run; all the finding speaks of without a name. If all ran, its page is updated.
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Seconds each guest runs.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
}

/// The findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Finding {
    /// A signal ends a reset of dirty rings between popping entries and protecting their pages.
    RingReset,
}

/// The page that keeps the table.
const PAGE: &str = "docs/findings/kernel-dirty-ring-reset-eintr.md";
/// What stands around the table in it.
const MARKS: [&str; 2] = ["<!-- begin: cargo xtask lab finding ring-reset -->\n", "<!-- end -->\n"];

/// Kernels with the dirty ring, and whether they lose pages.
const KERNELS: [(&str, Expected); 3] =
    [("6.1", Expected::Whole), ("6.12", Expected::Whole), ("7.3", Expected::Loses)];

/// What a kernel is known to do when signals hit the reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Whole,
    Loses,
}

/// The guest: all pages are written over and over, so that a page left writable is written again.
const GUEST: &str = "--mode=ring --pages=512 --interval=10 --ring-entries=8192";

/// What came of one guest.
#[derive(Debug)]
struct Row {
    release: String,
    expected: Expected,
    has_signals: bool,
    signals: u64,
    resets: usize,
    /// Resets of a ring that returned -EINTR.
    interrupted: usize,
    lost: Vec<LostPage>,
    /// Pages named `lost` or `at-risk` under K06, and under other rules.
    named: BTreeSet<u64>,
    beside: usize,
    dropped: u64,
}

/// Runs a finding again; the status is 1 if it does not come out as its page says.
///
/// # Errors
///
/// An unknown kernel, or a machine that does not run.
pub fn run(flags: &Flags) -> Result<ExitCode> {
    match flags.finding {
        Finding::RingReset => ring_reset(flags),
    }
}

fn ring_reset(flags: &Flags) -> Result<ExitCode> {
    let is_wanted =
        |name: &str| flags.kernels.is_empty() || flags.kernels.iter().any(|n| n == name);
    let kernels: Vec<_> = KERNELS.into_iter().filter(|(name, _)| is_wanted(name)).collect();
    let known = KERNELS.map(|(name, _)| name).join(", ");
    ensure!(flags.kernels.len() <= kernels.len(), "this finding is about the kernels {known}");
    let mut rows = Vec::new();
    for (name, expected) in kernels {
        eprintln!("finding ring-reset: {name}");
        rows.extend(boot(name, expected, flags.seconds)?);
    }
    let table = table(&rows);
    print!("{table}");
    if flags.kernels.is_empty() {
        update(&table)?;
    }
    let complaints: Vec<String> = rows.iter().flat_map(Row::complaints).collect();
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots a kernel and runs the guest in it twice, with signals and without.
fn boot(name: &str, expected: Expected, seconds: u32) -> Result<Vec<Row>> {
    let job = Job::with_tool(Command::Shell(script(seconds)))?;
    let shape = Shape { mmu: Mmu::Tdp, cpus: 4, memory_mib: 1536, timeout_s: 300 };
    let folder = format!("finding/ring-reset-{name}");
    let run = machine::run(kernel::named(name)?, &shape, &job, &folder, Output::Kept)?;
    let out = run.folder.join("out");
    let row = |has_signals| Row::read(&out, run.release.clone(), expected, has_signals);
    [true, false].into_iter().map(row).collect()
}

fn script(seconds: u32) -> String {
    let guest = |name: &str, more: &str| {
        format!(
            "guest {name} kvmdirty-trace demo --headless --json --seconds {seconds} {GUEST} {more} \
             --output /out/{name}.kdt
kvmdirty-trace export /out/{name}.kdt --format jsonl --kind ring-reset > /out/{name}.ring-resets\n"
        )
    };
    guest::function()
        + &guest(name_of(true), "--workload=ring-signals")
        + &guest(name_of(false), "")
}

const fn name_of(has_signals: bool) -> &'static str {
    if has_signals { "signals" } else { "quiet" }
}

impl Row {
    fn read(out: &Path, release: String, expected: Expected, has_signals: bool) -> Result<Self> {
        let file =
            |ending: &str| -> PathBuf { out.join(format!("{}.{ending}", name_of(has_signals))) };
        let Ran { report, resets: guest_resets } = Ran::read(out, name_of(has_signals));
        let report = report.with_context(|| format!("{release} ({})", name_of(has_signals)))?;
        if 0 < guest_resets {
            eprintln!("{release} ({}): {}", name_of(has_signals), guest::in_words(guest_resets));
        }
        let resets = file("ring-resets");
        let resets =
            fs::read_to_string(&resets).with_context(|| format!("read {}", resets.display()))?;
        let resets: Vec<&str> =
            resets.lines().filter(|line| line.contains("\"kind\":\"ring-reset\"")).collect();
        let interrupted = resets.iter().filter(|line| line.contains("\"ret\":-4")).count();
        let mut named = BTreeSet::new();
        let mut beside = 0;
        for finding in &report.hazards {
            match finding.page() {
                Some(gfn) if finding.rule == "K06" => {
                    named.insert(gfn);
                }
                _ => beside += 1,
            }
        }
        Ok(Self {
            release,
            expected,
            has_signals,
            signals: report.guest.workloads.iter().map(|workload| workload.done).sum(),
            resets: resets.len(),
            interrupted,
            lost: report.guest.vms.into_iter().flat_map(|vm| vm.lost).collect(),
            named,
            beside,
            dropped: report.dropped_events,
        })
    }

    /// Lost pages the tool did not name.
    fn missed(&self) -> usize {
        self.lost.iter().filter(|page| !self.named.contains(&page.gfn)).count()
    }

    fn complaints(&self) -> Vec<String> {
        let loses = self.has_signals && self.expected == Expected::Loses;
        let wrong = [
            (loses && self.lost.is_empty(), "no page was lost by content"),
            (!loses && !self.lost.is_empty(), "pages were lost by content"),
            (!loses && !self.named.is_empty(), "pages were named under K06"),
            (0 < self.missed(), "lost pages were not named under K06"),
            (0 < self.beside, "findings under other rules"),
            (0 < self.dropped, "records were dropped"),
        ];
        let name = name_of(self.has_signals);
        let wrong = wrong.into_iter().filter(|&(is_wrong, _)| is_wrong);
        wrong.map(|(_, what)| format!("{} ({name}): {what}", self.release)).collect()
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| kernel | signals sent into resets | ring resets | of these -EINTR | pages lost by content \
         | of these named K06 | named K06 | other findings | records dropped |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let Row { release, signals, resets, interrupted, beside, dropped, .. } = row;
        let (lost, named) = (row.lost.len(), row.named.len());
        let caught = lost - row.missed();
        let signals = if row.has_signals { signals.to_string() } else { "none".to_owned() };
        let _ = writeln!(
            text,
            "| {release} | {signals} | {resets} | {interrupted} | {lost} | {caught} | {named} | \
             {beside} | {dropped} |"
        );
    }
    for row in rows.iter().filter(|row| !row.lost.is_empty()) {
        let _ = write!(
            text,
            "\nThe first of the lost pages on {}: the word that differs in guest memory, and in the \
             copy made when\nthe page was last reported. The guest counts these words up.\n\n\
             | gfn | offset | guest | copy |\n|---|--:|--:|--:|\n",
            row.release
        );
        for LostPage { gfn, offset, guest, copied } in row.lost.iter().take(8) {
            let _ = writeln!(text, "| {gfn:#x} | {offset} | {guest} | {copied} |");
        }
    }
    text
}

/// Puts the table into its page.
fn update(table: &str) -> Result<()> {
    let path = workspace::root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let [begin, end] = MARKS;
    let parts = page.split_once(begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(end)?;
        Some((before, after))
    });
    let (before, after) = parts.with_context(|| format!("{PAGE} has lost its marks"))?;
    fs::write(&path, format!("{before}{begin}\n{table}\n{end}{after}"))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(expected: Expected, lost: &[u64], named: &[u64]) -> Row {
        let page = |&gfn| LostPage { gfn, offset: 0, guest: 2, copied: 1 };
        Row {
            release: "x".to_owned(),
            expected,
            has_signals: true,
            signals: 1,
            resets: 1,
            interrupted: 1,
            lost: lost.iter().map(page).collect(),
            named: named.iter().copied().collect(),
            beside: 0,
            dropped: 0,
        }
    }

    #[test]
    fn a_lost_page_without_a_name_and_a_loss_on_a_whole_kernel_are_complained_about() {
        assert_eq!(row(Expected::Loses, &[7], &[7, 8]).complaints(), Vec::<String>::new());
        let unnamed = row(Expected::Loses, &[7], &[8]).complaints();
        assert_eq!(unnamed, ["x (signals): lost pages were not named under K06"]);
        let whole = row(Expected::Whole, &[7], &[7]).complaints();
        assert_eq!(whole.len(), 2, "{whole:?}");
    }

    #[test]
    fn the_page_has_room_for_the_table() {
        let page = fs::read_to_string(workspace::root().join(PAGE)).expect("the page is there");
        assert!(MARKS.iter().all(|mark| page.contains(mark)));
    }
}
