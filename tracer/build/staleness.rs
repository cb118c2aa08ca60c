//! Whether the checked-in BPF object is the one its sources give.

use std::{fs, path::Path};

use super::probe_inputs;

const REMEDY: &str = "run `cargo xtask build-ebpf` and commit the object it writes";

/// Checks the object in `folder` against the sources in the workspace at `root`.
///
/// # Errors
///
/// One sentence: the object is missing or stale, and what to do.
pub fn check(root: &Path, folder: &Path) -> Result<(), String> {
    if !folder.join("probe.bpf.o").is_file() {
        return Err(format!("tracer/probe.bpf.o is missing: {REMEDY}"));
    }
    // A packaged crate comes without the probe's sources; there is nothing to compare with then.
    if !root.join("probe-ebpf").is_dir() {
        return Ok(());
    }
    let built_from = fs::read_to_string(folder.join("probe.bpf.o.inputs")).unwrap_or_default();
    match probe_inputs::digest(root) {
        Ok(digest) if digest == built_from.trim() => Ok(()),
        Ok(_) => Err(format!(
            "tracer/probe.bpf.o is stale: probe-ebpf, common, the toolchain or a dependency of the probe changed after \
             it was built; {REMEDY}"
        )),
        Err(error) => Err(format!("cannot read the probe's sources: {error}")),
    }
}
