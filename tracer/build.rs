//! Embeds the checked-in BPF object, and refuses one that was built from other sources than those
//! beside it.
//!
//! The loader reads the path from `env!("KVMDIRTY_PROBE_OBJECT")`. Setting a variable of that name
//! for the build embeds another object instead, which is how the debug build of the probe (`cargo
//! xtask build-ebpf --log`) is used.

#[path = "build/probe_inputs.rs"]
mod probe_inputs;
#[path = "build/staleness.rs"]
mod staleness;

use std::{env, path::Path};

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
    let root = folder.parent().expect("the crate lies in the workspace");
    for watched in ["probe-ebpf", "common", "Cargo.lock", "Cargo.toml", "rust-toolchain.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo::rerun-if-changed={}", folder.join("probe.bpf.o.inputs").display());
    if let Err(complaint) = staleness::check(root, folder) {
        println!("cargo::error={complaint}");
    }
}
