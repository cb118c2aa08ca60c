//! The player's thread: loads once from begin to end, then goes wherever the screen asks.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::event::{IoctlOp, Kind, Nanos, RawEvent, Setup};
use crate::feed::{
    self, Closeup, Facts, Feed, Marks, Playback, Publisher, Request, Seek, Snapshot, Stage,
};
use crate::player::deck::Deck;
use crate::player::scan::Scan;
use crate::player::tape::Tape;
use crate::summary::Summary;
use crate::trace::TraceError;
use crate::verdict::{PageRange, WindowKind};

/// Time between two snapshots.
const BEAT: Duration = Duration::from_millis(100);

/// Work between two looks at the requests.
const SLICE: Duration = Duration::from_millis(20);

/// Longest wait while nothing is to be done; a request ends it at once.
const IDLE: Duration = Duration::from_secs(3600);

/// Speeds, in percent of real time.
const SPEED_PERCENT: std::ops::RangeInclusive<u32> = 1..=100_000;

/// Windows one can step to; more are thinned.
const WINDOWS_MAX: usize = 1 << 20;

/// Starts a player in a thread of its own. It ends when the feed is dropped, with what the whole recording says: `None`
/// if it was not read to its end.
#[must_use]
pub fn play<T: Tape>(
    tape: T,
    setup: Setup,
    facts: Facts,
) -> (Feed, JoinHandle<Option<Arc<Summary>>>) {
    let stage = Stage::Loading { done: 0, total: tape.progress().1, left_s: None };
    let first = Snapshot { stage, playback: Some(Playback::default()), ..Snapshot::default() };
    let (publisher, feed) = feed::channel(Arc::new(setup.clone()), facts, first);
    let player = Player::new(tape, setup, publisher);
    (feed, std::thread::spawn(move || player.run()))
}

/// A recording being played.
#[derive(Debug)]
pub struct Player<T: Tape> {
    deck: Deck<T>,
    publisher: Publisher,
    task: Task,
    playback: Playback,
    /// What the end says, so that going there costs nothing.
    last: Option<Arc<Summary>>,
    shown: Arc<Summary>,
    scan: Option<Scan<T>>,
    range: Option<PageRange>,
    trouble: Option<String>,
    loaded: Loaded,
    started: Instant,
}

/// What the player is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// Reading everything once.
    Load,
    /// On the way to a moment.
    Seek(Nanos),
    /// Time runs; since when it has not been moved.
    Play { since: Instant },
    /// Waiting.
    Rest,
}

/// What loading collects.
#[derive(Debug, Default)]
struct Loaded {
    begin: Option<Nanos>,
    end: Nanos,
    marks: Marks,
}

impl<T: Tape> Player<T> {
    /// A player that has read nothing yet.
    #[must_use]
    pub fn new(tape: T, setup: Setup, publisher: Publisher) -> Self {
        Self {
            deck: Deck::new(tape, setup),
            publisher,
            task: Task::Load,
            playback: Playback { speed_percent: 100, ..Playback::default() },
            last: None,
            shown: Arc::default(),
            scan: None,
            range: None,
            trouble: None,
            loaded: Loaded::default(),
            started: now(),
        }
    }

    fn run(mut self) -> Option<Arc<Summary>> {
        let mut beat = now();
        loop {
            let wait = match self.task {
                Task::Load | Task::Seek(_) => Duration::ZERO,
                _ if self.is_scanning() => Duration::ZERO,
                Task::Play { .. } => BEAT.saturating_sub(now().duration_since(beat)),
                Task::Rest => IDLE,
            };
            let mut is_asked = false;
            match self.publisher.requests().recv_timeout(wait) {
                Ok(request) => {
                    self.heed(request);
                    is_asked = true;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.last,
            }
            let before = (self.task, self.is_scanning());
            if let Err(error) = self.work() {
                self.trouble = Some(chain(&error));
                self.task = Task::Rest;
                self.scan = None;
            }
            // Nothing comes after the last slice of either: what it found is told now.
            let has_arrived = before != (self.task, self.is_scanning());
            if is_asked || has_arrived || BEAT <= now().duration_since(beat) {
                beat = now();
                self.publish();
            }
        }
    }

    fn is_scanning(&self) -> bool {
        self.scan.as_ref().is_some_and(Scan::is_running)
    }

    /// Does about a slice of what is to be done.
    fn work(&mut self) -> Result<(), TraceError> {
        match self.task {
            Task::Load => self.load()?,
            Task::Seek(target) => self.seek(target)?,
            Task::Play { since } => self.play_on(since)?,
            Task::Rest => {}
        }
        if let Some(scan) = self.scan.as_mut().filter(|scan| scan.is_running())
            && self.task != Task::Load
        {
            scan.go_on(&mut self.deck, SLICE)?;
        }
        Ok(())
    }

    fn load(&mut self) -> Result<(), TraceError> {
        let until = now() + SLICE;
        while now() < until {
            let Some(batch) = self.deck.take_batch()? else {
                self.finish_loading();
                return Ok(());
            };
            for record in &batch.records {
                self.loaded.take(record);
            }
            for window in self.deck.take_windows() {
                if matches!(window.kind, WindowKind::FastFault | WindowKind::HostWrite) {
                    self.loaded.marks.windows.extend(window.closed);
                }
            }
            thin(&mut self.loaded.marks.windows);
        }
        Ok(())
    }

    fn finish_loading(&mut self) {
        let Loaded { begin, end, mut marks } = std::mem::take(&mut self.loaded);
        self.shown = Arc::new(self.deck.summary().clone());
        self.last = Some(Arc::clone(&self.shown));
        let hazards = self.shown.hazards().map(|finding| finding.known_at());
        marks.hazards.extend(hazards);
        for times in [&mut marks.hazards, &mut marks.windows, &mut marks.harvests] {
            times.sort_unstable();
            times.dedup();
        }
        let begin = begin.unwrap_or_default();
        let end = end.max(begin);
        self.playback =
            Playback { position: end, begin, end, marks: Arc::new(marks), ..self.playback.clone() };
        self.task = Task::Rest;
    }

    fn seek(&mut self, target: Nanos) -> Result<(), TraceError> {
        let is_end = self.playback.end <= target;
        if is_end && (self.range.is_none() || self.deck.is_over()) {
            self.arrive_at_end();
            return Ok(());
        }
        // What the end says is known; only the pages' own states need the deck to be there.
        let target = if is_end { Nanos(u64::MAX) } else { target };
        self.deck.rewind_before(target)?;
        let until = now() + SLICE;
        while !self.deck.step_towards(target)? {
            self.deck.take_windows();
            if until <= now() {
                return Ok(());
            }
        }
        self.deck.take_windows();
        if is_end {
            self.arrive_at_end();
            return Ok(());
        }
        self.playback.position = target;
        self.playback.is_seeking = false;
        self.shown = Arc::new(self.deck.summary().clone());
        self.task = if self.playback.is_playing { Task::Play { since: now() } } else { Task::Rest };
        Ok(())
    }

    fn arrive_at_end(&mut self) {
        self.playback.position = self.playback.end;
        self.playback.is_seeking = false;
        self.playback.is_playing = false;
        self.shown = self.last.clone().unwrap_or_default();
        self.task = Task::Rest;
    }

    /// Moves time by what has passed since.
    fn play_on(&mut self, since: Instant) -> Result<(), TraceError> {
        let passed = now().duration_since(since);
        if passed < BEAT / 2 {
            return Ok(());
        }
        let percent = u128::from(self.playback.speed_percent);
        let moved = u64::try_from(passed.as_nanos() * percent / 100).unwrap_or(u64::MAX);
        let target = Nanos(self.playback.position.0.saturating_add(moved));
        // Where the analysis is slower than the clock, it goes on without waiting for the next beat.
        self.task = Task::Seek(target);
        self.seek(target)
    }

    fn heed(&mut self, request: Request) {
        // Whoever loads cannot travel yet; only following waits until then.
        match request {
            Request::Follow { .. } => self.scan = Some(Scan::new(request, &self.deck)),
            Request::Unfollow => self.scan = None,
            Request::Look(range) => {
                self.range = Some(range);
                // The end is shown from memory: the deck may stand elsewhere.
                let is_elsewhere =
                    self.playback.end <= self.playback.position && !self.deck.is_over();
                if self.task == Task::Rest && is_elsewhere {
                    self.task = Task::Seek(self.playback.end);
                }
            }
            Request::LookAway => self.range = None,
            Request::Faster => self.speed_up(2, 1),
            Request::Slower => self.speed_up(1, 2),
            _ if self.task == Task::Load => {}
            Request::PlayOrPause if self.playback.is_playing => {
                self.playback.is_playing = false;
                if let Task::Play { .. } = self.task {
                    self.task = Task::Rest;
                }
            }
            Request::PlayOrPause => self.start_playing(),
            Request::Seek(seek) => {
                if let Some(target) = self.target(seek) {
                    self.playback.is_seeking = true;
                    self.task = Task::Seek(target);
                }
            }
        }
    }

    fn speed_up(&mut self, by: u32, over: u32) {
        let percent = self.playback.speed_percent.saturating_mul(by) / over;
        self.playback.speed_percent = percent.clamp(*SPEED_PERCENT.start(), *SPEED_PERCENT.end());
    }

    fn start_playing(&mut self) {
        self.playback.is_playing = true;
        if self.playback.end <= self.playback.position {
            // At the end there is nothing to play: from the begin, as every player does.
            self.playback.is_seeking = true;
            self.task = Task::Seek(self.playback.begin);
        } else if self.task == Task::Rest {
            self.task = Task::Play { since: now() };
        }
    }

    fn target(&self, seek: Seek) -> Option<Nanos> {
        let Playback { position, begin, end, marks, .. } = &self.playback;
        match seek {
            Seek::Time(time) => Some(time.clamp(*begin, *end)),
            Seek::Next(kind) => marks.next(kind, *position),
            Seek::Previous(kind) => marks.previous(kind, *position),
            Seek::Begin => Some(*begin),
            Seek::End => Some(*end),
        }
    }

    fn publish(&self) {
        let stage = match (&self.trouble, self.task) {
            (Some(trouble), _) => Stage::Ended(trouble.clone()),
            (None, Task::Load) => {
                let (done, total) = self.deck.progress();
                let passed_ms = now().duration_since(self.started).as_millis();
                let left_ms = passed_ms * u128::from(total.saturating_sub(done));
                // The first moments say little about the rest.
                let left_s = left_ms.checked_div(u128::from(done)).filter(|_| 500 < passed_ms);
                let left_s = left_s.and_then(|ms| u64::try_from(ms.div_ceil(1000)).ok());
                Stage::Loading { done, total, left_s }
            }
            (None, Task::Seek(_) | Task::Play { .. } | Task::Rest) => Stage::Running,
        };
        let summary = match self.task {
            Task::Load => Arc::new(self.deck.summary().clone()),
            Task::Seek(_) | Task::Play { .. } | Task::Rest => Arc::clone(&self.shown),
        };
        let mut playback = self.playback.clone();
        if self.task == Task::Load {
            playback.begin = self.loaded.begin.unwrap_or_default();
            playback.end = self.loaded.end.max(playback.begin);
            playback.position = playback.end;
        }
        let journey = self.scan.as_ref().and_then(|scan| scan.journey(playback.position));
        self.publisher.publish(Snapshot {
            summary,
            stage,
            overhead: None,
            playback: Some(playback),
            journey,
            closeup: self.closeup(),
            probes: Arc::default(),
        });
    }

    /// The pages looked at, once the deck stands at the moment shown.
    fn closeup(&self) -> Option<Arc<Closeup>> {
        let range = self.range?;
        let is_end = self.playback.end <= self.playback.position;
        let is_there = if is_end {
            self.deck.is_over()
        } else {
            self.deck.position() == self.playback.position
        };
        is_there.then(|| Arc::new(Closeup { range, states: self.deck.page_states(&range) }))
    }
}

impl Loaded {
    fn take(&mut self, record: &RawEvent) {
        let at = Nanos(record.ts_ns);
        self.begin = Some(self.begin.map_or(at, |begin| begin.min(at)));
        self.end = self.end.max(at);
        if record.kind == Kind::IoctlEnd as u8 {
            // The low byte of an opref is the ioctl (`kvmdirty_common::kind`).
            match IoctlOp::from_u8(record.args[0] as u8) {
                Some(IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog | IoctlOp::ResetDirtyRings) => {
                    self.marks.harvests.push(at);
                }
                Some(IoctlOp::SetMemory | IoctlOp::EnableCap) | None => {}
            }
        }
    }
}

/// Drops every second point when there are too many to keep.
fn thin(times: &mut Vec<Nanos>) {
    if WINDOWS_MAX < times.len() {
        let mut index = 0;
        times.retain(|_| {
            index += 1;
            index % 2 == 0
        });
    }
}

/// An error with its sources, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// The only clock of the player: it paces slices, beats and play.
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        Batch, Class, CpuId, Event, EventKind, Gfn, IoctlRef, Lane, MarkWord, SlotId, SlotRef,
        Span, Tid, VmId, encode,
    };
    use crate::feed::MarkKind;
    use crate::player::tape::MemoryTape;
    use crate::verdict::PageState;

    const VM: VmId = VmId(0x1000);

    /// One second: a mark of gfn 7 every 100 ms, a harvest every 250 ms.
    fn tape() -> MemoryTape {
        let event = |ms: u64, kind| {
            encode(&Event {
                span: Span::at(Nanos(ms * 1_000_000)),
                vm: VM,
                tid: Tid(7),
                lane: Lane { class: Class::Page, cpu: CpuId(0) },
                seq: ms as u32,
                kind,
            })
        };
        let slot = SlotRef { id: SlotId::default(), logging: true, has_bitmap: true };
        let mark = EventKind::Mark {
            gfn: Gfn(7),
            slot,
            word: MarkWord::Unread,
            spte: None,
            has_vcpu: true,
            in_fast: false,
        };
        let op = IoctlRef { op: IoctlOp::GetDirtyLog, slot: SlotId::default(), mem_flags: 0 };
        let end = EventKind::IoctlEnd { op, ret: 0, flushes: 0, words: 0, words_cut: false };
        let batch = |ms: u64| Batch {
            records: vec![event(ms, if ms.is_multiple_of(250) { end } else { mark })],
            watermark: Nanos(ms * 1_000_000),
            ..Batch::default()
        };
        let times: Vec<_> = (1000..=2000).filter(|ms| ms % 100 == 0 || ms % 250 == 0).collect();
        MemoryTape::new(times.into_iter().map(batch).collect())
    }

    fn loaded() -> (Player<MemoryTape>, Feed) {
        let setup = Setup::complete("test");
        let (publisher, feed) =
            feed::channel(Arc::new(setup.clone()), Facts::default(), Snapshot::default());
        let mut player = Player::new(tape(), setup, publisher);
        settle(&mut player);
        (player, feed)
    }

    fn settle(player: &mut Player<MemoryTape>) {
        while matches!(player.task, Task::Load | Task::Seek(_)) || player.is_scanning() {
            player.work().expect("memory");
        }
        player.publish();
    }

    fn ask(player: &mut Player<MemoryTape>, request: Request) -> u64 {
        player.heed(request);
        settle(player);
        player.playback.position.0 / 1_000_000
    }

    #[test]
    fn a_loaded_recording_stands_at_its_end() {
        let (player, mut feed) = loaded();
        let snapshot = feed.newest().expect("published");
        let playback = snapshot.playback.as_ref().expect("a replay");
        assert_eq!(playback.position, Nanos(2_000_000_000));
        assert_eq!(playback.marks.harvests.len(), 5);
        assert_eq!(player.last.as_ref(), Some(&snapshot.summary));
        assert_eq!(snapshot.stage, Stage::Running);
    }

    #[test]
    fn steps_go_from_harvest_to_harvest_and_stop_at_the_ends() {
        let (mut player, _feed) = loaded();
        let back = Request::Seek(Seek::Previous(MarkKind::Harvest));
        let on = Request::Seek(Seek::Next(MarkKind::Harvest));
        assert_eq!(ask(&mut player, back), 1750);
        assert_eq!(ask(&mut player, back), 1500);
        assert_eq!(ask(&mut player, on), 1750);
        assert_eq!(ask(&mut player, Request::Seek(Seek::Begin)), 1000);
        assert_eq!(ask(&mut player, back), 1000);
        assert_eq!(ask(&mut player, Request::Seek(Seek::Time(Nanos(u64::MAX)))), 2000);
    }

    #[test]
    fn time_runs_at_the_speed_asked_for_and_stops_at_the_end() {
        let (mut player, _feed) = loaded();
        ask(&mut player, Request::Seek(Seek::Begin));
        ask(&mut player, Request::Faster);
        ask(&mut player, Request::PlayOrPause);
        player.task = Task::Play { since: now() - Duration::from_millis(300) };
        player.work().expect("memory");
        let moved = player.playback.position.0 - 1_000_000_000;
        assert!((600_000_000..700_000_000).contains(&moved), "{moved}");
        player.task = Task::Play { since: now() - Duration::from_secs(9) };
        player.work().expect("memory");
        assert_eq!(player.playback.position, player.playback.end);
        assert!(!player.playback.is_playing);
    }

    #[test]
    fn play_at_the_end_begins_again() {
        let (mut player, _feed) = loaded();
        ask(&mut player, Request::PlayOrPause);
        assert_eq!(player.playback.position, player.playback.begin);
        assert!(matches!(player.task, Task::Play { .. }));
    }

    #[test]
    fn the_journey_ends_at_the_moment_shown() {
        let (mut player, mut feed) = loaded();
        ask(&mut player, Request::Seek(Seek::Time(Nanos(1_450_000_000))));
        ask(&mut player, Request::Follow { vm: VM, gfn: Gfn(7) });
        let snapshot = feed.newest().expect("published");
        let journey = snapshot.journey.as_ref().expect("followed");
        let times: Vec<_> =
            journey.events.iter().map(|event| event.span.hi.0 / 1_000_000).collect();
        assert_eq!(times, [1100, 1200, 1300, 1400]);
    }

    /// A tape of which a slice reads a batch or two.
    struct SlowTape(MemoryTape);

    impl Tape for SlowTape {
        type Place = usize;

        fn next_batch(&mut self, batch: &mut Batch) -> Result<bool, TraceError> {
            std::thread::sleep(Duration::from_millis(15));
            self.0.next_batch(batch)
        }

        fn place(&self) -> usize {
            self.0.place()
        }

        fn go_to(&mut self, place: &usize) -> Result<(), TraceError> {
            self.0.go_to(place)
        }

        fn progress(&self) -> (u64, u64) {
            self.0.progress()
        }
    }

    /// The events of the last slices stayed unseen until the next key.
    #[test]
    fn a_journey_is_shown_to_its_end_by_itself() {
        let (mut feed, player) = play(SlowTape(tape()), Setup::complete("test"), Facts::default());
        let whole: Vec<u64> = (1000..2000).step_by(100).filter(|ms| ms % 250 != 0).collect();
        feed.send(Request::Follow { vm: VM, gfn: Gfn(7) });
        let until = now() + Duration::from_secs(20);
        let mut seen: Vec<u64> = Vec::new();
        while seen != whole && now() < until {
            std::thread::sleep(Duration::from_millis(5));
            let Some(snapshot) = feed.newest() else { continue };
            let Some(journey) = &snapshot.journey else { continue };
            seen = journey.events.iter().map(|event| event.span.hi.0 / 1_000_000).collect();
        }
        assert_eq!(seen, whole);
        drop(feed);
        assert!(player.join().expect("no panic").is_some());
    }

    #[test]
    fn pages_looked_at_have_their_state_at_every_moment() {
        let (mut player, mut feed) = loaded();
        let range = PageRange { vm: VM, slot: SlotId::default(), first: Gfn(6), npages: 3 };
        let mut states = |player: &mut Player<MemoryTape>, request| {
            ask(player, request);
            let snapshot = feed.newest().expect("published");
            snapshot.closeup.as_ref().map(|closeup| closeup.states.clone())
        };
        let reported = Some(vec![PageState::Unknown, PageState::Reported, PageState::Unknown]);
        assert_eq!(states(&mut player, Request::Look(range)), reported);
        let middle = Request::Seek(Seek::Time(Nanos(1_450_000_000)));
        assert_eq!(states(&mut player, middle), reported);
        // The end is known from loading, but the pages' states have to be found again.
        assert_eq!(states(&mut player, Request::Seek(Seek::End)), reported);
        assert_eq!(player.playback.position, player.playback.end);
        assert_eq!(states(&mut player, Request::LookAway), None);
    }

    #[test]
    fn a_player_in_its_thread_ends_with_the_screen() {
        let (mut feed, thread) = play(tape(), Setup::complete("test"), Facts::default());
        let deadline = now() + Duration::from_secs(60);
        while feed.newest().is_none_or(|snapshot| snapshot.stage != Stage::Running) {
            assert!(now() < deadline, "the recording was never loaded");
            std::thread::yield_now();
        }
        drop(feed);
        assert!(thread.join().expect("the player does not panic").is_some());
    }
}
