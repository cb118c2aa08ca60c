//! Programs of Debian that run from an unpacked folder, with their own libraries and loader.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// Where Debian keeps libraries, below the folder packages were unpacked into.
pub fn library_folders(root: &Path) -> [PathBuf; 2] {
    ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|folder| root.join(folder))
}

/// The words that start a program of `usr/bin`, through the unpacked dynamic loader.
pub fn words(root: &Path, program: &str) -> [OsString; 4] {
    let folders = library_folders(root);
    let path = folders.each_ref().map(|folder| folder.display().to_string()).join(":");
    [
        folders[0].join("ld-linux-x86-64.so.2").into(),
        "--library-path".into(),
        path.into(),
        root.join("usr/bin").join(program).into(),
    ]
}

/// A command that runs the program.
pub fn command(root: &Path, program: &str) -> Command {
    let [loader, arguments @ ..] = words(root, program);
    let mut command = Command::new(loader);
    command.args(arguments);
    command
}
