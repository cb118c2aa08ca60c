//! Summaries for tests: small, but with something in every corner of the screen.

use std::collections::BTreeMap;
use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use crate::event::{Class, CpuId};
use crate::event::{
    Event, EventKind, Evidence, Gap, GapCause, Gfn, IoctlOp, Lane, MarkWord, Nanos, Operation,
    PageRef, Setup, SlotId, SlotRef, Span, Spte, Tid, VcpuId, VmId,
};
use crate::feed::{Facts, HarvestCost, Marks, Overhead, Playback, Snapshot};
use crate::summary::{
    Bucket, Harvest, HeatCell, Series, SlotSummary, Summary, VmSummary, WindowStats,
};
use crate::tui::model::Model;
use crate::tui::msg::{Msg, Wish};
use crate::tui::palette::Theme;
use crate::tui::update::update;
use crate::tui::view::view;
use crate::verdict::{
    Edge, EdgeKind, Finding, RuleId, Step, UnknownCause, Verdict, Window, WindowKind, Witness,
};

pub const VM: VmId = VmId(0xffff_8881_0000_0000);
pub const BEGIN: Nanos = Nanos(5_000_000_000);

/// Trace time in microseconds after the begin.
pub fn us(us: u64) -> Nanos {
    Nanos(BEGIN.0 + us * 1_000)
}

/// A dashboard that has seen nothing.
pub fn empty() -> Model {
    let setup = Arc::new(Setup { kernel: String::from("6.12.95"), ..Setup::complete("kprobe") });
    let facts = Facts {
        pid: 4711,
        command: String::from("qemu-system-x86"),
        mmu: String::from("tdp"),
        ..Facts::default()
    };
    Model::new(setup, facts, Arc::default(), Theme::Dark)
}

/// A dashboard in the middle of a migration with one lost page.
pub fn busy() -> Model {
    let mut model = empty();
    let harvest = Some(HarvestCost::AtLeast { per_harvest_ns: 12_000 });
    let overhead =
        Overhead { probe_percent: 3.12, tool_percent: 1.2, budget_percent: 25.0, harvest };
    let snapshot =
        Snapshot { summary: Arc::new(summary()), overhead: Some(overhead), ..Snapshot::default() };
    update(&mut model, Msg::Snapshot(Arc::new(snapshot)));
    model
}

/// The same as a recording that is played.
pub fn replay() -> Model {
    let mut model = busy();
    let marks = Marks {
        hazards: vec![us(1_200_000)],
        windows: vec![us(100), us(1_200_000)],
        harvests: (1..=12).map(|n| us(n * 200_000)).collect(),
    };
    let playback = Playback {
        position: us(1_500_000),
        begin: BEGIN,
        end: us(3_000_000),
        is_playing: true,
        speed_percent: 50,
        is_seeking: false,
        marks: Arc::new(marks),
    };
    let snapshot = Snapshot { playback: Some(playback), overhead: None, ..(*model.shown).clone() };
    model.facts = Facts { file: String::from("vm.kdt"), ..Facts::default() };
    update(&mut model, Msg::Snapshot(Arc::new(snapshot)));
    model
}

/// The model after changes to its summary.
pub fn with(mut model: Model, change: impl FnOnce(&mut Summary)) -> Model {
    let mut snapshot = (*model.shown).clone();
    change(Arc::make_mut(&mut snapshot.summary));
    update(&mut model, Msg::Snapshot(Arc::new(snapshot)));
    model
}

/// The model after some wishes.
pub fn after(mut model: Model, wishes: &[Wish]) -> Model {
    for &wish in wishes {
        update(&mut model, Msg::Wish(wish));
    }
    model
}

/// What the screen shows, without trailing blanks.
pub fn screen(model: &Model, columns: u16, rows: u16) -> String {
    let mut model = model.clone();
    update(&mut model, Msg::Resize(columns, rows));
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("never fails");
    terminal.draw(|frame| view(frame, &model)).expect("never fails");
    let buffer = terminal.backend().buffer();
    let lines: Vec<_> = (0..rows)
        .map(|y| {
            let line: String = (0..columns).map(|x| buffer[(x, y)].symbol()).collect();
            line.trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

pub fn summary() -> Summary {
    let mut summary = Summary {
        begin: Some(BEGIN),
        now: us(2_500_000),
        events: 1_234_567,
        findings: findings(),
        findings_total: 4,
        harvests: harvests(),
        harvests_total: 12,
        series: series(),
        vms: vec![vm()],
        vcpus: BTreeMap::from([(Tid(4712), (VM, VcpuId(0))), (Tid(4713), (VM, VcpuId(1)))]),
        ..Summary::default()
    };
    summary.verdicts.lost = 1;
    summary.verdicts.exposed = 12;
    summary.verdicts.unknown = 300;
    summary.verdicts.safe = 1_203_331;
    summary.windows = windows();
    summary.benign = BTreeMap::from([("failed-cmpxchg", 17)]);
    summary.unknown_causes = BTreeMap::from([(UnknownCause::BeforeAttach, 300)]);
    summary
}

/// A plan that does not see everything: rules are off or half on.
pub fn poorly_attached(mut model: Model) -> Model {
    for entry in &mut Arc::make_mut(&mut model.setup).plan.entries {
        if matches!(entry.operation, Operation::FastFault | Operation::HostWrite) {
            entry.evidence = Evidence::None;
            entry.note = String::from("no symbol fast_page_fault");
        }
        if entry.operation == Operation::Flush {
            entry.evidence = Evidence::Nearest;
            entry.points = vec![String::from("raw_tp csd_function_entry")];
        }
    }
    model
}

/// Records dropped, twice.
pub fn lossy(summary: &mut Summary) {
    let lane = Lane { class: Class::Page, cpu: CpuId(1) };
    let gap = Gap {
        lane: Some(lane),
        hook: None,
        cause: GapCause::RingFull,
        from: us(500_000),
        to: us(520_000),
        dropped: 4_200,
    };
    summary.gaps =
        vec![gap, Gap { lane: None, from: us(2_000_000), to: us(2_250_000), dropped: 3, ..gap }];
    summary.gaps_total = 2;
    summary.dropped_events = 4_203;
    summary.unknown_causes.insert(UnknownCause::Dropped, 4_000);
}

/// Every number as large as it can get.
pub fn overflowing(summary: &mut Summary) {
    summary.now = Nanos(u64::MAX);
    summary.events = u64::MAX;
    summary.dropped_events = u64::MAX;
    summary.gaps_total = u64::MAX;
    summary.anomalies_total = u64::MAX;
    summary.integrity_total = u64::MAX;
    summary.harvests_total = u64::MAX;
    summary.findings_total = u64::MAX;
    summary.verdicts.lost = u64::MAX;
    summary.verdicts.safe = u64::MAX;
    for stats in &mut summary.windows {
        stats.closed = u64::MAX;
        stats.open = u64::MAX;
        stats.histogram = vec![u64::from(u32::MAX); 40];
    }
    for bucket in &mut summary.series.buckets {
        bucket.marks = u64::MAX / 8;
    }
    for harvest in &mut summary.harvests {
        harvest.pages = u64::MAX / 64;
    }
}

fn vm() -> VmSummary {
    let heat = (0..256u64)
        .map(|cell| HeatCell {
            harvested: if cell < 100 { cell * cell } else { 0 },
            opened: cell % 7,
            windows: u64::from(cell == 4),
            unknown: 0,
            worst: match cell {
                4 => Some(Verdict::Lost),
                5..60 => Some(if cell < 50 { Verdict::Safe } else { Verdict::Unknown }),
                _ => None,
            },
        })
        .collect();
    let ram = SlotSummary {
        base: Gfn(0),
        npages: 0x40000,
        is_logging: true,
        logging_since: Some(us(12_345)),
        harvests: 12,
        pages_harvested: 40_000,
        heat,
    };
    let rom = SlotSummary { base: Gfn(0xfffc0), npages: 0x40, ..SlotSummary::default() };
    VmSummary {
        vm: VM,
        tgid: 4711,
        manual_protect: 1,
        slots: BTreeMap::from([
            (SlotId { as_id: 0, id: 0 }, ram),
            (SlotId { as_id: 0, id: 3 }, rom),
        ]),
        ..VmSummary::default()
    }
}

fn harvests() -> std::collections::VecDeque<Harvest> {
    (1..=12u64)
        .map(|n| Harvest {
            id: n,
            vm: VM,
            slot: SlotId::default(),
            op: IoctlOp::GetDirtyLog,
            iteration: n,
            tid: Tid(4711),
            begin: us(n * 200_000 - 900),
            end: us(n * 200_000),
            ret: 0,
            words: 100,
            pages: 40_960 >> n,
            protect_ns: 600_000,
            flush_ns: if n == 6 { None } else { Some(120_000) },
            flush_counter_moved: n != 6,
            is_complete: n != 3,
            worst: Some(if n == 6 { Verdict::Lost } else { Verdict::Safe }),
        })
        .collect()
}

fn series() -> Series {
    let buckets = (0..10u64)
        .map(|n| Bucket {
            start: Nanos(BEGIN.0 + n * Series::BUCKET_NS),
            events: 100_000,
            marks: 10_000 * (n + 1),
            fast_faults: 2_000 * n,
            slow_faults: 300,
            harvested_pages: 9_000,
            flushes: n % 3,
            ..Bucket::default()
        })
        .collect();
    Series { buckets }
}

fn windows() -> [WindowStats; 4] {
    let mut windows: [WindowStats; 4] = Default::default();
    let fast = &mut windows[WindowKind::FastFault as usize];
    fast.closed = 123_456;
    fast.open = 2;
    fast.with_harvest = 3;
    fast.histogram = vec![0; 40];
    fast.histogram[8] = 100_000;
    fast.histogram[9] = 23_000;
    fast.histogram[14] = 456;
    fast.longest = vec![window()];
    windows[WindowKind::Tlb as usize].closed = 12;
    windows[WindowKind::Tlb as usize].histogram = {
        let mut histogram = vec![0; 40];
        histogram[17] = 12;
        histogram
    };
    windows
}

/// A third-case window with a harvest inside.
pub fn window() -> Window {
    Window {
        kind: WindowKind::FastFault,
        vm: VM,
        slot: SlotId::default(),
        gfn: Gfn(0x1234),
        tid: Tid(4712),
        opened: us(1_000_000),
        closed: Some(us(1_000_031)),
        harvests_inside: 1,
    }
}

fn findings() -> Vec<Arc<Finding>> {
    let finding = |verdict, rule, gfn: Option<u64>, at, sentence: &str| {
        Arc::new(Finding {
            verdict,
            rule,
            vm: VM,
            slot: SlotId::default(),
            gfn: gfn.map(Gfn),
            first: us(at),
            last: us(at),
            count: 1,
            sentence: sentence.to_owned(),
            known: None,
            witness: Witness::default(),
        })
    };
    let lost = Finding {
        count: 3,
        last: us(1_400_000),
        witness: witness(),
        ..(*finding(
            Verdict::Lost,
            RuleId::K05,
            Some(0x1000),
            1_200_000,
            "harvest 6 took the bit and returned without a flush; vcpu 1 wrote through its stale TLB entry",
        ))
        .clone()
    };
    vec![
        finding(
            Verdict::Exposed,
            RuleId::K09,
            Some(0x1234),
            1_000_031,
            "window closed after the last harvest",
        ),
        Arc::new(lost),
        finding(Verdict::Exposed, RuleId::K14, None, 900_000, "CLEAR of bits never read"),
        Arc::new(Finding {
            known: Some("enable-skips-flush"),
            ..(*finding(
                Verdict::AtRisk,
                RuleId::K15,
                Some(0x2000),
                12_400,
                "stayed writable when logging was turned on",
            ))
            .clone()
        }),
    ]
}

/// Events of one page, two threads.
pub fn events() -> Vec<Event> {
    let event = |lo, hi, tid, kind| Event {
        span: Span { lo: us(lo), hi: us(hi) },
        vm: VM,
        tid: Tid(tid),
        lane: Lane { class: Class::Page, cpu: CpuId(0) },
        seq: 1,
        kind,
    };
    let slot = SlotRef { id: SlotId::default(), logging: true, has_bitmap: true };
    let page = PageRef { gfn: Gfn(0x1000), level: 1, as_id: Some(0) };
    vec![
        event(
            1_199_200,
            1_199_203,
            4711,
            EventKind::HarvestWord { first: Gfn(0x1000), mask: 1, protected: 1, slot },
        ),
        event(
            1_199_600,
            1_199_602,
            4713,
            EventKind::Mark {
                gfn: Gfn(0x1000),
                slot,
                word: MarkWord::Bitmap(1),
                spte: None,
                has_vcpu: true,
                in_fast: true,
            },
        ),
        event(
            1_199_598,
            1_199_603,
            4713,
            EventKind::FastFault { page, old: Spte(0x8000_0801), ret: 0, sptep: 0, fixed: true },
        ),
        event(
            1_199_100,
            1_200_000,
            4711,
            EventKind::IoctlEnd {
                op: crate::event::IoctlRef {
                    op: IoctlOp::GetDirtyLog,
                    slot: SlotId::default(),
                    mem_flags: 0,
                },
                ret: 0,
                flushes: 7,
                words: 1,
                words_cut: false,
            },
        ),
    ]
}

fn witness() -> Witness {
    let notes = ["takes the bit", "marks", "makes it writable", "returns unflushed"];
    let steps = events().into_iter().zip(notes).map(|(event, note)| Step { event, note }).collect();
    let edge = |from, to, kind| Edge { from, to, kind };
    Witness {
        steps,
        edges: vec![
            edge(0, 3, EdgeKind::ProgramOrder),
            edge(0, 1, EdgeKind::ReadsFrom),
            edge(0, 2, EdgeKind::RealTime),
            edge(1, 3, EdgeKind::RealTime),
        ],
        losing: Some(3),
        ..Witness::default()
    }
}
