//! The litmus corpus: every file of `tests/litmus/` is judged and compared with what it expects (docs/litmus.md).
//!
//! The files are read when the test runs, so writing one needs no rebuild. `KVMDIRTY_LITMUS=part-of-a-name` runs only
//! the files whose names contain it.

#[path = "litmus/corpus.rs"]
mod corpus;
#[path = "litmus/history.rs"]
mod history;
#[path = "litmus/reach.rs"]
mod reach;
#[path = "litmus/stripped.rs"]
mod stripped;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use corpus::{File, corpus, judge};
use kvmdirty_common::RawEvent;
use kvmdirty_common::raw::CLASS_SHIFT;
use kvmdirty_trace::event::{Batch, Gfn, Nanos, Setup, SlotId, VmId};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::litmus::{Expectation, Litmus, Mismatch, check};
use kvmdirty_trace::verdict::{EdgeKind, Finding, RuleId, Verdict, WindowKind};
use reach::{Mode, Reached};

#[test]
fn every_file_gets_the_verdicts_it_expects() {
    let mut failures = String::new();
    let files = corpus();
    for file in &files {
        let summary = judge(&file.litmus);
        let mismatches = check(&file.litmus, &summary);
        if !mismatches.is_empty() {
            failures.push_str(&file.difference(&mismatches, &summary));
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    println!("{} litmus files", files.len());
}

#[test]
fn every_file_expects_something_and_says_what_it_is() {
    for File { name, litmus, .. } in corpus() {
        assert!(!litmus.expectations.is_empty(), "{name} expects nothing");
        assert!(litmus.title.lines().next().is_some_and(|line| 20 < line.len()), "{name}: title");
        assert!(name.contains('-'), "{name}: shape first, cause second");
    }
}

/// As far as a source may go: before the newest record, and before every one whose number says that an earlier record of
/// its lane is still to come (`live/lanes.rs`).
fn watermark(pushed: &[RawEvent], coming: &[RawEvent]) -> u64 {
    let lane = |record: &RawEvent| (record.cpu, record.flags >> CLASS_SHIFT);
    let waits = |record: &RawEvent| {
        coming.iter().any(|later| lane(later) == lane(record) && later.seq < record.seq)
    };
    let newest = pushed.last().into_iter();
    let first =
        newest.chain(pushed.iter().filter(|record| waits(record))).map(|record| record.ts_ns);
    first.min().unwrap_or(0).saturating_sub(1)
}

/// A file, its text written anew and read back, and one record per batch: all the same to the engine.
#[test]
fn writing_a_file_or_cutting_its_batch_changes_no_verdict() {
    for File { name, litmus, .. } in corpus() {
        let whole = judge(&litmus);
        let again = Litmus::read(&litmus.write()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(again.batch, litmus.batch, "{name}");
        assert!(judge(&again) == whole, "{name}: its written form is judged otherwise");
        let mut pipeline = Pipeline::new(litmus.setup.clone());
        let mut records = litmus.batch.records.clone();
        records.sort_by_key(|record| record.ts_ns);
        for (index, record) in records.iter().enumerate() {
            let (pushed, coming) = records.split_at(index + 1);
            let watermark = Nanos(watermark(pushed, coming));
            let records = vec![*record];
            pipeline.push(&Batch { records, watermark, gaps: Vec::new() });
        }
        let Batch { gaps, watermark, .. } = litmus.batch.clone();
        pipeline.push(&Batch { records: Vec::new(), gaps, watermark });
        pipeline.finish();
        if litmus.batch.gaps.is_empty() {
            assert_eq!(*pipeline.summary(), whole, "{name}: one record per batch");
        }
    }
}

/// `X.litmus` trips a rule, `X-repaired.litmus` is the same race run right.
#[test]
fn every_rule_has_a_tripping_and_a_repaired_file() {
    if corpus::is_filtered() {
        return;
    }
    let files = corpus();
    let mut repaired_rules = BTreeSet::new();
    for file in &files {
        let repaired = files.iter().find(|other| other.name == format!("{}-repaired", file.name));
        let Some(repaired) = repaired else { continue };
        let summary = judge(&repaired.litmus);
        let rules = file.tripped();
        assert!(!rules.is_empty(), "{} trips nothing, so nothing is repaired", file.name);
        for rule in rules {
            let is_silent = summary.findings.iter().all(|finding| finding.rule != rule);
            assert!(is_silent, "{} still trips {}", repaired.name, rule.name());
            if file.litmus.setup.plan.name == "kprobe" {
                repaired_rules.insert(rule);
            }
        }
    }
    let missing: Vec<_> =
        RuleId::ALL.iter().filter(|rule| !repaired_rules.contains(rule)).collect();
    assert!(missing.is_empty(), "no pair of files on the kprobe plan for {missing:?}");
    let is_orphan = |file: &&File| {
        let origin = file.name.strip_suffix("-repaired");
        origin.is_some_and(|origin| files.iter().all(|other| other.name != origin))
    };
    let orphans: Vec<_> = files.iter().filter(is_orphan).map(|file| &file.name).collect();
    assert!(orphans.is_empty(), "repair nothing: {orphans:?}");
}

#[test]
fn a_file_that_expects_safe_has_no_hazard_anywhere_it_does_not_name() {
    for File { name, litmus, .. } in corpus() {
        let is_safe = litmus.expectations.iter().any(|expectation| {
            matches!(expectation, Expectation::Verdict { verdict: Verdict::Safe, place, .. }
                if place.gfn.is_none())
        });
        let hazards = judge(&litmus).hazards().count();
        assert!(!is_safe || hazards == 0, "{name}: {hazards} hazards");
    }
}

/// What a finding is about; two findings of one rule on one page are the same.
fn target(finding: &Finding) -> (RuleId, Verdict, VmId, SlotId, Option<Gfn>) {
    (finding.rule, finding.verdict, finding.vm, finding.slot, finding.gfn)
}

fn fires(finding: &Finding, setup: &Setup) -> bool {
    let summary = judge(&Litmus::from_finding(finding, setup));
    summary.findings.iter().any(|other| target(other) == target(finding))
}

/// A witness is minimal judged by itself (DESIGN.md, section 4): the rule fires on it alone, and no longer when any one
/// of its events is left out.
#[test]
fn a_witness_fires_alone_and_needs_each_of_its_events() {
    let (mut failures, mut count) = (String::new(), 0);
    for File { name, litmus, .. } in corpus() {
        for finding in &judge(&litmus).findings {
            count += 1;
            let what = format!("{name}: {} {}", finding.verdict.name(), finding.rule.name());
            if !fires(finding, &litmus.setup) {
                let _ = writeln!(failures, "{what} does not fire on its witness alone");
                continue;
            }
            for left_out in 0..finding.witness.steps.len() {
                let mut fewer = Finding::clone(finding);
                let step = fewer.witness.steps.remove(left_out);
                if fires(&fewer, &litmus.setup) {
                    let _ = writeln!(failures, "{what} does not need `{}`", step.note);
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    println!("{count} witnesses");
}

/// `export --format litmus`: the file of a finding is read back and meets its own expectation.
#[test]
fn an_exported_finding_is_a_litmus_file_that_fires_again() {
    let mut failures = String::new();
    for File { name, litmus, .. } in corpus() {
        for finding in &judge(&litmus).findings {
            let text = Litmus::from_finding(finding, &litmus.setup).write();
            let read =
                Litmus::read(&text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
            for Mismatch { expected, found } in check(&read, &judge(&read)) {
                let _ = writeln!(failures, "{name}: expected {expected}, found {found}\n{text}");
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// Windows are results of their own: the summary counts each in the histogram of its kind and keeps the ten longest.
#[test]
fn windows_are_counted_by_length_and_the_ten_longest_are_kept() {
    let head = "setup plan=kprobe\nvmm vm-seen created\n\
                vmm slot-state slot=0:0+log+map base=0x0 npages=64 commit\n";
    let mut text = head.to_owned();
    for n in 1..=12_u64 {
        let begin = 10_000 * n;
        let (mark, end) = (begin + (1 << n), begin + (1 << n) + 1);
        let _ = writeln!(text, "vcpu0 mark @{mark}..{end} gfn={n} spte=rw in_fast");
        let _ = writeln!(text, "vcpu0 fast-fault @{begin}..{end} gfn={n} old=ro fixed");
        let _ = writeln!(text, "vcpu0 fault @{begin}..{end} addr={} error_code=2 vcpu=0", n << 12);
    }
    let summary = judge(&Litmus::read(&text).expect("the text reads"));
    let stats = summary.windows(WindowKind::FastFault);
    assert_eq!((stats.closed, stats.open, stats.with_harvest), (12, 0, 0));
    assert_eq!(stats.histogram[1..=12], [1; 12], "one per power of two");
    let longest: Vec<_> = stats.longest.iter().filter_map(|window| window.open_for_ns()).collect();
    assert_eq!(longest, [4097, 2049, 1025, 513, 257, 129, 65, 33, 17, 9]);
    assert_eq!(summary.verdicts.exposed, 12, "nothing harvested later");
}

/// Carried over to another mode, a race that is run right is still right.
#[test]
fn a_repaired_file_has_no_hazard_in_any_mode() {
    let mut failures = String::new();
    for file in corpus() {
        let is_right = judge(&file.litmus).findings.is_empty();
        let is_kprobe = file.litmus.setup.plan.name == "kprobe";
        let is_bitmap = Mode::of(&file.litmus) == Mode::Bitmap;
        if !is_right || !is_kprobe || !is_bitmap || !reach::is_complete(&file) {
            continue;
        }
        for mode in Mode::ALL {
            let Some(carried) = mode.carry(&file.litmus) else { continue };
            for hazard in judge(&carried).hazards() {
                let name = &file.name;
                let _ =
                    writeln!(failures, "{name} {mode:?}: {}\n{}", hazard.sentence, carried.write());
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn the_table_of_reachable_verdicts_is_what_the_corpus_reaches() {
    if corpus::is_filtered() {
        return;
    }
    assert_is_written("reach.md", &Reached::of(&corpus()).page());
}

/// The page in docs/ is the one made here; `KVMDIRTY_UPDATE` writes it anew.
fn assert_is_written(name: &str, page: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("KVMDIRTY_UPDATE").is_some() {
        std::fs::write(&path, page).expect("docs/ can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/{name} is stale: KVMDIRTY_UPDATE=1 cargo test --test litmus");
}

#[test]
fn every_historic_bug_is_drawn_or_says_why_nobody_sees_it() {
    if corpus::is_filtered() {
        return;
    }
    let files = corpus();
    assert_eq!(history::silent(), [] as [&str; 0]);
    assert_eq!(history::without_row(&files), [] as [&str; 0], "commits in titles without a row");
    assert_is_written("history.md", &history::page(&files));
}

/// Edges say why they hold (DESIGN.md, section 3): each kind orders the steps of some witness, and names the right pair.
#[test]
fn edges_of_witnesses_name_their_kind() {
    let mut seen = BTreeMap::new();
    for File { name, litmus, .. } in corpus() {
        for finding in &judge(&litmus).findings {
            let steps = &finding.witness.steps;
            for edge in &finding.witness.edges {
                let kinds = [edge.from, edge.to].map(|step| steps[step].event.kind.kind().name());
                let is_same_thread = steps[edge.from].event.tid == steps[edge.to].event.tid;
                assert!(edge.from < steps.len() && edge.to < steps.len(), "{name}");
                assert!(is_same_thread || edge.kind != EdgeKind::ProgramOrder, "{name}: {kinds:?}");
                seen.entry(edge.kind.name()).or_insert_with(BTreeSet::new).insert(kinds);
            }
        }
    }
    for (kind, pairs) in &seen {
        println!("{kind:<14} {pairs:?}");
    }
    let has = |kind: EdgeKind, from, to| {
        seen.get(kind.name()).is_some_and(|pairs| pairs.contains(&[from, to]))
    };
    assert!(has(EdgeKind::ReadsFrom, "mark", "harvest-word"), "a mask takes what a mark set");
    assert!(has(EdgeKind::ReadsFrom, "mark", "ring-reset"), "an index lies between two indexes");
    assert!(has(EdgeKind::SpteValue, "harvest-word", "spte-change"), "found closed what it closed");
    assert!(has(EdgeKind::FlushAck, "harvest-word", "flush"), "closed, then flushed");
    assert!(has(EdgeKind::MmuLock, "spte-change", "harvest-word"), "both hold mmu_lock");
}
