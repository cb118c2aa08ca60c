//! Threads: what a thread has done inside the bracket it is in.
//!
//! A record is written when its operation ends, so the marks and stores of a fault come before the fault itself. They
//! wait here for it.

use crate::event::{Gfn, IoctlOp, IoctlRef, Nanos, Operation, Span, Tid, TidIndex, VcpuId};
use crate::order::{Bound, Ordinal};
use crate::verdict::UnknownCause;
use crate::verdict::page::Protection;

use super::case::PageAt;
pub(crate) use super::pending::{PendingMark, PendingStore};
use super::slot::{Opening, Recent, WordSeen};

/// One thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Thread {
    pub tid: Tid,
    /// The vCPU it is running, between RunBegin and RunEnd.
    pub vcpu: Option<VcpuId>,
    /// Marks that no store has claimed yet, newest last.
    pub marks: Recent<PendingMark, 16>,
    /// Openings of SPTEs whose mark was not seen yet.
    pub stores: Vec<PendingStore>,
    /// The ioctl it is in.
    pub ioctl: Option<OpenIoctl>,
    /// Its last flush.
    pub flush: Span,
    /// End of its last record that cut a hold of `mmu_lock` (a split).
    pub cut: Nanos,
    /// End of its last record that shows the vCPU outside the guest.
    pub last_exit: Nanos,
    /// Its fast fault that seems to have marked first.
    pub prediction: Option<Box<Opening>>,
    /// Its last ring pushes.
    pub pushes: Recent<PendingMark, 4>,
    /// It made an SPTE absent that was open, and has not flushed since.
    pub zap: Option<Change>,
    /// It changed an SPTE that somebody else had made read-only, and has not flushed since.
    pub decision: Option<Change>,
    /// Reused when an ioctl opens.
    pub words: Vec<TakenWord>,
    pub suspects: Vec<Suspect>,
    /// SPTEs its SET_MEMORY has closed one by one.
    pub closings: Vec<Suspect>,
}

/// A change of an SPTE that calls for a flush.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub vm: usize,
    pub slot: usize,
    pub gfn: Gfn,
    pub ordinal: Ordinal,
    pub at: Nanos,
    /// The change before it, by another thread.
    pub before: Ordinal,
}

/// An ioctl that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenIoctl {
    pub op: IoctlRef,
    pub vm: usize,
    pub slot: Option<usize>,
    /// `None`: its begin was not seen.
    pub begin: Option<Nanos>,
    /// Ordinal of its begin, or of the first record that showed it.
    pub ordinal: Ordinal,
    /// First and count of its begin.
    pub args: (u64, u64),
    pub flushes: u64,
    /// It takes bits: GET without manual protect, CLEAR, RESET.
    pub is_taker: bool,
    /// The xchg of the next word is not before this.
    pub word_floor: (Nanos, Bound),
    pub first_visit: Option<Nanos>,
    pub last_visit: Nanos,
    /// Records of protection seen in a SET_MEMORY.
    pub protects: u64,
    /// First page that lost W, and when at the earliest.
    pub first_protected: Option<(usize, Gfn, Nanos)>,
    pub words: u64,
    pub pages: PageTally,
    /// Words or suspects found no room.
    pub is_over: bool,
    /// Its last pop of ring entries.
    pub popped: Option<Ordinal>,
}

/// How the pages an open harvest took stand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PageTally {
    /// Taken in all.
    pub taken: u64,
    /// Seen to lose W, or read back without it.
    pub protected: u64,
    /// Known not to be writable before.
    pub closed: u64,
    /// State from before we attached.
    pub before_attach: u64,
    /// State lost in a gap.
    pub dropped: u64,
    /// No place for their state.
    pub limit: u64,
    /// The plan does not show what decides, see [`NOT_OBSERVED`].
    not_observed: [u64; NOT_OBSERVED.len()],
}

/// What a plan may lack to tell the protection of a page that a harvest took.
const NOT_OBSERVED: [Operation; 3] =
    [Operation::WriteProtect, Operation::SpteChange, Operation::FastFault];

/// A word the open harvest has taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakenWord {
    pub slot: usize,
    pub first: Gfn,
    pub mask: u64,
    pub protected: u64,
    pub ordinal: Ordinal,
}

/// A page the open harvest took without being seen to protect it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect {
    pub slot: usize,
    pub gfn: Gfn,
    /// The harvest word that took it, or the ring reset that popped it.
    pub word: Ordinal,
    /// A later change of the page explains it.
    pub since: Ordinal,
    pub is_popped: bool,
    /// The word was read back at the return (tracepoint plan).
    pub is_read_back: bool,
}

impl OpenIoctl {
    /// First page and count of a CLEAR; empty for all others, which are of the whole slot.
    pub const fn range(&self) -> (u64, u64) {
        match (self.op.op, self.begin) {
            (IoctlOp::ClearDirtyLog, Some(_)) => self.args,
            _ => (0, 0),
        }
    }
}

impl PageTally {
    /// One page whose state is not known.
    pub const fn count_unknown(&mut self, cause: UnknownCause) {
        match cause {
            UnknownCause::Dropped => self.dropped += 1,
            UnknownCause::Limit => self.limit += 1,
            UnknownCause::BeforeAttach => self.before_attach += 1,
            UnknownCause::NotObserved(Operation::SpteChange) => self.not_observed[1] += 1,
            UnknownCause::NotObserved(Operation::FastFault) => self.not_observed[2] += 1,
            _ => self.not_observed[0] += 1,
        }
    }

    /// Pages not judged because the plan does not show these operations.
    pub fn not_observed(self) -> impl Iterator<Item = (Operation, u64)> {
        NOT_OBSERVED.into_iter().zip(self.not_observed)
    }
}

/// Words and suspects kept for the judgement at the ioctl's return.
pub(crate) const WORDS_MAX: usize = 1 << 20;

/// Stores without a mark kept for the end of their fault.
pub(crate) const STORES_MAX: usize = 64;

/// The threads by id.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    threads: Vec<Thread>,
    index: TidIndex,
    max: usize,
    /// A thread that was in a bracket gave up its place since this was last looked at; and the ioctls it was in.
    pub has_evicted: bool,
    pub evicted: Vec<OpenIoctl>,
    /// One did so ever: a thread that is new here may have had a place before.
    was_full: bool,
}

impl Threads {
    pub fn new(max: u32) -> Self {
        Self {
            threads: Vec::new(),
            index: TidIndex::default(),
            max: max.max(1) as usize,
            has_evicted: false,
            evicted: Vec::new(),
            was_full: false,
        }
    }

    /// The thread's place, made on first sight.
    #[inline]
    pub fn place(&mut self, tid: Tid) -> usize {
        match self.index.recent(tid) {
            Some(place) => place,
            None => self.other_place(tid),
        }
    }

    #[cold]
    #[inline(never)]
    fn other_place(&mut self, tid: Tid) -> usize {
        self.index.search(tid).unwrap_or_else(|| self.add(tid))
    }

    fn add(&mut self, tid: Tid) -> usize {
        let place = if self.threads.len() < self.max {
            self.threads.push(Thread::default());
            self.threads.len() - 1
        } else {
            self.evict()
        };
        self.threads[place].start(tid);
        if self.was_full {
            self.threads[place].marks.forget();
        }
        self.index.insert(tid, place);
        place
    }

    /// Frees the place of the idle thread with the lowest id; if none is idle, of the lowest id.
    fn evict(&mut self) -> usize {
        let idle = self.index.iter().find(|&(_, place)| self.threads[place].is_idle());
        let Some((tid, place)) = idle.or_else(|| self.index.iter().next()) else { return 0 };
        if !self.threads[place].is_idle() {
            self.evicted.extend(self.threads[place].ioctl);
            (self.has_evicted, self.was_full) = (true, true);
        }
        self.index.remove(tid);
        place
    }

    pub fn get_mut(&mut self, place: usize) -> &mut Thread {
        &mut self.threads[place]
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Thread> {
        self.threads.iter_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Thread> {
        self.threads.iter()
    }
}

impl Thread {
    fn start(&mut self, tid: Tid) {
        let Self { words, suspects, stores, closings, .. } = std::mem::take(self);
        *self = Self { tid, words, suspects, stores, closings, ..Self::default() };
        self.leave_ioctl();
        self.stores.clear();
    }

    fn is_idle(&self) -> bool {
        let is_outside = self.ioctl.is_none() && self.vcpu.is_none() && self.stores.is_empty();
        is_outside && self.marks.iter().all(|mark| mark.is_claimed)
    }

    /// The newest unclaimed mark of the page that ended at or after `since`.
    pub fn find_mark(&self, page: PageAt, since: Nanos) -> Option<PendingMark> {
        self.marks
            .iter()
            .take_while(|mark| since <= mark.span.hi)
            .find(|mark| mark.page() == page && !mark.is_claimed)
            .copied()
    }

    /// As [`Self::find_mark`]; the mark is claimed then.
    #[inline]
    pub fn take_mark(&mut self, page: PageAt, since: Nanos) -> Option<&PendingMark> {
        let is_its = |mark: &PendingMark| mark.page() == page && !mark.is_claimed;
        let mark = self.marks.newest_mut(is_its).filter(|mark| since <= mark.span.hi)?;
        mark.is_claimed = true;
        Some(mark)
    }

    /// The slot that a mark of this page named, if the thread made one since.
    pub fn slot_of_mark(&self, vm: usize, gfn: Gfn, since: Nanos) -> Option<usize> {
        let marks = self.marks.iter().take_while(|mark| since <= mark.span.hi);
        marks.filter(|mark| mark.vm == vm && mark.gfn == gfn).map(|mark| mark.slot).next()
    }

    /// The thread pushed a ring entry for the page since.
    pub fn has_pushed(&self, page: PageAt, since: Nanos) -> bool {
        let mut pushes = self.pushes.iter().take_while(|push| since <= push.span.hi);
        pushes.any(|push| push.page() == page)
    }

    /// The ioctl of that VM it is in.
    pub fn ioctl_on(&mut self, vm: usize) -> Option<&mut OpenIoctl> {
        self.ioctl.as_mut().filter(|ioctl| ioctl.vm == vm)
    }

    /// Forgets all that refers to a VM; gives back the ioctl of it that the thread is in.
    pub fn forget_vm(&mut self, vm: usize) -> Option<OpenIoctl> {
        self.marks.iter_mut().filter(|mark| mark.vm == vm).for_each(PendingMark::forget);
        self.pushes.iter_mut().filter(|push| push.vm == vm).for_each(PendingMark::forget);
        self.stores.retain(|store| store.vm != vm);
        self.zap = self.zap.filter(|change| change.vm != vm);
        self.decision = self.decision.filter(|change| change.vm != vm);
        self.prediction.take_if(|opening| opening.mark.vm == vm);
        let ioctl = self.ioctl.take_if(|ioctl| ioctl.vm == vm)?;
        self.leave_ioctl();
        Some(ioctl)
    }

    /// What its ioctl has taken and closed is judged, or cannot be.
    pub fn leave_ioctl(&mut self) {
        self.words.clear();
        self.suspects.clear();
        self.closings.clear();
    }

    /// The word is one of its last ioctl.
    pub fn has_taken(&self, word: &WordSeen) -> bool {
        self.words.binary_search_by_key(&word.ordinal, |taken| taken.ordinal).is_ok()
    }

    /// The ioctl it is in took that word.
    pub fn is_taking(&self, word: &WordSeen) -> bool {
        self.ioctl.is_some() && self.has_taken(word)
    }

    /// The locked store that waited for this mark.
    pub fn take_awaited(&mut self, mark: &PendingMark) -> Option<PendingStore> {
        let place = self.stores.iter().position(|store| store.is_for(mark))?;
        Some(self.stores.swap_remove(place))
    }

    /// What the page of that mark is if the mark was drained.
    pub fn note_drained(&mut self, ordinal: Ordinal, drained: Protection) {
        for mark in self.marks.iter_mut().filter(|mark| mark.ordinal == ordinal) {
            mark.drained = Some(drained);
        }
    }

    /// The mark belongs to a store that was seen.
    pub fn claim(&mut self, ordinal: Ordinal) {
        if let Some(mark) = self.marks.newest_mut(|mark| mark.ordinal == ordinal) {
            mark.is_claimed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_thread_table_gives_up_an_idle_thread() {
        let mut threads = Threads::new(2);
        let one = threads.place(Tid(1));
        threads.get_mut(one).vcpu = Some(VcpuId(0));
        let two = threads.place(Tid(2));
        let three = threads.place(Tid(3));
        assert_eq!(three, two);
        assert_eq!(threads.get_mut(three).tid, Tid(3));
        assert!(!threads.has_evicted);
        assert_eq!(threads.place(Tid(1)), one);
    }

    #[test]
    fn a_thread_with_a_pending_mark_gives_up_its_place_last_and_not_silently() {
        let mut threads = Threads::new(2);
        let mark = PendingMark { is_claimed: false, ..PendingMark::default() };
        let one = threads.place(Tid(1));
        threads.get_mut(one).marks.push(mark);
        let two = threads.place(Tid(2));
        assert_eq!((threads.place(Tid(3)), threads.has_evicted), (two, false));
        threads.get_mut(two).marks.push(mark);
        let four = threads.place(Tid(4));
        assert_eq!((four, threads.has_evicted), (one, true));
        assert!(threads.get_mut(four).marks.has_forgotten());
    }
}
