//! What a machine gets besides its kernel: the tool, a shell, and the job.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{cpio::Archive, kernel::Image, machine::Mmu, modules::Modules};
use crate::{process, tools, workspace};

/// What runs in the machine.
#[derive(Debug, Clone)]
pub enum Command {
    /// One line for the shell.
    Shell(String),
    /// A program and its arguments, passed on as they are.
    Program(Vec<String>),
}

impl Command {
    /// One word is a line for the shell, several are a program and its arguments.
    pub fn from_words(words: &[String]) -> Self {
        match words {
            [line] => Self::Shell(line.clone()),
            _ => Self::Program(words.to_vec()),
        }
    }

    fn script(&self) -> String {
        match self {
            Self::Shell(line) => line.clone(),
            Self::Program(words) => {
                let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''")));
                format!("exec {}", quoted.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

/// Files of the job and where they lie in the machine.
#[derive(Debug)]
pub struct Job {
    /// What runs.
    pub command: Command,
    /// Programs of the host that are put on the machine's `PATH`, by name.
    pub programs: Vec<(String, PathBuf)>,
    /// Other files of the host, by their place in the machine: below `bin`, `lab`, `lib64` or the
    /// folder of libraries.
    pub files: Vec<(String, PathBuf)>,
    /// Modules taken from elsewhere than the kernel's package, by name.
    pub modules: Vec<(String, PathBuf)>,
}

impl Job {
    /// A command with the tool on its `PATH`, on the kernel's own modules.
    ///
    /// # Errors
    ///
    /// The tool does not build.
    pub fn with_tool(command: Command) -> Result<Self> {
        let programs = vec![("kvmdirty-trace".to_owned(), static_tool()?)];
        Ok(Self { command, programs, files: Vec::new(), modules: Vec::new() })
    }
}

/// Names a static tool to take instead of building one, so that machines booted one after the other
/// run the same build while the sources change.
const READY_TOOL: &str = "KVMDIRTY_STATIC_TOOL";

/// Builds the tool without shared libraries, for machines that have none.
pub fn static_tool() -> Result<PathBuf> {
    if let Some(ready) = std::env::var_os(READY_TOOL) {
        return Ok(ready.into());
    }
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    eprintln!("building the static tool for the lab");
    let folder = workspace::root().join("target/lab/build");
    let mut cargo = process::cargo();
    cargo
        .args(["build", "--quiet", "--release", "--package", "kvmdirty-trace"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&folder)
        // Link-time optimization doubles the build and says nothing more about the tool.
        .args(["--config", "profile.release.lto=\"off\"", "--config", "profile.release.debug=0"])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    process::run(&mut cargo)?;
    Ok(folder.join(TARGET).join("release/kvmdirty-trace"))
}

/// Folders of the machine; the last three take what a [`Job`] brings along.
const FOLDERS: [&str; 13] = [
    "bin",
    "dev",
    "proc",
    "sys",
    "tmp",
    "run",
    "root",
    "out",
    "lab",
    "lab/modules",
    "lib64",
    "lib",
    "lib/x86_64-linux-gnu",
];

/// Modules that carry the job's output.
const TRANSPORT: [&str; 2] = ["virtio_pci", "virtio_console"];

/// The initramfs of one launch.
///
/// # Errors
///
/// A file cannot be read, or the kernel lacks a module.
pub fn initramfs(image: &Image, mmu: Mmu, job: &Job) -> Result<Vec<u8>> {
    let mut modules = Modules::read(&image.modules)?;
    for (name, file) in &job.modules {
        modules.replace(name, file.clone());
    }
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder);
    }
    archive.file("bin/busybox", &read(&tools::busybox::path()?)?);
    archive.symlink("bin/sh", "busybox");
    archive.file("init", include_bytes!("init.sh"));
    for (name, file) in &job.programs {
        archive.file(&format!("bin/{name}"), &read(file)?);
    }
    for (place, file) in &job.files {
        archive.file(place, &read(file)?);
    }
    archive.file("lab/job", job.command.script().as_bytes());
    let transport = modules.with_dependencies(&TRANSPORT)?;
    let mut list = String::new();
    for module in &transport {
        add(&mut archive, &mut list, module, "");
    }
    archive.file("lab/transport", list.as_bytes());
    let mut list = String::new();
    for module in modules.with_dependencies(&["kvm", "kvm_amd"])? {
        if transport.iter().all(|loaded| loaded.name != module.name) {
            add(&mut archive, &mut list, &module, mmu.parameters(&module.name));
        }
    }
    archive.file("lab/modules.list", list.as_bytes());
    Ok(archive.finish())
}

fn add(archive: &mut Archive, list: &mut String, module: &super::modules::Module, with: &str) {
    archive.file(&format!("lab/modules/{}.ko", module.name), &module.object);
    *list += &format!("{}.ko {with}\n", module.name);
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_program_as_they_are() {
        let words = ["echo", "it's", "$HOME"].map(str::to_owned);
        assert_eq!(Command::from_words(&words).script(), r"exec 'echo' 'it'\''s' '$HOME'");
    }

    #[test]
    fn one_word_is_a_line_for_the_shell() {
        let words = ["uname -r; lsmod".to_owned()];
        assert_eq!(Command::from_words(&words).script(), "uname -r; lsmod");
    }
}
