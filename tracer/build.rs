//! Embeds the checked-in BPF object, and refuses one that was built from other sources than those
//! beside it.
//!
//! The loader reads the path from `env!("KVMDIRTY_PROBE_OBJECT")`. Setting a variable of that name
//! for the build embeds another object instead, which is how the debug build of the probe (`cargo
//! xtask build-ebpf --log`) is used.

#[path = "build/probe_inputs.rs"]
mod probe_inputs;

use std::{env, fs, path::Path};

const REMEDY: &str = "run `cargo xtask build-ebpf` and commit the object it writes";

fn main() {
    println!("cargo::rerun-if-env-changed=KVMDIRTY_PROBE_OBJECT");
    if let Ok(object) = env::var("KVMDIRTY_PROBE_OBJECT") {
        println!("cargo::rerun-if-changed={object}");
        println!("cargo::rustc-env=KVMDIRTY_PROBE_OBJECT={object}");
        return;
    }
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo tells a build script its folder");
    let folder = Path::new(&folder);
    let object = folder.join("probe.bpf.o");
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=KVMDIRTY_PROBE_OBJECT={}", object.display());
    if !object.is_file() {
        println!("cargo::error=tracer/probe.bpf.o is missing: {REMEDY}");
        return;
    }
    let root = folder.parent().expect("the crate lies in the workspace");
    // A packaged crate comes without the probe's sources; there is nothing to compare with then.
    if root.join("probe-ebpf").is_dir() {
        refuse_stale(root, folder);
    }
}

fn refuse_stale(root: &Path, folder: &Path) {
    for watched in ["probe-ebpf", "common", "Cargo.lock", "Cargo.toml", "rust-toolchain.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    let stamp = folder.join("probe.bpf.o.inputs");
    println!("cargo::rerun-if-changed={}", stamp.display());
    let built_from = fs::read_to_string(&stamp).unwrap_or_default();
    match probe_inputs::digest(root) {
        Ok(digest) if digest == built_from.trim() => {}
        Ok(_) => println!(
            "cargo::error=tracer/probe.bpf.o is stale: probe-ebpf, common, the toolchain or a dependency of the probe \
             changed after it was built; {REMEDY}"
        ),
        Err(error) => println!("cargo::error=cannot read the probe's sources: {error}"),
    }
}
