//! What the live path costs on this machine: a record in the probe, and records from the ring to the verdict.
//!
//! `cargo bench --bench live`, as root. The probe emits records of its own in bursts (BPF_PROG_TEST_RUN), the session
//! drains them as it drains any others; no guest is needed. Costs in the kernel are its own (`run_time_ns`), so those
//! of an empty program stand beside them: being run and measured is part of every number.

use std::io::Write;
use std::time::Duration;

use kvmdirty_trace::event::{Batch, Setup};
use kvmdirty_trace::live::{Measure, Options, Session, Target};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::{Header, Medium, Origin, WriteLimits, Writer};

/// Bursts between two drains: what an eighth of an 8 MiB ring holds.
const BURSTS: u64 = 16;

const ROUNDS: u64 = 200;

fn main() {
    let options = Options { wait: true, measure: true, ..Options::default() };
    let mut session = match Session::attach(Target::Pid(std::process::id()), &options) {
        Ok(session) => session,
        Err(error) => {
            eprintln!("SKIPPED bench live: {error}");
            return;
        }
    };
    let setup = session.setup().clone();
    println!("kernel {}, {} plan", setup.kernel, setup.plan.name);
    probe(&mut session);
    path(&mut session, &setup);
    if 0 < session.dropped() {
        println!(
            "{} records were dropped: the rates are those of a ring that was full",
            session.dropped()
        );
    }
}

/// Cost per run of the measured programs, the kernel's own clock.
fn probe(session: &mut Session) {
    let mut per_run = Vec::new();
    for program in [Measure::Empty, Measure::Record] {
        for gfn in 0..50_000 {
            session.measure(program, gfn).expect("the program is loaded");
            if gfn % 4096 == 0 {
                session.drain().expect("the ring can be read");
            }
        }
        session.drain().expect("the ring can be read");
        let costs = session.overhead();
        let cost = costs.iter().find(|cost| cost.program == program.name()).expect("it ran");
        per_run.push(cost.run_ns as f64 / cost.runs.max(1) as f64);
    }
    println!("probe: empty program {:6.0} ns, with one record {:6.0} ns", per_run[0], per_run[1]);
    for burst in 0..200 {
        session.measure(Measure::Burst, burst).expect("the program is loaded");
        session.drain().expect("the ring can be read");
    }
    let costs = session.overhead();
    let cost = costs.iter().find(|cost| cost.program == Measure::Burst.name()).expect("it ran");
    let per_record = cost.run_ns as f64 / (cost.runs.max(1) * u64::from(Measure::BURST)) as f64;
    println!("probe: one record of a burst of {} {per_record:6.0} ns", Measure::BURST);
}

/// Rates of the path per CPU second, each stage added to the ones before. What the probe takes to emit is not counted.
fn path(session: &mut Session, setup: &Setup) {
    let drained = rate(session, |_| {});
    println!("ring -> batch                          {drained:6.2} M records/s");
    let mut writer = writer(setup);
    let recorded = rate(session, |batch| writer.write(batch).expect("memory"));
    println!("ring -> batch -> recording             {recorded:6.2} M records/s");
    let mut writer = self::writer(setup);
    let mut pipeline = Pipeline::new(setup.clone());
    let judged = rate(session, |batch| {
        writer.write(batch).expect("memory");
        pipeline.push(batch);
    });
    pipeline.finish();
    println!("ring -> batch -> recording -> pipeline {judged:6.2} M records/s, on one thread");
    println!("  {} records judged", pipeline.summary().events);
}

fn rate(session: &mut Session, mut take: impl FnMut(&Batch)) -> f64 {
    let mut records = 0;
    let mut spent = Duration::ZERO;
    for round in 0..ROUNDS {
        for burst in 0..BURSTS {
            let first = (round * BURSTS + burst) * u64::from(Measure::BURST);
            session.measure(Measure::Burst, first).expect("the program is loaded");
        }
        let begin = cpu_time();
        let batch = session.drain().expect("the ring can be read");
        take(&batch);
        spent += cpu_time() - begin;
        records += batch.records.len();
    }
    records as f64 / spent.as_secs_f64() / 1e6
}

/// CPU time of this thread: other work on the machine disturbs it little.
fn cpu_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    Duration::from(time.expect("every thread has a clock"))
}

fn writer(setup: &Setup) -> Writer {
    let header = Header::new(Origin::Live, setup.clone());
    Writer::new(Box::new(Nowhere), &header, WriteLimits::STANDARD).expect("nothing is written")
}

/// A file that forgets: compressing is part of the path, the disk is not.
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Medium for Nowhere {
    fn cut(&mut self, _: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
