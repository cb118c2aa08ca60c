//! The closing list of the test command.

use std::{process::ExitCode, time::Duration};

use anyhow::Error;

use super::needs::Missing;

/// How many checks a step made.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Checks that held.
    pub passed: u32,
    /// Checks that did not.
    pub failed: u32,
    /// Checks that were not made.
    pub skipped: u32,
    /// What a reader should know besides, such as measured numbers.
    pub note: String,
}

impl Tally {
    /// One check that held.
    pub fn one_passed(note: String) -> Self {
        Self { passed: 1, note, ..Self::default() }
    }
}

/// What became of a step.
#[derive(Debug)]
pub enum Outcome {
    /// It came to its end.
    Ran(Tally),
    /// It could not be carried out, or its one check failed.
    Failed(Error),
    /// The machine lacks what it needs.
    Skipped(Missing),
}

impl Outcome {
    fn tally(&self) -> Tally {
        match self {
            Self::Ran(tally) => tally.clone(),
            Self::Failed(_) => Tally { failed: 1, ..Tally::default() },
            Self::Skipped(_) => Tally { skipped: 1, ..Tally::default() },
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Ran(Tally { passed: 0, failed: 0, skipped: 1.., .. }) => "skipped",
            Self::Ran(Tally { failed: 0, .. }) => "passed",
            Self::Ran(_) | Self::Failed(_) => "FAILED",
            Self::Skipped(_) => "skipped",
        }
    }

    fn remark(&self) -> String {
        match self {
            Self::Ran(tally) => tally.note.clone(),
            Self::Failed(error) => format!("{error:#}"),
            Self::Skipped(Missing { why, remedy }) => format!("{why}; to run it: {remedy}"),
        }
    }
}

/// One line of the list.
#[derive(Debug)]
pub struct Line {
    /// The step.
    pub name: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// Prints the list and the counts; the status is 1 if anything failed.
pub fn print(lines: &[Line]) -> ExitCode {
    println!("\n== what ran, and what did not");
    for Line { name, outcome, took } in lines {
        let word = outcome.word();
        println!("{word:8} {name:40} {:5} s  {}", took.as_secs(), outcome.remark());
    }
    let Tally { passed, failed, skipped, .. } = sum(lines);
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn sum(lines: &[Line]) -> Tally {
    lines.iter().map(|line| line.outcome.tally()).fold(Tally::default(), |sum, one| Tally {
        passed: sum.passed + one.passed,
        failed: sum.failed + one.failed,
        skipped: sum.skipped + one.skipped,
        note: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_without_a_result_has_not_passed() {
        let nothing = Tally { skipped: 1, ..Tally::default() };
        assert_eq!(Outcome::Ran(nothing).word(), "skipped");
        assert_eq!(Outcome::Ran(Tally::one_passed(String::new())).word(), "passed");
    }

    #[test]
    fn a_step_that_could_not_run_counts_once() {
        let missing = Missing { why: "no /dev/kvm".to_owned(), remedy: "run on a host with it" };
        let outcomes = [
            Outcome::Ran(Tally { passed: 7, failed: 1, skipped: 2, note: String::new() }),
            Outcome::Failed(anyhow::anyhow!("no compiler")),
            Outcome::Skipped(missing),
        ];
        let lines = outcomes.map(|outcome| Line { name: "a", outcome, took: Duration::ZERO });
        let expected = Tally { passed: 7, failed: 2, skipped: 3, note: String::new() };
        assert_eq!(sum(&lines), expected);
    }
}
