//! trace-cmd: what people record with where this tool never ran.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process,
    tools::{self, apt::Apt, private},
    workspace,
};

/// An unpacked trace-cmd with its libraries.
#[derive(Debug)]
pub struct TraceCmd {
    root: PathBuf,
}

impl TraceCmd {
    /// Fetches it once.
    ///
    /// # Errors
    ///
    /// The mirror cannot be reached, or what it gives does not start.
    pub fn find() -> Result<Self> {
        let _lock = tools::lock()?;
        let found = Self { root: workspace::tools()?.join("trace-cmd") };
        if !found.starts() {
            Apt::open()?
                .unpack_with_libraries("trace-cmd", &workspace::make_empty(found.root.clone())?)
                .context("fetch trace-cmd")?;
            ensure!(found.starts(), "the fetched trace-cmd does not start");
        }
        Ok(found)
    }

    /// A command that runs it on this machine, with its plugins.
    pub fn command(&self) -> Command {
        let mut command = private::command(&self.root, "trace-cmd");
        let plugins = private::library_folders(&self.root)[1].join("traceevent/plugins");
        command.env("TRACEEVENT_PLUGIN_DIR", plugins);
        command
    }

    /// Its files for a machine that has no shared libraries: where they go there, and where they are.
    ///
    /// # Errors
    ///
    /// The unpacked folders cannot be read.
    pub fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let loader = private::library_folders(&self.root)[0].join("ld-linux-x86-64.so.2");
        let mut files = vec![
            ("bin/trace-cmd".to_owned(), self.root.join("usr/bin/trace-cmd")),
            ("lib64/ld-linux-x86-64.so.2".to_owned(), loader),
        ];
        for wanted in ["libc.so.6", "libtraceevent.so.1", "libtracefs.so.1", "libzstd.so.1"] {
            let library = library(&self.root, wanted)?;
            files.push((format!("lib/x86_64-linux-gnu/{wanted}"), library));
        }
        Ok(files)
    }

    fn starts(&self) -> bool {
        process::output(self.command().args(["list", "-c"])).is_ok()
    }
}

fn library(root: &Path, name: &str) -> Result<PathBuf> {
    let places = private::library_folders(root).map(|folder| folder.join(name));
    let found = places.iter().find(|place| place.exists());
    let found = found.with_context(|| format!("trace-cmd came without {name}"))?;
    fs::canonicalize(found).with_context(|| format!("read {}", found.display()))
}
