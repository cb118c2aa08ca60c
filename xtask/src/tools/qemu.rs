//! The emulator of the lab.
//!
//! Release 9 or later: older ones crash the emulated machine when its kernel patches its own text,
//! which every kprobe does. Where `PATH` has none, the one of bookworm-backports is unpacked with
//! all its libraries and run by its own dynamic loader, so that it works on any distribution and
//! the system stays as it is.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    process,
    tools::{self, apt::Apt, private},
    workspace,
};

/// Oldest release that survives kprobes.
const MAJOR_MIN: u32 = 9;

const PROGRAM: &str = "qemu-system-x86_64";

/// A way to start the emulator.
#[derive(Debug)]
pub enum Qemu {
    /// From `PATH`.
    System,
    /// Unpacked below this folder.
    Private(PathBuf),
}

impl Qemu {
    /// Finds the emulator, or fetches it once.
    ///
    /// # Errors
    ///
    /// It can neither be found nor fetched.
    pub fn find() -> Result<Self> {
        let _lock = tools::lock()?;
        if Self::System.major().is_some_and(|major| MAJOR_MIN <= major) {
            return Ok(Self::System);
        }
        let root = workspace::tools()?.join("qemu");
        let private = Self::Private(root.clone());
        if private.major().is_none() {
            Apt::open()?
                .unpack_with_libraries("qemu-system-x86", &workspace::make_empty(root)?)
                .context("fetch the emulator")?;
            private.major().context("the fetched emulator does not start")?;
        }
        Ok(private)
    }

    /// A command that runs it, without arguments for the machine.
    pub fn command(&self) -> Command {
        match self {
            Self::System => Command::new(PROGRAM),
            Self::Private(root) => private_command(root),
        }
    }

    fn major(&self) -> Option<u32> {
        let said = process::output(self.command().arg("--version")).ok()?;
        said.split_whitespace().nth(3)?.split('.').next()?.parse().ok()
    }
}

fn private_command(root: &Path) -> Command {
    let mut command = private::command(root, PROGRAM);
    command.env("QEMU_MODULE_DIR", private::library_folders(root)[1].join("qemu"));
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(firmware));
    }
    command
}
