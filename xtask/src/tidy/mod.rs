//! `cargo xtask tidy`: the parts of the house style a machine can check.

mod layers;
mod reflow;
mod source;
mod style;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

use crate::workspace;
use source::Source;

/// One breach of the style.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the workspace root.
    pub path: PathBuf,
    /// Line, from one.
    pub line: usize,
    /// What is wrong, as a sentence without its full stop.
    pub what: String,
}

/// Every check; each looks at one file.
const CHECKS: [fn(&Source) -> Vec<Finding>; 6] = [
    style::opens_with_documentation,
    style::file_is_short,
    style::functions_are_short,
    style::lines_fit,
    layers::imports_point_one_way,
    layers::pure_layers_stay_pure,
];

/// Flags of `tidy`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// First break comments that are too wide.
    #[arg(long)]
    reflow: bool,
}

/// Prints what is wrong; the status is 1 if anything is.
pub fn run(flags: &Flags) -> Result<ExitCode> {
    if flags.reflow {
        reflow_all()?;
    }
    let findings = findings()?;
    for Finding { path, line, what } in &findings {
        eprintln!("{}:{line}: {what}", path.display());
    }
    match findings.len() {
        0 => {
            println!("tidy");
            Ok(ExitCode::SUCCESS)
        }
        count => {
            eprintln!("{count} breaches of the house style (CONTRIBUTING.md)");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Folders whose Rust files are checked.
const FOLDERS: [&str; 4] = ["common", "probe-ebpf", "tracer", "xtask"];

fn reflow_all() -> Result<()> {
    for folder in FOLDERS {
        for path in rust_files(&workspace::root().join(folder))? {
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let reflown = reflow::comments(&text);
            if reflown != text {
                fs::write(&path, reflown).with_context(|| format!("write {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// What is wrong in the whole workspace.
pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for folder in FOLDERS {
        for path in rust_files(&workspace::root().join(folder))? {
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let source = Source::new(path.strip_prefix(workspace::root())?.to_owned(), text);
            findings.extend(CHECKS.iter().flat_map(|check| check(&source)));
        }
    }
    Ok(findings)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
