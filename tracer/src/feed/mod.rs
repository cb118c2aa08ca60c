//! What an analysis thread hands to the screen, and what the screen may ask of it.
//!
//! ```text
//! analysis thread (live, or the player of a recording)          screen
//!   Publisher::publish(Snapshot)  --- newest only --->  Feed::newest()
//!   Publisher::requests()         <------------------   Feed::send(Request)
//! ```
//!
//! Snapshots are immutable and only the newest counts, so a slow terminal never holds the analysis back.

pub mod follower;

pub use follower::Follower;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, mpsc};

use tokio::sync::watch;

use crate::event::{Event, Gfn, IoctlOp, Nanos, Setup, Tid, VmId};
use crate::summary::Summary;
use crate::verdict::{PageRange, PageState};

/// Everything that may change from one beat to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// What is known now.
    pub summary: Arc<Summary>,
    /// Whether more will come.
    pub stage: Stage,
    /// What tracing costs; `None` where nothing was measured (replay).
    pub overhead: Option<Overhead>,
    /// Where a replay stands; `None` when live.
    pub playback: Option<Playback>,
    /// Events of the page that is followed.
    pub journey: Option<Arc<Journey>>,
    /// The range of pages that is looked at.
    pub closeup: Option<Arc<Closeup>>,
    /// What each program of the probe did; empty where nothing was counted (replay).
    pub probes: Arc<Vec<ProbeCount>>,
}

/// A range of pages and the state of each of its cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closeup {
    /// The range.
    pub range: PageRange,
    /// State by cell of the range.
    pub states: Vec<PageState>,
}

/// What one program of the probe did since it was attached, by the kernel's own counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeCount {
    /// Where it is attached: `kprobe mark_page_dirty_in_slot`.
    pub point: String,
    /// Times it ran.
    pub hits: u64,
    /// Times the kernel did not run it.
    pub misses: u64,
    /// Nanoseconds it ran, in all.
    pub run_ns: u64,
}

/// Whether more will come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Records are being taken.
    #[default]
    Running,
    /// A recording is being read.
    Loading {
        /// Bytes or records read.
        done: u64,
        /// Of how many.
        total: u64,
        /// Seconds it may still take, once there is something to tell them by.
        left_s: Option<u64>,
    },
    /// Nothing more will come, and why: `the VMM has exited`.
    Ended(String),
}

/// What tracing costs, measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overhead {
    /// Share of one CPU the probe's programs take, in percent (kernel's BPF run-time statistics).
    pub probe_percent: f64,
    /// Share of one CPU this process takes, in percent.
    pub tool_percent: f64,
    /// Share at which tracing stops, in percent of one CPU.
    pub budget_percent: f64,
    /// What tracing adds to a harvest ioctl, where that can be told.
    pub harvest: Option<HarvestCost>,
}

/// What tracing adds to a harvest ioctl.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HarvestCost {
    /// Medians on the VMM's side, with and without the probe (demo: the guest is ours and says them).
    Compared {
        /// The ioctl compared.
        op: IoctlOp,
        /// Median with the probe attached, in nanoseconds.
        traced_ns: u64,
        /// Median of a run without it, in nanoseconds.
        untraced_ns: u64,
    },
    /// Run time per harvest of the programs that run in harvests only, in nanoseconds: the cost of getting into and
    /// out of a probe is not in it.
    AtLeast {
        /// Nanoseconds per harvest.
        per_harvest_ns: u64,
    },
}

/// Where a replay stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Playback {
    /// Trace time shown.
    pub position: Nanos,
    /// First record.
    pub begin: Nanos,
    /// Last record.
    pub end: Nanos,
    /// Time advances by itself.
    pub is_playing: bool,
    /// Speed in percent of real time.
    pub speed_percent: u32,
    /// A jump is being computed.
    pub is_seeking: bool,
    /// Points one can step to.
    pub marks: Arc<Marks>,
}

/// Points of a recording one can step to, each list ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Times from which a hazard is known, each the first of its page.
    pub hazards: Vec<Nanos>,
    /// Ends of third-case windows' faults and host writes; thinned when there are more than fit.
    pub windows: Vec<Nanos>,
    /// Returns of harvest ioctls.
    pub harvests: Vec<Nanos>,
}

/// Every event of one page, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journey {
    /// The VM.
    pub vm: VmId,
    /// The page.
    pub gfn: Gfn,
    /// Events before this time were not looked at.
    pub since: Nanos,
    /// The events, oldest first, the newest [`Journey::EVENTS_MAX`].
    pub events: VecDeque<Event>,
    /// Events in all.
    pub total: u64,
}

impl Journey {
    /// Events kept.
    pub const EVENTS_MAX: usize = 4096;
}

/// What the screen may ask of the analysis thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Keep the events of this page.
    Follow {
        /// The VM.
        vm: VmId,
        /// The page.
        gfn: Gfn,
    },
    /// Stop doing so.
    Unfollow,
    /// Tell the state of each page of a range.
    Look(PageRange),
    /// Stop doing so.
    LookAway,
    /// Let time run, or stop it (replay).
    PlayOrPause,
    /// Double the speed (replay).
    Faster,
    /// Halve the speed (replay).
    Slower,
    /// Go to a point (replay).
    Seek(Seek),
}

/// A point to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// A time.
    Time(Nanos),
    /// The next point of a kind after the position.
    Next(MarkKind),
    /// The last point of a kind before the position.
    Previous(MarkKind),
    /// The first record.
    Begin,
    /// The last record.
    End,
}

/// Kinds of points one can step to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the lists of `Marks`")]
pub enum MarkKind {
    Hazard,
    Window,
    Harvest,
}

impl MarkKind {
    /// The kind in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hazard => "hazard",
            Self::Window => "window",
            Self::Harvest => "harvest",
        }
    }
}

impl Marks {
    /// The points of one kind.
    #[must_use]
    pub fn of(&self, kind: MarkKind) -> &[Nanos] {
        match kind {
            MarkKind::Hazard => &self.hazards,
            MarkKind::Window => &self.windows,
            MarkKind::Harvest => &self.harvests,
        }
    }

    /// The first point after `position`.
    #[must_use]
    pub fn next(&self, kind: MarkKind, position: Nanos) -> Option<Nanos> {
        let points = self.of(kind);
        points.get(points.partition_point(|&point| point <= position)).copied()
    }

    /// The last point before `position`.
    #[must_use]
    pub fn previous(&self, kind: MarkKind, position: Nanos) -> Option<Nanos> {
        let points = self.of(kind);
        points.partition_point(|&point| point < position).checked_sub(1).map(|index| points[index])
    }
}

/// What does not change during a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The VMM's process, 0 if not known.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// `tdp`, `shadow` or empty if not known.
    pub mmu: String,
    /// The recording being played, or being written.
    pub file: String,
    /// Names of threads, as far as they are known.
    pub threads: BTreeMap<Tid, String>,
}

/// The screen's end.
#[derive(Debug)]
pub struct Feed {
    /// What the pipeline was told.
    pub setup: Arc<Setup>,
    /// What does not change.
    pub facts: Facts,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    requests: mpsc::Sender<Request>,
    seen: Arc<Snapshot>,
}

/// The analysis thread's end.
#[derive(Debug)]
pub struct Publisher {
    snapshots: watch::Sender<Arc<Snapshot>>,
    requests: mpsc::Receiver<Request>,
}

/// A pair of ends; the feed starts with `first`.
#[must_use]
pub fn channel(setup: Arc<Setup>, facts: Facts, first: Snapshot) -> (Publisher, Feed) {
    let first = Arc::new(first);
    let (snapshots, receiver) = watch::channel(Arc::clone(&first));
    let (sender, requests) = mpsc::channel();
    (
        Publisher { snapshots, requests },
        Feed { setup, facts, snapshots: receiver, requests: sender, seen: first },
    )
}

impl Feed {
    /// The newest snapshot, if it was not handed out before.
    pub fn newest(&mut self) -> Option<Arc<Snapshot>> {
        // The channel's own mark of what is new fails once the publisher is gone; what it published last must still
        // be shown.
        let newest = Arc::clone(&self.snapshots.borrow());
        if Arc::ptr_eq(&newest, &self.seen) {
            return None;
        }
        self.seen = Arc::clone(&newest);
        Some(newest)
    }

    /// The snapshot handed out last, or the first one.
    #[must_use]
    pub fn seen(&self) -> &Arc<Snapshot> {
        &self.seen
    }

    /// The analysis thread has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.snapshots.has_changed().is_err()
    }

    /// Asks for something; a publisher that has gone answers nothing.
    pub fn send(&self, request: Request) {
        let _ = self.requests.send(request);
    }
}

impl Publisher {
    /// Replaces what the screen shows.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// The screen is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.snapshots.is_closed()
    }

    /// The requests; [`mpsc::Receiver::try_recv`] or a wait with a limit.
    #[must_use]
    pub const fn requests(&self) -> &mpsc::Receiver<Request> {
        &self.requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_snapshot_is_handed_out_once() {
        let (publisher, mut feed) =
            channel(Arc::new(Setup::complete("test")), Facts::default(), Snapshot::default());
        assert!(feed.newest().is_none());
        for events in 1..=3 {
            let summary = Arc::new(Summary { events, ..Summary::default() });
            publisher.publish(Snapshot { summary, ..Snapshot::default() });
        }
        assert_eq!(feed.newest().map(|snapshot| snapshot.summary.events), Some(3));
        assert!(feed.newest().is_none());
    }

    #[test]
    fn what_was_published_last_outlives_the_publisher() {
        let (publisher, mut feed) =
            channel(Arc::new(Setup::complete("test")), Facts::default(), Snapshot::default());
        publisher
            .publish(Snapshot { stage: Stage::Ended(String::from("x")), ..Snapshot::default() });
        drop(publisher);
        assert!(feed.is_closed());
        let last = feed.newest().expect("published after the first");
        assert_eq!(last.stage, Stage::Ended(String::from("x")));
        assert!(feed.newest().is_none());
        feed.send(Request::PlayOrPause);
    }

    #[test]
    fn steps_go_strictly_forward_and_back() {
        let marks = Marks { harvests: vec![Nanos(10), Nanos(20)], ..Marks::default() };
        assert_eq!(marks.next(MarkKind::Harvest, Nanos(10)), Some(Nanos(20)));
        assert_eq!(marks.next(MarkKind::Harvest, Nanos(20)), None);
        assert_eq!(marks.previous(MarkKind::Harvest, Nanos(20)), Some(Nanos(10)));
        assert_eq!(marks.previous(MarkKind::Harvest, Nanos(10)), None);
    }
}
