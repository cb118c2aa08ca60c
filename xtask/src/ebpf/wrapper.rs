//! A wrapper cargo runs instead of rustc, which takes the machine out of the crates' identity.
//!
//! Cargo hands each crate a `-C metadata` hash, and rustc mangles it into every symbol name. For
//! the crates of the standard library that hash covers the absolute path of their source, which
//! lies in rustup's folder on one machine and below the workspace on the next. Within the probe's
//! small set of crates the names are unique, so the name alone serves as identity. Only crates for
//! the BPF target are touched.

use std::{
    env, ffi::OsString, os::unix::process::CommandExt as _, path::PathBuf, process::Command,
};

use anyhow::{Context as _, Result};

/// Set for the compiler of a probe build; tells this program that it is the wrapper.
pub const MARK: &str = "KVMDIRTY_RUSTC_WRAPPER";

/// Becomes rustc if this process was started by cargo as its wrapper; returns otherwise.
///
/// # Errors
///
/// rustc cannot be started.
pub fn become_rustc_if_asked() -> Result<()> {
    if env::var_os(MARK).is_none() {
        return Ok(());
    }
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next().context("cargo gave its wrapper no compiler")?;
    let error = Command::new(&rustc).args(with_fixed_identity(arguments.collect())).exec();
    Err(error).with_context(|| format!("start {}", rustc.display()))
}

/// The path of this program.
///
/// Cargo may have replaced the file since we started; Linux then marks the old path.
pub fn program() -> Result<PathBuf> {
    let path = env::current_exe().context("find xtask's own binary")?;
    Ok(path
        .to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"))
        .map_or(path.clone(), PathBuf::from))
}

fn with_fixed_identity(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let after = |flag: &str| {
        arguments.iter().position(|argument| argument == flag).map(|at| arguments[at + 1].clone())
    };
    let is_bpf = after("--target").is_some_and(|target| target == super::recipe::TARGET);
    if let (true, Some(name)) = (is_bpf, after("--crate-name")) {
        for argument in &mut arguments {
            if argument.as_encoded_bytes().starts_with(b"metadata=") {
                *argument = OsString::from("metadata=");
                argument.push(&name);
            }
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_of(target: &str) -> Vec<OsString> {
        let given = ["--crate-name", "core", "-C", "metadata=3f", "--target", target];
        with_fixed_identity(given.map(OsString::from).to_vec())
    }

    #[test]
    fn bpf_crates_are_known_by_name() {
        assert!(identity_of(super::super::recipe::TARGET).contains(&"metadata=core".into()));
    }

    #[test]
    fn host_crates_keep_their_identity() {
        assert!(identity_of("x86_64-unknown-linux-gnu").contains(&"metadata=3f".into()));
    }
}
