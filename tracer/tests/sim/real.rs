//! The model against the kernel: its operations leave the forms that recordings of real kernels hold, and no others.
//!
//! The recordings of `tests/fixtures/paths/` were made in the lab (README.md there says how). For each of their kernels,
//! MMUs and plans the forms of the model are held against theirs, operation by operation, both ways: a form that the model
//! emits must be in a recording, and a form that is frequent there must be one that the model emits. What differs is
//! listed in [`KNOWN`], with the reason; a difference that is not listed fails, and so does an entry that explains none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use kvmdirty_trace::event::{Batch, RawEvent, SpteMasks};
use kvmdirty_trace::trace::Reader;

use super::config::{Combination, Config, Kernel, Mmu, Mode};
use super::forms::{self, Forms};
use super::run::run;

/// Runs of the model per combination.
const SEEDS: u64 = 12;

/// A form is frequent if it is so much of the forms of its operation, in percent, and was seen so often.
const FREQUENT: (u64, u64) = (2, 5);

/// What is compared: the model of a kernel, with the recordings of real ones that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    kernel: &'static str,
    mmu: &'static str,
    plan: &'static str,
    is_ring: bool,
}

/// Who has a form, of which operation, the form, and how often.
type Difference = (Side, String, String, u64);

/// Who has the form that the other one lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Model,
    Kernel,
}

use Side::{Kernel as K, Model as M};

/// A race that short recordings do not hold; what happens more often than [`RARE`] in the model is none.
const FAILED: &str = "a race: the store failed, or found it done";

/// Of the forms of its operation, in percent.
const RARE: u64 = 5;

/// Differences that stand: who has the form, the operation, a part of the form, and why.
const KNOWN: &[(Side, &str, &str, &str)] = &[
    (
        M,
        "clear-dirty-log",
        "[begin]",
        "the model's VMM now and then clears a chunk that holds nothing",
    ),
    (M, "fault", "no-log", "the guest of the lab does not run on when logging has been turned off"),
    (M, "fault", "mark(fast,ro", "a race: closed between cmpxchg and mark"),
    (M, "fault", "(w)[mark]", FAILED),
    (M, "fault", "(r)[mark]", FAILED),
    (M, "fault", "(w)[mark(ring)]", FAILED),
    (M, "fault", "(r)[mark(ring)]", FAILED),
    (M, "fault", "fast-fault(none", "a race: zapped under the fault"),
    (
        M,
        "fault",
        "(2M none>rw)",
        "the guest of the lab reads before it writes where pages are huge",
    ),
    (M, "fault", "(2M ro>table)", "huge pages are split by faults only with eager_page_split off"),
    (
        M,
        "fault",
        "spte(ro>rw)",
        "a race: lost by the lockless path, which leaves it to the slow one",
    ),
    (
        M,
        "set-memory(log)",
        "slot-protect]",
        "5.10 and INITIALLY_SET: the guest recorded in that mode has huge pages",
    ),
    (M, "fault", "spte(rw>rw)", "a race: another vCPU mapped the page first"),
    (M, "host-write", "no-vcpu", "no device of the lab writes from a thread that runs no vCPU"),
    (M, "host-write", "no-log", "the writers of the lab write where the slot logs"),
    (M, "host-write", "[mark", "the bytes were there before, which the guest of the lab avoids"),
    (
        M,
        "mark",
        "no-vcpu",
        "5.10 does not name the VM of such a writer, so that only its mark is seen",
    ),
    (
        M,
        "ring-push",
        "ring-push",
        "every write fault of this host's guest is a slow one, whose SPTE is seen to be set",
    ),
    (
        M,
        "spte change alone",
        "rw>",
        "nobody write-protects or ages single pages of the lab's guest",
    ),
    (
        M,
        "set-memory(log)",
        "spte(2M rw>ro)",
        "huge pages are write-protected as such only with eager_page_split off",
    ),
    (K, "zap", "zap", "the shadow pages of a VM that is torn down; the model ends with its guest"),
    (
        K,
        "spte change alone",
        ">none",
        "the page tables of a VM that is torn down; the model ends with its guest",
    ),
    (K, "fault", "fault(w)", "a write that is emulated or retried, and changes nothing"),
    (K, "invalidate", "flush flush", "5.10 flushes before it yields, and once more"),
    (K, "host-write steal-time-preempted", "", "no thread of the model is scheduled out"),
];

#[test]
fn the_forms_of_the_model_are_those_of_real_kernels() {
    let recorded = recorded();
    let (mut report, mut used) = (String::new(), BTreeSet::new());
    let mut unexplained = 0;
    for (place, real) in &recorded {
        let model = of_model(*place);
        for (side, operation, form, count) in
            differences(&model, real, &elsewhere(&recorded, *place))
        {
            let all: u64 = model.get(&operation).map_or(0, |forms| forms.values().sum());
            let is_rare = 100 * count <= RARE * all;
            let known = KNOWN.iter().position(|(of, op, part, why)| {
                let is_told = is_rare || !why.starts_with("a race");
                *of == side && operation.starts_with(op) && form.contains(part) && is_told
            });
            used.extend(known);
            let why = known.map_or("NOT EXPLAINED", |known| KNOWN[known].3);
            unexplained += u64::from(known.is_none());
            let _ = writeln!(
                report,
                "{place:?} only the {side:?}, {count} x: {operation}: {form}\n    {why}"
            );
        }
        let shared = shared(&model, real);
        let _ = writeln!(report, "{place:?}: {shared} forms in both\n");
    }
    println!("{report}");
    let idle: Vec<_> = (0..KNOWN.len()).filter(|n| !used.contains(n)).map(|n| KNOWN[n]).collect();
    assert_eq!(unexplained, 0, "forms that differ for no known reason, see above");
    assert!(idle.is_empty(), "explain nothing: {idle:?}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/paths")
}

/// The forms of all recordings, by what they are recordings of.
fn recorded() -> BTreeMap<Place, Forms> {
    let mut all: BTreeMap<Place, Forms> = BTreeMap::new();
    let entries = std::fs::read_dir(folder()).expect("tests/fixtures/paths/ is a folder");
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.extension().is_none_or(|ending| ending != "kdt") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (masks, records) = read(&path);
        forms::count(&masks, &records, all.entry(place(&name)).or_default());
    }
    assert!(!all.is_empty(), "no recording in {}", folder().display());
    all
}

/// `6.12-tdp-zap.kdt`, `6.18-shadow-tracepoint-ring.kdt`.
fn place(name: &str) -> Place {
    let has = |part: &str| name.split('-').any(|word| word == part);
    let kernel = ["5.10", "6.1"].into_iter().find(|kernel| has(kernel)).unwrap_or("6.12");
    Place {
        kernel,
        mmu: if has("tdp") { "tdp" } else { "shadow" },
        plan: if has("tracepoint") { "tracepoint" } else { "kprobe" },
        is_ring: has("ring"),
    }
}

fn read(path: &Path) -> (SpteMasks, Vec<RawEvent>) {
    let file = BufReader::new(File::open(path).expect("a recording can be opened"));
    let mut reader =
        Reader::new(file).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let masks = reader.header().setup.masks;
    let (mut records, mut batch) = (Vec::new(), Batch::default());
    while reader.next_batch(&mut batch).expect("a recording can be read").is_some() {
        assert!(batch.gaps.is_empty(), "{}: {:?}", path.display(), batch.gaps);
        records.append(&mut batch.records);
    }
    (masks, records)
}

/// The forms of the model in that place, over its modes.
fn of_model(place: Place) -> Forms {
    let mut all = Forms::new();
    let fits = |one: &Combination| {
        let kernel = match one.kernel {
            Kernel::V5_10 => "5.10",
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 => "6.12",
        };
        let mmu = if one.mmu == Mmu::Tdp { "tdp" } else { "shadow" };
        let is_ring = one.mode == Mode::Ring;
        let plan = one.plan.name();
        !one.pml && Place { kernel, mmu, plan, is_ring } == place
    };
    for combination in Combination::all().into_iter().filter(fits) {
        for seed in 1..=SEEDS {
            let config = Config { attach_ns: 0, ..Config::of(seed, combination) };
            let run = run(config);
            forms::count(&run.setup.masks, &run.records, &mut all);
        }
    }
    all
}

fn shared(model: &Forms, real: &Forms) -> usize {
    let is_shared = |operation: &str, form: &String| {
        real.get(operation).is_some_and(|forms| forms.contains_key(form))
    };
    let of = |(operation, forms): (&String, &BTreeMap<String, u64>)| {
        forms.keys().filter(|form| is_shared(operation, form)).count()
    };
    model.iter().map(of).sum()
}

/// The forms of the recordings that may stand in for those of the place: of faults those of the same kernel and MMU in
/// another mode, of everything else all. What the host writes, and what an ioctl does, is the same whatever maps the
/// guest.
fn elsewhere(recorded: &BTreeMap<Place, Forms>, place: Place) -> Forms {
    let mut all = Forms::new();
    for (other, forms) in recorded {
        let is_same = Place { is_ring: place.is_ring, ..*other } == place;
        for (operation, forms) in forms.iter().filter(|(name, _)| is_same || *name != "fault") {
            let known = all.entry(operation.clone()).or_default();
            forms.iter().for_each(|(form, n)| *known.entry(unringed(form)).or_default() += n);
        }
    }
    all
}

/// Where a mark goes is the mode's; that it is made is the operation's.
fn unringed(form: &str) -> String {
    form.replace("(ring)", "").replace(",ring", "").replace(",bitmap", "")
}

/// Forms that only one of them has: of the model's those that no recording holds, of the kernel's the frequent ones.
fn differences(model: &Forms, real: &Forms, elsewhere: &Forms) -> Vec<Difference> {
    let mut found = Vec::new();
    let missing = |from: &Forms, side, least: &dyn Fn(u64, u64) -> bool, in_other: &Forms| {
        let mut missing = Vec::new();
        for (operation, forms) in from {
            let all: u64 = forms.values().sum();
            for (form, &count) in forms {
                let other = in_other.get(operation).is_some_and(|forms| forms.contains_key(form));
                if !other && least(count, all) {
                    missing.push((side, operation.clone(), form.clone(), count));
                }
            }
        }
        missing
    };
    let alien = missing(model, Side::Model, &|_, _| true, real).into_iter().filter(|alien| {
        let (_, operation, form, _) = alien;
        let known = elsewhere.get(operation);
        known.is_none_or(|forms| !forms.contains_key(&unringed(form)))
    });
    found.extend(alien);
    let is_frequent = |count, all| FREQUENT.0 * all <= 100 * count && FREQUENT.1 <= count;
    found.extend(missing(real, Side::Kernel, &is_frequent, model));
    found
}
