//! A small hand-built trace with every kind of record, for the tests of all forms.

use super::{Export, Exporter, Filter, Origin};
use crate::event::{
    Batch, Class, CpuId, Event, EventKind, Gap, GapCause, Gfn, IoctlOp, IoctlRef, Lane, MarkWord,
    Nanos, PageRef, Setup, SlotId, SlotRef, Span, Spte, Tid, VcpuId, VmId, encode,
};
use kvmdirty_common::Hook;

const VM: VmId = VmId(0xffff_8880_1000_0000);

/// The slot all events are of: pages 0x400..0x800.
const SLOT: SlotRef = SlotRef { id: SlotId { as_id: 0, id: 1 }, logging: true, has_bitmap: true };

pub(super) fn origin() -> Origin {
    Origin { host: String::from("build, \"host\""), setup: Setup::complete("litmus") }
}

/// vCPU thread 11 writes page 0x403; thread 10 harvests it.
///
/// ```text
/// harvester (tid 10, cpu 0)        vcpu 0 (tid 11, cpu 1)
///                                  run, fault, mark 0x403, store W
/// get: word 0x400 mask 0b1000
/// flush; return
/// ```
pub(super) fn batch() -> Batch {
    let mut events = state();
    events.extend(brackets());
    events.extend(pages());
    events.sort_by_key(|event| (event.lane, event.span.hi));
    for idx in 0..events.len() {
        let is_same = idx > 0 && events[idx - 1].lane == events[idx].lane;
        events[idx].seq = if is_same { events[idx - 1].seq + 1 } else { 0 };
    }
    let gap = Gap {
        lane: None,
        hook: Some(Hook::Flush),
        cause: GapCause::ProbeMissed,
        from: Nanos(5_000),
        to: Nanos(6_000),
        dropped: 3,
    };
    Batch { records: events.iter().map(encode).collect(), gaps: vec![gap], watermark: Nanos(9_000) }
}

fn state() -> Vec<Event> {
    let at = |lo, hi, tid, kind| event(Class::Boundary, lo, hi, tid, kind);
    let seen = EventKind::VmSeen {
        tgid: 9,
        manual_protect: 0,
        ring_bytes: 0,
        generation: 4,
        created: true,
        flushes: 0,
    };
    let slot = EventKind::SlotState {
        slot: SLOT,
        base: Gfn(0x400),
        npages: 0x400,
        bitmap: 0xffff_c900_0000_0000,
        commit: true,
    };
    let range =
        EventKind::Invalidate { start: 0x1000, end: 0x2000, flushes_before: 1, flushes_after: 2 };
    vec![
        at(1_000, 1_000, 10, seen),
        at(1_200, 1_300, 10, slot),
        at(1_310, 1_320, 10, EventKind::SlotProtect { slot: SLOT, level: 1 }),
        at(3_650, 3_700, 10, range),
        at(3_700, 3_750, 10, EventKind::LockWait { lock: 0xffff_0001, lcb_flags: 2, ret: 0 }),
        at(8_000, 8_000, 10, EventKind::VmGone),
    ]
}

fn brackets() -> Vec<Event> {
    let at = |lo, hi, tid, kind| event(Class::Boundary, lo, hi, tid, kind);
    let get = IoctlRef { op: IoctlOp::GetDirtyLog, slot: SLOT.id, mem_flags: 0 };
    let set = IoctlRef { op: IoctlOp::SetMemory, slot: SLOT.id, mem_flags: 1 };
    let begin = |op, first| EventKind::IoctlBegin { op, first, count: 0, flushes: 0 };
    let end = |op, flushes, words, words_cut| EventKind::IoctlEnd {
        op,
        ret: 0,
        flushes,
        words,
        words_cut,
    };
    let reset = EventKind::RingReset {
        vcpu: VcpuId(0),
        before: 1,
        after: 2,
        ret: 1,
        dirty_index: 2,
        size: 4096,
        bracketed: false,
    };
    vec![
        at(1_100, 1_100, 10, begin(set, 0x400)),
        at(1_100, 1_400, 10, end(set, 0, 0, false)),
        at(3_000, 3_000, 10, begin(get, 0)),
        at(3_300, 3_400, 10, EventKind::Flush { before: 0, after: 1, first: Gfn(0), npages: 0 }),
        at(3_000, 3_500, 10, end(get, 1, 1, true)),
        at(3_600, 3_600, 10, reset),
    ]
}

fn pages() -> Vec<Event> {
    let at = |lo, hi, tid, kind| event(Class::Page, lo, hi, tid, kind);
    let page = PageRef { gfn: Gfn(0x403), level: 1, as_id: Some(0) };
    let huge = PageRef { gfn: Gfn(0x400), level: 2, as_id: None };
    let (ro, rw) = (Spte(0x800), Spte(0x802));
    let mark = EventKind::Mark {
        gfn: Gfn(0x403),
        slot: SLOT,
        word: MarkWord::Bitmap(0b1000),
        spte: Some(ro),
        has_vcpu: true,
        in_fast: true,
    };
    let change =
        EventKind::SpteChange { page, old: Some(ro), new: rw, sptep: 0xffff_0100, shadow: false };
    let set = EventKind::SpteSet {
        page,
        new: rw,
        word: Some(8),
        sptep: 0xffff_0100,
        logging: true,
        ring: false,
    };
    let word = EventKind::HarvestWord { first: Gfn(0x400), mask: 8, protected: 8, slot: SLOT };
    let write = EventKind::HostWrite {
        gpa: 0x40_3ff8,
        bytes: 16,
        slot: SLOT,
        writer: 1,
        failed: false,
        data_at_mark: Some(true),
    };
    let push = EventKind::RingPush { offset: 3, slot: SLOT.id, index: 2, vcpu: VcpuId(0) };
    let user = EventKind::UserWord { first: Gfn(0x400), mask: 8, protected: 8, writable: 0 };
    let fast = EventKind::FastFault { page, old: ro, ret: 5, sptep: 0xffff_0100, fixed: true };
    let fault = EventKind::Fault { addr: 0x40_3000, error_code: 0x6, ret: 1, vcpu: VcpuId(0) };
    let end = EventKind::RunEnd { vcpu: VcpuId(0), ret: Some(0), exit_reason: 2 };
    vec![
        at(2_000, 2_000, 11, EventKind::RunBegin { vcpu: VcpuId(0) }),
        at(2_100, 2_110, 11, mark),
        at(2_105, 2_120, 11, change),
        at(2_090, 2_150, 11, fast),
        at(2_050, 2_160, 11, fault),
        at(2_170, 2_180, 11, set),
        at(2_190, 2_200, 11, push),
        at(2_000, 2_300, 11, end),
        at(3_100, 3_200, 10, word),
        at(3_450, 3_450, 10, user),
        at(
            4_000,
            4_010,
            10,
            EventKind::RmapAdd { gfn: Gfn(0x403), sptep: 0xffff_0100, slot: SLOT },
        ),
        at(4_100, 4_200, 10, write),
        at(4_300, 4_310, 10, EventKind::Split { page: huge, old: rw, errno: -12 }),
        at(4_400, 4_400, 10, EventKind::Zap { page: huge }),
    ]
}

fn event(class: Class, lo: u64, hi: u64, tid: u32, kind: EventKind) -> Event {
    Event {
        span: Span { lo: Nanos(lo), hi: Nanos(hi) },
        vm: VM,
        tid: Tid(tid),
        lane: Lane { class, cpu: CpuId(tid as u16 - 10) },
        seq: 0,
        kind,
    }
}

/// Exports the sample through `sink`.
pub(super) fn export(filter: Filter, sink: &mut dyn Export) -> super::Totals {
    let mut exporter = Exporter::begin(&origin(), filter, sink).unwrap();
    exporter.push(&batch()).unwrap();
    exporter.finish().unwrap()
}
