//! How long a witness takes: from a finding and the records around it to the fewest that give the finding alone.
//!
//! `cargo bench --bench witness`: one page that faults and is harvested again and again, at last by a harvest that does
//! not protect it (K04). What is timed is all that the engine does from that harvest on, less what it does where the
//! harvest protects. The candidates come from the recent past, and the engine judges what is left of them again
//! for each stretch of records that may be left out.

use std::time::Duration;

use kvmdirty_trace::event::{Batch, IoctlOp, Kind, Nanos, RawEvent, Setup};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::verdict::{RuleId, Verdict};
use nix::time::{ClockId, clock_gettime};

const VM: u64 = 0xffff_8881_0a3c_0000;
/// The slot 0:0, which logs into a bitmap, and its first page.
const SLOT: u64 = 1 << 63 | 1 << 32;
const BASE: u64 = 0x100;
/// The page's bit in the slot's first word.
const BIT: u64 = 7;
/// The page's SPTE, read-only, and where it lies.
const SPTE: u64 = 0x0600_0001_2345_6f75;
const SPTEP: u64 = 0xffff_8880_0000_0838;
/// W of an SPTE.
const W: u64 = 1 << 1;

fn main() {
    for rounds in [1, 10, 100, 1_000, 10_000] {
        let (broken, records, steps) = fastest(rounds, 0);
        let (whole, ..) = fastest(rounds, 1 << BIT);
        let time = broken.saturating_sub(whole).as_secs_f64() * 1e3;
        println!("{records} records before: {time:.3} ms, {steps} records in the witness");
    }
}

/// The time of the last harvest and of the end, the records before, and the steps of the witness, if there is one.
fn fastest(rounds: u64, protected: u64) -> (Duration, usize, usize) {
    let mut best = (Duration::MAX, 0, 0);
    for _ in 0..5 {
        let mut trace = Trace::default();
        trace.slot();
        for round in 0..rounds {
            trace.fault();
            trace.harvest(round, 1 << BIT);
        }
        trace.fault();
        let mut pipeline = Pipeline::new(Setup::complete("bench"));
        pipeline.push(&trace.batch());
        let before = trace.now as usize / 1_000;
        trace.harvest(rounds, protected);
        let (batch, begin) = (trace.batch(), cpu_time());
        pipeline.push(&batch);
        pipeline.finish();
        let time = cpu_time() - begin;
        let steps = pipeline.summary().findings.first().map_or(0, |finding| {
            assert_eq!((finding.rule, finding.verdict), (RuleId::K04, Verdict::Lost));
            finding.witness.steps.len()
        });
        assert_eq!(steps == 0, protected != 0, "only what is not protected is lost");
        best = best.min((time, before, steps));
    }
    best
}

/// A trace in the making: one record each microsecond, all on one CPU.
#[derive(Default)]
struct Trace {
    records: Vec<RawEvent>,
    now: u64,
    numbers: [u32; 2],
}

impl Trace {
    /// A record of that class and kind which spans so many nanoseconds.
    fn add(&mut self, class: u8, kind: Kind, flags: u8, span_ns: u32, args: [u64; 4]) {
        let seq = self.numbers[usize::from(class)];
        self.numbers[usize::from(class)] += 1;
        self.now += 1_000;
        let tid =
            if matches!(kind, Kind::Mark | Kind::FastFault | Kind::Fault) { 4_001 } else { 4_000 };
        let (kind, flags) = (kind as u8, flags | class << 6);
        let ts_ns = 1_000_000 + self.now;
        self.records.push(RawEvent { ts_ns, vm: VM, tid, seq, span_ns, cpu: 0, kind, flags, args });
    }

    fn slot(&mut self) {
        self.add(1, Kind::VmSeen, 0, 0, [4_000, 0, 1, 0]);
        self.add(1, Kind::SlotState, 0, 0, [SLOT, BASE, 512, 0xffff_c900_0000_0000]);
    }

    /// A lockless fault on the page: mark within `fast_page_fault` within the fault.
    fn fault(&mut self) {
        let gfn = BASE + BIT;
        self.add(0, Kind::Mark, 1 | 4 | 16, 500, [gfn, SLOT, 1 << BIT, SPTE | W]);
        self.add(0, Kind::FastFault, 1, 1_800, [gfn | 1 << 48 | 1 << 60, SPTE, 3, SPTEP]);
        self.add(0, Kind::Fault, 0, 2_900, [gfn << 12, 0x10_0000_0007, 1, 0]);
    }

    fn harvest(&mut self, flushes: u64, protected: u64) {
        let op = IoctlOp::GetDirtyLog as u64;
        self.add(1, Kind::IoctlBegin, 0, 0, [op, 0, 512, flushes]);
        self.add(0, Kind::HarvestWord, 0, 500, [BASE, 1 << BIT, protected, SLOT]);
        self.add(1, Kind::Flush, 0, 500, [flushes, flushes + 1, 0, 0]);
        self.add(1, Kind::IoctlEnd, 0, 3_000, [op, 0, flushes + 1, 1]);
    }

    /// The records since the last batch.
    fn batch(&mut self) -> Batch {
        let watermark = Nanos(1_000_000 + self.now);
        Batch { records: std::mem::take(&mut self.records), watermark, ..Batch::default() }
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has the clock").into()
}
