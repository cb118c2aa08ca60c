//! tmux: a terminal without a person, for the dashboard's tests.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    process,
    tools::{self, apt::Apt, private},
    workspace,
};

/// A way to start tmux.
#[derive(Debug)]
pub enum Tmux {
    /// From `PATH`.
    System,
    /// Unpacked below this folder.
    Private(PathBuf),
}

impl Tmux {
    /// Finds tmux, or fetches it once.
    ///
    /// # Errors
    ///
    /// It can neither be found nor fetched.
    pub fn find() -> Result<Self> {
        let _lock = tools::lock()?;
        if Self::System.starts() {
            return Ok(Self::System);
        }
        let root = workspace::tools()?.join("tmux");
        let private = Self::Private(root.clone());
        if !private.starts() {
            Apt::open()?
                .unpack_with_libraries("tmux", &workspace::make_empty(root)?)
                .context("fetch tmux")?;
            anyhow::ensure!(private.starts(), "the fetched tmux does not start");
        }
        Ok(private)
    }

    /// A command that runs it, without arguments.
    pub fn command(&self) -> Command {
        match self {
            Self::System => Command::new("tmux"),
            Self::Private(root) => private::command(root, "tmux"),
        }
    }

    fn starts(&self) -> bool {
        process::output(self.command().arg("-V")).is_ok()
    }
}
