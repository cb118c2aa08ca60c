//! The self-check: attachable is not firing.
//!
//! A compiler may inline a function into some of its callers and keep its symbol: a probe on it attaches, and those
//! callers never reach it. So for every function whose operation contains another one, its exits are counted, and in
//! how many of them the inner one was seen on the same thread:
//!
//! ```text
//! thread     fast_page_fault ......... returned, fixed        <- one more exit
//!                 mark_page_dirty_in_slot                     <- seen inside
//! ```
//!
//! None seen in many exits says that the inner function does not fire there. It accuses nobody: a kernel that really
//! leaves the operation out looks the same, and its pages are named by the rules.

use std::collections::BTreeSet;

use crate::event::{Event, EventKind, IoctlOp, MarkWord, Nanos, Operation, Tid, TidIndex, VmId};

/// Exits without the inner operation that are taken for silence.
pub const SILENT_MIN: u64 = 16;

/// Threads followed; what others do is not counted.
const THREADS_MAX: usize = 4096;

macro_rules! pairs {
    ($($name:ident: $leaf:ident in $wrapper:literal),+ $(,)?) => {
        /// An operation inside another one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Pair { $($name),+ }

        const PAIRS: &[(Operation, &str)] = &[$((Operation::$leaf, $wrapper)),+];
    };
}

pairs! {
    SlotInSetMemory: Slot in "SET_MEMORY that succeeded",
    WordInHarvest: HarvestWord in "harvest after a mark",
    ProtectInWord: WriteProtect in "harvested word",
    FlushInHarvest: Flush in "harvest whose flush counter moved",
    ResetInIoctl: RingReset in "RESET ioctl",
    MarkInFast: Mark in "fast fault that made a page writable",
    MarkInHostWrite: Mark in "host write",
    PushInMark: RingPush in "mark with a dirty ring",
    ChangeInFault: SpteChange in "write fault that marked under the lock",
}

/// One line of the self-check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The inner operation.
    pub operation: Operation,
    /// What contains it.
    pub wrapper: &'static str,
    /// Times the outer operation ended.
    pub exits: u64,
    /// Times the inner one was seen inside it.
    pub hits: u64,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The inner operation is seen.
    Fires,
    /// The outer one ended often and the inner one was never seen: it is inlined there, or not done.
    Silent,
    /// The outer one has not ended often enough to tell.
    Unexercised,
}

/// Exits and hits per check.
type Counts = [(u64, u64); PAIRS.len()];

/// Counts of every check, and what each thread did last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelfCheck {
    counts: Counts,
    threads: Vec<Thread>,
    index: TidIndex,
    /// VMs with dirty rings.
    rings: BTreeSet<VmId>,
    marks: u64,
}

/// When a thread was last seen doing what; ends of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Thread {
    mark: Nanos,
    slow_mark: Nanos,
    word: Nanos,
    flush: Nanos,
    reset: Nanos,
    slot: Nanos,
    change: Nanos,
    flushes: u64,
    marks: u64,
}

impl State {
    /// Its name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fires => "fires",
            Self::Silent => "silent",
            Self::Unexercised => "not exercised",
        }
    }
}

impl Check {
    /// What the counts say.
    #[must_use]
    pub const fn state(&self) -> State {
        match (self.exits, self.hits) {
            (_, 1..) => State::Fires,
            (SILENT_MIN.., 0) => State::Silent,
            (_, 0) => State::Unexercised,
        }
    }
}

impl SelfCheck {
    /// Every check with its counts.
    pub fn checks(&self) -> impl Iterator<Item = Check> + '_ {
        PAIRS.iter().zip(self.counts).map(|(&(operation, wrapper), (exits, hits))| Check {
            operation,
            wrapper,
            exits,
            hits,
        })
    }

    /// Counts an event.
    #[inline(always)]
    pub fn observe(&mut self, event: &Event) {
        if let EventKind::VmSeen { ring_bytes, .. } = event.kind {
            if ring_bytes == 0 {
                self.rings.remove(&event.vm);
            } else {
                self.rings.insert(event.vm);
            }
            return;
        }
        let place = match self.index.recent(event.tid) {
            Some(place) => place,
            None => match self.other_place(event.tid) {
                Some(place) => place,
                None => return,
            },
        };
        let Self { counts, threads, rings, marks, .. } = self;
        let thread = &mut threads[place];
        Taker { counts, rings, marks, thread }.take(event);
    }

    #[cold]
    #[inline(never)]
    fn other_place(&mut self, tid: Tid) -> Option<usize> {
        self.index.search(tid).or_else(|| self.add(tid))
    }

    /// A place for a new thread, while there is room.
    fn add(&mut self, tid: Tid) -> Option<usize> {
        let place = self.threads.len();
        if place == THREADS_MAX {
            return None;
        }
        self.threads.push(Thread::default());
        self.index.insert(tid, place);
        Some(place)
    }
}

/// The parts of a [`SelfCheck`] that one event touches.
struct Taker<'a> {
    counts: &'a mut Counts,
    rings: &'a BTreeSet<VmId>,
    marks: &'a mut u64,
    thread: &'a mut Thread,
}

impl Taker<'_> {
    #[inline(always)]
    fn take(&mut self, event: &Event) {
        let Event { span, .. } = *event;
        match event.kind {
            EventKind::Mark { word, in_fast, slot, .. } => {
                *self.marks += 1;
                self.thread.mark = span.hi;
                if !in_fast && slot.logging {
                    self.thread.slow_mark = span.hi;
                }
                if slot.logging && self.rings.contains(&event.vm) {
                    self.count(Pair::PushInMark, matches!(word, MarkWord::Ring(_)));
                }
            }
            EventKind::SpteChange { .. } => self.thread.change = span.hi,
            EventKind::SlotState { .. } => self.thread.slot = span.hi,
            EventKind::RingReset { .. } => self.thread.reset = span.hi,
            EventKind::Flush { .. } => self.thread.flush = span.hi,
            EventKind::HarvestWord { mask, protected, .. } if mask != 0 => {
                self.thread.word = span.hi;
                self.count(Pair::ProtectInWord, protected != 0);
            }
            EventKind::FastFault { fixed: true, .. } => {
                self.count(Pair::MarkInFast, span.lo <= self.thread.mark);
                // Where no probe tells a mark that it is inside a fast fault (the shadow MMU), the fault's end
                // does: such a mark was not made under the lock.
                if span.lo <= self.thread.slow_mark {
                    self.thread.slow_mark = Nanos::default();
                }
            }
            EventKind::HostWrite { failed: false, slot, .. } if slot.logging => {
                self.count(Pair::MarkInHostWrite, span.lo <= self.thread.mark);
            }
            EventKind::Fault { .. } if span.lo <= self.thread.slow_mark => {
                self.count(Pair::ChangeInFault, span.lo <= self.thread.change);
            }
            EventKind::IoctlBegin { flushes, .. } => {
                self.thread.flushes = flushes;
                self.thread.marks = *self.marks;
            }
            EventKind::IoctlEnd { op, ret, flushes, .. } if 0 <= ret => {
                self.take_end(op.op, event, flushes != self.thread.flushes);
            }
            _ => {}
        }
    }

    fn take_end(&mut self, op: IoctlOp, event: &Event, has_counted: bool) {
        let begin = event.span.lo;
        let has_word = begin <= self.thread.word;
        match op {
            IoctlOp::SetMemory => self.count(Pair::SlotInSetMemory, begin <= self.thread.slot),
            IoctlOp::ResetDirtyRings => {
                self.count(Pair::ResetInIoctl, begin <= self.thread.reset);
                self.take_harvest(begin, has_word, has_counted);
            }
            IoctlOp::ClearDirtyLog => self.take_harvest(begin, has_word, has_counted),
            // Under manual protect a GET takes nothing: it counts only when it took something.
            IoctlOp::GetDirtyLog if has_word => {
                self.take_harvest(begin, has_word, has_counted);
            }
            IoctlOp::GetDirtyLog | IoctlOp::EnableCap => {}
        }
    }

    fn take_harvest(&mut self, begin: Nanos, has_word: bool, has_counted: bool) {
        if has_word || self.thread.marks != 0 {
            self.count(Pair::WordInHarvest, has_word);
        }
        if has_word && has_counted {
            self.count(Pair::FlushInHarvest, begin <= self.thread.flush);
        }
    }

    fn count(&mut self, pair: Pair, is_hit: bool) {
        let (exits, hits) = &mut self.counts[pair as usize];
        *exits += 1;
        *hits += u64::from(is_hit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Gfn, Lane, PageRef, SlotId, SlotRef, Span, Spte};

    fn event(at: u64, kind: EventKind) -> Event {
        let span = Span { lo: Nanos(at), hi: Nanos(at + 5) };
        Event {
            span,
            vm: VmId(1),
            tid: Tid(7),
            lane: Lane { class: kvmdirty_common::Class::Page, cpu: crate::event::CpuId(0) },
            seq: 0,
            kind,
        }
    }

    fn fast(at: u64) -> Event {
        let page = PageRef { gfn: Gfn(3), level: 1, as_id: None };
        event(at, EventKind::FastFault { page, old: Spte(1), ret: 5, sptep: 8, fixed: true })
    }

    fn mark(at: u64) -> Event {
        let slot = SlotRef { id: SlotId::default(), logging: true, has_bitmap: true };
        let kind = EventKind::Mark {
            gfn: Gfn(3),
            slot,
            word: MarkWord::Unread,
            spte: None,
            has_vcpu: true,
            in_fast: true,
        };
        event(at, kind)
    }

    fn marks_in_fast(check: &SelfCheck) -> Check {
        let found = check.checks().find(|check| check.wrapper.starts_with("fast fault"));
        found.expect("the table has it")
    }

    #[test]
    fn an_inner_operation_that_never_shows_is_silent_and_one_hit_is_enough() {
        let mut check = SelfCheck::default();
        check.observe(&mark(1));
        for n in 1..SILENT_MIN {
            check.observe(&fast(n * 100));
        }
        assert_eq!(marks_in_fast(&check).state(), State::Unexercised);
        check.observe(&fast(100_000));
        assert_eq!(marks_in_fast(&check).state(), State::Silent);
        check.observe(&mark(200_001));
        check.observe(&fast(200_000));
        assert_eq!(marks_in_fast(&check).state(), State::Fires);
        assert_eq!((marks_in_fast(&check).exits, marks_in_fast(&check).hits), (17, 1));
    }

    #[test]
    fn a_mark_inside_a_fast_fault_is_none_under_the_lock_even_where_it_does_not_say_so() {
        let mut check = SelfCheck::default();
        let mut inside = mark(102);
        if let EventKind::Mark { in_fast, .. } = &mut inside.kind {
            *in_fast = false;
        }
        check.observe(&inside);
        let kind =
            EventKind::Fault { addr: 0x3000, error_code: 7, ret: 1, vcpu: crate::event::VcpuId(0) };
        let outer = Event { span: Span { lo: Nanos(100), hi: Nanos(120) }, ..event(100, kind) };
        check.observe(&Event { span: Span { lo: Nanos(101), hi: Nanos(110) }, ..fast(101) });
        check.observe(&outer);
        let locked = check.checks().find(|check| check.operation == Operation::SpteChange);
        assert_eq!(locked.map(|check| check.exits), Some(0));
    }
}
