//! Step: what the exports wrote, read with other people's libraries, and the SQL of docs/analysis.md.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::report::Tally;
use crate::{process, tools, workspace};

/// Recordings laid side by side, by the folder each goes to: a stock kernel of the lab, another host with gaps of every
/// cause, and a race with a lost page.
const FLEET: [(&str, &str); 3] = [
    ("lab", "tracer/assets/demo.kdt"),
    ("host", "tracer/tests/fixtures/v1.kdt"),
    ("race", "tracer/tests/litmus/harvest-leaves-writable.litmus"),
];

/// Exports the recordings in every form and has the forms read.
///
/// # Errors
///
/// An export fails, or a reader does not read it.
pub fn exports_are_read_by_others() -> Result<Tally> {
    let tool = tool_with_parquet()?;
    let folder = workspace::make_empty(workspace::root().join("target/readers"))?;
    workspace::make(folder.join("fleet"))?;
    let run = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(&tool);
        process::run_quietly(command.current_dir(workspace::root()).args(arguments))
    };
    let at = |name: &str| folder.join(name).display().to_string();
    for (name, recording) in FLEET {
        let out = at(&format!("fleet/{name}"));
        run(&["export", recording, "--format", "parquet", "--output", &out])?;
    }
    let lab = FLEET[0].1;
    for (name, recording) in &FLEET[..2] {
        let out = at(&format!("{name}.pftrace"));
        run(&["export", recording, "--format", "perfetto", "--output", &out])?;
    }
    run(&["export", lab, "--format", "jsonl", "--output", &at("lines.jsonl")])?;
    run(&["check", lab, "--json", "--output", &at("report.json")])?;
    for (document, file) in [("jsonl", "lines.schema.json"), ("report", "report.schema.json")] {
        printed(&tool, &["schema", document], &folder.join(file))?;
    }
    let mut read = Command::new(tools::python::path()?);
    read.arg(workspace::root().join("xtask/src/suite/readers.py")).arg(&folder);
    let (succeeded, said) = process::stream(read.arg(workspace::root().join("docs/analysis.md")))?;
    ensure!(succeeded, "a reader does not read an export, see above");
    let passed = u32::try_from(said.lines().count()).context("count the checks")?;
    let note = "DuckDB, Polars, DataFusion, Perfetto's protos, jsonschema".to_owned();
    Ok(Tally { passed, note, ..Tally::default() })
}

/// The development build: what is tried is the readers, not the speed.
fn tool_with_parquet() -> Result<PathBuf> {
    let folder = workspace::root().join("target");
    let mut cargo = process::cargo();
    cargo.args(["build", "--quiet", "--package", "kvmdirty-trace", "--features", "parquet"]);
    process::run(cargo.arg("--target-dir").arg(&folder))?;
    Ok(folder.join("debug/kvmdirty-trace"))
}

fn printed(tool: &Path, arguments: &[&str], into: &Path) -> Result<()> {
    let file = File::create(into).with_context(|| format!("create {}", into.display()))?;
    process::run(Command::new(tool).args(arguments).stdout(file))
}
