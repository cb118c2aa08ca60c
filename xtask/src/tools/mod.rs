//! Programs and packages the tasks need, fetched once into `target/tools`.

pub mod apt;
pub mod bpf_linker;
pub mod busybox;
pub mod pahole;
pub mod private;
pub mod python;
pub mod qemu;
pub mod rust_src;
pub mod tmux;
pub mod trace_cmd;

use std::fs::File;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Keeps a second `cargo xtask` out of the tools folder until the file is dropped.
pub fn lock() -> Result<File> {
    let path = workspace::tools()?.join("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}
