//! `docs/kernels.md`: one section per kernel.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Cell, Row, paths, table};
use crate::lab::kernel::{KERNELS, Kernel};

const HEAD: &str = "# Kernels

Written by `cargo xtask lab matrix [KERNEL...]`: stock Debian kernels in the lab's emulated machine (2 or 4 CPUs,
emulated: times and counts swing with the load of the build machine), the demo's guest, every log mode the
kernel has. *tdp* is nested paging with the TDP MMU, *shadow* nested paging with the older MMU (`tdp_mmu=0`), *npt0*
shadow paging (`npt=0`). A run is clean if it saw harvests, dropped no record, named no page except for a known hazard
of the stock kernel, found no integrity violation, every operation that was attached fired, and page contents agree.
";

/// The section of one kernel.
///
/// # Errors
///
/// A recording cannot be read.
pub fn section(kernel: &Kernel, rows: &[Row], missing: &[Cell]) -> Result<String> {
    let mut text = heading(kernel);
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
             microseconds, and the harvester waits for its CPU in between):\n\n";
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

fn heading(kernel: &Kernel) -> String {
    format!("## {}\n", kernel.name)
}

/// The document with that section in place of the one it had, kernels in order of age.
pub fn with_section(before: &str, kernel: &Kernel, section: &str) -> String {
    let mut text = HEAD.to_owned();
    for known in &KERNELS {
        let kept = if known.name == kernel.name { Some(section) } else { find(before, known) };
        if let Some(kept) = kept {
            text.push('\n');
            text += kept.trim_end();
            text.push('\n');
        }
    }
    text
}

/// The section of a kernel in the document.
fn find<'a>(text: &'a str, kernel: &Kernel) -> Option<&'a str> {
    let start = text.find(&heading(kernel))?;
    let section = &text[start..];
    let end = section[3..].find("\n## ").map_or(section.len(), |end| end + 3);
    Some(&section[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_its_place_and_leaves_the_others() {
        let [old, middle, ..] = &KERNELS;
        let one = with_section("", middle, "## 6.1\n\nfirst\n");
        let two = with_section(&one, old, "## 5.10\n\nolder\n");
        let three = with_section(&two, middle, "## 6.1\n\nsecond\n");
        assert!(three.ends_with("## 5.10\n\nolder\n\n## 6.1\n\nsecond\n"), "{three}");
        assert!(!three.contains("first"));
    }
}
