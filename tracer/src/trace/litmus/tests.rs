//! The litmus form round-trips, and says what is wrong with a line.

use super::*;
use crate::event::{Event, EventKind, Gap, GapCause, Kind, Nanos, RawEvent};
use crate::verdict::Verdict;
use kvmdirty_common::raw::{CLASS_SHIFT, SPAN_SATURATED};
use proptest::prelude::*;

const SWAPPED: &str = "\
# fixed by edde99ce0529: pages were protected before the bitmap was swapped
# second line
setup epsilon=5 final missing=zap,split
setup nearest=host-write
thread harvester tid=9

harvester  slot-state    slot=0:0+log+map base=0x0 npages=64 commit
harvester  ioctl-begin   op=get-dirty-log
vcpu0      begin fault
vcpu0      mark          gfn=0x7 word=0x80 spte=ro   # before the cmpxchg
harvester  harvest-word  gfns=0x7,0x9 protected=all
vcpu0      fast-fault    @fault.. gfn=0x7 old=ro+0x5000 ret=4 fixed
harvester  ioctl-end     op=get-dirty-log
gap        lane=page/cpu1 @10..20 dropped=3
expect lost K02 gfn=0x7
expect window fast-fault gfn=0x7 harvests=1 open=no
expect unknown cause=dropped-records
";

#[test]
fn a_written_line_reads_back() {
    let litmus = Litmus::read(SWAPPED).expect("reads");
    let text = litmus.write();
    let again = Litmus::read(&text).expect("what was written reads");
    assert_eq!(again, litmus);
    assert_eq!(again.write(), text);
    insta::assert_snapshot!(text);
}

#[test]
fn the_documented_example_reads() {
    let page = include_str!("../../../../docs/litmus.md");
    let example = page.split("```text\n").nth(1).and_then(|rest| rest.split("```").next());
    let litmus = Litmus::read(example.expect("an example")).expect("reads");
    assert_eq!(litmus.batch.records.len(), 7);
}

#[test]
fn defaults_are_filled_in() {
    let litmus = Litmus::read(SWAPPED).expect("reads");
    let events: Vec<Event> = litmus.batch.records.iter().map(|raw| decode(raw).unwrap()).collect();
    assert!(matches!(events[2].kind,
        EventKind::Mark { slot, .. } if slot.logging && slot.has_bitmap && slot.id.id == 0));
    assert!(matches!(events[3].kind, EventKind::HarvestWord { mask: 0x280, protected: 0x280, .. }));
    assert_eq!(events[4].span.lo, Nanos(30));
    assert_eq!(events[5].span.lo, events[1].span.lo);
    assert_eq!(litmus.threads[&Tid(9)], "harvester");
}

#[test]
fn errors_name_the_line_and_the_remedy() {
    let problem = |line: &str| Litmus::read(&format!("# x\n{line}\n")).unwrap_err().to_string();
    insta::assert_snapshot!(
        [
            "vcpu0 markk gfn=0x7",
            "vcpu0",
            "vcpu0 mark gfn=0x7",
            "vcpu0 mark slot=0:0 gfn=7 colour=red",
            "vcpu0 mark slot=0:0",
            "vcpu0 mark gfn=seven slot=0:0",
            "vcpu0 flush @200..100",
            "vcpu0 flush @1..99999999999",
            "gap lane=page0",
            "setup epsilons=4",
            "expect maybe",
            "expect lost K02 gnf=0x7",
        ]
        .map(problem)
        .join("\n")
    );
}

#[test]
fn a_hazard_nobody_expects_is_a_mismatch() {
    let litmus = Litmus::read("expect safe gfn=0x8\n").expect("reads");
    let mut summary = crate::summary::Summary::default();
    assert_eq!(check(&litmus, &summary).len(), 1);
    summary.verdicts.safe = 1;
    assert_eq!(check(&litmus, &summary), []);
    let finding = Finding {
        verdict: Verdict::Lost,
        rule: RuleId::K04,
        vm: crate::event::VmId(1),
        slot: crate::event::SlotId::default(),
        gfn: Some(crate::event::Gfn(7)),
        first: Nanos(0),
        last: Nanos(0),
        count: 1,
        sentence: String::new(),
        known: None,
        witness: Witness::default(),
    };
    summary.findings.push(std::sync::Arc::new(finding));
    assert_eq!(check(&litmus, &summary)[0].found, "lost K04 slot=0:0 gfn=0x7");
}

fn any_record() -> impl Strategy<Value = RawEvent> {
    let head = (
        prop_oneof![1_u64..5000, any::<u64>()],
        prop_oneof![Just(1_u64), any::<u64>()],
        prop_oneof![0_u32..4, any::<u32>()],
        any::<u32>(),
        prop_oneof![0_u32..2, Just(SPAN_SATURATED), any::<u32>()],
    );
    let small = prop_oneof![Just(0_u64), 0_u64..70, any::<u64>()];
    let tail = (0_u16..3, 0..Kind::ALL.len(), any::<u8>(), prop::array::uniform4(small));
    (head, tail).prop_map(|((ts_ns, vm, tid, seq, span_ns), (cpu, kind, flags, args))| {
        let kind = Kind::ALL[kind] as u8;
        let flags = (flags & 0x3f) | (((flags >> CLASS_SHIFT) % 3) << CLASS_SHIFT);
        RawEvent { ts_ns, vm, tid, seq, span_ns, cpu, kind, flags, args }
    })
}

proptest! {
    // Whatever the probe can write survives the text, and writing what was read changes nothing any more.
    #[test]
    fn every_event_survives(records in prop::collection::vec(any_record(), 0..12), end in 0_u64..99) {
        let events: Vec<Event> = records.iter().filter_map(|raw| decode(raw).ok()).collect();
        let records: Vec<RawEvent> = events.iter().map(encode).collect();
        let gap = Gap {
            lane: events.first().map(|event| event.lane),
            hook: Some(kvmdirty_common::Hook::Mark),
            cause: GapCause::Budget,
            from: Nanos(end / 2),
            to: Nanos(end),
            dropped: end,
        };
        let watermark = records.iter().map(|raw| raw.ts_ns).chain([end]).max().unwrap();
        let batch = Batch { records, gaps: vec![gap], watermark: Nanos(watermark) };
        let litmus = Litmus {
            title: String::from("any"),
            setup: Setup::complete("litmus"),
            threads: name_threads(&batch),
            batch,
            notes: BTreeMap::new(),
            expectations: Vec::new(),
        };
        let text = litmus.write();
        let again = Litmus::read(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(&again.batch.gaps, &litmus.batch.gaps);
        let read: Vec<Event> = again.batch.records.iter().filter_map(|raw| decode(raw).ok()).collect();
        prop_assert_eq!(read, events, "{}", text);
        prop_assert_eq!(again.write(), text);
    }
}

#[test]
fn all_of_one_gfn_is_its_bit() {
    let litmus = Litmus::read("vmm harvest-word gfns=0x7 protected=all slot=0:0+log\n").unwrap();
    assert_eq!(litmus.batch.records[0].args[1..3], [1 << 7, 1 << 7]);
}
