//! The program that gives a kernel module its BTF.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use anyhow::{Context as _, Result};

use crate::{
    tools::{self, apt::Apt, private},
    workspace,
};

/// A program file the kernel's build can call, fetched once.
///
/// It is the release Debian built its bookworm kernels with, so that the build passes flags it
/// knows.
pub fn path() -> Result<PathBuf> {
    let _lock = tools::lock()?;
    let root = workspace::tools()?.join("pahole");
    let script = root.join("pahole");
    if !script.is_file() {
        Apt::open()?.unpack_with_libraries("pahole", &workspace::make_empty(root.clone())?)?;
        let words = private::words(&root, "pahole").map(|word| word.display().to_string());
        fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))
            .and_then(|()| fs::set_permissions(&script, Permissions::from_mode(0o755)))
            .with_context(|| format!("write {}", script.display()))?;
    }
    Ok(script)
}
