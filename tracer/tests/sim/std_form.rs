//! STD, written and read back: the same operations by the same threads in the same order.
//!
//! The reader here knows the grammar of STD (`T<thread>|op(target)|location`) and nothing of the writer. What it reads is
//! held against the records themselves: per line the thread, the kind and the page; per critical section the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use kvmdirty_trace::event::{Event, EventKind, Gfn, decode};
use kvmdirty_trace::export::std_form::StdForm;
use kvmdirty_trace::export::{Exporter, Filter, Origin};

use super::config::{Config, Mode};
use super::fault::Fault;
use super::judge::batch;
use super::rng::Rng;
use super::run::{Run, run};
use super::seeds::{self, claim};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    thread: u32,
    op: String,
    target: String,
    location: u8,
}

fn parse(line: &str) -> Option<Line> {
    let [thread, access, location] = line.split('|').collect::<Vec<_>>().try_into().ok()?;
    let thread = thread.strip_prefix('T')?.parse().ok()?;
    let (op, target) = access.strip_suffix(')')?.split_once('(')?;
    let location = location.parse().ok()?;
    Some(Line { thread, op: op.to_owned(), target: target.to_owned(), location })
}

fn written(run: &Run) -> String {
    let mut out = Vec::new();
    let mut sink = StdForm::new(&mut out);
    let origin = Origin { host: String::new(), setup: run.setup.clone() };
    let mut exporter =
        Exporter::begin(&origin, Filter::default(), &mut sink).expect("memory has room");
    exporter.push(&batch(&run.records)).expect("memory has room");
    exporter.finish().expect("memory has room");
    String::from_utf8(out).expect("STD is text")
}

/// The pages an event touches: of their bits, SPTEs and contents; `None`: it has no place in STD.
fn touched(event: &Event, vm: usize, base: u64) -> Option<BTreeSet<String>> {
    let page = |what: &str, gfn: u64| format!("V{vm}{what}{gfn}");
    let of_mask = |what: &str, first: Gfn, mask: u64| -> BTreeSet<String> {
        (0..64).filter(|bit| mask >> bit & 1 != 0).map(|bit| page(what, first.0 + bit)).collect()
    };
    let one = |what: &str, gfn: u64| Some(BTreeSet::from([page(what, gfn)]));
    match event.kind {
        EventKind::Mark { gfn, .. } => one("B", gfn.0),
        EventKind::RingPush { offset, .. } => one("B", base + offset),
        EventKind::SpteChange { page, .. }
        | EventKind::SpteSet { page, .. }
        | EventKind::FastFault { page, fixed: true, .. } => one("S", page.gfn.0),
        EventKind::HarvestWord { first, mask, protected, .. } => {
            let mut all = of_mask("B", first, mask);
            all.extend(of_mask("S", first, protected));
            Some(all)
        }
        EventKind::UserWord { first, mask, .. } => Some(of_mask("B", first, mask)),
        EventKind::HostWrite { gpa, failed: false, .. } => one("P", gpa >> 12),
        EventKind::Flush { .. } => Some(BTreeSet::from([format!("V{vm}T")])),
        EventKind::IoctlBegin { .. } | EventKind::IoctlEnd { .. } => Some(BTreeSet::new()),
        _ => None,
    }
}

/// Lines of one event: neighbours of one thread and kind, of which `begin` and `end` and a lock's release stand alone.
fn take<'a>(
    lines: &mut Peekable<impl Iterator<Item = &'a Line>>,
    event: &Event,
    touched: usize,
) -> Vec<Line> {
    let kind = event.kind.kind() as u8;
    let is_own = |line: &&Line| line.thread == event.tid.0 && line.location == kind;
    let is_word = matches!(event.kind, EventKind::HarvestWord { .. });
    let mut own = Vec::new();
    while let Some(line) = lines.next_if(is_own) {
        own.push(line.clone());
        if if is_word { line.op == "rel" } else { touched.max(1) <= own.len() } {
            break;
        }
    }
    own
}

fn check(run: &Run) -> Result<(), String> {
    let text = written(run);
    let lines: Option<Vec<Line>> = text.lines().map(parse).collect();
    let lines = lines.ok_or_else(|| format!("a line that is not STD in\n{text}"))?;
    let mut records = run.records.clone();
    records.sort_by_key(|raw| (raw.ts_ns, raw.cpu));
    let mut left = lines.iter().peekable();
    let mut locks: BTreeMap<&str, i32> = BTreeMap::new();
    // VMs are numbered by appearance, the unknown one as well.
    let mut vms = Vec::new();
    for event in records.iter().filter_map(|raw| decode(raw).ok()) {
        if !vms.contains(&event.vm) {
            vms.push(event.vm);
        }
        let vm = vms.iter().position(|vm| *vm == event.vm).unwrap_or_default();
        let Some(expected) = touched(&event, vm, run.config.first_gfn()) else { continue };
        let own = take(&mut left, &event, expected.len());
        let targets: BTreeSet<String> = own
            .iter()
            .filter(|line| matches!(line.op.as_str(), "r" | "w"))
            .map(|line| line.target.clone())
            .collect();
        claim(!own.is_empty() && targets == expected, || {
            format!("{event:?} reads back as {own:?}")
        })?;
    }
    for line in &lines {
        let held = locks.entry(&line.target).or_default();
        *held += match line.op.as_str() {
            "acq" | "begin" => 1,
            "rel" | "end" => -1,
            _ => 0,
        };
        let is_lock = matches!(line.op.as_str(), "acq" | "rel");
        claim(!is_lock || (0..=1).contains(held), || {
            format!("{line:?} of a lock held {held} times")
        })?;
    }
    claim(left.peek().is_none(), || format!("lines of no record: {:?}", left.peek()))
}

#[test]
fn a_trace_in_std_reads_back_as_its_records() {
    seeds::each("sim::std_form::a_trace_in_std_reads_back_as_its_records", 60, |seed| {
        let rng = Rng::new(seed ^ 0x66);
        let config = if rng.chance(50) {
            Config::healthy(seed)
        } else {
            Config::broken(seed, *rng.pick(Fault::ALL))
        };
        // The offset of a ring entry counts from its slot's first page.
        let slots = if config.mode == Mode::Ring { 1 } else { config.slots };
        check(&run(Config { slots, ..config }))
    });
}
