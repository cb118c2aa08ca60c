//! The rules on small traces built by hand.

use crate::event::*;
use crate::pipeline::Pipeline;
use crate::summary::Summary;
use crate::verdict::RuleId;

/// Closed: present and MMU-writable. Open: and W.
const RO: Spte = Spte(1 << 11 | 1 << 10);
const W: Spte = Spte(1 << 11 | 1 << 10 | 1 << 1);
const SLOT: SlotRef = SlotRef { id: SlotId { as_id: 0, id: 1 }, logging: true, has_bitmap: true };
const BASE: u64 = 0x100;

const VCPU: u32 = 10;
const VCPU2: u32 = 11;
const VMM: u32 = 20;

/// A trace under construction: `script.by(tid).at(lo, hi, kind)`.
#[derive(Default)]
struct Script(Vec<Event>);

impl Script {
    fn new() -> Self {
        let mut script = Self::default();
        script.add(VMM, 1, 1, vm_seen(0, 0));
        script.add(VMM, 2, 2, slot_state(SLOT, true));
        script
    }

    fn add(&mut self, tid: u32, lo: u64, hi: u64, kind: EventKind) -> &mut Self {
        let class = match kind.kind() as u8 {
            0..32 => Class::Boundary,
            _ => Class::Page,
        };
        self.0.push(Event {
            span: Span { lo: Nanos(lo), hi: Nanos(hi) },
            vm: VmId(1),
            tid: Tid(tid),
            lane: Lane { class, cpu: CpuId(tid as u16 % 8) },
            seq: 0,
            kind,
        });
        self
    }

    /// A slow fault: mark, store, bracket.
    fn slow_fault(&mut self, tid: u32, lo: u64, gfn: u64) -> &mut Self {
        self.add(tid, lo + 1, lo + 2, mark(gfn, None, false));
        self.add(tid, lo + 3, lo + 4, change(gfn, RO, W));
        self.add(tid, lo, lo + 5, fault(gfn))
    }

    /// A fast fault: cmpxchg, mark, bracket.
    fn fast_fault(&mut self, tid: u32, lo: u64, gfn: u64, at_mark: Spte) -> &mut Self {
        self.add(tid, lo + 2, lo + 3, mark(gfn, Some(at_mark), true));
        self.add(tid, lo + 1, lo + 4, fast(gfn));
        self.add(tid, lo, lo + 5, fault(gfn))
    }

    /// A GET that takes `mask` of the first word and sees `protected` lose W.
    fn get(&mut self, lo: u64, mask: u64, protected: u64, has_flush: bool) -> &mut Self {
        self.add(VMM, lo, lo, begin(IoctlOp::GetDirtyLog, 0));
        if mask != 0 {
            self.add(VMM, lo + 10, lo + 20, word(mask, protected));
        }
        if has_flush {
            self.add(VMM, lo + 30, lo + 40, flush());
        }
        self.add(VMM, lo, lo + 50, end(IoctlOp::GetDirtyLog, u64::from(has_flush)))
    }

    fn run(&self) -> Summary {
        self.run_with(|_| true, |_| {})
    }

    fn run_with(&self, keep: impl Fn(usize) -> bool, set: impl Fn(&mut Setup)) -> Summary {
        let mut next = std::collections::BTreeMap::new();
        let mut sorted: Vec<_> = self.0.iter().enumerate().collect();
        sorted.sort_by_key(|(_, event)| event.span.hi);
        let mut batch = Batch { watermark: Nanos(u64::MAX), ..Batch::default() };
        for (index, event) in sorted {
            let seq = next.entry(event.lane).or_insert(0);
            *seq += 1;
            if keep(index) {
                batch.records.push(encode(&Event { seq: *seq, ..*event }));
            }
        }
        let mut setup = Setup::complete("litmus");
        set(&mut setup);
        let mut pipeline = Pipeline::new(setup);
        pipeline.push(&batch);
        pipeline.finish();
        pipeline.summary().clone()
    }
}

/// The findings and unknowns, with `records` of no consequence before the event number `after`.
fn apart(
    script: &Script,
    (after, records): (usize, u64),
    set: impl Fn(&mut Setup),
) -> (Vec<String>, Vec<(crate::verdict::UnknownCause, u64)>) {
    let mut setup = Setup::complete("litmus");
    set(&mut setup);
    let mut detector = super::Detector::new(&setup);
    for (index, event) in script.0.iter().enumerate() {
        if index == after {
            detector.skip(records);
        }
        detector.push(&encode(event), event);
    }
    if after == script.0.len() {
        detector.skip(records);
    }
    detector.finish();
    let findings = detector.take_findings().unwrap_or_default();
    (found(&Summary { findings, ..Summary::default() }), detector.causes().collect())
}

fn vm_seen(manual_protect: u32, ring_bytes: u32) -> EventKind {
    EventKind::VmSeen {
        tgid: 7,
        manual_protect,
        ring_bytes,
        generation: 1,
        created: true,
        flushes: 0,
    }
}

fn slot_state(slot: SlotRef, commit: bool) -> EventKind {
    EventKind::SlotState { slot, base: Gfn(BASE), npages: 4096, bitmap: 1, commit }
}

fn op(op: IoctlOp) -> IoctlRef {
    IoctlRef { op, slot: SLOT.id, mem_flags: 1 }
}

fn begin(ioctl: IoctlOp, flushes: u64) -> EventKind {
    EventKind::IoctlBegin { op: op(ioctl), first: 0, count: 0, flushes }
}

fn end(ioctl: IoctlOp, flushes: u64) -> EventKind {
    EventKind::IoctlEnd { op: op(ioctl), ret: 0, flushes, words: 0, words_cut: false }
}

fn word(mask: u64, protected: u64) -> EventKind {
    EventKind::HarvestWord { first: Gfn(BASE), mask, protected, slot: SLOT }
}

fn flush() -> EventKind {
    EventKind::Flush { before: 0, after: 1, first: Gfn(0), npages: 0 }
}

fn mark(gfn: u64, spte: Option<Spte>, in_fast: bool) -> EventKind {
    let word = MarkWord::Unread;
    EventKind::Mark { gfn: Gfn(BASE + gfn), slot: SLOT, word, spte, has_vcpu: true, in_fast }
}

fn page(gfn: u64) -> PageRef {
    PageRef { gfn: Gfn(BASE + gfn), level: 1, as_id: Some(0) }
}

fn change(gfn: u64, old: Spte, new: Spte) -> EventKind {
    EventKind::SpteChange { page: page(gfn), old: Some(old), new, sptep: 0, shadow: false }
}

fn fast(gfn: u64) -> EventKind {
    EventKind::FastFault { page: page(gfn), old: RO, ret: 5, sptep: 0, fixed: true }
}

fn fault(gfn: u64) -> EventKind {
    EventKind::Fault { addr: (BASE + gfn) << 12, error_code: 2, ret: 5, vcpu: VcpuId(0) }
}

/// The findings as `K01 lost 0x107`.
fn found(summary: &Summary) -> Vec<String> {
    let line = |f: &std::sync::Arc<crate::verdict::Finding>| {
        let gfn = f.gfn.map_or(String::from("-"), |gfn| gfn.to_string());
        format!("{} {} {gfn}", f.rule.name(), f.verdict.name())
    };
    summary.findings.iter().map(line).collect()
}

#[test]
fn a_healthy_round_is_safe() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7).get(200, 1 << 7, 1 << 7, true);
    script.fast_fault(VCPU, 300, 7, W).get(400, 1 << 7, 1 << 7, true);
    script.get(500, 0, 0, false);
    let summary = script.run();
    assert_eq!(found(&summary), [] as [&str; 0]);
    assert_eq!(summary.verdicts.safe, 3, "two pages and one window: {:?}", summary.verdicts);
    assert_eq!(summary.verdicts.unknown, 0, "{:?}", summary.unknown_causes);
    assert_eq!(summary.harvests_total, 3);
    assert_eq!(summary.windows(crate::verdict::WindowKind::FastFault).closed, 1);
    assert_eq!(summary.windows(crate::verdict::WindowKind::SlowFault).closed, 1);
    assert_eq!(summary.windows(crate::verdict::WindowKind::Tlb).closed, 2);
}

#[test]
fn a_store_without_a_mark_is_k01() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7).get(200, 1 << 7, 1 << 7, true);
    script.add(VCPU, 303, 304, change(7, RO, W)).add(VCPU, 300, 305, fault(7));
    assert_eq!(found(&script.run()), ["K01 lost 0x107"]);
}

#[test]
fn a_mark_after_the_store_of_the_same_fault_will_do() {
    let mut script = Script::new();
    script.add(VCPU, 101, 102, change(7, RO, W)).add(VCPU, 103, 104, mark(7, None, false));
    script.add(VCPU, 100, 105, fault(7)).get(200, 1 << 7, 1 << 7, true);
    assert_eq!(found(&script.run()), [] as [&str; 0]);
}

#[test]
fn a_page_left_open_by_its_harvest_is_k04() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7).get(200, 1 << 7, 0, true);
    assert_eq!(found(&script.run()), ["K04 lost 0x107"]);
}

#[test]
fn a_bit_of_a_host_write_needs_no_protection() {
    let mut script = Script::new();
    script.add(VMM, 100, 110, mark(7, None, false)).get(200, 1 << 7, 0, true);
    let summary = script.run();
    assert_eq!(found(&summary), [] as [&str; 0]);
    assert_eq!(summary.verdicts.safe, 1);
}

#[test]
fn a_harvest_without_a_flush_is_k05() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7).get(200, 1 << 7, 1 << 7, false);
    assert_eq!(found(&script.run()), ["K05 lost 0x107"]);
}

#[test]
fn a_flush_that_ends_before_the_write_protect_is_k05() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7);
    script.add(VMM, 200, 200, begin(IoctlOp::GetDirtyLog, 0));
    script.add(VMM, 202, 206, flush()).add(VMM, 210, 220, word(1 << 7, 1 << 7));
    script.add(VMM, 200, 250, end(IoctlOp::GetDirtyLog, 1));
    assert_eq!(found(&script.run()), ["K05 lost 0x107"]);
}

#[test]
fn another_threads_flush_leaves_the_page_at_risk() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7).get(200, 1 << 7, 1 << 7, false);
    script.add(VCPU2, 225, 235, flush());
    assert_eq!(found(&script.run()), ["K05 at-risk 0x107"]);
}

#[test]
fn marks_after_the_last_harvest_are_residue() {
    let mut script = Script::new();
    script.get(200, 0, 0, false).slow_fault(VCPU, 300, 7).slow_fault(VCPU, 400, 8);
    let open = script.run();
    assert_eq!(found(&open), ["K09 exposed -"]);
    assert_eq!(open.verdicts.exposed, 2);
    let is_final = script.run_with(|_| true, |setup| setup.is_final = true);
    assert_eq!(found(&is_final), ["K09 lost 0x107", "K09 lost 0x108"]);
}

#[test]
fn a_window_that_a_harvest_fell_into_is_exposed() {
    let mut script = Script::new();
    script.get(200, 1, 0, true).get(400, 1 << 7, 1 << 7, true);
    script.add(VCPU, 190, 230, mark(7, Some(W), true)).add(VCPU, 180, 235, fast(7));
    script.add(VCPU, 170, 240, fault(7));
    let summary = script.run();
    assert_eq!(found(&summary), [] as [&str; 0]);
    assert_eq!(summary.verdicts.exposed, 1);
    assert_eq!(summary.windows(crate::verdict::WindowKind::FastFault).with_harvest, 1);
}

/// Removal (DESIGN.md, section 4): with any one record dropped, no verdict becomes better or worse, only unknown, or
/// `lost` becomes `at-risk`.
#[track_caller]
fn check_removal(script: &Script) {
    let whole = script.run();
    let whole_found = found(&whole);
    for gone in 2..script.0.len() {
        let part = script.run_with(|index| index != gone, |_| {});
        if part.dropped_events == 0 {
            continue; // The last record of a lane: a prefix, not a gap.
        }
        assert!(0 < part.verdicts.unknown);
        for line in found(&part) {
            let stronger = line.replace("at-risk", "lost");
            assert!(
                whole_found.contains(&line) || whole_found.contains(&stronger),
                "without {:?}: {line}, but whole: {whole_found:?}",
                script.0[gone].kind
            );
        }
    }
}

#[test]
fn dropping_any_record_accuses_nobody() {
    let mut healthy = Script::new();
    healthy.slow_fault(VCPU, 100, 7).get(200, 1 << 7, 1 << 7, true);
    healthy.fast_fault(VCPU, 300, 7, W).get(400, 1 << 7, 1 << 7, true);
    healthy.slow_fault(VCPU2, 500, 9).get(600, 1 << 9, 1 << 9, true);
    healthy.add(VCPU, 700, 701, mark(1, None, false)).get(800, 2, 0, true);
    check_removal(&healthy);
    let mut broken = Script::new();
    broken.slow_fault(VCPU, 100, 7).get(200, 1 << 7, 0, false).slow_fault(VCPU, 300, 8);
    broken.get(400, 1 << 8, 1 << 8, false).slow_fault(VCPU, 500, 9).get(600, 1 << 9, 0, true);
    check_removal(&broken);
}

#[test]
fn a_prefix_claims_nothing_about_its_open_end() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7).get(200, 1 << 7, 1 << 7, true);
    for length in 2..script.0.len() {
        let part = Script(script.0[..length].to_vec()).run();
        assert!(part.hazards().next().is_none(), "prefix {length}: {:?}", found(&part));
    }
}

#[test]
fn rules_without_their_operations_are_off() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7).get(200, 1 << 7, 0, false);
    let summary = script.run_with(|_| true, |setup| setup.plan.entries.clear());
    assert_eq!(found(&summary), [] as [&str; 0]);
    assert_eq!(summary.rules_off.len(), RuleId::ALL.len());
    assert_eq!(summary.verdicts.safe, 0);
    assert_eq!(summary.verdicts.unknown, 1);
}

#[test]
fn releases_are_the_first_two_numbers() {
    use super::Release;
    assert_eq!(Release::parse("6.1.0-40-amd64"), Release { major: 6, minor: 1 });
    assert_eq!(Release::parse("5.10.223"), Release { major: 5, minor: 10 });
    assert_eq!(Release::parse("odd"), Release::default());
}

/// 2^32 records later its stamps would look like those of the records that judge it.
#[test]
fn a_page_opened_long_ago_is_not_taken_for_opened_just_now() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7);
    let opened = script.0.len();
    script.get(200, 1 << 7, 0, true);
    for near in 0..12 {
        for records in [1 << 31, 1 << 32, 3 << 31, 5 << 32].map(|far| far + near - 8) {
            let (found, _) = apart(&script, (opened, records), |_| {});
            assert_eq!(found, ["K04 lost 0x107"], "{records} later");
        }
    }
}

/// What a gap made uncertain stays so, and what came after it stays known.
#[test]
fn a_gap_of_long_ago_still_divides_what_is_known() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7);
    let mut detector = super::Detector::new(&Setup::complete("litmus"));
    let push = |detector: &mut super::Detector, script: &Script| {
        script.0.iter().for_each(|event| detector.push(&encode(event), event));
    };
    push(&mut detector, &script);
    let (from, to) = (Nanos(150), Nanos(160));
    detector.gap(&Gap { lane: None, hook: None, cause: GapCause::RingFull, from, to, dropped: 1 });
    let mut later = Script::default();
    later.add(VMM, 170, 170, slot_state(SLOT, false)).slow_fault(VCPU, 180, 8);
    push(&mut detector, &later);
    detector.skip(1 << 33);
    let mut harvest = Script::default();
    harvest.get(200, 1 << 7 | 1 << 8, 0, true);
    push(&mut detector, &harvest);
    detector.finish();
    let findings = detector.take_findings().unwrap_or_default();
    assert_eq!(found(&Summary { findings, ..Summary::default() }), ["K04 lost 0x108"]);
    assert_eq!(detector.causes().collect::<Vec<_>>(), [(crate::verdict::UnknownCause::Dropped, 2)]);
}

/// More records than the spool keeps, so that what came before them cannot be looked up.
const MANY: u64 = 2 * crate::order::Spool::RECORDS as u64;

#[test]
fn a_mark_that_left_the_spool_is_residue_all_the_same() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 9).get(200, 1 << 9, 1 << 9, true).slow_fault(VCPU, 300, 7);
    let end = script.0.len();
    let (found, _) = apart(&script, (end, MANY), |setup| setup.is_final = true);
    assert_eq!(found, ["K09 lost 0x107"]);
    let (found, _) = apart(&script, (end, MANY), |_| {});
    assert_eq!(found, ["K09 exposed -"]);
    // So long after that stamps have aged, the GET with them, which of the two came first is not known.
    let (found, causes) = apart(&script, (end, 1 << 33), |setup| setup.is_final = true);
    assert_eq!((found.len(), causes), (0, vec![(crate::verdict::UnknownCause::Limit, 1)]));
}

#[test]
fn a_mark_that_left_the_spool_was_read_only_by_a_get_that_began_later() {
    let off = SlotRef { logging: false, has_bitmap: false, ..SLOT };
    for (get, expected) in [(200, vec!["K11 exposed -"]), (400, vec![])] {
        let mut script = Script::default();
        script.add(VMM, 1, 1, vm_seen(1, 0)).add(VMM, 2, 2, slot_state(SLOT, true));
        let mut events = Script::default();
        events.slow_fault(VCPU, 300, 7).get(get, 0, 0, false);
        events.0.sort_by_key(|event| event.span.hi);
        script.0.append(&mut events.0);
        let end = script.0.len();
        script.add(VMM, 900, 900, slot_state(off, true));
        assert_eq!(apart(&script, (end, MANY), |_| {}).0, expected, "GET at {get}");
    }
}

#[test]
fn a_mark_that_left_the_spool_and_no_get_has_certainly_read_is_unknown() {
    let mut script = Script::default();
    script.add(VMM, 1, 1, vm_seen(1, 0)).add(VMM, 2, 2, slot_state(SLOT, true));
    script.slow_fault(VCPU, 100, 9).get(200, 0, 0, false).slow_fault(VCPU, 300, 7);
    let marked = script.0.len();
    script.add(VMM, 400, 400, begin(IoctlOp::ClearDirtyLog, 0));
    script.add(VMM, 410, 420, word(1 << 7 | 1 << 9, 1 << 7 | 1 << 9)).add(VMM, 430, 440, flush());
    script.add(VMM, 400, 450, end(IoctlOp::ClearDirtyLog, 1));
    let (found, causes) = apart(&script, (marked, MANY), |_| {});
    assert_eq!((found.len(), causes), (0, vec![(crate::verdict::UnknownCause::Limit, 1)]));
}

#[test]
fn a_mark_that_left_the_spool_and_no_harvest_found_is_k07() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7);
    let marked = script.0.len();
    script.add(VMM, 150, 151, mark(8, None, false)).get(200, 1 << 8, 0, true);
    assert_eq!(apart(&script, (marked, MANY), |_| {}).0, ["K07 lost 0x107"]);
}

#[test]
fn a_word_read_back_stays_one_when_it_has_left_the_spool() {
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 7).add(VMM, 200, 200, begin(IoctlOp::GetDirtyLog, 0));
    let (first, mask, writable) = (Gfn(BASE), 1 << 7, 1 << 7);
    let read_back = EventKind::UserWord { first, mask, protected: 0, writable };
    script.add(VMM, 240, 240, read_back);
    let words = script.0.len();
    script.add(VMM, 200, 250, end(IoctlOp::GetDirtyLog, 1));
    for at in [words, script.0.len()] {
        assert_eq!(apart(&script, (at, MANY), |_| {}).0, [] as [&str; 0]);
    }
}

/// Another thread closes the page and has not flushed when a harvest, a fault or an enable relies on it (K10, K05).
#[test]
fn a_closing_that_left_the_spool_is_not_taken_for_a_flushed_one() {
    let limit = vec![(crate::verdict::UnknownCause::Limit, 1)];
    let enable = |script: &mut Script| {
        script.add(VMM, 300, 300, begin(IoctlOp::SetMemory, 0));
        script.add(VMM, 310, 310, slot_state(SLOT, true));
        script.add(VMM, 300, 350, end(IoctlOp::SetMemory, 0));
    };
    type Rely<'a> = (&'a str, &'a dyn Fn(&mut Script));
    let rely: [Rely<'_>; 3] = [
        ("K10 lost 0x107", &|script| {
            script.get(300, 1 << 7, 0, false);
        }),
        ("K10 at-risk 0x107", &|script| {
            script.add(VCPU, 310, 311, change(7, RO, Spte(1 << 11))).add(VCPU, 300, 320, fault(9));
        }),
        ("K05 lost 0x107", &enable),
    ];
    let off = SlotRef { logging: false, has_bitmap: false, ..SLOT };
    for (expected, rely) in rely {
        let mut script = Script::default();
        script.add(VMM, 1, 1, vm_seen(0, 0)).add(VMM, 30, 40, flush());
        if expected.starts_with("K05") {
            script.add(VMM, 2, 2, slot_state(off, true)).add(VCPU, 103, 104, change(7, RO, W));
        } else {
            script.add(VMM, 2, 2, slot_state(SLOT, true)).slow_fault(VCPU, 100, 7);
        }
        script.add(VCPU2, 200, 201, change(7, W, RO));
        let closed = script.0.len();
        rely(&mut script);
        // What was marked and not harvested again (K09) is another matter.
        let judged = |script: &Script, after| {
            let (mut found, causes) = apart(script, after, |_| {});
            found.retain(|finding| !finding.starts_with("K09"));
            (found, causes)
        };
        assert_eq!(judged(&script, (usize::MAX, 0)).0, [expected]);
        // The first flush is known, and came before the closing, but that is not known any more.
        let (found, causes) = judged(&script, (closed, MANY));
        assert_eq!((found.len(), causes), (0, limit.clone()), "{expected}");
        let mut flushed = Script(script.0[..closed].to_vec());
        flushed.add(VCPU2, 210, 220, flush());
        rely(&mut flushed);
        let (found, causes) = judged(&flushed, (usize::MAX, 0));
        assert_eq!((found.len(), causes.len()), (0, 0), "{expected}, flushed: {causes:?}");
    }
}

/// The events, each of its own VM and thread, one after the other.
fn of_many(
    count: u64,
    limits: impl Fn(&mut Setup),
    events: impl Fn(&mut Script, u64),
) -> super::Detector {
    let mut setup = Setup::complete("litmus");
    limits(&mut setup);
    let mut detector = super::Detector::new(&setup);
    for n in 0..count {
        let mut script = Script::default();
        events(&mut script, n);
        for event in &mut script.0 {
            let at = |time: Nanos| Nanos(time.0 + 1_000 * n);
            event.span = Span { lo: at(event.span.lo), hi: at(event.span.hi) };
            detector.push(&encode(event), event);
        }
    }
    detector.finish();
    detector
}

#[test]
fn a_vm_that_is_gone_gives_its_pages_back() {
    let one_vm = |script: &mut Script, n: u64| {
        script.add(VMM, 1, 1, vm_seen(0, 0)).add(VMM, 2, 2, slot_state(SLOT, true));
        script.slow_fault(VCPU, 100, 7).add(VMM, 900, 900, EventKind::VmGone);
        script.0.iter_mut().for_each(|event| event.vm = VmId(1 + n));
    };
    let detector = of_many(8, |setup| setup.limits.pages_max = 1024, one_vm);
    assert_eq!(detector.causes().collect::<Vec<_>>(), []);
}

#[test]
fn vms_slots_and_rings_beyond_their_bounds_are_unknown_and_cost_nothing() {
    use super::bounds::{SLOTS_MAX, VCPUS_MAX, VMS_MAX};
    let limited = |detector: &super::Detector| {
        detector.causes().find(|(cause, _)| *cause == crate::verdict::UnknownCause::Limit)
    };
    let vms = of_many(
        VMS_MAX as u64 + 3,
        |_| {},
        |script, n| {
            script.add(VMM, 1, 1, vm_seen(0, 0)).0[0].vm = VmId(1 + n);
        },
    );
    assert_eq!((vms.vms.len(), limited(&vms).map(|(_, n)| n)), (VMS_MAX, Some(3)));
    let slots = of_many(
        u64::from(SLOTS_MAX) + 3,
        |_| {},
        |script, n| {
            let id = SlotId { as_id: 0, id: (n / 512) as u16 };
            script.add(VCPU, 1, 1, mark(7, None, false));
            let EventKind::Mark { slot, .. } = &mut script.0[0].kind else { return };
            slot.id = id;
            script.0[0].vm = VmId(1 + n % 512);
        },
    );
    let made = slots.vms.iter().map(|vm| vm.slots.len()).sum::<usize>();
    assert_eq!((made, limited(&slots).is_some()), (SLOTS_MAX as usize, true));
    let rings = of_many(
        VCPUS_MAX as u64 + 3,
        |_| {},
        |script, n| {
            script.add(VMM, 1, 1, vm_seen(0, 4096)).add(VMM, 2, 2, slot_state(SLOT, true));
            let (slot, vcpu) = (SLOT.id, VcpuId(n as u32));
            script.0.iter_mut().for_each(|event| event.vm = VmId(1));
            script.add(VCPU, 3, 3, EventKind::RingPush { offset: 7, slot, index: 1, vcpu });
            script.add(VCPU, 4, 4, EventKind::RunBegin { vcpu });
            // The VM is seen once.
            script.0.drain(..if n == 0 { 0 } else { 2 });
        },
    );
    assert_eq!((rings.vms[0].rings.len(), rings.vms[0].outside.len()), (VCPUS_MAX, VCPUS_MAX));
    assert_eq!(limited(&rings).map(|(_, n)| n), Some(3));
}

/// Two threads and one place: the mark of a write, and the ioctl, are forgotten when the other one comes.
#[test]
fn a_thread_that_gave_up_its_place_accuses_nobody() {
    let write = EventKind::HostWrite {
        gpa: (BASE + 7) << 12,
        bytes: 8,
        slot: SLOT,
        writer: 1,
        failed: false,
        data_at_mark: Some(true),
    };
    let mut script = Script::new();
    script.slow_fault(VCPU, 100, 9).add(VMM, 201, 202, mark(7, None, false));
    script.add(VCPU, 203, 204, mark(8, None, false)).add(VMM, 200, 210, write);
    script.add(VMM, 300, 300, begin(IoctlOp::GetDirtyLog, 0)).add(VMM, 310, 311, word(1 << 9, 0));
    script.add(VCPU, 320, 321, mark(8, None, false)).add(
        VMM,
        300,
        330,
        end(IoctlOp::GetDirtyLog, 0),
    );
    let (found, causes) = apart(&script, (99, 0), |setup| setup.limits.threads_max = 1);
    assert_eq!(found, [] as [&str; 0]);
    assert!(
        causes.iter().any(|(cause, _)| *cause == crate::verdict::UnknownCause::Limit),
        "{causes:?}"
    );
}
