//! `docs/kernels.md`: one section per kernel, and one for the long run (`lab long`).

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};

use super::{Cell, Row, paths, table};
use crate::{
    lab::kernel::{KERNELS, Kernel},
    workspace,
};

/// Where the tables go.
pub const DOCUMENT: &str = "docs/kernels.md";

/// A part of the document that one command writes.
#[derive(Debug, Clone, Copy)]
pub enum Section {
    /// The matrix of a kernel.
    Kernel(&'static Kernel),
    /// Millions of events on a healthy kernel.
    Long,
}

const HEAD: &str = "# Kernels

Written by `cargo xtask lab matrix [KERNEL...]`: stock Debian kernels in the lab's emulated machine (2 or 4 CPUs,
emulated: times and counts swing with the load of the build machine), the demo's guest, every log mode the
kernel has. *tdp* is nested paging with the TDP MMU, *shadow* nested paging with the older MMU (`tdp_mmu=0`), *npt0*
shadow paging (`npt=0`). Plain guests run 1 to 3 seconds, those of the paths three times as long (`--seconds`). A run is
clean if it saw harvests, dropped no record, named no page except for a known hazard of the stock kernel, found no
integrity violation, every operation that was attached fired, and page contents agree.
";

/// The section of one kernel.
///
/// # Errors
///
/// A recording cannot be read.
pub fn section(kernel: &'static Kernel, rows: &[Row], missing: &[Cell]) -> Result<String> {
    let mut text = heading(Section::Kernel(kernel));
    let release = rows.iter().map(|row| row.release.as_str()).find(|release| !release.is_empty());
    let clean = rows.iter().filter(|row| row.complaints().is_empty()).count();
    let _ = writeln!(
        text,
        "\n{}; {clean} of {} runs clean.\n",
        release.unwrap_or("has not run"),
        rows.len()
    );
    for cell in missing {
        let _ = writeln!(text, "Not run: {cell}.\n");
    }
    text += &table::runs(rows);
    text += "\nInside what contains it, how often was the operation seen (the self-check of the report):\n\n";
    text += &table::self_check(rows);
    text += "\nEvents by kind, over all runs:\n\n";
    text += &table::fired(rows);
    text += "\nNanoseconds inside the harvest ioctls per page they reported, plain guests (emulated: a kprobe costs\n\
             microseconds, and the harvester waits for its CPU in between; one run each, and a busy build machine\n\
             moves these numbers by more than tracing does, also below zero):\n\n";
    text += &table::times(rows);
    let (cells, lines) = paths::lines(rows)?;
    if !cells.is_empty() {
        text += "\nPaths, and the records that show each was taken:\n\n";
        let _ = writeln!(text, "| path | guest | evidence | {} |", cells.join(" | "));
        let _ = writeln!(text, "|---|---|---|{}", "--:|".repeat(cells.len()));
        for line in lines {
            text += &line;
            text.push('\n');
        }
        text += &table::skipped(rows);
    }
    Ok(text)
}

/// The line a section begins with.
pub fn heading(section: Section) -> String {
    let name = match section {
        Section::Kernel(kernel) => kernel.name,
        Section::Long => "A long run",
    };
    format!("## {name}\n")
}

/// Puts a section into the document, in place of the one it had.
///
/// # Errors
///
/// The document cannot be written.
pub fn write(section: Section, text: &str) -> Result<()> {
    let path = workspace::root().join(DOCUMENT);
    let before = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, with_section(&before, section, text))
        .with_context(|| format!("write {}", path.display()))
}

/// The document with that section in place of the one it had: kernels in order of age, then the long run.
fn with_section(before: &str, section: Section, text: &str) -> String {
    let mut document = HEAD.to_owned();
    for known in KERNELS.iter().map(Section::Kernel).chain([Section::Long]) {
        let is_new = heading(known) == heading(section);
        let kept = if is_new { Some(text) } else { find(before, known) };
        if let Some(kept) = kept {
            document.push('\n');
            document += kept.trim_end();
            document.push('\n');
        }
    }
    document
}

/// A section of the document.
fn find(text: &str, section: Section) -> Option<&str> {
    let start = text.find(&heading(section))?;
    let section = &text[start..];
    let end = section[3..].find("\n## ").map_or(section.len(), |end| end + 3);
    Some(&section[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_its_place_and_leaves_the_others() {
        let [old, middle, ..] = KERNELS.each_ref().map(Section::Kernel);
        let one = with_section("", middle, "## 6.1\n\nfirst\n");
        let two = with_section(&one, Section::Long, "## A long run\n\nmillions\n");
        let three = with_section(&two, old, "## 5.10\n\nolder\n");
        let four = with_section(&three, middle, "## 6.1\n\nsecond\n");
        let expected = "## 5.10\n\nolder\n\n## 6.1\n\nsecond\n\n## A long run\n\nmillions\n";
        assert!(four.ends_with(expected), "{four}");
        assert!(!four.contains("first"));
    }
}
