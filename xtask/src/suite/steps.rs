//! The steps of the test command, in order. A new step is a row of [`STEPS`].

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};

use super::{dashboard, needs::Need, readers, report::Tally, traced};
use crate::{
    ebpf, import,
    lab::{
        self, kernel,
        machine::{self, Mmu, Output, Shape},
        payload::{Command, Job},
    },
    mutants, process, tidy,
};

/// One step.
pub struct Step {
    /// What the list calls it.
    pub name: &'static str,
    /// What the machine must have; the first that is missing skips the step.
    pub needs: &'static [Need],
    /// Does the work. An error is one failed check.
    pub action: fn() -> Result<Tally>,
}

/// Every step, cheap ones first.
pub const STEPS: [Step; 24] = [
    Step { name: "format", needs: &[], action: format },
    Step { name: "house style", needs: &[], action: house_style },
    Step { name: "lints", needs: &[], action: lints },
    Step { name: "unit and integration tests", needs: &[], action: cargo_tests },
    Step {
        name: "dashboard of a recording",
        needs: &[Need::Tmux],
        action: dashboard::of_a_recording,
    },
    Step { name: "dashboard of a hazard", needs: &[Need::Tmux], action: dashboard::of_a_hazard },
    Step {
        name: "dashboard of a live guest",
        needs: &[Need::Kvm, Need::Bpf, Need::Tmux],
        action: dashboard::of_a_live_guest,
    },
    Step {
        name: "exports read by others",
        needs: &[Need::Python],
        action: readers::exports_are_read_by_others,
    },
    Step { name: "BPF object", needs: &[Need::ProbeToolchain], action: bpf_object },
    Step { name: "traced here, mode get", needs: LIVE, action: || traced::on_this_host("get") },
    Step {
        name: "traced here, mode manual",
        needs: LIVE,
        action: || traced::on_this_host("manual"),
    },
    Step {
        name: "traced here, mode manual-initset",
        needs: LIVE,
        action: || traced::on_this_host("manual-initset"),
    },
    Step { name: "traced here, mode ring", needs: LIVE, action: || traced::on_this_host("ring") },
    Step { name: "lab 5.10 boots", needs: &[Need::Kernel("5.10")], action: || boots("5.10") },
    Step { name: "lab 6.1 boots", needs: &[Need::Kernel("6.1")], action: || boots("6.1") },
    Step { name: "lab 6.12 boots", needs: &[Need::Kernel("6.12")], action: || boots("6.12") },
    Step { name: "lab 7.3 boots", needs: &[Need::Kernel("7.3")], action: || boots("7.3") },
    Step {
        name: "traced in lab 6.1",
        needs: &[Need::Kernel("6.1")],
        action: || traced::in_lab("6.1", Mmu::Tdp, "get"),
    },
    Step {
        name: "traced in lab 6.12",
        needs: &[Need::Kernel("6.12")],
        action: || traced::in_lab("6.12", Mmu::Tdp, "get"),
    },
    Step {
        name: "traced in lab 6.12, shadow MMU",
        needs: &[Need::Kernel("6.12")],
        action: || traced::in_lab("6.12", Mmu::Shadow, "manual"),
    },
    Step {
        name: "traced in lab 5.10",
        needs: &[Need::Kernel("5.10")],
        action: || traced::in_lab("5.10", Mmu::Tdp, "get"),
    },
    Step {
        name: "traced in lab 7.3, dirty ring",
        needs: &[Need::Kernel("7.3")],
        action: || traced::in_lab("7.3", Mmu::Tdp, "ring"),
    },
    Step {
        name: "trace-cmd in lab 6.12, imported",
        needs: &[Need::Kernel("6.12"), Need::TraceCmd],
        action: imported,
    },
    Step { name: "kernels broken on purpose", needs: &[Need::KvmSource], action: broken_kernels },
];

/// A guest of our own, traced on this host.
const LIVE: &[Need] = &[Need::Kvm, Need::Bpf];

fn format() -> Result<Tally> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Tally::one_passed(String::new()))
}

fn house_style() -> Result<Tally> {
    let findings = tidy::findings()?;
    for tidy::Finding { path, line, what } in &findings {
        println!("{}:{line}: {what}", path.display());
    }
    ensure!(findings.is_empty(), "{} breaches, listed above", findings.len());
    Ok(Tally::one_passed(String::new()))
}

/// Everything but the probe, which only builds for its own target.
const HOST_CRATES: [&str; 3] = ["--workspace", "--exclude", "probe-ebpf"];

fn lints() -> Result<Tally> {
    let mut clippy = process::cargo();
    clippy.arg("clippy").args(HOST_CRATES).args(["--all-targets", "--", "-D", "warnings"]);
    process::run(&mut clippy)?;
    Ok(Tally::one_passed(String::new()))
}

fn cargo_tests() -> Result<Tally> {
    let mut cargo = process::cargo();
    cargo.arg("test").args(HOST_CRATES).arg("--no-fail-fast");
    let (succeeded, said) = process::stream(&mut cargo)?;
    let tally = count_tests(&said);
    if !succeeded && tally.failed == 0 {
        bail!("the tests do not build, or a test binary died");
    }
    Ok(tally)
}

/// Adds up the `test result:` lines of cargo's output.
fn count_tests(said: &str) -> Tally {
    let mut tally = Tally::default();
    for line in said.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        let count = |word: &str| {
            let before = line.split(word).next().unwrap_or_default();
            before.split_whitespace().next_back().and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        tally.passed += count(" passed");
        tally.failed += count(" failed");
        tally.skipped += count(" ignored");
    }
    tally.note = format!("{} tests", tally.passed + tally.failed);
    tally
}

fn bpf_object() -> Result<Tally> {
    match ebpf::check()? {
        Ok(()) => Ok(Tally::one_passed("rebuilt, bit for bit".to_owned())),
        Err(difference) => bail!(difference),
    }
}

/// The machine the lab steps use.
pub const SHAPE: Shape = Shape { mmu: Mmu::Tdp, cpus: 2, memory_mib: 1024, timeout_s: 300 };

fn boots(name: &str) -> Result<Tally> {
    let job = Job::with_tool(Command::Shell(lab::SELF_CHECK.to_owned()))?;
    let run = machine::run(kernel::named(name)?, &SHAPE, &job, name, Output::Kept)?;
    let stdout = run.folder.join("stdout");
    let said = fs::read_to_string(&stdout).with_context(|| format!("read {}", stdout.display()))?;
    print!("{said}");
    ensure!(run.status == 0, "the self-check in the machine ends with status {}", run.status);
    Ok(Tally::one_passed(format!(
        "{}; up after {:.1} s, off after {:.1} s, {} retries",
        run.release,
        run.boot.as_secs_f64(),
        run.whole.as_secs_f64(),
        run.retries
    )))
}

/// The mutants that run here: one for each step of the protocol. The others are a command of their
/// own, `cargo xtask lab mutants`.
const BROKEN: [&str; 4] =
    ["healthy", "fast-fault-marks-first", "harvest-unflushed", "harvest-unprotected"];

/// What trace-cmd records beside the tool says the same.
fn imported() -> Result<Tally> {
    let (lines, wrong) = import::on("6.12", "get")?;
    lines.iter().for_each(|line| println!("{line}"));
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    let passed = u32::try_from(lines.len()).context("count the recordings")?;
    Ok(Tally { passed, note: "trace.dat 6 and 7 and their text".to_owned(), ..Tally::default() })
}

fn broken_kernels() -> Result<Tally> {
    let mut tally = Tally::default();
    for (name, outcome) in mutants::outcomes(&BROKEN)? {
        match outcome {
            Ok(complaints) if complaints.is_empty() => tally.passed += 1,
            Ok(complaints) => {
                tally.failed += 1;
                println!("{name}: {}", complaints.join("; "));
            }
            Err(reason) => {
                tally.skipped += 1;
                println!("{name}: {reason}");
            }
        }
    }
    tally.note = BROKEN.join(", ");
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_test_binaries_add_up() {
        let said = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured\nnoise\n\
                    test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured\n";
        let Tally { passed, failed, skipped, .. } = count_tests(said);
        assert_eq!((passed, failed, skipped), (15, 2, 1));
    }
}
