//! How fast records are merged, decoded, ordered and judged.
//!
//! `cargo bench --bench pipeline [-- [--long] FILE...]`: the synthetic load of `load` over more and more pages and
//! events (`--long`: to 10^8 of them), then every recording named. Everything is in memory and on one thread, and time
//! is that thread's CPU time, so that other work on the machine changes little; the copy rate of the same run tells
//! what the machine can do. Of the load, the first batches warm up and are not counted. Of many pages it also says how
//! much memory the engine's state of a page takes.

mod load;

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use kvmdirty_trace::event::{Batch, RawEvent, Setup, decode};
use kvmdirty_trace::order::{Item, Merge, Spool};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::Reader;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, pages] = arguments.as_slice()
        && flag == MEMORY
    {
        return measure_memory(pages.parse().expect("a number of pages"));
    }
    let copied = copy_rate();
    println!("copy: {copied:.2} GB/s, {:.0} M records/s", copied * 1e9 / 64e6);
    measure_stages();
    for pages in [1_000, 10_000, 100_000, 1_000_000, 10_000_000] {
        measure_load(pages, 3_000_000);
    }
    let most = if arguments.iter().any(|argument| argument == "--long") { 8 } else { 7 };
    for exponent in 5..=most {
        measure_load(10_000, 10_u64.pow(exponent));
    }
    for pages in ["1000000", "10000000"] {
        // In a process of its own, whose heap holds nothing that was freed before.
        let bench = std::env::current_exe().expect("Linux has /proc");
        let status = Command::new(bench).args([MEMORY, pages]).status().expect("this bench starts");
        assert!(status.success());
    }
    for path in arguments.iter().filter(|argument| !argument.starts_with('-')) {
        measure_recording(path);
    }
}

/// Batches that warm up: every page of the smaller loads is seen, and what grows once has grown.
const WARM_UP: usize = 200;

fn measure_load(pages: u64, events: u64) {
    let mut load = load::Load::new(7, 4, pages);
    let mut pipeline = Pipeline::new(Setup::complete("bench"));
    for _ in 0..WARM_UP {
        pipeline.push(&load.batch());
    }
    let (mut taken, mut time) = (0, Duration::ZERO);
    while taken < events {
        let batch = load.batch();
        taken += batch.records.len() as u64;
        let begin = cpu_time();
        pipeline.push(&batch);
        time += cpu_time() - begin;
    }
    print_rate(&format!("{pages} pages"), taken, time);
    let summary = pipeline.summary();
    // The load is what a healthy kernel gives: findings would take time that no healthy trace takes.
    assert_eq!(summary.findings_total, 0, "{:?}", summary.findings.first());
    assert!(0 < summary.verdicts.safe);
}

/// How this bench asks itself for the memory of that many pages.
const MEMORY: &str = "--memory";

/// What the engine's state of so many pages takes. Pages get their state in chunks, and the load's random writes reach
/// every chunk.
fn measure_memory(pages: u64) {
    let mut load = load::Load::new(7, 4, pages);
    drop(load.batch());
    let before = resident();
    let mut pipeline = Pipeline::new(Setup::complete("bench"));
    let mut taken = 0;
    while taken < 3_000_000 {
        let batch = load.batch();
        taken += batch.records.len();
        pipeline.push(&batch);
    }
    let spool = (Spool::RECORDS * size_of::<RawEvent>()) as f64;
    let bytes = (resident() - before - spool) / pages as f64;
    println!("{pages} pages: {bytes:.2} bytes resident per page, the spool of records apart");
    black_box(pipeline.summary().verdicts);
}

/// The first stages alone: merging, and merging with decoding.
fn measure_stages() {
    let mut load = load::Load::new(7, 4, 10_000);
    let (mut merge, mut decoded) = (Merge::default(), Merge::default());
    let (mut events, mut times) = (0, [Duration::ZERO; 2]);
    while events < 3_000_000 {
        let batch = load.batch();
        events += batch.records.len() as u64;
        let begin = cpu_time();
        merge.push(&batch, |item| {
            black_box(item);
        });
        let between = cpu_time();
        decoded.push(&batch, |item| {
            if let Item::Record(record) = item {
                black_box(&decode(record));
            }
        });
        times[0] += between - begin;
        times[1] += cpu_time() - between;
    }
    let ns = times.map(|time| time.as_nanos() as f64 / events as f64);
    println!("stages: merge {:.1} ns/event, merge + decode {:.1} ns/event", ns[0], ns[1]);
}

fn measure_recording(path: &str) {
    let mut reader = Reader::open(Path::new(path)).expect("a recording");
    let setup = reader.header().setup.clone();
    let (mut batches, mut batch) = (Vec::new(), Batch::default());
    while reader.next_batch(&mut batch).expect("readable").is_some() {
        batches.push(batch.clone());
    }
    let events = batches.iter().map(|batch| batch.records.len() as u64).sum();
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let mut pipeline = Pipeline::new(setup.clone());
        let begin = cpu_time();
        batches.iter().for_each(|batch| pipeline.push(batch));
        pipeline.finish();
        best = best.min(cpu_time() - begin);
        black_box(pipeline.summary().verdicts);
    }
    print_rate(path, events, best);
}

fn print_rate(name: &str, events: u64, time: Duration) {
    let rate = events as f64 / time.as_secs_f64() / 1e6;
    println!("{name}: {events} events, merge + decode + order + verdict {rate:6.2} M events/s");
}

/// Bytes of this process that are in memory (proc(5), `statm`).
fn resident() -> f64 {
    const PAGE_BYTES: f64 = 4096.0;
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.expect("a number") * PAGE_BYTES
}

/// Bytes copied per second, in GB.
fn copy_rate() -> f64 {
    let from = vec![1_u8; 64 << 20];
    let mut to = vec![0_u8; 64 << 20];
    let begin = cpu_time();
    for _ in 0..8 {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    8.0 * from.len() as f64 / (cpu_time() - begin).as_secs_f64() / 1e9
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has the clock").into()
}
