//! Litmus files: a trace a person can write and read, and the verdict it must get (docs/litmus.md).
//!
//! ```text
//! # fixed by edde99ce0529: pages were protected before the bitmap was swapped
//! setup      epsilon=0
//! harvester  slot-state    slot=0:0+log+map base=0x0 npages=64 commit
//! harvester  ioctl-begin   op=get-dirty-log
//! vcpu0      mark          gfn=0x7 word=0x80
//! harvester  harvest-word  first=0x0 mask=[0x7]
//! harvester  ioctl-end     op=get-dirty-log
//! expect     lost K04 gfn=0x7
//! ```
//!
//! The words of kinds and fields are those of [`kvmdirty_common::Kind`] and [`crate::event::EventKind`]. Reading and
//! writing are pure; a file that cannot be read is a [`LitmusError`] that names the line and the remedy.

mod field;

mod value;

mod schema;

mod expect;

mod read;

mod write;

use std::collections::BTreeMap;

use crate::event::{Batch, Setup, Tid, decode, encode};
use crate::verdict::detector::detached;
use crate::verdict::{Finding, RuleId, WindowKind, Witness};

pub use expect::{Expectation, Mismatch, Place, check};
pub use field::Problem;

/// A trace with its setup and what is expected of its judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Litmus {
    /// The leading comment, without its `#`; the first line names the kernel commit or the origin.
    pub title: String,
    /// What the pipeline is told.
    pub setup: Setup,
    /// Names of threads; a thread without a name is written `t<tid>`.
    pub threads: BTreeMap<Tid, String>,
    /// The records, in the order of the file's lines, and the gaps.
    pub batch: Batch,
    /// Trailing comments of event lines, by index of the record.
    pub notes: BTreeMap<usize, String>,
    /// The expected judgement.
    pub expectations: Vec<Expectation>,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LitmusError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it, and the remedy.
    #[source]
    pub problem: Problem,
}

impl Litmus {
    /// Reads a litmus file.
    ///
    /// # Errors
    /// The first line that is not understood.
    pub fn read(text: &str) -> Result<Self, LitmusError> {
        read::read(text)
    }

    /// Writes the file; [`Litmus::read`] gives the same value back, records of an unknown kind excepted.
    #[must_use]
    pub fn write(&self) -> String {
        write::write(self)
    }

    /// The self-contained file of one finding: its witness, its verdict expected.
    ///
    /// Sequence numbers and counts of words are given anew, because the records between the witness events are left out
    /// on purpose.
    #[must_use]
    pub fn from_finding(finding: &Finding, setup: &Setup) -> Self {
        let Witness { steps, gaps, .. } = &finding.witness;
        let records: Vec<_> = detached(steps).iter().map(encode).collect();
        let notes = steps.iter().enumerate().filter(|(_, step)| !step.note.is_empty());
        let notes = notes.map(|(index, step)| (index, step.note.to_owned())).collect();
        let ends = records.iter().map(|raw| raw.ts_ns).chain(gaps.iter().map(|gap| gap.to.0));
        let watermark = ends.max().unwrap_or_default();
        let place = Place { vm: None, slot: None, gfn: finding.gfn };
        let rule = Some(finding.rule);
        let verdict = finding.verdict;
        let expectations = vec![
            Expectation::Verdict { verdict, rule, place, missing: finding.witness.missing },
            Expectation::Others,
        ];
        let watermark = crate::event::Nanos(watermark);
        let batch = Batch { records, gaps: gaps.clone(), watermark };
        let threads = name_threads(&batch);
        let title = format!(
            "{} {} on kernel {}\n{}",
            finding.rule.name(),
            finding.verdict.name(),
            setup.kernel,
            finding.sentence
        );
        Self { title, setup: setup.clone(), threads, batch, notes, expectations }
    }
}

/// Calls threads what they do: `vcpu0` where KVM_RUN or a fault was seen, `harvester` where an ioctl was.
#[must_use]
pub fn name_threads(batch: &Batch) -> BTreeMap<Tid, String> {
    use crate::event::EventKind;
    let mut names = BTreeMap::new();
    let mut harvesters = 0_u32;
    for event in batch.records.iter().filter_map(|raw| decode(raw).ok()) {
        let name = match event.kind {
            EventKind::RunBegin { vcpu }
            | EventKind::RunEnd { vcpu, .. }
            | EventKind::Fault { vcpu, .. } => format!("vcpu{}", vcpu.0),
            EventKind::IoctlBegin { .. } | EventKind::IoctlEnd { .. }
                if !names.contains_key(&event.tid) =>
            {
                harvesters += 1;
                if harvesters == 1 {
                    String::from("harvester")
                } else {
                    format!("harvester{harvesters}")
                }
            }
            _ => continue,
        };
        if !names.values().any(|taken| *taken == name) {
            names.entry(event.tid).or_insert(name);
        }
    }
    names
}

/// The rule of that name, as a field value.
fn rule_named(text: &str) -> Option<RuleId> {
    RuleId::from_name(text)
}

/// The window kind of that name.
fn window_named(text: &str) -> Option<WindowKind> {
    WindowKind::ALL.into_iter().find(|kind| kind.name() == text)
}

#[cfg(test)]
mod tests;
