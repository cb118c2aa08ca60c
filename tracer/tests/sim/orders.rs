//! A second opinion: all total orders of a small trace, one by one, against the engine's verdict.
//!
//! One page, one lockless fault, one harvest with one word, one write of the host. The hidden instants may lie anywhere
//! in their brackets; what was read restricts them. The rule of the tool is run over each order as a machine of three
//! bits: broken in every order is `lost`, in some `at-risk`, in none `safe`. Nothing here is the engine's code.
//!
//! ```text
//! B the page's bit   W its SPTE is writable   T a TLB may hold it writable
//! after the return of the harvest that took it:  B, or neither W nor T, or its fault has not marked yet
//! ```

use kvmdirty_trace::event::{
    Class, CpuId, Event, EventKind, Gfn, IoctlOp, IoctlRef, Lane, MarkWord, Nanos, PageRef,
    RawEvent, Setup, SlotId, SlotRef, Span, Spte, Tid, VmId, encode,
};
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::verdict::Verdict;

use super::config::{MMU_WRITABLE, PRESENT, WRITABLE};
use super::judge::judge_records;
use super::rng::Rng;
use super::seeds::{self, claim};

/// The instants of a trace, in program order per thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    FaultBegin,
    Cmpxchg,
    MarkEntry,
    SetBit,
    MarkExit,
    FaultEnd,
    HarvestBegin,
    Xchg,
    VisitBegin,
    Visit,
    VisitEnd,
    FlushBegin,
    FlushEnd,
    Return,
    WriteBegin,
    WriteSetBit,
    WriteMarkExit,
}

use Step as S;

/// The machine.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    b: bool,
    w: bool,
    t: bool,
    is_taken: bool,
    has_returned: bool,
    has_marked: bool,
    is_in_window: bool,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Evidence {
    spte_at_mark: bool,
    word_at_mark: bool,
    word_at_write: bool,
    mask: bool,
    protected: bool,
}

impl Page {
    /// Takes one step; `false`: it cannot happen here, or reads something else.
    fn step(&mut self, step: Step, seen: &Evidence) -> bool {
        match step {
            S::Cmpxchg if self.w => return false,
            S::Cmpxchg => (self.w, self.t, self.is_in_window) = (true, true, !self.has_marked),
            S::MarkEntry => return self.w == seen.spte_at_mark,
            S::SetBit => (self.b, self.has_marked, self.is_in_window) = (true, true, false),
            S::MarkExit => return self.b == seen.word_at_mark,
            S::WriteSetBit => self.b = true,
            S::WriteMarkExit => return self.b == seen.word_at_write,
            S::Xchg => {
                self.is_taken = self.b;
                self.b = false;
                return self.is_taken == seen.mask;
            }
            S::Visit if self.is_taken => {
                let was = std::mem::take(&mut self.w);
                return was == seen.protected;
            }
            S::FlushEnd => self.t &= self.w,
            S::Return => self.has_returned = self.is_taken,
            _ => {}
        }
        true
    }

    fn is_broken(&self) -> bool {
        self.has_returned && !self.b && (self.w || self.t) && !self.is_in_window
    }
}

/// One run: each step with its time, and what was read.
#[derive(Clone, Debug)]
struct Small {
    times: Vec<(Step, u64)>,
    seen: Evidence,
    has_flush: bool,
    has_write: bool,
}

const fn thread_of(step: Step) -> usize {
    match step {
        S::FaultBegin | S::Cmpxchg | S::MarkEntry | S::SetBit | S::MarkExit | S::FaultEnd => 0,
        S::WriteBegin | S::WriteSetBit | S::WriteMarkExit => 2,
        _ => 1,
    }
}

impl Small {
    /// A random interleaving of three programs, the protocol broken now and then.
    fn draw(rng: &Rng) -> Self {
        let marks_first = rng.chance(40);
        let fault = if marks_first {
            [S::FaultBegin, S::MarkEntry, S::SetBit, S::MarkExit, S::Cmpxchg, S::FaultEnd]
        } else {
            [S::FaultBegin, S::Cmpxchg, S::MarkEntry, S::SetBit, S::MarkExit, S::FaultEnd]
        };
        let (has_flush, has_write) = (rng.chance(80), rng.chance(60));
        let mut harvest = vec![S::HarvestBegin, S::Xchg, S::VisitBegin, S::Visit, S::VisitEnd];
        harvest.extend(has_flush.then_some([S::FlushBegin, S::FlushEnd]).into_iter().flatten());
        harvest.push(S::Return);
        let write = [S::WriteBegin, S::WriteSetBit, S::WriteMarkExit];
        let mut programs =
            [fault.to_vec(), harvest, if has_write { write.to_vec() } else { vec![] }];
        let (mut page, mut seen) = (Page::default(), Evidence::default());
        let (mut now, mut times) = (1000, Vec::new());
        while programs.iter().any(|program| !program.is_empty()) {
            let thread = rng.below(3) as usize;
            for _ in 0..rng.between(1, 4) {
                if programs[thread].is_empty() {
                    break;
                }
                let step = programs[thread].remove(0);
                now += rng.between(1, 9);
                match step {
                    S::MarkEntry => seen.spte_at_mark = page.w,
                    S::MarkExit => seen.word_at_mark = page.b,
                    S::WriteMarkExit => seen.word_at_write = page.b,
                    S::Xchg => seen.mask = page.b,
                    S::Visit => seen.protected = page.is_taken && page.w,
                    _ => {}
                }
                assert!(page.step(step, &seen), "{step:?} {page:?}");
                times.push((step, now));
            }
        }
        Self { times, seen, has_flush, has_write }
    }

    fn at(&self, step: Step) -> u64 {
        self.times.iter().find(|(of, _)| *of == step).map_or(0, |(_, at)| *at)
    }

    /// Where a step can lie, as far as records tell.
    fn span(&self, step: Step) -> (u64, u64) {
        match step {
            // Which of mark and cmpxchg comes first is what the rule asks.
            S::Cmpxchg => (self.at(S::FaultBegin), self.at(S::FaultEnd)),
            S::SetBit => (self.at(S::MarkEntry), self.at(S::MarkExit)),
            S::WriteSetBit => (self.at(S::WriteBegin), self.at(S::WriteMarkExit)),
            S::Xchg => (self.at(S::HarvestBegin), self.at(S::VisitBegin)),
            S::Visit => (self.at(S::VisitBegin), self.at(S::VisitEnd)),
            seen => (self.at(seen), self.at(seen)),
        }
    }

    /// The fault made the page writable before it marked, and the harvest flushed what it protected.
    fn is_kept(&self) -> bool {
        let is_flushed = self.has_flush || !self.seen.protected;
        self.at(S::Cmpxchg) < self.at(S::MarkEntry) && is_flushed
    }

    /// `(orders, broken)`.
    fn enumerate(&self) -> (u64, u64) {
        let mut left: Vec<(Step, (u64, u64))> =
            self.times.iter().map(|(step, _)| (*step, self.span(*step))).collect();
        let mut tally = (0, 0);
        self.extend(&mut left, Page::default(), false, &mut tally);
        tally
    }

    fn extend(
        &self,
        left: &mut Vec<(Step, (u64, u64))>,
        page: Page,
        was_broken: bool,
        tally: &mut (u64, u64),
    ) {
        if left.is_empty() {
            tally.0 += 1;
            tally.1 += u64::from(was_broken);
            return;
        }
        for index in 0..left.len() {
            let (step, (lo, hi)) = left[index];
            let is_first = left.iter().all(|(other, (other_lo, other_hi))| {
                let is_own = thread_of(*other) == thread_of(step);
                let is_free = step == S::Cmpxchg || *other == S::Cmpxchg;
                let is_earlier =
                    *other_hi < lo || is_own && !is_free && *other_hi <= lo && *other_lo < hi;
                *other == step || !is_earlier
            });
            let mut next = page;
            if is_first && next.step(step, &self.seen) {
                let removed = left.remove(index);
                self.extend(left, next, was_broken || next.is_broken(), tally);
                left.insert(index, removed);
            }
        }
    }

    /// The records the probe would write.
    fn records(&self) -> Vec<RawEvent> {
        let slot = SlotRef { id: SlotId { as_id: 0, id: 0 }, logging: true, has_bitmap: true };
        let op = IoctlRef { op: IoctlOp::GetDirtyLog, slot: slot.id, mem_flags: 0 };
        let (gfn, fixed) = (Gfn(7), true);
        let word = |set: bool| MarkWord::Bitmap(if set { 0x80 } else { 0 });
        let closed = Spte(PRESENT | MMU_WRITABLE);
        let spte = if self.seen.spte_at_mark { Spte(closed.0 | WRITABLE) } else { closed };
        let page = PageRef { gfn, level: 1, as_id: None };
        let (mask, protected) =
            (1 | u64::from(self.seen.mask) << 7, u64::from(self.seen.protected) << 7);
        let at = |step| self.at(step);
        let flushes = u64::from(self.has_flush);
        let mut events = vec![
            (
                1,
                10,
                10,
                EventKind::VmSeen {
                    tgid: 1,
                    manual_protect: 0,
                    ring_bytes: 0,
                    generation: 2,
                    created: true,
                    flushes: 0,
                },
            ),
            (
                1,
                20,
                20,
                EventKind::SlotState { slot, base: Gfn(0), npages: 64, bitmap: 1, commit: true },
            ),
            (
                2,
                at(S::MarkEntry),
                at(S::MarkExit),
                EventKind::Mark {
                    gfn,
                    slot,
                    word: word(self.seen.word_at_mark),
                    spte: Some(spte),
                    has_vcpu: true,
                    in_fast: true,
                },
            ),
            (
                2,
                at(S::FaultBegin),
                at(S::FaultEnd),
                EventKind::FastFault { page, old: closed, ret: 5, sptep: 0x38, fixed },
            ),
            (
                1,
                at(S::HarvestBegin),
                at(S::HarvestBegin),
                EventKind::IoctlBegin { op, first: 0, count: 0, flushes: 0 },
            ),
            (
                1,
                at(S::VisitBegin),
                at(S::VisitEnd),
                EventKind::HarvestWord { first: Gfn(0), mask, protected, slot },
            ),
            (
                1,
                at(S::HarvestBegin),
                at(S::Return),
                EventKind::IoctlEnd { op, ret: 0, flushes, words: 0, words_cut: false },
            ),
        ];
        if self.has_flush {
            let kind = EventKind::Flush { before: 0, after: 1, first: Gfn(0), npages: 0 };
            events.push((1, at(S::FlushBegin), at(S::FlushEnd), kind));
        }
        if self.has_write {
            let word = word(self.seen.word_at_write);
            let kind =
                EventKind::Mark { gfn, slot, word, spte: None, has_vcpu: true, in_fast: false };
            events.push((3, at(S::WriteBegin), at(S::WriteMarkExit), kind));
        }
        events.sort_by_key(|(_, _, hi, _)| *hi);
        let mut seqs = [0_u32; 8];
        let encoded = events.into_iter().map(|(tid, lo, hi, kind)| {
            let is_boundary = (kind.kind() as u8) < kvmdirty_trace::event::Kind::Mark as u8;
            let class = if is_boundary { Class::Boundary } else { Class::Page };
            let place = tid as usize * 2 + usize::from(is_boundary);
            let seq = seqs[place];
            seqs[place] += 1;
            let lane = Lane { class, cpu: CpuId(tid) };
            let span = Span { lo: Nanos(lo), hi: Nanos(hi) };
            encode(&Event { span, vm: VmId(1), tid: Tid(u32::from(tid)), lane, seq, kind })
        });
        encoded.collect()
    }
}

/// What the engine says of the page: its worst finding that is not a prediction, and whether it doubts.
fn engine(summary: &Summary) -> (Option<Verdict>, bool) {
    let own = summary.findings.iter().filter(|finding| finding.gfn == Some(Gfn(7)));
    let is_predicted = |sentence: &str| sentence.contains("missing edge");
    let worst =
        own.filter(|finding| !is_predicted(&finding.sentence)).map(|finding| finding.verdict);
    (worst.filter(|verdict| verdict.is_hazard()).max(), 0 < summary.verdicts.unknown)
}

#[test]
fn the_engine_agrees_with_an_enumeration_of_all_orders() {
    let test = "sim::orders::the_engine_agrees_with_an_enumeration_of_all_orders";
    let setup = Setup::complete("orders");
    let setup = Setup {
        masks: kvmdirty_trace::event::SpteMasks {
            present: PRESENT,
            mmu_writable: MMU_WRITABLE,
            ..setup.masks
        },
        ..setup
    };
    // Rows: broken in all, some, no order. Columns: lost, at-risk, unknown, none of them.
    let mut table = [[0_u64; 4]; 3];
    seeds::each(test, 1500, |seed| {
        let small = Small::draw(&Rng::new(seed));
        let (orders, broken) = small.enumerate();
        let records = small.records();
        let summary = judge_records(&setup, &records);
        let (worst, is_doubtful) = engine(&summary);
        let row = if broken == 0 { 2 } else { usize::from(broken < orders) };
        let column = match worst {
            Some(Verdict::Lost) => 0,
            Some(_) => 1,
            None => {
                if is_doubtful {
                    2
                } else {
                    3
                }
            }
        };
        table[row][column] += 1;
        let is_sound = match row {
            0 => column != 3,
            1 => column != 0 && (column != 3 || 0 < summary.verdicts.exposed),
            // Whole in this run: at risk only if the kernel broke a promise that another timing needs.
            _ => 2 <= column || column == 1 && !small.is_kept(),
        };
        claim(0 < orders && is_sound, || {
            format!(
                "{broken} of {orders} orders are broken, the engine says {worst:?}, unknown {is_doubtful}: {small:?} {:?}",
                summary.verdicts
            )
        })
    });
    println!("broken in      lost  at-risk  unknown  safe");
    for (name, row) in ["all", "some", "none"].iter().zip(table) {
        println!("{name:<12} {:>6} {:>8} {:>8} {:>5}", row[0], row[1], row[2], row[3]);
    }
    if seeds::are_all() {
        assert!(0 < table[0][0] && 0 < table[2][3], "the traces are all alike: {table:?}");
    }
}
