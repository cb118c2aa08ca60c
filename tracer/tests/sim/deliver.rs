//! How records travel changes nothing: shuffled, cut into other batches, recorded and read back.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex};

use kvmdirty_trace::event::{Batch, Lane, Nanos, RawEvent, Setup, decode};
use kvmdirty_trace::export::report::{Document, Judged};
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::trace::{Header, Medium, Origin, Reader, WriteLimits, Writer};

use super::config::{Config, ProbePlan};
use super::fault::Fault;
use super::judge::{batch, failure, judge};
use super::rng::Rng;
use super::run::{Run, run};
use super::seeds::{self, claim};

/// The JSON report, byte by byte what `check --json` prints.
fn report(summary: &Summary, setup: &Setup) -> String {
    serde_json::to_string_pretty(&Document::new(&Judged::live(summary, setup)))
        .expect("a report is plain data")
}

/// Healthy and broken runs in turn, on both plans, with and without dropped records.
pub fn mixed(seed: u64) -> (Run, Vec<RawEvent>) {
    let rng = Rng::new(seed ^ 0x77);
    let mut config = if rng.chance(40) {
        Config::healthy(seed)
    } else {
        Config::broken(seed, *rng.pick(Fault::ALL))
    };
    if rng.chance(30) {
        config.plan = ProbePlan::Tracepoint;
    }
    let run = run(config);
    let dropped = if rng.chance(50) { rng.below(4) } else { 0 };
    let keeps = |_: &&RawEvent| dropped == 0 || !rng.chance(dropped);
    let records = run.records.iter().filter(keeps).copied().collect();
    (run, records)
}

fn same(
    run: &Run,
    records: &[RawEvent],
    how: &str,
    found: &str,
    whole: &str,
) -> Result<(), String> {
    claim(found == whole, || {
        let line = found.lines().zip(whole.lines()).find(|(found, whole)| found != whole);
        let (found, whole) = line.unwrap_or(("the end", "the end"));
        failure(&format!("{how}: {found} instead of {whole}"), run, records, Vec::new())
    })
}

/// Fisher and Yates.
fn shuffle<T>(rng: &Rng, items: &mut [T]) {
    for end in (1..items.len()).rev() {
        items.swap(end, rng.below(end as u64 + 1) as usize);
    }
}

/// Batches as rings deliver them: each lane in the order of its numbers, each record by the watermark that covers it,
/// or earlier.
fn cut(rng: &Rng, records: &[RawEvent]) -> Vec<Batch> {
    let (first, last) = (records.first().map_or(0, |raw| raw.ts_ns), batch(records).watermark.0);
    let mut cuts: Vec<u64> =
        (0..rng.between(1, 40)).map(|_| rng.between(first.min(last), last)).collect();
    cuts.push(last);
    cuts.sort_unstable();
    let mut batches: Vec<Batch> =
        cuts.iter().map(|&cut| Batch { watermark: Nanos(cut), ..Batch::default() }).collect();
    // A lane's later records come no earlier than its earlier ones.
    let mut next: BTreeMap<Lane, usize> = BTreeMap::new();
    let mut due: Vec<usize> = Vec::with_capacity(records.len());
    for raw in records.iter().rev() {
        let lane = decode(raw).expect("a record of the model").lane;
        let latest = cuts.partition_point(|&cut| cut < raw.ts_ns);
        let place = next.entry(lane).or_insert(latest);
        *place = (*place).min(latest);
        if rng.chance(10) {
            *place = place.saturating_sub(1);
        }
        due.push(*place);
    }
    for (raw, place) in records.iter().zip(due.into_iter().rev()) {
        batches[place].records.push(*raw);
    }
    batches
}

#[test]
fn the_order_and_the_cut_of_delivery_change_no_byte_of_the_report() {
    let test = "sim::deliver::the_order_and_the_cut_of_delivery_change_no_byte_of_the_report";
    seeds::each(test, 40, |seed| {
        let (run, records) = mixed(seed);
        let rng = Rng::new(seed ^ 0x99);
        let whole = report(&judge(&run.setup, [&batch(&records)]), &run.setup);
        let mut shuffled = records.clone();
        shuffle(&rng, &mut shuffled);
        let found = report(&judge(&run.setup, [&batch(&shuffled)]), &run.setup);
        same(&run, &records, "shuffled", &found, &whole)?;
        let found = report(&judge(&run.setup, &cut(&rng, &records)), &run.setup);
        same(&run, &records, "in other batches", &found, &whole)
    });
}

/// A file in memory that outlives its writer.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("one thread").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Medium for Memory {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.0.lock().expect("one thread").truncate(bytes as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Written in these batches, read back in frames.
fn recorded(rng: &Rng, setup: &Setup, batches: &[Batch]) -> Vec<Batch> {
    let file = Memory::default();
    let header = Header::new(Origin::Simulator, setup.clone());
    let frame_records = rng.between(1, 300) as usize;
    let limits = WriteLimits { frame_records, ..WriteLimits::STANDARD };
    let mut writer = Writer::new(Box::new(file.clone()), &header, limits).expect("a new file");
    for batch in batches {
        writer.write(batch).expect("memory has room");
    }
    writer.finish().expect("memory has room");
    let bytes = file.0.lock().expect("one thread").clone();
    let mut reader = Reader::new(Cursor::new(bytes)).expect("a recording");
    assert_eq!(reader.header().setup, *setup);
    let mut read = Vec::new();
    let mut batch = Batch::default();
    while reader.next_batch(&mut batch).expect("memory can be read").is_some() {
        read.push(batch.clone());
    }
    read
}

#[test]
fn a_recording_is_judged_as_the_records_were_live() {
    let test = "sim::deliver::a_recording_is_judged_as_the_records_were_live";
    seeds::each(test, 30, |seed| {
        let (run, records) = mixed(seed);
        let rng = Rng::new(seed ^ 0x55);
        let live = cut(&rng, &records);
        let whole = report(&judge(&run.setup, &live), &run.setup);
        let read = recorded(&rng, &run.setup, &live);
        let found = report(&judge(&run.setup, &read), &run.setup);
        same(&run, &records, "recorded", &found, &whole)
    });
}
