//! The bugs that dirty logging has had, and the litmus files that draw them, as `docs/history.md` shows it.
//!
//! What the rule names of a bug comes from judging its files; a row without a file says why nobody can see it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use kvmdirty_trace::verdict::RuleId;

use super::corpus::{File, judge};

/// One bug.
struct Bug {
    year: u16,
    /// The commit that mended it (or made it, where `what` says so), or how it is known otherwise.
    commit: &'static str,
    what: &'static str,
    /// Files that draw it, the first one as it was.
    files: &'static [&'static str],
    /// What of it no record shows; empty if nothing.
    unseen: &'static str,
}

const fn bug(year: u16, commit: &'static str, what: &'static str) -> Bug {
    Bug { year, commit, what, files: &[], unseen: "" }
}

impl Bug {
    const fn drawn(mut self, files: &'static [&'static str]) -> Self {
        self.files = files;
        self
    }

    const fn unseen(mut self, unseen: &'static str) -> Self {
        self.unseen = unseen;
        self
    }
}

const BUGS: &[Bug] = &[
    bug(2010, "edde99ce0529", "pages were write-protected before the bitmap was swapped")
        .drawn(&["protect-fault-swap", "protect-fault-swap-first-word"]),
    bug(2012, "6dbf79e7164e", "W was seen clear, and the flush of whoever had cleared it was not waited for").drawn(&[
        "harvest-assumes-flushed",
        "protect-assumed-flushed",
        "protect-assumed-flushed-ring",
        "harvest-flush-after-return",
    ]),
    bug(2013, "discussion, first diagram", "marked and harvested before the SPTE was in the rmap")
        .drawn(&["mark-harvest-rmap"]),
    bug(2013, "discussion, second diagram", "marked and harvested before the SPTE was made writable")
        .drawn(&["mark-rmap-harvest-store", "mark-harvest-cmpxchg", "push-reset-cmpxchg"]),
    bug(2013, "discussion, third case", "made writable, harvested, marked: allowed if a harvest follows").drawn(&[
        "cmpxchg-harvest-mark-last",
        "cmpxchg-harvest-mark-collected",
        "cmpxchg-final-harvest-mark",
        "write-harvest-mark-last",
    ]),
    bug(2013, "discussion, the TLB", "a page found read-only whose TLB entries live on")
        .drawn(&["protect-assumed-flushed"]),
    bug(2014, "c126d94f2c90", "a lockless fault opened a huge SPTE and marked one page (6b73a9606, reverted)")
        .drawn(&["huge-store-one-mark", "fast-fault-opens-huge-page"]),
    bug(2014, "198c74f43f0f", "made flushes outside of mmu_lock right, by asking for MMU-writable instead of W")
        .drawn(&["protect-assumed-flushed"]),
    bug(2015, "QEMU 4cc856fabae1", "the VMM dropped the bitmap with bits in it that it had not read")
        .drawn(&["log-off-bits-unread", "slot-deleted-bits-unread", "set-writable-log-off-unread"]),
    bug(2017, "\"nVMX: mark vmcs12 pages dirty on L2 exit\"", "pages that the CPU writes for L2 were not marked")
        .drawn(&["vmcs12-page-marked-at-unmap"])
        .unseen(
            "The CPU writes them by their host addresses, through no SPTE, and a map has no record while it lasts: only \
             one that is unmapped, and marked, after the last harvest is told.",
        ),
    bug(2019, "1f4e5fc83a42", "PML logged the addresses of L2, and KVM marked those of L1")
        .drawn(&["pml-logs-l2-address"])
        .unseen("When the CPU sets D, and of which page, is in no record: the page that is lost is not told."),
    bug(2020, "2dbebf7ae1ed", "the emulated PML of a nested hypervisor was given a wrong address")
        .unseen("The log is L1's own, in guest memory; only contents tell."),
    bug(2020, "88bf56d04bc3", "pending flushes of the shadow MMU were forgotten by a truncated counter")
        .unseen("An SPTE that is zapped while page tables are synced has no record, so no flush is missed for it."),
    bug(2021, "3354ef5a592d", "D was cleared of SPTEs that map nothing any more")
        .drawn(&["clear-dirty-not-present-pml"])
        .unseen("Nothing is lost by it, as the commit says: what is not present lets no write through."),
    bug(2021, "3a0f64de479c", "the walk over the TDP MMU skipped a subtree after it had yielded").drawn(&[
        "enable-skips-open-page",
        "harvest-leaves-writable",
        "split-child-not-protected",
        "fast-fault-open-at-visit",
    ]),
    bug(2021, "the fixes of range zaps", "mmu_lock was dropped before the flush of what had been zapped, or a wrong range flushed")
        .drawn(&["zap-no-flush", "zap-no-flush-ring", "zap-flush-wrong-range", "harvest-flush-wrong-range"]),
    bug(2021, "7e2175ebd695", "steal time was written to a page that was the guest's no more")
        .unseen("To which page a cached mapping leads is not seen."),
    bug(2022, "2efd61a608b0", "warns of marks without a running vCPU; 6.1 drops them, rings have no place for them").drawn(&[
        "mark-records-nothing-no-vcpu",
        "mark-dropped-beside-other-clear",
        "mark-in-slot-without-bitmap",
    ]),
    bug(2022, "f02d7565cc0a", "a ring was freed before the last mark of its vCPU")
        .drawn(&["mark-without-push-ring-freed"]),
    bug(2022, "7c8a4742c4ab", "W was found clear, so MMU-writable was left set, and a lockless fault opened the page again")
        .drawn(&["protect-assumed-flushed"])
        .unseen("A path that decides and changes nothing leaves no record; if it changes the SPTE it is K10. The page was a \
                 guest page table: the dirty log lost nothing."),
    bug(2022, "ba3a6120a4e7", "a store that was not atomic overwrote the W of a lockless fault")
        .drawn(&["spte-store-not-atomic"]),
    bug(2022, "b64d740ea7dd", "logging was turned on without a flush, if no SPTE looked writable")
        .drawn(&["enable-no-flush", "enable-no-flush-access-tracked"]),
    bug(2022, "cf1d88b36ba7", "a cached mapping was marked when it went away, after the last harvest")
        .drawn(&["host-mark-after-final-harvest"]),
    bug(2024, "45a61ebb2211", "a retry lost the check for a leaf, so that D stayed set").drawn(&["harvest-leaves-dirty-pml"]),
    bug(2024, "910c57dfa4d1", "an emulated LOCK CMPXCHG marked nothing").drawn(&[
        "host-write-unmarked-cmpxchg",
        "host-write-unmarked-bit-set",
        "host-write-unpushed",
    ]),
    bug(2025, "49005a2a3d2a made it", "a signal ends the reset of a ring with entries popped and not protected").drawn(&[
        "ring-pop-unprotected-eintr",
        "ring-pop-read-back-writable",
        "ring-reset-eintr-7-3",
    ]),
    bug(2026, "CVE-2026-52969", "an offset in the ring, written by user space, wrapped the check of its range")
        .drawn(&["ring-reset-offset-wraps"]),
    bug(2026, "3e013d0a7099", "PML was turned on or off late while L2 ran")
        .unseen(
            "Whether PML is on for a vCPU is a request bit and a field of the VMCS; neither has a hook. No lost page is \
             known of it: L2's pages are write-protected instead.",
        ),
];

const HEAD: &str = "# The bugs that dirty logging has had

Made by `KVMDIRTY_UPDATE=1 cargo test --test litmus`; that test fails when it is stale.

Each row is a bug of KVM on x86 (or of a VMM, where it says so), the files of `tracer/tests/litmus/` that draw it, and what
the tool says of them; most files have a `-repaired` twin in which the same race is run right. Where an observer of marks,
SPTEs, harvests, flushes, rings and host writes cannot see a bug, or not all of it, the row says why. Bugs of other
architectures, of TCG and of user space's own reading of rings are not KVM's dirty log on x86 and have no row.

| year | commit | what went wrong | verdicts | drawn in | not seen |
|--:|---|---|---|---|---|
";

/// `docs/history.md`.
pub fn page(files: &[File]) -> String {
    let mut page = String::from(HEAD);
    for Bug { year, commit, what, files: names, unseen } in BUGS {
        let drawn: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let drawn = drawn.join(", ");
        let said = said(files, names);
        let _ = writeln!(page, "| {year} | {commit} | {what} | {said} | {drawn} | {unseen} |");
    }
    page
}

/// The verdicts on a bug's files, and the rules they name.
fn said(files: &[File], names: &[&str]) -> String {
    let mut said = BTreeSet::new();
    for name in names {
        let file = files.iter().find(|file| file.name == *name);
        let file = file.unwrap_or_else(|| panic!("no litmus file {name}"));
        for finding in judge(&file.litmus).findings {
            let rule: RuleId = finding.rule;
            said.insert(format!("{} {}", rule.name(), finding.verdict.name()));
        }
    }
    if said.is_empty() { String::from("none") } else { Vec::from_iter(said).join(", ") }
}

/// Bugs of which a file says that it draws them, and that have no row for it.
pub fn without_row(files: &[File]) -> Vec<String> {
    let names = |file: &File, commit: &str| {
        BUGS.iter().any(|bug| bug.commit.contains(commit) || bug.what.contains(commit))
            || file.name.ends_with("-repaired")
    };
    let commits = files.iter().flat_map(|file| {
        let title = file.litmus.title.lines().next().unwrap_or_default().to_owned();
        let words = title.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned);
        let hashes: Vec<String> = words.filter(|word| is_commit(word)).collect();
        hashes.into_iter().map(move |hash| (file, hash))
    });
    commits
        .filter(|(file, hash)| !names(file, hash))
        .map(|(file, hash)| format!("{}: {hash}", file.name))
        .collect()
}

/// Every row is drawn, or says why it is not; no row draws nothing and says nothing.
pub fn silent() -> Vec<&'static str> {
    let silent = BUGS.iter().filter(|bug| bug.files.is_empty() && bug.unseen.is_empty());
    silent.map(|bug| bug.commit).collect()
}

fn is_commit(word: &str) -> bool {
    (9..=12).contains(&word.len())
        && word.chars().all(|c| c.is_ascii_hexdigit())
        && word.chars().any(|c| c.is_ascii_digit())
        && word.chars().any(|c| c.is_ascii_alphabetic())
}
