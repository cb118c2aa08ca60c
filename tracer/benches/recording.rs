//! How fast records are written to and read from a recording, and how many bytes they take.
//!
//! `cargo bench --bench recording [FILE...]`: the synthetic load of `load`, then every recording named. Everything
//! happens in memory and on one thread, whose CPU time counts, so that other work on the machine disturbs little; the
//! copy rate of the same run tells what the machine can do.

mod load;

use std::hint::black_box;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvmdirty_trace::event::{Batch, RawEvent, Setup};
use kvmdirty_trace::trace::{Header, Medium, Origin, Reader, WriteLimits, Writer};

fn main() {
    println!("copy            {:8.2} GB/s", copy_rate());
    let mut random = load::Load::new(7, 4, 1 << 18);
    let batches: Vec<Batch> = (0..300).map(|_| random.batch()).collect();
    let header = Header::new(Origin::Simulator, Setup::complete("bench"));
    measure("synthetic load", &header, &batches);
    for path in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
        let mut reader = Reader::open(Path::new(&path)).expect("a recording");
        let mut batches = Vec::new();
        let mut batch = Batch::default();
        while reader.next_batch(&mut batch).expect("readable").is_some() {
            batches.push(batch.clone());
        }
        measure(&path, &reader.header().clone(), &batches);
    }
}

fn measure(name: &str, header: &Header, batches: &[Batch]) {
    let events: usize = batches.iter().map(|batch| batch.records.len()).sum();
    println!("{name}: {events} events");
    for level in [1, 2, 3] {
        let limits = WriteLimits { level, ..WriteLimits::STANDARD };
        let file = Memory::default();
        let write = best_of(3, || {
            file.0.lock().expect("no panic while writing").clear();
            let mut writer = Writer::new(Box::new(file.clone()), header, limits).expect("memory");
            for batch in batches {
                writer.write(batch).expect("memory");
            }
            writer.finish().expect("memory");
        });
        let bytes = file.0.lock().expect("no panic while writing").clone();
        let read = best_of(3, || {
            let mut reader = Reader::new(Cursor::new(bytes.clone())).expect("a recording");
            let mut batch = Batch::default();
            while reader.next_batch(&mut batch).expect("memory").is_some() {
                black_box(&batch.records);
            }
        });
        println!(
            "  level {level}: {:5.2} bytes/event, write {:6.2} M events/s, read {:6.2} M events/s",
            bytes.len() as f64 / events as f64,
            events as f64 / write.as_secs_f64() / 1e6,
            events as f64 / read.as_secs_f64() / 1e6,
        );
    }
}

fn best_of(times: u32, mut run: impl FnMut()) -> Duration {
    let timed = |_| {
        let begin = thread_time();
        run();
        thread_time() - begin
    };
    (0..times).map(timed).min().expect("at least one run")
}

fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock").into()
}

fn copy_rate() -> f64 {
    let from = vec![RawEvent::default(); 1 << 20];
    let mut to = vec![RawEvent::default(); 1 << 20];
    let elapsed = best_of(5, || black_box(&mut to).copy_from_slice(black_box(&from)));
    (from.len() * size_of::<RawEvent>()) as f64 / elapsed.as_secs_f64() / 1e9
}

/// A file in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while writing").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Medium for Memory {
    fn cut(&mut self, bytes: u64) -> std::io::Result<()> {
        self.0.lock().expect("no panic while writing").truncate(bytes as usize);
        Ok(())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
