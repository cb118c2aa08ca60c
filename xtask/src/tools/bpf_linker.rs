//! The linker of BPF objects.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{process, tools, workspace};

/// The last release that brings LLVM along; later ones want a system LLVM.
const VERSION: &str = "0.10.4";

/// The linker's path, from `PATH` if it has exactly this version, else built once (about four
/// minutes on two cores).
///
/// # Errors
///
/// It cannot be built.
pub fn path() -> Result<PathBuf> {
    if is_wanted(&mut Command::new("bpf-linker")) {
        return Ok(PathBuf::from("bpf-linker"));
    }
    let _lock = tools::lock()?;
    let root = workspace::tools()?.join(format!("bpf-linker-{VERSION}"));
    let binary = root.join("bin/bpf-linker");
    if is_wanted(&mut Command::new(&binary)) {
        return Ok(binary);
    }
    eprintln!("building bpf-linker {VERSION} (once, some minutes)");
    let mut cargo = process::cargo();
    cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--quiet", "--root"])
        .arg(&root)
        .arg("--target-dir")
        .arg(root.join("build"));
    process::run(&mut cargo).context("install bpf-linker")?;
    workspace::remove(&root.join("build"))?;
    Ok(binary)
}

fn is_wanted(linker: &mut Command) -> bool {
    process::output(linker.arg("--version"))
        .is_ok_and(|said| said.trim() == format!("bpf-linker {VERSION}"))
}
