//! The source of the standard library, of which the probe needs `core`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    process,
    tools::{self, apt::Apt},
    workspace,
};

/// The `library` folder of the standard library's source: the toolchain's own, else one fetched
/// once.
///
/// # Errors
///
/// Neither rustup nor Debian can provide the source; the error names both attempts.
pub fn library() -> Result<PathBuf> {
    let _lock = tools::lock()?;
    let version = workspace::rust_version()?;
    let in_toolchain = sysroot()?.join("lib/rustlib/src/rust/library");
    let fetched =
        workspace::tools()?.join("rust-src").join(format!("usr/src/rustc-{version}/library"));
    for library in [&in_toolchain, &fetched] {
        if library.join("core").is_dir() {
            return Ok(library.clone());
        }
    }
    let Err(rustup) = add_component() else {
        return Ok(in_toolchain);
    };
    fetch(&version)
        .with_context(|| format!("rustup cannot add rust-src ({rustup:#}), nor can Debian"))?;
    Ok(fetched)
}

fn sysroot() -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--print", "sysroot"])
        .current_dir(workspace::root())
        .env_remove("RUSTUP_TOOLCHAIN");
    Ok(PathBuf::from(process::output(&mut rustc)?.trim()))
}

fn add_component() -> Result<()> {
    eprintln!("adding rust-src to the toolchain");
    let mut rustup = Command::new("rustup");
    rustup
        .args(["component", "add", "rust-src"])
        .current_dir(workspace::root())
        .env_remove("RUSTUP_TOOLCHAIN");
    process::run_quietly(&mut rustup)
}

/// Debian ships the same source under its own version number.
fn fetch(version: &str) -> Result<()> {
    let apt = Apt::open()?;
    let package = apt.newest("rust-src", |candidate| candidate.starts_with(version))?;
    apt.unpack(&[package], &workspace::make_empty(workspace::tools()?.join("rust-src"))?)
}
