//! The corpus as the tests see it: files read, judged, and shown when they differ.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kvmdirty_trace::event::decode;
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::trace::litmus::{Expectation, Litmus, Mismatch};
use kvmdirty_trace::verdict::{RuleId, Verdict};

/// One litmus file.
pub struct File {
    /// Its name without folder and ending.
    pub name: String,
    pub litmus: Litmus,
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/litmus")
}

fn filter() -> Option<String> {
    std::env::var("KVMDIRTY_LITMUS").ok()
}

/// Only some files run.
pub fn is_filtered() -> bool {
    filter().is_some()
}

/// Every file, by name.
pub fn corpus() -> Vec<File> {
    let entries = std::fs::read_dir(folder()).expect("tests/litmus/ is a folder");
    let mut files: Vec<File> = entries
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "litmus"))
        .map(|path| File::read(&path))
        .filter(|file| filter().is_none_or(|part| file.name.contains(&part)))
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!files.is_empty(), "no litmus file in {}", folder().display());
    files
}

/// The judgement of a litmus trace.
pub fn judge(litmus: &Litmus) -> Summary {
    let mut pipeline = Pipeline::new(litmus.setup.clone());
    pipeline.push(&litmus.batch);
    pipeline.finish();
    pipeline.summary().clone()
}

impl File {
    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).expect("a litmus file is text");
        let litmus = Litmus::read(&text).unwrap_or_else(|error| panic!("{name}.litmus: {error}"));
        Self { name, litmus }
    }

    /// The rules by which it expects a finding.
    pub fn tripped(&self) -> Vec<RuleId> {
        let rules = self.litmus.expectations.iter().filter_map(|expectation| match expectation {
            Expectation::Verdict { verdict, rule, .. } if *verdict != Verdict::Safe => *rule,
            _ => None,
        });
        rules.collect()
    }

    /// What the file expects and what came out, for a person.
    pub fn difference(&self, mismatches: &[Mismatch], summary: &Summary) -> String {
        let mut text = format!("--- {}.litmus\n", self.name);
        let title = self.litmus.title.lines().next().unwrap_or_default();
        let _ = writeln!(text, "    {title}");
        for Mismatch { expected, found } in mismatches {
            let _ = writeln!(text, "  - expected: {expected}");
            for part in found.split("; ") {
                let _ = writeln!(text, "  + found:    {part}");
            }
        }
        let _ = writeln!(text, "    verdicts: {:?}", summary.verdicts);
        if !summary.unknown_causes.is_empty() {
            let _ = writeln!(text, "    unknown:  {:?}", summary.unknown_causes);
        }
        if !summary.benign.is_empty() {
            let _ = writeln!(text, "    benign:   {:?}", summary.benign);
        }
        for finding in &summary.findings {
            let _ = writeln!(
                text,
                "    {} {}: {}",
                finding.verdict.name(),
                finding.rule.name(),
                finding.sentence
            );
            for step in &finding.witness.steps {
                let _ = writeln!(
                    text,
                    "        @{} {:?}: {}",
                    step.event.span.hi.0,
                    step.event.kind.kind(),
                    step.note
                );
            }
        }
        let undecoded = self.litmus.batch.records.iter().filter(|raw| decode(raw).is_err()).count();
        if 0 < undecoded {
            let _ = writeln!(text, "    {undecoded} records cannot be decoded");
        }
        text
    }
}
