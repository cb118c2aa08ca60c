//! `cargo xtask build-ebpf`: the BPF object that is checked in, rebuilt and compared.

#[path = "../../../tracer/build/probe_inputs.rs"]
mod probe_inputs;
mod recipe;
mod strip;
mod wrapper;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::workspace;
use recipe::Variant;

pub use wrapper::become_rustc_if_asked;

/// The checked-in object, relative to the workspace root.
const OBJECT: &str = "tracer/probe.bpf.o";
/// The digest of what it was built from.
const STAMP: &str = "tracer/probe.bpf.o.inputs";

/// Flags of `build-ebpf`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Rebuild and compare bit for bit with the checked-in object; write nothing.
    #[arg(long, conflicts_with = "log")]
    check: bool,
    /// Build the probe with its log lines (aya-log), into `target/`, for debugging.
    #[arg(long)]
    log: bool,
}

/// Builds, checks, or builds for debugging.
pub fn run(flags: Flags) -> Result<ExitCode> {
    if flags.log {
        return build_log();
    }
    if flags.check {
        return Ok(match check()? {
            Ok(()) => {
                println!("{OBJECT} is what its sources give, bit for bit");
                ExitCode::SUCCESS
            }
            Err(difference) => {
                eprintln!("{difference}");
                ExitCode::FAILURE
            }
        });
    }
    let object = build(Variant::Release)?;
    write(OBJECT, &object)?;
    write(STAMP, format!("{}\n", digest()?).as_bytes())?;
    println!("wrote {OBJECT} ({} bytes) and {STAMP}", object.len());
    Ok(ExitCode::SUCCESS)
}

/// Rebuilds the object and compares; the inner error says what differs and what to do.
pub fn check() -> Result<Result<(), String>> {
    let remedy = "run `cargo xtask build-ebpf` and commit the result";
    let built = build(Variant::Release)?;
    let checked_in = fs::read(workspace::root().join(OBJECT)).unwrap_or_default();
    if built != checked_in {
        let at = built.iter().zip(&checked_in).take_while(|(new, old)| new == old).count();
        let kept = workspace::root().join("target/probe.bpf.o.rebuilt");
        fs::write(&kept, &built).with_context(|| format!("write {}", kept.display()))?;
        return Ok(Err(format!(
            "{OBJECT} is not what its sources give: {} bytes checked in, {} bytes rebuilt, first \
             difference at byte {at}; the rebuilt one is in {}; {remedy}",
            checked_in.len(),
            built.len(),
            kept.display(),
        )));
    }
    let stamp = fs::read_to_string(workspace::root().join(STAMP)).unwrap_or_default();
    if stamp.trim() != digest()? {
        return Ok(Err(format!("{OBJECT} is right but {STAMP} is old; {remedy}")));
    }
    Ok(Ok(()))
}

fn build_log() -> Result<ExitCode> {
    let object = build(Variant::Log)?;
    let path = "target/probe-log.bpf.o";
    write(path, &object)?;
    let embed = workspace::root().join(path);
    println!("wrote {path} ({} bytes); use it with", object.len());
    println!("  KVMDIRTY_PROBE_OBJECT={} cargo run -- ...", embed.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds one variant and takes the debug sections out.
fn build(variant: Variant) -> Result<Vec<u8>> {
    let path: PathBuf = recipe::build(variant)?;
    let whole = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    strip::debug_sections(&whole).with_context(|| format!("strip {}", path.display()))
}

fn digest() -> Result<String> {
    probe_inputs::digest(workspace::root()).context("read the probe's sources")
}

fn write(path: &str, bytes: &[u8]) -> Result<()> {
    fs::write(workspace::root().join(path), bytes).with_context(|| format!("write {path}"))
}
