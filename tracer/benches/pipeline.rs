//! How fast records are merged, decoded, ordered and judged.
//!
//! `cargo bench --bench pipeline [FILE...]`: the synthetic load of `load`, then every recording named. Everything is in
//! memory and on one thread; the copy rate of the same run tells what the machine can do.

mod load;

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use kvmdirty_trace::event::{Batch, Setup};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::Reader;

fn main() {
    println!("copy            {:8.2} GB/s", copy_rate());
    for pages in [1 << 10, 1 << 14, 1 << 18] {
        let mut random = load::Load::new(7, 4, pages);
        let batches: Vec<Batch> = (0..300).map(|_| random.batch()).collect();
        measure(&format!("{pages} pages"), &Setup::complete("bench"), &batches);
    }
    for path in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
        let mut reader = Reader::open(Path::new(&path)).expect("a recording");
        let setup = reader.header().setup.clone();
        let mut batches = Vec::new();
        let mut batch = Batch::default();
        while reader.next_batch(&mut batch).expect("readable").is_some() {
            batches.push(batch.clone());
        }
        measure(&path, &setup, &batches);
    }
}

fn measure(name: &str, setup: &Setup, batches: &[Batch]) {
    let events: usize = batches.iter().map(|batch| batch.records.len()).sum();
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let mut pipeline = Pipeline::new(setup.clone());
        let begin = Instant::now();
        for batch in batches {
            pipeline.push(batch);
        }
        pipeline.finish();
        best = best.min(begin.elapsed());
        black_box(pipeline.summary().verdicts);
    }
    let rate = events as f64 / best.as_secs_f64() / 1e6;
    println!("{name}: {events} events, decode + order + verdict {rate:6.2} M events/s");
}

/// Bytes copied per second, in GB.
fn copy_rate() -> f64 {
    let from = vec![1_u8; 64 << 20];
    let mut to = vec![0_u8; 64 << 20];
    let begin = Instant::now();
    for _ in 0..8 {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    8.0 * from.len() as f64 / begin.elapsed().as_secs_f64() / 1e9
}
