//! `cargo xtask lab import`: trace-cmd records a guest in the lab beside the tool itself, as docs/import.md tells;
//! what it recorded is imported, judged, and compared with the tool's own recording of the same run.

mod compare;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    lab::{
        guest, kernel,
        machine::{Mmu, Output, Shape},
        payload::{self, Command, Job},
    },
    process,
    tools::trace_cmd::TraceCmd,
    workspace,
};
use compare::Judged;

/// Flags of `lab import`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Kernels to record on; all that docs/import.md speaks of without a name.
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// How the guest's log is read: `get`, `manual` or `ring`.
    #[arg(long, default_value = "get")]
    mode: String,
}

/// Kernels of the document, and the functions of its table that they have not.
const KERNELS: [(&str, &[&str]); 2] = [("6.1", &["fast_page_fault"]), ("6.12", &[])];

/// The page with the kprobes.
const PAGE: &str = "docs/import.md";

/// What all its probes are grouped under.
const GROUP: &str = "kvmdirty/";

/// Records on every kernel asked for; the status is 1 if anything comes out otherwise than it should.
///
/// # Errors
///
/// An unknown kernel, a machine that does not run, or trace-cmd cannot be had.
pub fn run(flags: &Flags) -> Result<ExitCode> {
    let all = KERNELS.map(|(name, _)| name.to_owned());
    let names = if flags.kernels.is_empty() { &all[..] } else { &flags.kernels };
    let mut complaints = Vec::new();
    for name in names {
        let (lines, wrong) = on(name, &flags.mode)?;
        println!("{name}, mode {}", flags.mode);
        lines.iter().for_each(|line| println!("  {line}"));
        complaints.extend(wrong.into_iter().map(|what| format!("{name}: {what}")));
    }
    complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was found on one kernel, and what is wrong with it.
///
/// # Errors
///
/// As [`run`].
pub fn on(name: &str, mode: &str) -> Result<(Vec<String>, Vec<String>)> {
    let trace_cmd = TraceCmd::find()?;
    let (run, refused) = record(name, mode, &trace_cmd)?;
    let missing = KERNELS.iter().find(|(kernel, _)| *kernel == name).map_or(&[][..], |k| k.1);
    let is_expected = |probe: &str| missing.iter().any(|function| probe.ends_with(function));
    let mut wrong: Vec<String> = refused
        .iter()
        .filter(|probe| !is_expected(probe))
        .map(|probe| format!("the kernel refuses `{probe}`"))
        .collect();
    let out = run.join("out");
    let tool = payload::static_tool()?;
    for version in ["v6", "v7"] {
        let text = File::create(out.join(format!("{version}.txt"))).context("create the text")?;
        let mut report = trace_cmd.command();
        report.args(["report", "-t"]).arg(out.join(format!("{version}.dat")));
        process::run(report.stdout(text).stderr(std::process::Stdio::null()))?;
    }
    let judge = |file: &str| Judged::import(&tool, &out.join(file));
    let native = Judged::native(&tool, &out.join("native.kdt"))?;
    let (v6, v7) = (judge("v6.dat")?, judge("v7.dat")?);
    let (text6, text7) = (judge("v6.txt")?, judge("v7.txt")?);
    let (poor, lossy) = (judge("poor.dat")?, judge("lossy.dat")?);
    for whole in [&v6, &v7] {
        wrong.extend(whole.complaints());
        wrong.extend(whole.differences(&native));
    }
    wrong.extend(text6.differences(&v6));
    wrong.extend(text7.differences(&v7));
    wrong.extend(native.complaints());
    wrong.extend(poor.complaints_of_poverty());
    wrong.extend(lossy.complaints_of_loss());
    let all = [&native, &v6, &text6, &v7, &text7, &poor, &lossy];
    Ok((all.map(Judged::line).into(), wrong))
}

/// Runs the machine; its folder, and the probes the kernel refused.
fn record(name: &str, mode: &str, trace_cmd: &TraceCmd) -> Result<(PathBuf, Vec<String>)> {
    let script = format!("MODE={mode}\n{}", include_str!("record.sh"));
    let mut job = Job::with_tool(Command::Shell(script))?;
    job.files = trace_cmd.files()?;
    job.files.push(("lab/kprobes".to_owned(), kprobes()?));
    let shape = Shape { mmu: Mmu::Tdp, cpus: 2, memory_mib: 1536, timeout_s: 900 };
    let folder = format!("import/{name}");
    let (run, resets) = guest::run(kernel::named(name)?, &shape, &job, &folder, Output::Kept)?;
    ensure!(!guest::is_every_run(resets), guest::no_result());
    let errors = fs::read_to_string(run.folder.join("stderr")).unwrap_or_default();
    ensure!(
        run.status == 0,
        "the machine's script ends with {}: {}",
        run.status,
        process::tail(&errors, 5)
    );
    let refused = fs::read_to_string(run.folder.join("out/refused")).unwrap_or_default();
    let probe = |line: &str| line.split([':', ' ']).nth(1).map(str::to_owned);
    Ok((run.folder, refused.lines().filter_map(probe).collect()))
}

/// The kprobes of the document, one a line, as a file.
fn kprobes() -> Result<PathBuf> {
    let page = workspace::root().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
    let probes = probes_of(&text);
    ensure!(!probes.is_empty(), "{PAGE} tells no probes");
    let folder = workspace::make(workspace::root().join("target/lab"))?;
    let file = folder.join("kprobes");
    fs::write(&file, probes).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

fn probes_of(page: &str) -> String {
    let is_probe = |line: &&str| {
        line.strip_prefix("p:").or(line.strip_prefix("r:")).is_some_and(|l| l.starts_with(GROUP))
    };
    page.lines().filter(is_probe).fold(String::new(), |all, line| all + line + "\n")
}

fn stem(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_of_the_documents_table_has_its_probes() {
        let page = fs::read_to_string(workspace::root().join(PAGE)).expect("the page is there");
        let probes = probes_of(&page);
        let functions = page.lines().filter_map(|line| {
            let (function, _) = line.strip_prefix("| `")?.split_once('`')?;
            page.contains(&format!("{GROUP}p_{function} ")).then_some(function)
        });
        let functions: Vec<&str> = functions.collect();
        assert!(functions.contains(&"mark_page_dirty_in_slot"), "{functions:?}");
        for function in functions {
            for kind in ["p", "r"] {
                assert!(probes.contains(&format!("{kind}:{GROUP}{kind}_{function} {function}")));
            }
        }
    }
}
