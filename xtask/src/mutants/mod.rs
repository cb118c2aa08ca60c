//! `cargo xtask lab mutants`: kernels broken on purpose, and whether the tool names the lost pages.

mod catalogue;
mod judgement;
mod mutant;
mod table;
mod tree;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    lab::{
        guest,
        kernel::MUTANT_BASE,
        machine::{self, Output, Shape},
        payload::{self, Command, Job},
    },
    workspace,
};
use judgement::Judgement;
use mutant::Mutant;
use table::Row;
use tree::Tree;

/// Where the table of a complete run goes.
const DOCUMENT: &str = "docs/mutants.md";

/// Flags of `lab mutants`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Mutants to run; all of them without a name. If all ran, docs/mutants.md is written.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// List the mutants and do nothing.
    #[arg(long)]
    list: bool,
    /// Build the modules and boot nothing.
    #[arg(long)]
    build_only: bool,
    /// Boot nothing: judge again what the last run of each left in target/lab/mutants. The document
    /// then says which mutants have no result.
    #[arg(long, conflicts_with_all = ["build_only", "record"])]
    kept: bool,
    /// Put the rows of the mutants named into docs/mutants.md.
    #[arg(long, requires = "names")]
    update: bool,
    /// Also keep each run's recording, in target/lab/mutants/NAME/out.
    #[arg(long)]
    record: bool,
    /// Seconds the guest of each mutant runs, unless its own flags say otherwise.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
}

/// Builds, boots and judges the mutants; the status is 1 if one is not caught.
///
/// # Errors
///
/// An unknown name, or something that cannot be fetched or built at all.
pub fn run(flags: &Flags) -> Result<ExitCode> {
    let mutants = wanted(&flags.names)?;
    if flags.list {
        for Mutant { name, bug, rules, .. } in mutants {
            println!("{name:28} {:14} {bug}", rules.join(","));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    let lab = if flags.kept { None } else { Some((Tree::prepare()?, payload::static_tool()?)) };
    for mutant in mutants {
        eprintln!("mutant {}: {}", mutant.name, mutant.bug);
        if let (true, Some((tree, _))) = (flags.build_only, &lab) {
            modules(tree, mutant)?;
            continue;
        }
        let ran = lab.iter().try_for_each(|(tree, tool)| boot(tree, tool, mutant, flags));
        let result = ran.and_then(|()| judge(mutant)).map_err(|error| match flags.kept {
            true => "no result of this version is kept".to_owned(),
            false => format!("{error:#}"),
        });
        let row = Row { mutant, result };
        eprintln!(
            "mutant {}: {}",
            mutant.name,
            if row.is_caught() { "caught" } else { "NOT caught" }
        );
        rows.push(row);
    }
    if flags.build_only {
        return Ok(ExitCode::SUCCESS);
    }
    let document = table::document(&MUTANT_BASE.image()?.release, &rows);
    print!("{document}");
    if !flags.names.is_empty() {
        print!("{}", table::pages(&rows));
    }
    if flags.names.is_empty() && (flags.kept || rows.iter().all(|row| row.result.is_ok())) {
        let path = workspace::root().join(DOCUMENT);
        fs::write(&path, document).with_context(|| format!("write {}", path.display()))?;
    }
    if flags.update {
        let path = workspace::root().join(DOCUMENT);
        let before =
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        fs::write(&path, table::with_rows(&before, &rows))
            .with_context(|| format!("write {}", path.display()))?;
    }
    let is_all_caught = rows.iter().all(Row::is_caught);
    Ok(if is_all_caught { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fetches and lays out what the mutants are built from.
///
/// # Errors
///
/// A package is gone from the mirror, or a build program is missing.
pub fn prepare() -> Result<()> {
    Tree::prepare().map(drop)
}

/// What came of a mutant in the test command: what is not as it should be, or why there is no result.
pub type Outcome = Result<Vec<String>, String>;

/// Builds, boots and judges some mutants, by name.
///
/// # Errors
///
/// Something cannot be fetched or built at all.
pub fn outcomes(names: &[&'static str]) -> Result<Vec<(&'static str, Outcome)>> {
    let flags = Flags {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        list: false,
        build_only: false,
        kept: false,
        update: false,
        record: false,
        seconds: 5,
    };
    let (tree, tool) = (Tree::prepare()?, payload::static_tool()?);
    let outcome = |mutant: &'static Mutant| {
        let judged = boot(&tree, &tool, mutant, &flags).and_then(|()| judge(mutant));
        if guest::is_every_run(guest::resets(&out(mutant), REPORT)) {
            return (mutant.name, Err(guest::no_result()));
        }
        let complaints = judged.map(|judgement| judgement.complaints(mutant));
        (mutant.name, Ok(complaints.unwrap_or_else(|error| vec![format!("{error:#}")])))
    };
    Ok(wanted(&flags.names)?.into_iter().map(outcome).collect())
}

fn wanted(names: &[String]) -> Result<Vec<&'static Mutant>> {
    let all = catalogue::all();
    if names.is_empty() {
        return Ok(all);
    }
    let named = |name: &String| {
        let found = all.iter().find(|mutant| mutant.name == name).copied();
        let Some(found) = found else {
            let known: Vec<&str> = all.iter().map(|mutant| mutant.name).collect();
            bail!("unknown mutant {name}: there are {}", known.join(", "));
        };
        Ok(found)
    };
    names.iter().map(named).collect()
}

/// The mutant's modules by name, built if they are not there.
fn modules(tree: &Tree, mutant: &Mutant) -> Result<Vec<(String, PathBuf)>> {
    let files: BTreeSet<&str> = catalogue::all()
        .iter()
        .flat_map(|mutant| mutant.edits.iter().map(|edit| edit.file))
        .collect();
    let folder = workspace::root().join("target/lab/modules").join(mutant.name);
    tree.build(mutant.edits, &files, &folder)
}

fn boot(tree: &Tree, tool: &Path, mutant: &Mutant, flags: &Flags) -> Result<()> {
    let folder = format!("mutants/{}", mutant.name);
    let modules = modules(tree, mutant)?;
    let job = Job {
        command: Command::Shell(script(mutant, flags)),
        programs: vec![("kvmdirty-trace".to_owned(), tool.to_owned())],
        files: Vec::new(),
        modules,
    };
    let Mutant { mmu, .. } = *mutant;
    let shape = Shape { mmu, cpus: CPUS, memory_mib: MEMORY_MIB, timeout_s: TIMEOUT_S };
    machine::run(&MUTANT_BASE, &shape, &job, &folder, Output::Kept)?;
    Ok(())
}

/// Judges what the mutant's run left.
fn judge(mutant: &Mutant) -> Result<Judgement> {
    let out = out(mutant);
    Judgement::read(&out, mutant.reach)
        .with_context(|| format!("no result of {} ({})", mutant.name, out.display()))
}

/// What the mutant's machine brought back.
fn out(mutant: &Mutant) -> PathBuf {
    workspace::root().join("target/lab/mutants").join(mutant.name).join("out")
}

/// The name of the guest in it.
const REPORT: &str = "report";

const CPUS: u32 = 2;
const MEMORY_MIB: u32 = 1536;
const TIMEOUT_S: u64 = 300;

/// Runs the demo's guest under the tool; what fired goes into a file beside the report.
fn script(mutant: &Mutant, flags: &Flags) -> String {
    let Mutant { setup, guest: words, .. } = mutant;
    let Flags { seconds, record, .. } = flags;
    let has_seconds = words.iter().any(|flag| flag.starts_with("--seconds"));
    let seconds = if has_seconds { String::new() } else { format!("--seconds {seconds}") };
    let words = words.join(" ");
    let function = guest::function();
    let output = if *record { "--output /out/report.kdt" } else { "" };
    format!(
        "echo 65536 > /sys/kernel/tracing/buffer_size_kb
{setup}
{function}
guest {REPORT} kvmdirty-trace demo --headless --json {seconds} {words} {output}
status=$?
grep -o 'mutant fired .*' /sys/kernel/tracing/trace | sort -u > /out/fired
dmesg > /out/dmesg
exit $status
"
    )
}
