//! What a mutant is: a bug, where it goes, and what must come of it.
//!
//! Most bugs are the kernel's and are planted in its source. Some are the VMM's, planted in what the
//! demo's guest does; the kernel's source is then changed only to say on which pages it happened.

use anyhow::{Result, ensure};

use crate::lab::machine::Mmu;

/// A kernel module with one planted bug.
#[derive(Debug)]
pub struct Mutant {
    /// What the user calls it.
    pub name: &'static str,
    /// The bug, as a sentence about what the kernel does.
    pub bug: &'static str,
    /// Where it goes.
    pub edits: &'static [Edit],
    /// Rules that may name its pages; the first is the one the bug was made for.
    pub rules: &'static [&'static str],
    /// Whether page contents can show a loss.
    pub proof: Proof,
    /// The memory management on which the bug's path runs.
    pub mmu: Mmu,
    /// A shell line run before the guest starts.
    pub setup: &'static str,
    /// Flags of the demo's guest that reach the path.
    pub guest: &'static [&'static str],
    /// Pages a finding speaks of: the tool names a huge page by its first.
    pub reach: u64,
}

impl Mutant {
    /// Something is broken in it.
    pub const fn is_broken(&self) -> bool {
        !self.rules.is_empty()
    }
}

/// What page contents can say about a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Pages are lost in any run of some seconds.
    Expected,
    /// The bug loses nothing that contents could show.
    None,
}

/// A change of one place in the source.
#[derive(Debug)]
pub struct Edit {
    /// The file, relative to the kernel's source.
    pub file: &'static str,
    /// Text that occurs once and stands before the anchor, such as the head of its function.
    pub after: &'static str,
    /// What is replaced: its first occurrence behind `after`.
    pub anchor: &'static str,
    /// What it becomes.
    pub becomes: &'static str,
}

impl Edit {
    /// The file's text with the change.
    ///
    /// # Errors
    ///
    /// The place is gone or no longer unique: the kernel's source has moved on.
    pub fn apply(&self, text: &str) -> Result<String> {
        let Self { file, after, anchor, becomes } = self;
        let heads = text.matches(after).count();
        ensure!(heads == 1, "{file}: {after:?} occurs {heads} times, not once");
        let (before, behind) = text.split_once(after).unwrap_or_default();
        ensure!(behind.contains(anchor), "{file}: nothing behind {after:?} reads {anchor:?}");
        Ok(format!("{before}{after}{}", behind.replacen(anchor, becomes, 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDIT: Edit =
        Edit { file: "a.c", after: "int b(void)", anchor: "mark();", becomes: "skip();" };

    #[test]
    fn the_first_anchor_behind_the_head_is_replaced() {
        let text = "int a(void) { mark(); }\nint b(void) { mark(); mark(); }";
        let changed = "int a(void) { mark(); }\nint b(void) { skip(); mark(); }";
        assert_eq!(EDIT.apply(text).ok().as_deref(), Some(changed));
    }

    #[test]
    fn moved_source_is_an_error_that_names_the_place() {
        let errors = ["int c(void) { mark(); }", "int b(void) { log(); }"]
            .map(|text| EDIT.apply(text).map_err(|error| error.to_string()));
        let expected = [
            "a.c: \"int b(void)\" occurs 0 times, not once",
            "a.c: nothing behind \"int b(void)\" reads \"mark();\"",
        ];
        assert_eq!(errors, expected.map(|error| Err(error.to_owned())));
    }
}
