//! Imports of real recordings: the same stretch of a demo guest in ring mode, as trace.dat 6, as trace.dat 7, and as
//! the text of `trace-cmd report -t`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kvmdirty_trace::event::{
    Batch, Event, EventKind, Evidence, GapCause, Gfn, IoctlOp, Kind, Nanos, Operation, SlotId,
    Spte, VmId, decode,
};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::import::{Import, ImportError, ImportOptions};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(name)
}

/// A file that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn events_of(path: &Path, options: &ImportOptions) -> Result<(Import, Vec<Event>), ImportError> {
    let mut import = Import::open(path, options)?;
    let mut events = Vec::new();
    let mut batch = Batch::default();
    let mut watermark = Nanos(0);
    while import.next_batch(&mut batch)?.is_some() {
        for record in &batch.records {
            assert!(watermark.0 <= record.ts_ns, "a record came behind the watermark");
            events.push(decode(record).unwrap());
        }
        watermark = batch.watermark;
    }
    Ok((import, events))
}

fn text_events(name: &str, text: &str) -> (Import, Vec<Event>) {
    let scratch = Scratch::new(name, text.as_bytes());
    events_of(&scratch.0, &ImportOptions::default()).unwrap()
}

#[test]
fn both_versions_and_the_text_hold_the_same_events() {
    let of = |name: &str| events_of(&fixture(name), &ImportOptions::default()).unwrap();
    let (v6, v6_events) = of("ring-v6.dat");
    let (v7, v7_events) = of("ring-v7.dat");
    let (text, text_events) = of("ring.txt");
    assert_eq!(v6_events, v7_events);
    assert_eq!(v6_events, text_events);
    assert_eq!(v6.setup(), v7.setup());
    assert_eq!(v6.setup().kernel, "6.18.44-fc-v669");
    assert_eq!(v6.setup().plan, text.setup().plan);
    // The text does not say by which clock it was recorded.
    assert_eq!((v6.setup().epsilon_ns, text.setup().epsilon_ns), (1_000, 20_000_000));
}

#[test]
fn the_numbers_are_those_of_trace_cmd_report() {
    let (_, events) = events_of(&fixture("ring-v7.dat"), &ImportOptions::default()).unwrap();
    let mut counts = BTreeMap::new();
    for event in &events {
        *counts.entry(event.kind.kind().name()).or_insert(0) += 1;
    }
    let expected = [
        ("ioctl-begin", 16),
        ("ioctl-end", 16),
        ("ring-push", 322),
        ("ring-reset", 32),
        ("run-begin", 8),
        ("run-end", 7),
        ("spte-set", 322),
        ("vm-seen", 1),
    ];
    assert_eq!(counts, BTreeMap::from(expected));
    let push =
        events.iter().find(|event| matches!(event.kind, EventKind::RingPush { .. })).unwrap();
    assert_eq!(push.span.hi, Nanos(6_190_224_765_477));
    let EventKind::RingPush { offset: 4, slot: SlotId { as_id: 0, id: 1 }, index: 0xfe, .. } =
        push.kind
    else {
        panic!("{push:?}")
    };
}

#[test]
fn a_store_lies_between_the_request_of_its_fault_and_its_tracepoint() {
    let (_, events) = events_of(&fixture("ring-v7.dat"), &ImportOptions::default()).unwrap();
    let sets = events.iter().filter(|event| matches!(event.kind, EventKind::SpteSet { .. }));
    assert!(sets.map(|event| event.span.len_ns()).all(|ns| (1..1_000_000).contains(&ns)));
}

#[test]
fn the_plan_says_what_is_missing() {
    let (import, _) = events_of(&fixture("ring-v7.dat"), &ImportOptions::default()).unwrap();
    let plan = &import.setup().plan;
    assert_eq!(plan.name, "import");
    assert_eq!(plan.evidence(Operation::RingPush), Evidence::Direct);
    assert_eq!(plan.evidence(Operation::Ioctl), Evidence::Nearest);
    for missing in [Operation::Mark, Operation::HarvestWord, Operation::Flush, Operation::Slot] {
        assert_eq!(plan.evidence(missing), Evidence::None);
    }
}

#[test]
fn slots_can_be_given() {
    let options = ImportOptions {
        slots: vec!["0:1=0x400+0x400".parse().unwrap()],
        ..ImportOptions::default()
    };
    let (import, events) = events_of(&fixture("ring-v7.dat"), &options).unwrap();
    assert_eq!(import.setup().plan.evidence(Operation::Slot), Evidence::Nearest);
    let EventKind::SlotState { base: Gfn(0x400), npages: 0x400, .. } = events[1].kind else {
        panic!("{:?}", events[1])
    };
}

/// What trace-cmd recorded in the lab with the kprobes of docs/import.md, a fifth of a second of a guest in bitmap mode;
/// `cargo xtask lab import 6.12` leaves such a file as target/lab/import/6.12/out/small.dat.
#[test]
fn a_recording_of_trace_cmd_in_the_lab_is_judged() {
    let mut import = Import::open(&fixture("kprobes-v7.dat"), &ImportOptions::default()).unwrap();
    assert_eq!(import.setup().kernel, "6.12.95+deb12-cloud-amd64");
    for operation in [Operation::Mark, Operation::HarvestWord, Operation::Flush, Operation::Ioctl] {
        assert_eq!(import.setup().plan.evidence(operation), Evidence::Direct, "{operation}");
    }
    let mut pipeline = Pipeline::new(import.setup().clone());
    let mut batch = Batch::default();
    let mut words = Vec::new();
    while import.next_batch(&mut batch).unwrap().is_some() {
        pipeline.push(&batch);
        for record in &batch.records {
            if let EventKind::HarvestWord { mask, protected, .. } = decode(record).unwrap().kind {
                words.push((mask, protected));
            }
        }
    }
    pipeline.finish();
    let summary = pipeline.summary();
    assert_eq!(summary.by_kind.get(Kind::Mark), 246);
    assert_eq!(summary.by_kind.get(Kind::FastFault), 246);
    assert_eq!(words.len(), 8);
    assert!(words.iter().all(|(mask, protected)| mask == protected), "{words:x?}");
    assert_eq!(summary.harvests.iter().filter(|harvest| harvest.is_complete).count(), 4);
    let verdicts = summary.verdicts;
    assert_eq!((verdicts.lost, verdicts.at_risk, verdicts.unknown), (0, 0, 0));
    assert!(300 < verdicts.safe, "{verdicts:?}");
}

/// What `trace-cmd report` prints for the kprobes of docs/import.md: a harvest that takes gfns 0x400 and 0x403.
const PROBED: &str = "\
cpus=2
   vcpu-11 [001] 1.000000: kvm_page_fault: vcpu 0 rip 0x1000 address 0x403000 error_code 0x2
   vcpu-11 [001] 1.000001: mark: (mark_page_dirty_in_slot+0x0/0x90 [kvm]) kvm=0xff110000 gfn=0x403 id=1 as_id=0 base=0x400 npages=1024 bitmap=0xffc90000 flags=1
   vcpu-11 [001] 1.000003: kvm_tdp_mmu_spte_changed: as id 0 gfn 403 level 1 old_spte 860000000000e65 new_spte 860000000000e67
   vcpu-11 [001] 1.000004: kvm_entry: vcpu 0, rip 0x1000
   qemu-10 [000] 2.000000: get: (kvm_get_dirty_log_protect+0x0/0x300 [kvm]) kvm=0xff110000 slot=1
   qemu-10 [000] 2.000001: word: (kvm_arch_mmu_enable_log_dirty_pt_masked+0x0/0x80 [kvm]) kvm=0xff110000 offset=0 mask=0x9 id=1 as_id=0 base=0x400 npages=1024 bitmap=0xffc90000 flags=1
   qemu-10 [000] 2.000002: kvm_tdp_mmu_spte_changed: as id 0 gfn 403 level 1 old_spte 860000000000e67 new_spte 860000000000e65
   qemu-10 [000] 2.000003: kvm_tdp_mmu_spte_changed: as id 0 gfn 900 level 1 old_spte 860000000000e67 new_spte 860000000000e65
   qemu-10 [000] 2.000005: flush: (kvm_flush_remote_tlbs+0x0/0x60 [kvm]) kvm=0xff110000
   qemu-10 [000] 2.000008: flush_r: (kvm_get_dirty_log_protect+0x123/0x300 [kvm] <- kvm_flush_remote_tlbs)
   qemu-10 [000] 2.000009: get_r: (kvm_vm_ioctl+0x999/0x999 [kvm] <- kvm_get_dirty_log_protect) ret=0
";

#[test]
fn probes_on_functions_give_harvests_with_their_masks() {
    let (import, events) = text_events("probed.txt", PROBED);
    let plan = &import.setup().plan;
    for direct in
        [Operation::Ioctl, Operation::WriteProtect, Operation::Flush, Operation::SpteChange]
    {
        assert_eq!(plan.evidence(direct), Evidence::Direct, "{direct}");
    }
    // Of mark and word only the entry was probed.
    assert_eq!(plan.evidence(Operation::Mark), Evidence::Nearest);
    assert!(events.iter().all(|event| event.vm == VmId(0xff11_0000)));
    let harvest: Vec<_> = events.iter().filter(|event| event.tid.0 == 10).collect();
    let spans: Vec<_> = harvest
        .iter()
        .map(|event| {
            (event.kind.kind().name(), event.span.lo.0 % 1_000_000, event.span.hi.0 % 1_000_000)
        })
        .collect();
    assert_eq!(
        spans,
        [
            ("ioctl-begin", 0, 0),
            ("spte-change", 2_000, 3_000),
            ("harvest-word", 1_000, 5_000),
            ("flush", 5_000, 8_000),
            ("ioctl-end", 0, 9_000),
        ]
    );
    let EventKind::HarvestWord { first: Gfn(0x400), mask: 9, protected: 8, slot } = harvest[2].kind
    else {
        panic!("{:?}", harvest[2])
    };
    assert_eq!(slot.id, SlotId { as_id: 0, id: 1 });
    let EventKind::IoctlBegin { op, .. } = harvest[0].kind else { panic!("{:?}", harvest[0]) };
    assert_eq!((op.op, op.slot.id), (IoctlOp::GetDirtyLog, 1));
}

#[test]
fn a_fault_is_bracketed_by_its_exit_and_the_next_entry() {
    let (_, events) = text_events("fault.txt", PROBED);
    let vcpu: Vec<_> = events.iter().filter(|event| event.tid.0 == 11).collect();
    let names: Vec<_> = vcpu.iter().map(|event| event.kind.kind().name()).collect();
    assert_eq!(names, ["slot-state", "mark", "spte-change", "fault", "run-begin"]);
    let EventKind::SpteChange { old: Some(Spte(old)), .. } = vcpu[2].kind else {
        panic!("{:?}", vcpu[2])
    };
    assert_eq!(old, 0x0860_0000_0000_0e65);
    // A mark of which only the entry is known ended before the thread's next record.
    assert_eq!(vcpu[1].span.len_ns(), 2_000);
    assert_eq!(vcpu[3].span.len_ns(), 4_000);
}

#[test]
fn a_harvest_that_clears_d_and_keeps_w_is_a_harvest_under_pml() {
    let text = PROBED.replace(
        "old_spte 860000000000e67 new_spte 860000000000e65",
        "old_spte 860000000000e67 new_spte 860000000000c67",
    );
    let (import, events) = text_events("pml.txt", &text);
    assert!(import.setup().masks.pml);
    assert_eq!(import.setup().masks.dirty, 1 << 9);
    let word =
        events.iter().find(|event| matches!(event.kind, EventKind::HarvestWord { .. })).unwrap();
    let EventKind::HarvestWord { protected: 8, .. } = word.kind else { panic!("{word:?}") };
}

#[test]
fn dropped_events_become_a_gap_on_their_cpu() {
    let text = PROBED.replace(
        "   qemu-10 [000] 2.000005",
        "CPU:0 [7 EVENTS DROPPED]\n   qemu-10 [000] 2.000005",
    );
    let scratch = Scratch::new("dropped.txt", text.as_bytes());
    let mut import = Import::open(&scratch.0, &ImportOptions::default()).unwrap();
    let mut batch = Batch::default();
    import.next_batch(&mut batch).unwrap().unwrap();
    let [gap] = batch.gaps[..] else { panic!("{:?}", batch.gaps) };
    assert_eq!((gap.dropped, gap.lane.unwrap().cpu.0), (7, 0));
    assert_eq!((gap.from.0, gap.to.0), (2_000_003_000, 2_000_005_000));
}

#[test]
fn what_is_no_trace_is_refused_with_a_reason() {
    let error = |name: &str, bytes: &[u8]| {
        let scratch = Scratch::new(name, bytes);
        Import::open(&scratch.0, &ImportOptions::default()).unwrap_err().to_string()
    };
    insta::assert_snapshot!(error("empty", b""), @"no event of kvm, kvmmmu or raw_syscalls, and no kprobe on KVM, is in it: record with `trace-cmd record -e kvm -e kvmmmu -e raw_syscalls`");
    insta::assert_snapshot!(error("v5", b"\x17\x08\x44tracing5\0\0\x08\0\x10\0\0"), @r#"trace.dat of version "5": versions 6 and 7 are read (see trace-cmd convert --file-version)"#);
    insta::assert_snapshot!(error("lzo", b"\x17\x08\x44tracing7\0\0\x08\0\x10\0\0lzo\0\x31\0\0\0\0\0\0\0\0\0"), @r#"compressed with "lzo": zstd is read (see trace-cmd convert --compression)"#);
    insta::assert_snapshot!(error("cut", b"\x17\x08\x44tracing6\0\0\x08\0\x10\0\0header_page\0"), @"damaged at byte 30: header_page needs 8 bytes, 0 are left");
    insta::assert_snapshot!(error("foreign", "x\n".repeat(10_002).as_bytes()), @"neither a trace.dat nor the text of trace-cmd report");
}

/// A file cut in a CPU's pages gives what it still has, a gap on the CPU that has lost some, and the place.
#[test]
fn a_file_that_is_cut_off_is_imported_up_to_there() {
    let bytes = fs::read(fixture("ring-v6.dat")).unwrap();
    let whole = events_of(&fixture("ring-v6.dat"), &ImportOptions::default()).unwrap().1;
    let scratch = Scratch::new("cut-in-pages.dat", &bytes[..bytes.len() - 4096]);
    let mut import = Import::open(&scratch.0, &ImportOptions::default()).unwrap();
    let (mut batch, mut events, mut gaps) = (Batch::default(), Vec::new(), Vec::new());
    let error = loop {
        match import.next_batch(&mut batch) {
            Ok(Some(())) => {
                events.extend(batch.records.iter().map(|record| decode(record).unwrap()));
                gaps.append(&mut batch.gaps);
            }
            Ok(None) => panic!("the damage is not told"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.starts_with("damaged at byte "), "{error}");
    assert!((1..whole.len()).contains(&events.len()), "{}", events.len());
    let [gap] = gaps[..] else { panic!("{gaps:?}") };
    assert_eq!(gap.cause, GapCause::Damaged);
    assert!(events.iter().all(|event| event.span.hi <= gap.to), "{gap:?}");
}

/// Neither a cut nor a flipped byte anywhere makes the reader panic, hang or allocate without bound.
#[test]
fn damaged_files_end_in_an_error_or_in_fewer_events() {
    for name in ["ring-v6.dat", "ring-v7.dat", "kprobes-v7.dat", "ring.txt"] {
        let bytes = fs::read(fixture(name)).unwrap();
        let whole = events_of(&fixture(name), &ImportOptions::default()).unwrap().1.len();
        let step = bytes.len() / 60;
        for cut in (0..bytes.len()).step_by(step) {
            let scratch = Scratch::new(&format!("cut-{name}"), &bytes[..cut]);
            if let Ok((_, events)) = events_of(&scratch.0, &ImportOptions::default()) {
                assert!(events.len() <= whole, "{name} cut at {cut}");
            }
        }
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..60 {
            let mut damaged = bytes.clone();
            for _ in 0..3 {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % damaged.len();
                damaged[at] ^= 1 << (seed >> 20 & 7);
            }
            let scratch = Scratch::new(&format!("flip-{name}"), &damaged);
            let _ = events_of(&scratch.0, &ImportOptions::default());
        }
    }
}
