//! A running trace: one thread drains the rings and writes the file, one analyses; neither waits for a screen.
//!
//! ```text
//! reader thread              analysis thread            whoever looks
//! drain -> file (first) ---> Pipeline::push   --watch-> Arc<Summary>
//!          bounded channel   publish at a beat
//! ```
//!
//! If analysis lags, the channel fills, the reader stops draining, the kernel's ring fills, and the probe counts what it
//! could not reserve: records are dropped in exactly one place, and counted there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::watch;

use crate::event::{Batch, Setup};
use crate::pipeline::Pipeline;
use crate::summary::Summary;

/// Batches in flight between the two threads.
const BATCHES_MAX: usize = 64;

/// Time between two published summaries.
const BEAT: Duration = Duration::from_millis(100);

/// Where batches come from: the live session, or anything that behaves like it.
pub trait Drain: Send + 'static {
    /// What was dropped and delivered since the last call; never waits.
    ///
    /// # Errors
    /// The source can deliver no more.
    fn drain(&mut self) -> Result<Batch>;

    /// Detaches and delivers the rest.
    ///
    /// # Errors
    /// As [`Drain::drain`].
    fn finish(&mut self) -> Result<Batch>;
}

/// Where batches go before anybody looks at them: the recording.
pub trait Tee: Send + 'static {
    /// Writes one batch.
    ///
    /// # Errors
    /// The recording cannot be continued; what it holds stays readable.
    fn write(&mut self, batch: &Batch) -> Result<()>;

    /// A hazard was found (a flight recorder writes its memory now).
    ///
    /// # Errors
    /// As [`Tee::write`].
    fn hazard(&mut self) -> Result<()>;

    /// Completes the recording.
    ///
    /// # Errors
    /// As [`Tee::write`].
    fn finish(&mut self) -> Result<()>;
}

/// A running trace.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Result<()>>,
    analysis: JoinHandle<Pipeline>,
    summary: watch::Receiver<Arc<Summary>>,
}

impl Capture {
    /// Starts both threads.
    pub fn start(source: impl Drain, tee: Option<Box<dyn Tee>>, setup: Setup) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (batches, inbox) = sync_channel(BATCHES_MAX);
        let (publish, summary) = watch::channel(Arc::new(Summary::default()));
        let reader = {
            let stop = Arc::clone(&stop);
            let seen = summary.clone();
            std::thread::spawn(move || read(source, tee, &stop, &batches, &seen))
        };
        let analysis = std::thread::spawn(move || analyse(setup, &inbox, &publish));
        Self { stop, reader, analysis, summary }
    }

    /// The newest summary, and a way to wait for the next.
    #[must_use]
    pub fn summaries(&self) -> watch::Receiver<Arc<Summary>> {
        self.summary.clone()
    }

    /// The reader has ended by itself (its source failed).
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.reader.is_finished()
    }

    /// Detaches, drains the rest, judges what was held back.
    ///
    /// # Errors
    /// What made the reader end early: the source or the recording.
    pub fn stop(self) -> Result<Arc<Summary>> {
        self.stop.store(true, Ordering::Release);
        let read = self.reader.join().expect("the reader thread does not panic");
        let pipeline = self.analysis.join().expect("the analysis thread does not panic");
        read.context("reading the probe's records")?;
        Ok(Arc::new(pipeline.summary().clone()))
    }
}

/// Drains at its own pace: a wakeup per record would cost the vCPU 20 to 25 us each.
fn read(
    mut source: impl Drain,
    mut tee: Option<Box<dyn Tee>>,
    stop: &AtomicBool,
    batches: &SyncSender<Batch>,
    summary: &watch::Receiver<Arc<Summary>>,
) -> Result<()> {
    let mut pause = Duration::from_millis(1);
    let mut hazards = 0;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let batch = if stopping { source.finish()? } else { source.drain()? };
        if let Some(tee) = &mut tee {
            tee.write(&batch).context("write the recording")?;
            let now = summary.borrow().verdicts.lost + summary.borrow().verdicts.at_risk;
            if hazards < now {
                hazards = now;
                tee.hazard().context("write the flight recorder")?;
            }
        }
        // Quiet rings are looked at less often, busy ones at once again.
        pause = match batch.records.len() {
            0..256 => (pause * 2).min(Duration::from_millis(20)),
            256..8192 => Duration::from_millis(2),
            _ => Duration::ZERO,
        };
        let analysis_ended = batches.send(batch).is_err();
        if stopping || analysis_ended {
            break;
        }
        std::thread::sleep(pause);
    }
    if let Some(tee) = &mut tee {
        tee.finish().context("complete the recording")?;
    }
    Ok(())
}

fn analyse(
    setup: Setup,
    inbox: &Receiver<Batch>,
    publish: &watch::Sender<Arc<Summary>>,
) -> Pipeline {
    let mut pipeline = Pipeline::new(setup);
    let mut published = Instant::now();
    loop {
        match inbox.recv_timeout(BEAT) {
            Ok(batch) => pipeline.push(&batch),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if BEAT <= published.elapsed() {
            publish.send_replace(Arc::new(pipeline.summary().clone()));
            published = Instant::now();
        }
    }
    pipeline.finish();
    publish.send_replace(Arc::new(pipeline.summary().clone()));
    pipeline
}
