//! A static busybox: the shell of the lab's machines.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    tools::{self, apt::Apt},
    workspace,
};

/// The binary, fetched once.
pub fn path() -> Result<PathBuf> {
    let _lock = tools::lock()?;
    let folder = workspace::tools()?.join("busybox");
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| folder.join(place));
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    let apt = Apt::open()?;
    let package = apt.newest("busybox-static", |_| true)?;
    apt.unpack(&[package], &workspace::make_empty(folder.clone())?)?;
    places
        .into_iter()
        .find(|place| place.is_file())
        .ok_or_else(|| anyhow::anyhow!("package busybox-static holds no busybox"))
}
