//! How the probe is compiled so that the object is the same on every machine and in every folder.
//!
//! Three things would otherwise leak into the object. *Paths* end up in line information and panic
//! messages: they are remapped. *The folder of the standard library's source* enters cargo's
//! package hashes, and with them symbol names: the compiler runs through [`super::wrapper`].
//! *Profiles and flags* of the user's configuration: every one that matters is given here.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::wrapper;
use crate::{process, tools, workspace};

/// Which build of the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The one that is checked in.
    Release,
    /// With log lines, for debugging.
    Log,
}

/// Separates rustc flags in `CARGO_ENCODED_RUSTFLAGS`.
const UNIT_SEPARATOR: &str = "\x1f";

/// The target every supported kernel can load.
pub const TARGET: &str = "bpfel-unknown-none";

/// Profile settings, given on the command line so that neither manifest nor environment changes the
/// object.
const PROFILE: [&str; 9] = [
    "profile.release.opt-level=3",
    "profile.release.debug=2",
    "profile.release.strip=\"none\"",
    "profile.release.lto=\"off\"",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
    "profile.release.overflow-checks=false",
    "profile.release.debug-assertions=false",
    "profile.release.incremental=false",
];

/// Compiles and links the probe; returns the path of the linked object.
///
/// # Errors
///
/// Another compiler than the pinned one, a missing tool, or a probe that does not build.
pub fn build(variant: Variant) -> Result<PathBuf> {
    check_compiler()?;
    let library = tools::rust_src::library()?;
    let linker = tools::bpf_linker::path()?;
    let folder = match variant {
        Variant::Release => "target/probe",
        Variant::Log => "target/probe-log",
    };
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
        remap(workspace::root(), ""),
        remap(&registry()?, "/registry"),
        remap(&library, "/rust"),
        // Cargo names sources below the workspace by their relative path.
        remap(library.strip_prefix(workspace::root()).unwrap_or(&library), "/rust"),
    ];
    let mut cargo = process::cargo();
    cargo
        .args(["build", "--locked", "--release", "--package", "probe-ebpf", "--bin", "probe-ebpf"])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir", folder])
        .args(PROFILE.iter().flat_map(|setting| ["--config", setting]));
    if variant == Variant::Log {
        cargo.args(["--features", "log"]);
    }
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(UNIT_SEPARATOR))
        // Building `core` asks for unstable flags of the stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", &library)
        .env("RUSTC_WRAPPER", wrapper::program()?)
        .env(wrapper::MARK, "1")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    eprintln!("building the probe for {TARGET}");
    process::run(&mut cargo)?;
    Ok(workspace::root().join(folder).join(TARGET).join("release/probe-ebpf"))
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

/// The object is reproducible only with the pinned compiler.
fn check_compiler() -> Result<()> {
    let wanted = workspace::rust_version()?;
    let mut rustc = std::process::Command::new("rustc");
    rustc.arg("--version").current_dir(workspace::root()).env_remove("RUSTUP_TOOLCHAIN");
    let found = process::output(&mut rustc)?;
    if found.split_whitespace().nth(1) != Some(&wanted) {
        bail!(
            "the BPF object needs Rust {wanted} exactly, found {}; install it with rustup",
            found.trim()
        );
    }
    Ok(())
}

/// The folder that holds the sources of registry crates; its name differs between mirrors.
fn registry() -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1"]);
    let metadata: serde_json::Value =
        serde_json::from_str(&process::output(&mut cargo)?).context("read cargo metadata")?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "aya-ebpf")
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent()?.parent())
        .map(Path::to_owned)
        .context("cargo metadata does not list aya-ebpf")
}
