//! Guests of the demo in a machine, and what to make of one that the emulator reset.
//!
//! The emulator's nested SVM has ended the demo's guest in a shutdown, now and then and mostly on idle cores: see
//! [`WAS_RESET`]. Such a run says nothing about the tool. Whoever runs a guest does it through this file: the reset is
//! told and counted, the guest runs once more, and if that ends the same way there is no result, neither a pass nor a
//! failure of the tool.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, anyhow};

use super::{
    kernel::Kernel,
    machine::{self, Output, Run, Shape},
    payload::Job,
    report::Report,
};

/// What the demo says of a guest that was reset.
///
/// Seen mostly on idle cores: in 3 of 9 runs (7.3 and a rebuilt 6.12), in 1 of 6 guests of ten seconds that nothing
/// traced (6.12), in some three of several hundred on busy cores; never on a processor. Once, in the run after such
/// a one, the machine's own kernel found the end of a vCPU thread's stack overwritten: the emulator writes to wrong
/// places, and no probe is needed for it. The registers say nothing: KVM resets a vCPU that shuts down
/// (`shutdown_interception()`), so its rip is always 0xfff0. The guest has no interrupt table, so any exception
/// ends there.
pub const WAS_RESET: &str = "left the guest unexpectedly: Shutdown";

/// Runs of one guest before there is no result.
const RUNS_MAX: usize = 2;

/// Defines `guest NAME COMMAND...` for a job of the machine. In /out it leaves NAME.json with what the command prints,
/// NAME.errors, NAME.status, and a line in NAME.resets for each run that the emulator ended by a reset.
pub fn function() -> String {
    let attempts = (1..=RUNS_MAX).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    format!(
        "guest() {{
    name=$1; shift
    for attempt in {attempts}; do
        rm -f /out/$name.kdt
        \"$@\" > /out/$name.json 2> /out/$name.errors
        status=$?
        echo $status > /out/$name.status
        grep '{WAS_RESET}' /out/$name.errors >> /out/$name.resets || return $status
    done
    return $status
}}
"
    )
}

/// What `guest` left of one guest.
#[derive(Debug)]
pub struct Ran {
    /// The tool's report, or why there is none.
    pub report: Result<Report>,
    /// Runs that the emulator ended; the report is of the one after them.
    pub resets: usize,
}

impl Ran {
    /// Reads what came back of the guest called so.
    pub fn read(out: &Path, name: &str) -> Self {
        let file = |ending: &str| out.join(format!("{name}.{ending}"));
        let resets = resets(out, name);
        let report = if is_every_run(resets) {
            Err(anyhow!(no_result()))
        } else if file("json").is_file() {
            Report::read(&file("json"))
        } else {
            Err(anyhow!("it left no report"))
        };
        Self { report, resets }
    }

    /// Nothing can be said of the guest.
    pub fn has_no_result(&self) -> bool {
        is_every_run(self.resets)
    }
}

/// Runs of the guest called so that the emulator ended.
pub fn resets(out: &Path, name: &str) -> usize {
    fs::read_to_string(out.join(format!("{name}.resets"))).unwrap_or_default().lines().count()
}

/// The emulator ended so many runs that none is left to be judged.
pub fn is_every_run(resets: usize) -> bool {
    RUNS_MAX <= resets
}

/// The tool's exit status in the run that counts.
///
/// # Errors
///
/// The guest did not come to its end.
pub fn status(out: &Path, name: &str) -> Result<u8> {
    let file = out.join(format!("{name}.status"));
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    text.trim().parse().context("read the tool's exit status")
}

/// The count in words, for a table or a line; empty without resets.
pub fn in_words(resets: usize) -> String {
    match resets {
        0 => String::new(),
        1 => "the emulator reset the guest in a run before".to_owned(),
        more => format!("the emulator reset the guest in {more} runs"),
    }
}

/// Why there is no result.
pub fn no_result() -> String {
    format!("no result: the emulator reset the guest in each of {RUNS_MAX} runs")
}

/// Boots a machine whose job runs guests by itself, not with `guest`; again if one of them was reset. The second value
/// counts the runs that were.
///
/// # Errors
///
/// As [`machine::run`].
pub fn run(
    kernel: &Kernel,
    shape: &Shape,
    job: &Job,
    folder: &str,
    output: Output,
) -> Result<(Run, usize)> {
    let mut resets = 0;
    loop {
        let run = machine::run(kernel, shape, job, folder, output)?;
        let errors = fs::read_to_string(run.folder.join("stderr")).unwrap_or_default();
        if !errors.contains(WAS_RESET) {
            return Ok((run, resets));
        }
        resets += 1;
        if is_every_run(resets) {
            eprintln!("{folder}: {}", no_result());
            return Ok((run, resets));
        }
        eprintln!("{folder}: the emulator reset a vCPU of the guest; it runs once more");
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::workspace;

    /// Runs `guest probe sh -c SCRIPT` with /out in a folder of its own; the exit status.
    fn guest(folder: &Path, script: &str) -> Option<i32> {
        let out = folder.display().to_string();
        let job = format!("{}guest probe sh -c '{script}'", function()).replace("/out", &out);
        Command::new("sh").args(["-c", &job]).status().expect("a shell").code()
    }

    fn folder(name: &str) -> std::path::PathBuf {
        workspace::make_empty(
            std::env::temp_dir().join(format!("kvmdirty-guest-{name}-{}", std::process::id())),
        )
        .expect("a folder")
    }

    #[test]
    fn a_guest_that_is_not_reset_runs_once_and_keeps_its_status() {
        let out = folder("once");
        assert_eq!(guest(&out, "exit 1"), Some(1));
        let ran = Ran::read(&out, "probe");
        assert_eq!((ran.resets, ran.has_no_result()), (0, false));
        assert_eq!(status(&out, "probe").ok(), Some(1));
        let _ = fs::remove_dir_all(out);
    }

    #[test]
    fn a_reset_guest_runs_once_more_and_the_reset_is_counted() {
        let out = folder("again");
        let script = format!(
            "if [ -e {0}/was ]; then exit 0; fi; touch {0}/was; echo \"vm 0 vcpu 0 {WAS_RESET}\" >&2; exit 2",
            out.display()
        );
        assert_eq!(guest(&out, &script), Some(0));
        let ran = Ran::read(&out, "probe");
        assert_eq!((ran.resets, ran.has_no_result()), (1, false));
        assert_eq!(status(&out, "probe").ok(), Some(0));
        let _ = fs::remove_dir_all(out);
    }

    #[test]
    fn a_guest_that_is_reset_every_time_has_no_result() {
        let out = folder("never");
        let script = format!("echo {{}}; echo \"vm 0 vcpu 0 {WAS_RESET}\" >&2; exit 2");
        assert_eq!(guest(&out, &script), Some(2));
        let ran = Ran::read(&out, "probe");
        assert!(ran.has_no_result());
        assert_eq!(ran.report.map(drop).map_err(|error| error.to_string()), Err(no_result()));
        let _ = fs::remove_dir_all(out);
    }
}
