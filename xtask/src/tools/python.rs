//! A Python with other people's readers of our exports, in a virtual environment below `target/tools`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{process, tools, workspace};

/// Packages of PyPI and the versions the checks were written with.
const PACKAGES: [&str; 6] = [
    "duckdb==2.0.1",
    "polars==2.1.0",
    "datafusion==55.0.0",
    "perfetto==0.59.1",
    "protobuf==7.36.2",
    "jsonschema==4.26.0",
];

/// The interpreter, with the packages installed once.
///
/// # Errors
///
/// There is no Python 3 with `venv`, or PyPI cannot be reached.
pub fn path() -> Result<PathBuf> {
    let _lock = tools::lock()?;
    let folder = workspace::tools()?.join("python");
    let (python, stamp) = (folder.join("bin/python"), folder.join("packages"));
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    eprintln!("fetching {}", PACKAGES.join(", "));
    workspace::make_empty(folder.clone())?;
    process::run_quietly(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    process::run_quietly(&mut pip)?;
    std::fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
    Ok(python)
}
