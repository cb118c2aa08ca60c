//! What came of one file, and how it differs from another of the same run.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::stem;
use crate::{process, workspace};

/// A file's events and verdicts.
#[derive(Debug)]
pub struct Judged {
    name: String,
    report: Value,
    /// Per kind of event and thread, what each said, in order.
    said: BTreeMap<(String, u64), Vec<String>>,
}

/// Kinds that say the same however they were recorded, and the columns that say it.
const COMPARED: [(&str, &[&str]); 4] = [
    ("mark", &["gfn"]),
    ("harvest-word", &["gfn", "mask", "protected"]),
    ("fast-fault", &["gfn", "old_spte"]),
    ("ioctl-end", &["op", "slot", "ret"]),
];

impl Judged {
    /// Imports a file and judges the recording that it gives.
    pub fn import(tool: &Path, file: &Path) -> Result<Self> {
        let recording = file.with_extension(format!("{}.kdt", extension(file)));
        workspace::remove(&recording)?;
        let mut import = Command::new(tool);
        import.arg("import").arg(file).arg("--output").arg(&recording);
        if extension(file) == "txt" {
            // The text does not tell its clock; the script's is mono.
            import.args(["--epsilon", "1000"]);
        }
        process::run_quietly(&mut import)?;
        Ok(Self { name: stem(file), ..Self::native(tool, &recording)? })
    }

    /// Judges a recording.
    pub fn native(tool: &Path, recording: &Path) -> Result<Self> {
        let checked = Command::new(tool).args(["check", "--json"]).arg(recording).output();
        let checked = checked.context("start the tool")?;
        let report = serde_json::from_slice(&checked.stdout)
            .with_context(|| format!("read the report of {}", recording.display()))?;
        let mut export = Command::new(tool);
        export.args(["export", "--format", "jsonl"]).arg(recording);
        for (kind, _) in COMPARED {
            export.args(["--kind", kind]);
        }
        let mut said: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for line in process::output(&mut export)?.lines() {
            let row: Value = serde_json::from_str(line).context("read an exported line")?;
            let kind = row["kind"].as_str().unwrap_or_default();
            if let Some((_, columns)) = COMPARED.iter().find(|(name, _)| *name == kind) {
                let words: Vec<String> =
                    columns.iter().map(|&column| row[column].to_string()).collect();
                let tid = row["tid"].as_u64().unwrap_or(0);
                said.entry((kind.to_owned(), tid)).or_default().push(words.join(" "));
            }
        }
        Ok(Self { name: stem(recording), report, said })
    }

    /// What a person looks at.
    pub fn line(&self) -> String {
        let Self { name, report, said } = self;
        let verdicts = &report["verdicts"];
        let count = |kind: &str| -> usize {
            said.iter().filter(|((name, _), _)| name == kind).map(|(_, all)| all.len()).sum()
        };
        format!(
            "{name}: {}, {} events, {} harvests ({} completely), {} marks, {} words, {} dropped; lost {} \
             at-risk {} exposed {} unknown {} safe {}; rules off {}",
            report["outcome"].as_str().unwrap_or("?"),
            report["events"],
            report["harvests"],
            report["harvests_complete"],
            count("mark"),
            count("harvest-word"),
            report["dropped_events"],
            verdicts["lost"],
            verdicts["at_risk"],
            verdicts["exposed"],
            verdicts["unknown"],
            verdicts["safe"],
            report["rules_off"].as_array().map_or(0, Vec::len),
        )
    }

    /// A stock kernel, seen by its probes: clean, and pages are called safe.
    pub fn complaints(&self) -> Vec<String> {
        let wrong = [
            (self.hazards() != 0, "hazards on a stock kernel"),
            (self.report["outcome"] != "clean", "not clean"),
            (self.number(&["verdicts", "safe"]) == 0, "nothing is safe"),
            (self.number(&["harvests_complete"]) == 0, "no harvest seen completely"),
        ];
        self.told(&wrong)
    }

    /// Tracepoints alone: nothing is accused, and what they do not show is not called safe by marks.
    pub fn complaints_of_poverty(&self) -> Vec<String> {
        let off = self.report["rules_off"].as_array().map_or(0, Vec::len);
        let wrong = [
            (self.hazards() != 0, "hazards on a stock kernel"),
            (self.said.keys().any(|(kind, _)| kind == "mark"), "marks that nobody recorded"),
            (off < 8, "rules are on that tracepoints alone cannot support"),
        ];
        self.told(&wrong)
    }

    /// A ring too small: the loss is told, and nothing is accused.
    pub fn complaints_of_loss(&self) -> Vec<String> {
        let wrong = [
            (self.hazards() != 0, "hazards on a stock kernel"),
            (self.number(&["gaps_total"]) == 0, "no gap is told"),
            (self.report["outcome"] != "inconclusive", "conclusive in spite of its gaps"),
        ];
        self.told(&wrong)
    }

    /// What this file, which covers a part of `whole`, says otherwise.
    pub fn differences(&self, whole: &Self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (kind, _) in COMPARED {
            let of_kind: Vec<_> = self.said.iter().filter(|((name, _), _)| name == kind).collect();
            if of_kind.is_empty() && whole.said.keys().any(|(name, _)| name == kind) {
                wrong.push(format!("{} has no {kind}, {} has", self.name, whole.name));
            }
            for (key, part) in of_kind {
                let all = whole.said.get(key).map_or(&[][..], Vec::as_slice);
                if !all.windows(part.len().max(1)).any(|stretch| stretch == part)
                    && !part.is_empty()
                {
                    wrong.push(format!(
                        "{}: the {} {kind} of thread {} are no stretch of the {} in {}",
                        self.name,
                        part.len(),
                        key.1,
                        all.len(),
                        whole.name
                    ));
                }
            }
        }
        wrong
    }

    fn hazards(&self) -> u64 {
        self.number(&["verdicts", "lost"]) + self.number(&["verdicts", "at_risk"])
    }

    fn number(&self, path: &[&str]) -> u64 {
        path.iter().fold(&self.report, |value, key| &value[key]).as_u64().unwrap_or(0)
    }

    fn told(&self, wrong: &[(bool, &str)]) -> Vec<String> {
        let wrong = wrong.iter().filter(|(is_wrong, _)| *is_wrong);
        wrong.map(|(_, what)| format!("{}: {what}", self.name)).collect()
    }
}

fn extension(file: &Path) -> String {
    file.extension().map(|end| end.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, marks: &[&str]) -> Judged {
        let marks = marks.iter().map(|&gfn| gfn.to_owned()).collect();
        let said = BTreeMap::from([(("mark".to_owned(), 7), marks)]);
        Judged { name: name.to_owned(), report: Value::Null, said }
    }

    #[test]
    fn a_part_must_be_a_stretch_of_the_whole() {
        let whole = judged("whole", &["1", "2", "3", "2"]);
        assert_eq!(judged("part", &["2", "3"]).differences(&whole), Vec::<String>::new());
        assert_eq!(judged("part", &["1", "3"]).differences(&whole).len(), 1);
        assert_eq!(judged("part", &[]).differences(&whole), Vec::<String>::new());
    }
}
