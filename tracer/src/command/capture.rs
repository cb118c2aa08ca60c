//! A running trace: one thread drains the rings and writes the file, one analyses; neither waits for a screen.
//!
//! ```text
//! reader thread              analysis thread              screen
//! drain -> file (first) ---> Pipeline::push   --newest--> Feed
//!                  channel   publish at a beat <-requests-
//! ```
//!
//! What waits in the channel is bounded by its records, not by its batches: on a busy machine the analysis may not run
//! for a second, in which the reader makes hundreds of small batches. If analysis lags for good, the reader stops
//! draining, the kernel's ring fills, and the probe counts what it could not reserve: records are dropped in exactly
//! one place, and counted there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::handover::{Parcel, Waiting};
use super::tee::{Keep, Tee};
use crate::event::{Batch, Gap, GapCause, Nanos, Setup};
use crate::feed::{
    Closeup, Facts, Feed, Follower, HarvestCost, Overhead, ProbeCount, Publisher, Request,
    Snapshot, Stage, channel,
};
use crate::pipeline::Pipeline;
use crate::summary::Summary;
use crate::verdict::PageRange;

/// Time between two published snapshots.
const BEAT: Duration = Duration::from_millis(100);

/// Why tracing stopped by itself.
const OVER_BUDGET: &str =
    "tracing has stopped: the probe took more than its budget (--budget PERCENT of one CPU)";

/// Where batches come from: the live session.
pub trait Drain: Send + Sized + 'static {
    /// The calling thread is the one that will drain.
    fn begin(&mut self) {}

    /// What was delivered and dropped since the last call; never waits.
    ///
    /// # Errors
    /// The source can deliver no more.
    fn drain(&mut self) -> Result<Batch>;

    /// Detaches and delivers the rest.
    ///
    /// # Errors
    /// As [`Drain::drain`].
    fn finish(self) -> Result<Batch>;

    /// What tracing has cost lately.
    fn overhead(&mut self) -> Option<Overhead>;

    /// What each program of the probe did so far.
    fn probes(&self) -> Vec<ProbeCount> {
        Vec::new()
    }

    /// Nanoseconds that programs have run which run in harvests only; `None` where there are no such programs.
    fn harvest_run_ns(&self) -> Option<u64> {
        None
    }

    /// Why nothing more will come, once that is so: the VMM is gone. Asked once a second.
    fn ended(&mut self) -> Option<&'static str> {
        None
    }
}

/// A running trace.
#[derive(Debug)]
pub struct Capture {
    flags: Arc<Flags>,
    reader: JoinHandle<Result<()>>,
    analysis: JoinHandle<Pipeline>,
}

/// What the threads tell each other besides batches.
#[derive(Debug, Default)]
struct Flags {
    stop: AtomicBool,
    asked: AtomicBool,
    hazard: AtomicBool,
    waiting: Waiting,
}

impl Capture {
    /// Starts both threads.
    pub fn start(
        source: impl Drain,
        tee: Option<Box<dyn Tee>>,
        setup: Setup,
        facts: Facts,
    ) -> (Self, Feed) {
        let flags = Arc::new(Flags::default());
        let (parcels, inbox) = mpsc::channel();
        let (publisher, feed) = channel(Arc::new(setup.clone()), facts, Snapshot::default());
        let reader = {
            let flags = Arc::clone(&flags);
            std::thread::spawn(move || read(source, tee, &flags, &parcels))
        };
        let analysis = {
            let flags = Arc::clone(&flags);
            std::thread::spawn(move || Analysis::new(setup, publisher).run(&inbox, &flags))
        };
        (Self { flags, reader, analysis }, feed)
    }

    /// It has ended by itself, because its source failed or the budget stopped it, and has said why.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.analysis.is_finished()
    }

    /// Asks a flight recorder to write what it holds.
    pub fn keep(&self) {
        self.flags.asked.store(true, Ordering::Release);
    }

    /// Detaches, drains the rest, judges what was held back.
    ///
    /// # Errors
    /// What made the reader end early: the source or the recording.
    pub fn stop(self) -> Result<Arc<Summary>> {
        self.flags.stop.store(true, Ordering::Release);
        let read = self.reader.join().expect("the reader thread does not panic");
        let pipeline = self.analysis.join().expect("the analysis thread does not panic");
        read?;
        Ok(Arc::new(pipeline.summary().clone()))
    }
}

/// Drains until told to stop, then what is left. Whatever ends it, the recording gets its end.
fn read(
    mut source: impl Drain,
    mut tee: Option<Box<dyn Tee>>,
    flags: &Flags,
    parcels: &Sender<Parcel>,
) -> Result<()> {
    source.begin();
    let drained = drain_until_stopped(&mut source, &mut tee, flags, parcels);
    let last = drained.and_then(|ending| {
        let mut batch = source.finish().context("read the probe's last records")?;
        if ending == Beat::OverBudget {
            batch.gaps.push(unseen_from(batch.watermark));
        }
        Ok(batch)
    });
    let batch = match last {
        Ok(batch) => batch,
        // If it was the recording that failed, it has its end already and says so again.
        Err(error) => {
            let _ = tee.map(|mut tee| tee.finish());
            return Err(error);
        }
    };
    if let Some(tee) = &mut tee {
        tee.write(&batch)?;
        tee.finish()?;
    }
    // An analysis that has ended wants no more; its thread is joined next and says why.
    let _ = flags.waiting.pass(batch, parcels, &flags.stop);
    Ok(())
}

/// Drains at its own pace: a wakeup per record would cost the vCPU 20 to 25 us each. Tells why it ended.
fn drain_until_stopped(
    source: &mut impl Drain,
    tee: &mut Option<Box<dyn Tee>>,
    flags: &Flags,
    parcels: &Sender<Parcel>,
) -> Result<Beat> {
    let mut pause = Duration::from_millis(1);
    let mut measured = Instant::now();
    while !flags.stop.load(Ordering::Acquire) {
        let batch = source.drain().context("read the probe's records")?;
        if let Some(tee) = tee {
            tee.write(&batch)?;
            for (flag, why) in [(&flags.asked, Keep::Asked), (&flags.hazard, Keep::Hazard)] {
                if flag.swap(false, Ordering::AcqRel) {
                    tee.keep(why)?;
                }
            }
        }
        // Quiet rings are looked at less often, busy ones at once again.
        pause = match batch.records.len() {
            0..256 => (pause * 2).clamp(Duration::from_millis(1), Duration::from_millis(20)),
            256..8192 => Duration::from_millis(2),
            _ => Duration::ZERO,
        };
        if !flags.waiting.pass(batch, parcels, &flags.stop) {
            break;
        }
        if Duration::from_secs(1) <= measured.elapsed() {
            measured = Instant::now();
            let beat = beat(source, parcels);
            if beat != Beat::GoOn {
                return Ok(beat);
            }
        }
        std::thread::sleep(pause);
    }
    Ok(Beat::End)
}

/// Whether a trace goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beat {
    GoOn,
    End,
    OverBudget,
}

/// Once a second: what tracing costs, and whether it goes on.
fn beat(source: &mut impl Drain, parcels: &Sender<Parcel>) -> Beat {
    if let Some(why) = source.ended() {
        // What it did last is still in the rings: the reader takes it when it ends.
        let _ = parcels.send(Parcel::Stopped(why));
        return Beat::End;
    }
    let Some(overhead) = source.overhead() else { return Beat::GoOn };
    let is_over = overhead.budget_percent < overhead.probe_percent;
    let cost = Parcel::Cost(overhead, source.probes(), source.harvest_run_ns());
    if parcels.send(cost).is_err() {
        return Beat::End;
    }
    if is_over {
        // The host comes first: what has been seen so far is kept and judged.
        let _ = parcels.send(Parcel::Stopped(OVER_BUDGET));
        return Beat::OverBudget;
    }
    Beat::GoOn
}

/// What happens from here on is not seen, though nobody asked for that.
const fn unseen_from(end: Nanos) -> Gap {
    Gap { lane: None, hook: None, cause: GapCause::Budget, from: end, to: end, dropped: 0 }
}

/// The analysis thread.
struct Analysis {
    pipeline: Pipeline,
    publisher: Publisher,
    follower: Follower,
    /// Number of the last record the follower has seen.
    followed: u64,
    range: Option<PageRange>,
    overhead: Option<Overhead>,
    probes: Arc<Vec<ProbeCount>>,
    /// Harvests, and the run time of harvest programs, when the cost was last told.
    costed: (u64, u64),
    hazards: u64,
    ending: &'static str,
}

impl Analysis {
    fn new(setup: Setup, publisher: Publisher) -> Self {
        Self {
            pipeline: Pipeline::new(setup),
            publisher,
            follower: Follower::default(),
            followed: 0,
            range: None,
            overhead: None,
            probes: Arc::default(),
            costed: (0, 0),
            hazards: 0,
            ending: "tracing has stopped",
        }
    }

    fn run(mut self, inbox: &Receiver<Parcel>, flags: &Flags) -> Pipeline {
        let mut published = Instant::now();
        loop {
            match inbox.recv_timeout(BEAT) {
                Ok(Parcel::Batch(batch)) => {
                    self.follower.take_slots(&batch);
                    self.pipeline.push(&batch);
                    flags.waiting.taken(&batch);
                    self.heed();
                    self.follow();
                }
                Ok(Parcel::Cost(overhead, probes, run_ns)) => {
                    self.probes = Arc::new(probes);
                    self.overhead = Some(self.with_harvest_cost(overhead, run_ns));
                }
                Ok(Parcel::Stopped(why)) => self.ending = why,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if BEAT <= published.elapsed() {
                published = Instant::now();
                self.publish(Stage::Running);
                let verdicts = self.pipeline.summary().verdicts;
                if self.hazards < verdicts.lost + verdicts.at_risk {
                    self.hazards = verdicts.lost + verdicts.at_risk;
                    flags.hazard.store(true, Ordering::Release);
                }
            }
        }
        self.pipeline.finish();
        self.publish(Stage::Ended(self.ending.to_owned()));
        self.answer_until_closed(flags);
        self.pipeline
    }

    /// Nothing more comes, but the screen may still ask about what was.
    fn answer_until_closed(&mut self, flags: &Flags) {
        while !flags.stop.load(Ordering::Acquire) {
            match self.publisher.requests().recv_timeout(BEAT) {
                Ok(request) => {
                    self.take(request);
                    self.heed();
                    self.follow();
                    self.publish(Stage::Ended(self.ending.to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Takes what the screen has asked for since the last look.
    fn heed(&mut self) {
        while let Ok(request) = self.publisher.requests().try_recv() {
            self.take(request);
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Follow { .. } => self.followed = 0,
            Request::Look(range) => self.range = Some(range),
            Request::LookAway => self.range = None,
            Request::Unfollow
            | Request::PlayOrPause
            | Request::Faster
            | Request::Slower
            | Request::Seek(_) => {}
        }
        self.follower.ask(request);
    }

    /// Shows the follower the records that came since, at first all that are still kept.
    fn follow(&mut self) {
        let Self { pipeline, follower, followed, .. } = self;
        if !follower.is_following() {
            return;
        }
        let mut recent = pipeline.recent(*followed).peekable();
        if let Some(&(first, record)) = recent.peek() {
            // The first number is 2; a higher one, or one that does not follow, says that earlier records are gone.
            if *followed == 0 && 2 < first || *followed != 0 && *followed + 1 < first {
                follower.begin_at(Nanos(record.ts_ns));
            } else if *followed == 0 {
                follower.begin_at(Nanos(0));
            }
        }
        follower.pick(recent.map(|(number, record)| {
            *followed = number;
            record
        }));
    }

    fn publish(&self, stage: Stage) {
        self.publisher.publish(Snapshot {
            summary: Arc::new(self.pipeline.summary().clone()),
            stage,
            overhead: self.overhead,
            journey: self.follower.journey(),
            closeup: self.range.map(|range| {
                Arc::new(Closeup { range, states: self.pipeline.page_states(&range) })
            }),
            probes: Arc::clone(&self.probes),
            playback: None,
        });
    }

    /// Spreads the run time of harvest programs over the harvests of the same time.
    fn with_harvest_cost(&mut self, overhead: Overhead, run_ns: Option<u64>) -> Overhead {
        let Some(run_ns) = run_ns.filter(|_| overhead.harvest.is_none()) else { return overhead };
        let now = (self.pipeline.summary().harvests_total, run_ns);
        let last = std::mem::replace(&mut self.costed, now);
        let harvests = now.0.saturating_sub(last.0);
        let cost = now.1.saturating_sub(last.1).checked_div(harvests);
        // Without a harvest in the last second what was said before still holds.
        let before = self.overhead.and_then(|overhead| overhead.harvest);
        let cost = cost.map(|per_harvest_ns| HarvestCost::AtLeast { per_harvest_ns });
        Overhead { harvest: cost.or(before), ..overhead }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::event::{Kind, Nanos, RawEvent};
    use crate::trace::litmus::Litmus;

    /// Delivers a race once, then a vCPU that enters KVM_RUN again and again: a hazard is told when time has passed.
    struct Race {
        batch: Option<Batch>,
        watermark: Nanos,
        entries: u32,
    }

    impl Drain for Race {
        fn drain(&mut self) -> Result<Batch> {
            let mut batch = self.batch.take().unwrap_or_default();
            self.watermark = Nanos(self.watermark.0.max(batch.watermark.0) + 1_000_000);
            batch.records.push(RawEvent {
                ts_ns: self.watermark.0,
                tid: 77,
                cpu: 77,
                kind: Kind::RunBegin as u8,
                seq: self.entries,
                ..RawEvent::default()
            });
            self.entries += 1;
            Ok(Batch { watermark: self.watermark, ..batch })
        }

        fn finish(self) -> Result<Batch> {
            Ok(Batch { watermark: self.watermark, ..Batch::default() })
        }

        fn overhead(&mut self) -> Option<Overhead> {
            None
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<Option<Keep>>>>);

    impl Tee for Log {
        fn write(&mut self, _: &Batch) -> Result<()> {
            Ok(())
        }

        fn keep(&mut self, why: Keep) -> Result<()> {
            self.0.lock().unwrap().push(Some(why));
            Ok(())
        }

        fn finish(&mut self) -> Result<()> {
            self.0.lock().unwrap().push(None);
            Ok(())
        }
    }

    #[test]
    fn a_hazard_reaches_the_recorder_while_the_trace_runs() {
        let text = include_str!("../../tests/litmus/harvest-leaves-writable.litmus");
        let Litmus { setup, batch, .. } = Litmus::read(text).unwrap();
        let source = Race { batch: Some(batch), watermark: Nanos(0), entries: 0 };
        let log = Log::default();
        let tee: Box<dyn Tee> = Box::new(log.clone());
        let (capture, _feed) = Capture::start(source, Some(tee), setup, Facts::default());
        let begin = Instant::now();
        while log.0.lock().unwrap().is_empty() && begin.elapsed() < Duration::from_secs(60) {
            std::thread::yield_now();
        }
        capture.keep();
        capture.stop().unwrap();
        let log = log.0.lock().unwrap();
        assert_eq!(log.first(), Some(&Some(Keep::Hazard)));
        assert_eq!(log.last(), Some(&None), "the recording is completed");
    }
}
