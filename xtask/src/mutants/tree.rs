//! KVM's source beside the headers of a stock kernel, and the build of `kvm.ko` from it.
//!
//! Debian ships headers without KVM's own; its source package has them. Both trees are laid over
//! each other below `target/tools/mutants`, and the module is built there as an out-of-tree one, so
//! that configuration, symbol versions and BTF base fit the stock image of the same release.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::mutant::Edit;
use crate::{
    lab::kernel::{Image, MUTANT_BASE},
    process,
    tools::{self, apt::Apt},
    workspace,
};

/// What the edits use; laid into a header every file of KVM includes.
const PRELUDE: &str = include_str!("prelude.h");

/// A tree ready to build.
#[derive(Debug)]
pub struct Tree {
    /// Holds the configuration and is where the build starts.
    headers: PathBuf,
    /// Holds the source.
    source: PathBuf,
    /// The source as Debian ships it.
    pristine: PathBuf,
}

impl Tree {
    /// Fetches and lays out what a build needs, once.
    ///
    /// # Errors
    ///
    /// A package of the kernel's version is gone from the mirror, or a build program is missing.
    pub fn prepare() -> Result<Self> {
        for (program, package) in [("make", "make"), ("xz", "xz-utils"), ("gcc", "gcc")] {
            let is_there = process::output(Command::new(program).arg("--version")).is_ok();
            ensure!(is_there, "building kvm.ko needs {program}: apt-get install {package}");
        }
        let image = MUTANT_BASE.image()?;
        let root = workspace::tools()?.join("mutants");
        let sources = root.join("root/usr/src");
        let base = image.release.trim_end_matches("-amd64");
        let tree = Self {
            headers: sources.join(format!("linux-headers-{}", image.release)),
            source: sources.join(format!("linux-headers-{base}-common")),
            pristine: root.join("pristine"),
        };
        let stamp = root.join(format!("ready-{}", image.release));
        if !stamp.is_file() {
            let _lock = tools::lock()?;
            workspace::make_empty(root.clone())?;
            tree.fetch(&image, base, &root.join("root"))?;
            tree.lay_out(&sources)?;
            fs::write(&stamp, "").with_context(|| format!("write {}", stamp.display()))?;
        }
        Ok(tree)
    }

    fn fetch(&self, image: &Image, base: &str, into: &Path) -> Result<()> {
        let apt = Apt::open()?;
        let packages = [
            "linux-source-6.12".to_owned(),
            format!("linux-headers-{}", image.release),
            format!("linux-headers-{base}-common"),
            format!("linux-kbuild-{base}"),
        ]
        .map(|name| apt.newest(&name, |version| version == image.version));
        for package in packages {
            apt.unpack(&[package?], into)?;
        }
        Ok(())
    }

    fn lay_out(&self, sources: &Path) -> Result<()> {
        let Self { headers, source, pristine } = self;
        let archive = sources.join("linux-source-6.12.tar.xz");
        eprintln!("unpacking KVM's source");
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(&archive).arg("-C").arg(source).arg("--strip-components=1");
        tar.args(FOLDERS.map(|folder| format!("linux-source-6.12/{folder}")));
        process::run_quietly(&mut tar)?;
        workspace::remove(&archive)?;
        for folder in FOLDERS {
            let copy = pristine.join(folder);
            workspace::make(copy.parent().unwrap_or(pristine).to_owned())?;
            process::run_quietly(Command::new("cp").arg("-r").arg(source.join(folder)).arg(copy))?;
        }
        let shared = pristine.join(SHARED);
        workspace::make(shared.parent().unwrap_or(pristine).to_owned())?;
        write(&shared, &read(&source.join(SHARED))?)?;
        // Debian's file names the folder under /usr/src.
        write(&headers.join("Makefile"), &format!("include {}/Makefile\n", source.display()))
    }

    /// The modules with some edits by name, in a folder of their own; built unless they are there.
    ///
    /// `edited` are the files any mutant changes, so that the changes of the one before are undone.
    ///
    /// # Errors
    ///
    /// An edit does not fit the source, or the result does not compile.
    pub fn build(
        &self,
        edits: &[Edit],
        edited: &BTreeSet<&str>,
        into: &Path,
    ) -> Result<Vec<(String, PathBuf)>> {
        let modules = MODULES.map(|(name, file)| (name.to_owned(), into.join(file)));
        let stamp = into.join("made-of");
        let made_of = format!("{}\n{edits:#?}\n{PRELUDE}", self.headers.display());
        if fs::read_to_string(&stamp).is_ok_and(|found| found == made_of) {
            return Ok(modules.to_vec());
        }
        self.write_edited(edits, edited)?;
        self.make()?;
        workspace::make_empty(into.to_owned())?;
        for (_, kept) in &modules {
            let built = self.source.join(KVM).join(kept.file_name().unwrap_or_default());
            fs::copy(&built, kept).with_context(|| format!("copy {}", built.display()))?;
        }
        write(&stamp, &made_of)?;
        Ok(modules.to_vec())
    }

    /// Only what differs is written, so that make compiles no more than it must.
    fn write_edited(&self, edits: &[Edit], edited: &BTreeSet<&str>) -> Result<()> {
        for &file in edited.iter().chain([&SHARED]) {
            let mut text = read(&self.pristine.join(file))?;
            for edit in edits.iter().filter(|edit| edit.file == file) {
                text = edit.apply(&text)?;
            }
            if file == SHARED {
                text += PRELUDE;
            }
            let path = self.source.join(file);
            if read(&path)? != text {
                write(&path, &text)?;
            }
        }
        Ok(())
    }

    fn make(&self) -> Result<()> {
        let pahole = tools::pahole::path()?;
        let folder = self.source.join(KVM);
        let compiler = ["gcc-12", "gcc"]
            .into_iter()
            .find(|name| process::output(Command::new(name).arg("--version")).is_ok())
            .context("no gcc")?;
        let mut make = Command::new("make");
        make.arg("-C").arg(&self.headers).arg(format!("M={}", folder.display()));
        make.arg(format!("CC={compiler}")).arg(format!("PAHOLE={}", pahole.display()));
        // Only AMD's module runs in the lab.
        make.args(["CONFIG_KVM_INTEL=", "--silent", "modules"]);
        make.arg(format!("-j{}", std::thread::available_parallelism().map_or(1, usize::from)));
        process::run_quietly(make.env("LC_ALL", "C"))
    }
}

/// The parts of the kernel's source that make KVM.
const FOLDERS: [&str; 2] = [KVM, "virt/kvm"];

/// Where the modules are built.
const KVM: &str = "arch/x86/kvm";

/// Included by every file of KVM.
const SHARED: &str = "include/linux/kvm_host.h";

/// The modules by the names under which the lab loads them.
const MODULES: [(&str, &str); 2] = [("kvm", "kvm.ko"), ("kvm_amd", "kvm-amd.ko")];

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
