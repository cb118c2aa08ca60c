//! The build script refuses a BPF object that was built from other sources than those beside it.

#[path = "../build/probe_inputs.rs"]
mod probe_inputs;
#[path = "../build/staleness.rs"]
mod staleness;

use std::fs;
use std::path::{Path, PathBuf};

/// A copy of everything the object is made from, and of the object.
fn workspace(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stale-object").join(name);
    let _ = fs::remove_dir_all(&copy);
    let mut files = probe_inputs::files(root).unwrap();
    let others = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"];
    files.extend(others.map(PathBuf::from));
    files.extend(["tracer/probe.bpf.o", "tracer/probe.bpf.o.inputs"].map(PathBuf::from));
    for file in files {
        let to = copy.join(&file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(root.join(&file), to).unwrap();
    }
    copy
}

fn check(root: &Path) -> Result<(), String> {
    staleness::check(root, &root.join("tracer"))
}

#[test]
fn the_checked_in_object_is_fresh_in_any_folder() {
    assert_eq!(check(&workspace("fresh")), Ok(()));
}

#[test]
fn a_changed_source_makes_the_object_stale_and_the_sentence_says_what_to_do() {
    for file in ["probe-ebpf/src/emit.rs", "common/src/raw.rs", "rust-toolchain.toml"] {
        let root = workspace("changed");
        let text = fs::read_to_string(root.join(file)).unwrap();
        fs::write(root.join(file), text + "\n").unwrap();
        let complaint = check(&root).unwrap_err();
        assert!(complaint.contains("tracer/probe.bpf.o is stale"), "{file}: {complaint}");
        assert!(complaint.contains("`cargo xtask build-ebpf`"), "{file}: {complaint}");
        assert_eq!(complaint.lines().count(), 1);
    }
}

#[test]
fn a_missing_object_is_told_from_a_stale_one() {
    let root = workspace("missing");
    fs::remove_file(root.join("tracer/probe.bpf.o")).unwrap();
    assert!(check(&root).unwrap_err().contains("is missing: run `cargo xtask build-ebpf`"));
}

#[test]
fn a_packaged_crate_without_the_sources_builds() {
    let root = workspace("packaged");
    fs::remove_dir_all(root.join("probe-ebpf")).unwrap();
    assert_eq!(check(&root), Ok(()));
}
