//! More small traces against an enumeration of their orders (`weave.rs`): host writes, manual clears, enables, rings.
//!
//! As in `orders.rs`: broken in every order must not pass as safe, broken in some must be doubted, `lost` means broken in
//! all. Nothing here is the engine's code, and each machine knows one rule of KVM's dirty log in one sentence.

use kvmdirty_trace::event::{
    Class, CpuId, Event, EventKind, Gfn, IoctlOp, IoctlRef, Lane, MarkWord, Nanos, PageRef,
    RawEvent, Setup, SlotId, SlotRef, Span, Spte, SpteMasks, Tid, VcpuId, VmId, encode,
};
use kvmdirty_trace::verdict::{RuleId, Verdict};

use super::config::{MMU_WRITABLE, PRESENT, WRITABLE};
use super::judge::judge_records;
use super::rng::Rng;
use super::seeds::{self, claim};
use super::weave::{Machine, Read, Trace};

const SLOT: SlotRef = SlotRef { id: SlotId { as_id: 0, id: 0 }, logging: true, has_bitmap: true };
const GFN: Gfn = Gfn(7);
const BIT: u64 = 1 << 7;
const CLOSED: Spte = Spte(PRESENT | MMU_WRITABLE);
const OPEN: Spte = Spte(PRESENT | MMU_WRITABLE | WRITABLE);

/// A kind of small trace.
trait Kind: Machine {
    const NAME: &'static str;
    /// Rules that speak of what is broken here.
    const RULES: &'static [RuleId];

    fn draw(rng: &Rng) -> Self;

    /// The kernel kept what it promises, so that no other timing breaks it either.
    fn is_kept(trace: &Trace<Self>) -> bool;

    fn setup(setup: Setup) -> Setup {
        setup
    }

    /// Silence about a trace that is broken in some orders, or in all, is right.
    fn may_be_silent(_: &Trace<Self>, _in_all: bool) -> bool {
        false
    }

    fn events(trace: &Trace<Self>) -> Script;
}

/// Records under construction, one thread per number.
#[derive(Default)]
struct Script(Vec<(u16, u64, u64, EventKind)>);

impl Script {
    fn of(manual_protect: u32, ring_bytes: u32, slot: SlotRef) -> Self {
        let (tgid, generation, created, flushes) = (1, 2, true, 0);
        let vm =
            EventKind::VmSeen { tgid, manual_protect, ring_bytes, generation, created, flushes };
        let mut script = Self::default();
        script.at(1, 10, vm).at(1, 20, slot_state(slot));
        script
    }

    fn at(&mut self, tid: u16, at: u64, kind: EventKind) -> &mut Self {
        self.span(tid, (at, at), kind)
    }

    fn span(&mut self, tid: u16, (lo, hi): (u64, u64), kind: EventKind) -> &mut Self {
        self.0.push((tid, lo, hi, kind));
        self
    }

    fn records(mut self) -> Vec<RawEvent> {
        self.0.sort_by_key(|(_, _, hi, _)| *hi);
        let mut seqs = [0_u32; 16];
        let encoded = self.0.into_iter().map(|(tid, lo, hi, kind)| {
            let is_boundary = (kind.kind() as u8) < kvmdirty_trace::event::Kind::Mark as u8;
            let class = if is_boundary { Class::Boundary } else { Class::Page };
            let seq = &mut seqs[usize::from(tid) * 2 + usize::from(is_boundary)];
            *seq += 1;
            let (lane, span) =
                (Lane { class, cpu: CpuId(tid) }, Span { lo: Nanos(lo), hi: Nanos(hi) });
            encode(&Event { span, vm: VmId(1), tid: Tid(tid.into()), lane, seq: *seq, kind })
        });
        encoded.collect()
    }
}

fn slot_state(slot: SlotRef) -> EventKind {
    let bitmap = u64::from(slot.has_bitmap);
    EventKind::SlotState { slot, base: Gfn(0), npages: 64, bitmap, commit: true }
}

fn op(op: IoctlOp, mem_flags: u32) -> IoctlRef {
    IoctlRef { op, slot: SLOT.id, mem_flags }
}

fn begin(op: IoctlRef) -> EventKind {
    EventKind::IoctlBegin { op, first: 0, count: 64, flushes: 0 }
}

fn end(op: IoctlRef, flushes: u64) -> EventKind {
    EventKind::IoctlEnd { op, ret: 0, flushes, words: 0, words_cut: false }
}

fn mark(slot: SlotRef, word: MarkWord, spte: Option<Spte>) -> EventKind {
    let in_fast = spte.is_some();
    EventKind::Mark { gfn: GFN, slot, word, spte, has_vcpu: true, in_fast }
}

fn word_of(is_set: bool) -> MarkWord {
    MarkWord::Bitmap(if is_set { BIT } else { 0 })
}

fn word(mask: u64, protected: u64) -> EventKind {
    EventKind::HarvestWord { first: Gfn(0), mask, protected, slot: SLOT }
}

fn flush() -> EventKind {
    EventKind::Flush { before: 0, after: 1, first: Gfn(0), npages: 0 }
}

/// A host write and a GET: no SPTE protects what the host writes, so its copy must come before its mark.
#[derive(Clone, Copy, Debug, Default)]
struct HostWrite {
    marks_first: bool,
    has_data: bool,
    bit: bool,
    is_copied: bool,
    is_taken: bool,
    is_unread: bool,
    data: Read,
    word: Read,
    mask: Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostStep {
    Begin,
    Copy,
    MarkEntry,
    SetBit,
    MarkExit,
    End,
    HarvestBegin,
    Xchg,
    VisitBegin,
    VisitEnd,
    FlushBegin,
    FlushEnd,
    Return,
}

impl Machine for HostWrite {
    type Step = HostStep;

    fn programs(&self) -> Vec<Vec<HostStep>> {
        use HostStep as S;
        let mark = [S::MarkEntry, S::SetBit, S::MarkExit];
        let mut write = vec![S::Begin];
        if self.marks_first {
            write.extend(mark);
            write.push(S::Copy);
        } else {
            write.push(S::Copy);
            write.extend(mark);
        }
        write.push(S::End);
        let harvest =
            [S::HarvestBegin, S::Xchg, S::VisitBegin, S::VisitEnd, S::FlushBegin, S::FlushEnd];
        let harvest = harvest.into_iter().chain([S::Return]).collect();
        vec![write, harvest]
    }

    fn step(&mut self, step: HostStep) -> bool {
        match step {
            HostStep::Copy => (self.is_copied, self.is_unread) = (true, true),
            HostStep::MarkEntry if self.has_data => return self.data.now(self.is_copied),
            HostStep::SetBit => self.bit = true,
            HostStep::MarkExit => return self.word.now(self.bit),
            HostStep::Xchg => {
                self.is_taken = std::mem::take(&mut self.bit);
                return self.mask.now(self.is_taken);
            }
            // User space copies what it was told as soon as the ioctl returns.
            HostStep::Return => self.is_unread &= !self.is_taken,
            _ => {}
        }
        true
    }

    fn is_broken(&self) -> bool {
        self.is_unread && !self.bit
    }

    fn span(&self, step: HostStep, at: &dyn Fn(HostStep) -> u64) -> (u64, u64, bool) {
        match step {
            HostStep::Copy => (at(HostStep::Begin), at(HostStep::End), true),
            HostStep::SetBit => (at(HostStep::MarkEntry), at(HostStep::MarkExit), false),
            HostStep::Xchg => (at(HostStep::HarvestBegin), at(HostStep::VisitBegin), false),
            seen => (at(seen), at(seen), false),
        }
    }

    fn again(&self) -> Self {
        let Self { marks_first, has_data, data, word, mask, .. } = *self;
        let (data, word, mask) = (data.again(), word.again(), mask.again());
        Self { marks_first, has_data, data, word, mask, ..Self::default() }
    }
}

impl Kind for HostWrite {
    const NAME: &'static str = "host write";
    const RULES: &'static [RuleId] = &[RuleId::K08];

    fn draw(rng: &Rng) -> Self {
        Self { marks_first: rng.chance(50), has_data: rng.chance(85), ..Self::default() }
    }

    fn is_kept(trace: &Trace<Self>) -> bool {
        !trace.seen.marks_first
    }

    fn events(trace: &Trace<Self>) -> Script {
        use HostStep as S;
        let (seen, at) = (&trace.seen, |step| trace.at(step));
        let get = op(IoctlOp::GetDirtyLog, 0);
        let data_at_mark = seen.has_data.then(|| seen.data.value());
        let (gpa, bytes, writer, failed) = (GFN.0 << 12, 8, 1, false);
        let write = EventKind::HostWrite { gpa, bytes, slot: SLOT, writer, failed, data_at_mark };
        let mut script = Script::of(0, 0, SLOT);
        let of_mark = (at(S::MarkEntry), at(S::MarkExit));
        script.span(2, of_mark, mark(SLOT, word_of(seen.word.value()), None));
        script.span(2, (at(S::Begin), at(S::End)), write);
        script.at(1, at(S::HarvestBegin), begin(get));
        // Another page of the word is dirty as well.
        let mask = 1 | u64::from(seen.mask.value()) << 7;
        script.span(1, (at(S::VisitBegin), at(S::VisitEnd)), word(mask, 0));
        script.span(1, (at(S::FlushBegin), at(S::FlushEnd)), flush());
        script.span(1, (at(S::HarvestBegin), at(S::Return)), end(get, 1));
        script
    }
}

/// Two marks, a GET and a CLEAR of everything: what CLEAR takes must have been read before.
#[derive(Clone, Copy, Debug, Default)]
struct Clear {
    has_second: bool,
    bit: bool,
    is_read: bool,
    is_unread: bool,
    words: [Read; 2],
    mask: Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClearStep {
    MarkEntry(usize),
    SetBit(usize),
    MarkExit(usize),
    GetBegin,
    Read,
    GetReturn,
    ClearBegin,
    Andnot,
    VisitBegin,
    VisitEnd,
    FlushBegin,
    FlushEnd,
    Return,
}

impl Machine for Clear {
    type Step = ClearStep;

    fn programs(&self) -> Vec<Vec<ClearStep>> {
        use ClearStep as S;
        let marks = (0..1 + usize::from(self.has_second))
            .map(|n| vec![S::MarkEntry(n), S::SetBit(n), S::MarkExit(n)]);
        let get = [S::GetBegin, S::Read, S::GetReturn, S::ClearBegin, S::Andnot];
        let clear = [S::VisitBegin, S::VisitEnd, S::FlushBegin, S::FlushEnd, S::Return];
        let vmm = get.into_iter().chain(clear).collect();
        marks.chain([vmm]).collect()
    }

    fn step(&mut self, step: ClearStep) -> bool {
        match step {
            ClearStep::SetBit(_) => self.bit = true,
            ClearStep::MarkExit(n) => return self.words[n].now(self.bit),
            ClearStep::Read => self.is_read = self.bit,
            ClearStep::Andnot => {
                let is_taken = std::mem::take(&mut self.bit);
                self.is_unread = is_taken && !self.is_read;
                return self.mask.now(is_taken);
            }
            _ => {}
        }
        true
    }

    fn is_broken(&self) -> bool {
        self.is_unread
    }

    fn span(&self, step: ClearStep, at: &dyn Fn(ClearStep) -> u64) -> (u64, u64, bool) {
        let (lo, hi) = match step {
            ClearStep::SetBit(n) => (at(ClearStep::MarkEntry(n)), at(ClearStep::MarkExit(n))),
            ClearStep::Read => (at(ClearStep::GetBegin), at(ClearStep::GetReturn)),
            ClearStep::Andnot => (at(ClearStep::ClearBegin), at(ClearStep::VisitBegin)),
            seen => (at(seen), at(seen)),
        };
        (lo, hi, false)
    }

    fn again(&self) -> Self {
        let words = self.words.map(|word| word.again());
        Self { has_second: self.has_second, words, mask: self.mask.again(), ..Self::default() }
    }
}

impl Kind for Clear {
    const NAME: &'static str = "manual clear";
    const RULES: &'static [RuleId] = &[RuleId::K14];

    fn draw(rng: &Rng) -> Self {
        Self { has_second: rng.chance(40), ..Self::default() }
    }

    /// The VMM clears whatever there is.
    fn is_kept(_: &Trace<Self>) -> bool {
        true
    }

    /// What the VMM asks for is in no record, and a careful one asks for what it has read only: K14 speaks of bits whose
    /// marks all began after the GET had returned, so that nobody can have read them. Marks that return only after the
    /// word of the CLEAR are its blind spot.
    fn may_be_silent(trace: &Trace<Self>, in_all: bool) -> bool {
        let ends =
            (0..1 + usize::from(trace.seen.has_second)).map(|n| trace.at(ClearStep::MarkExit(n)));
        !in_all || ends.min() > Some(trace.at(ClearStep::VisitEnd))
    }

    fn setup(setup: Setup) -> Setup {
        Setup { is_final: true, ..setup }
    }

    fn events(trace: &Trace<Self>) -> Script {
        use ClearStep as S;
        let (seen, at) = (&trace.seen, |step| trace.at(step));
        let (get, clear) = (op(IoctlOp::GetDirtyLog, 0), op(IoctlOp::ClearDirtyLog, 0));
        let mut script = Script::of(1, 0, SLOT);
        for n in 0..1 + usize::from(seen.has_second) {
            let of_mark = (at(S::MarkEntry(n)), at(S::MarkExit(n)));
            let word = word_of(seen.words[n].value());
            script.span(2 + n as u16, of_mark, mark(SLOT, word, None));
        }
        script.at(1, at(S::GetBegin), begin(get));
        script.span(1, (at(S::GetBegin), at(S::GetReturn)), end(get, 0));
        script.at(1, at(S::ClearBegin), begin(clear));
        let mask = 1 | u64::from(seen.mask.value()) << 7;
        script.span(1, (at(S::VisitBegin), at(S::VisitEnd)), word(mask, 0));
        script.span(1, (at(S::FlushBegin), at(S::FlushEnd)), flush());
        script.span(1, (at(S::ClearBegin), at(S::Return)), end(clear, 1));
        script
    }
}

/// A fault, and logging turned on: one on the slot object of before marks nothing, and what it opens must be protected
/// before the return.
#[derive(Clone, Copy, Debug, Default)]
struct Enable {
    is_logging: bool,
    is_open: bool,
    bit: bool,
    /// The fault used the slot object that logs.
    marks: Read,
    protected: Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EnableStep {
    FaultBegin,
    MarkEntry,
    SetBit,
    MarkExit,
    Store,
    FaultEnd,
    Begin,
    Swap,
    Commit,
    ProtectBegin,
    Protect,
    ProtectEnd,
    FlushBegin,
    FlushEnd,
    Return,
}

impl Machine for Enable {
    type Step = EnableStep;

    fn programs(&self) -> Vec<Vec<EnableStep>> {
        use EnableStep as S;
        let fault =
            vec![S::FaultBegin, S::MarkEntry, S::SetBit, S::MarkExit, S::Store, S::FaultEnd];
        let enable = vec![
            S::Begin,
            S::Swap,
            S::Commit,
            S::ProtectBegin,
            S::Protect,
            S::ProtectEnd,
            S::FlushBegin,
            S::FlushEnd,
            S::Return,
        ];
        vec![fault, enable]
    }

    fn step(&mut self, step: EnableStep) -> bool {
        match step {
            EnableStep::FaultBegin => return self.marks.now(self.is_logging),
            EnableStep::SetBit => self.bit = self.marks.value(),
            EnableStep::Swap => self.is_logging = true,
            EnableStep::Store => self.is_open = true,
            EnableStep::Protect => {
                let was_open = std::mem::take(&mut self.is_open);
                return self.protected.now(was_open);
            }
            _ => {}
        }
        true
    }

    fn is_broken(&self) -> bool {
        self.is_open && !self.bit
    }

    fn span(&self, step: EnableStep, at: &dyn Fn(EnableStep) -> u64) -> (u64, u64, bool) {
        let (lo, hi) = match step {
            EnableStep::SetBit => (at(EnableStep::MarkEntry), at(EnableStep::MarkExit)),
            EnableStep::Store => (at(EnableStep::MarkExit), at(EnableStep::FaultEnd)),
            EnableStep::Swap => (at(EnableStep::Begin), at(EnableStep::Commit)),
            EnableStep::Protect => (at(EnableStep::ProtectBegin), at(EnableStep::ProtectEnd)),
            seen => (at(seen), at(seen)),
        };
        (lo, hi, false)
    }

    fn again(&self) -> Self {
        let (marks, protected) = (self.marks.again(), self.protected.again());
        Self { marks, protected, ..Self::default() }
    }
}

impl Kind for Enable {
    const NAME: &'static str = "enable";
    const RULES: &'static [RuleId] = &[RuleId::K01, RuleId::K15];

    fn draw(_: &Rng) -> Self {
        Self::default()
    }

    /// The kernel waits for faults on the old object before it commits.
    fn is_kept(trace: &Trace<Self>) -> bool {
        let (begun, ended) = (trace.at(EnableStep::FaultBegin), trace.at(EnableStep::FaultEnd));
        trace.at(EnableStep::Swap) < begun || ended < trace.at(EnableStep::Commit)
    }

    fn events(trace: &Trace<Self>) -> Script {
        use EnableStep as S;
        let at = |step| trace.at(step);
        let off = SlotRef { logging: false, has_bitmap: false, ..SLOT };
        let enable = op(IoctlOp::SetMemory, 1);
        let page = PageRef { gfn: GFN, level: 1, as_id: Some(0) };
        let of_fault = (at(S::FaultBegin), at(S::FaultEnd));
        let mut script = Script::of(0, 0, off);
        let change =
            EventKind::SpteChange { page, old: Some(Spte(0)), new: OPEN, sptep: 0, shadow: false };
        if trace.seen.marks.value() {
            // The mark is re-read before anybody can have taken it.
            script.span(2, (at(S::MarkEntry), at(S::MarkExit)), mark(SLOT, word_of(true), None));
        }
        script.span(2, of_fault, change);
        let (addr, error_code, ret, vcpu) = (GFN.0 << 12, 2, 1, VcpuId(0));
        script.span(2, of_fault, EventKind::Fault { addr, error_code, ret, vcpu });
        script.at(1, at(S::Begin), begin(enable)).at(1, at(S::Commit), slot_state(SLOT));
        let of_protect = (at(S::ProtectBegin), at(S::ProtectEnd));
        if trace.seen.protected.value() {
            script.span(1, of_protect, word(0, BIT));
        }
        script.span(1, of_protect, EventKind::SlotProtect { slot: SLOT, level: 1 });
        script.span(1, (at(S::FlushBegin), at(S::FlushEnd)), flush());
        script.span(1, (at(S::Begin), at(S::Return)), end(enable, 1));
        script
    }
}

/// A lockless fault and a ring reset: what was popped must be protected, unless it is pushed after it was opened.
#[derive(Clone, Copy, Debug, Default)]
struct Ring {
    pushes_first: bool,
    protects: bool,
    has_flush: bool,
    is_pushed: bool,
    is_open: bool,
    may_be_cached: bool,
    is_popped: bool,
    spte: Read,
    popped: Read,
    dirty: Read,
    protected: Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RingStep {
    FaultBegin,
    Cmpxchg,
    MarkEntry,
    Push,
    MarkExit,
    FaultEnd,
    Begin,
    ResetBegin,
    Pop,
    VisitBegin,
    Visit,
    VisitEnd,
    ResetEnd,
    FlushBegin,
    FlushEnd,
    Return,
}

impl Machine for Ring {
    type Step = RingStep;

    fn programs(&self) -> Vec<Vec<RingStep>> {
        use RingStep as S;
        let mark = [S::MarkEntry, S::Push, S::MarkExit];
        let mut fault = vec![S::FaultBegin];
        if self.pushes_first {
            fault.extend(mark);
            fault.push(S::Cmpxchg);
        } else {
            fault.push(S::Cmpxchg);
            fault.extend(mark);
        }
        fault.push(S::FaultEnd);
        let mut reset = vec![S::Begin, S::ResetBegin, S::Pop];
        if self.protects {
            reset.extend([S::VisitBegin, S::Visit, S::VisitEnd]);
        }
        reset.push(S::ResetEnd);
        if self.has_flush {
            reset.extend([S::FlushBegin, S::FlushEnd]);
        }
        reset.push(S::Return);
        vec![fault, reset]
    }

    fn step(&mut self, step: RingStep) -> bool {
        match step {
            RingStep::Cmpxchg => (self.is_open, self.may_be_cached) = (true, true),
            RingStep::MarkEntry => return self.spte.now(self.is_open),
            RingStep::Push => self.is_pushed = true,
            RingStep::Pop => {
                self.is_popped = self.is_pushed;
                return self.popped.now(self.is_popped);
            }
            RingStep::Visit if self.is_popped => {
                return self.protected.now(std::mem::take(&mut self.is_open));
            }
            RingStep::ResetEnd => return self.dirty.now(self.is_pushed),
            RingStep::FlushEnd => self.may_be_cached &= self.is_open,
            _ => {}
        }
        true
    }

    fn is_broken(&self) -> bool {
        self.is_popped && (self.is_open || self.may_be_cached)
    }

    fn span(&self, step: RingStep, at: &dyn Fn(RingStep) -> u64) -> (u64, u64, bool) {
        match step {
            RingStep::Cmpxchg => (at(RingStep::FaultBegin), at(RingStep::FaultEnd), true),
            RingStep::Push => (at(RingStep::MarkEntry), at(RingStep::MarkExit), false),
            RingStep::Pop => (at(RingStep::ResetBegin), at(RingStep::ResetEnd), false),
            RingStep::Visit => (at(RingStep::VisitBegin), at(RingStep::VisitEnd), false),
            seen => (at(seen), at(seen), false),
        }
    }

    fn again(&self) -> Self {
        let Self { pushes_first, protects, has_flush, spte, popped, dirty, protected, .. } = *self;
        let [spte, popped, dirty, protected] =
            [spte, popped, dirty, protected].map(|read| read.again());
        let start = Self { pushes_first, protects, has_flush, ..Self::default() };
        Self { spte, popped, dirty, protected, ..start }
    }
}

impl Kind for Ring {
    const NAME: &'static str = "ring reset";
    const RULES: &'static [RuleId] = &[RuleId::K02, RuleId::K04, RuleId::K06];

    fn draw(rng: &Rng) -> Self {
        let (pushes_first, protects) = (rng.chance(40), rng.chance(80));
        Self { pushes_first, protects, has_flush: rng.chance(80), ..Self::default() }
    }

    fn is_kept(trace: &Trace<Self>) -> bool {
        let Self { pushes_first, protects, has_flush, .. } = trace.seen;
        !pushes_first && protects && has_flush
    }

    fn events(trace: &Trace<Self>) -> Script {
        use RingStep as S;
        let (seen, at) = (&trace.seen, |step| trace.at(step));
        let slot = SlotRef { has_bitmap: false, ..SLOT };
        let reset = op(IoctlOp::ResetDirtyRings, 0);
        let page = PageRef { gfn: GFN, level: 1, as_id: None };
        let (vcpu, size, popped) = (VcpuId(0), 64, u32::from(seen.popped.value()));
        let spte = if seen.spte.value() { OPEN } else { CLOSED };
        let of_fault = (at(S::FaultBegin), at(S::FaultEnd));
        let mut script = Script::of(0, 1024, slot);
        let of_mark = (at(S::MarkEntry), at(S::MarkExit));
        script.span(2, of_mark, mark(slot, MarkWord::Ring(1), Some(spte)));
        let (ret, sptep, fixed) = (5, 0x38, true);
        script.span(2, of_fault, EventKind::FastFault { page, old: CLOSED, ret, sptep, fixed });
        script.at(1, at(S::Begin), begin(reset));
        if seen.protects && popped != 0 {
            let kind = word(BIT, u64::from(seen.protected.value()) << 7);
            script.span(1, (at(S::VisitBegin), at(S::VisitEnd)), kind);
        }
        let (dirty_index, ret) = (u32::from(seen.dirty.value()), i64::from(popped));
        let (before, after, bracketed) = (0, popped, true);
        let kind = EventKind::RingReset { vcpu, before, after, ret, dirty_index, size, bracketed };
        script.span(1, (at(S::ResetBegin), at(S::ResetEnd)), kind);
        if seen.has_flush {
            script.span(1, (at(S::FlushBegin), at(S::FlushEnd)), flush());
        }
        let kind = EventKind::IoctlEnd {
            op: reset,
            ret,
            flushes: u64::from(seen.has_flush),
            words: 0,
            words_cut: false,
        };
        script.span(1, (at(S::Begin), at(S::Return)), kind);
        script
    }
}

/// What the engine says of one trace: 0 lost, 1 at-risk, 2 exposed, 3 unknown, 4 none of them.
fn said<K: Kind>(trace: &Trace<K>) -> usize {
    let setup = Setup::complete("small");
    let masks = SpteMasks { present: PRESENT, mmu_writable: MMU_WRITABLE, ..setup.masks };
    let setup = K::setup(Setup { masks, ..setup });
    let summary = judge_records(&setup, &K::events(trace).records());
    let own = summary.findings.iter().filter(|f| f.gfn == Some(GFN) && K::RULES.contains(&f.rule));
    let worst = own.map(|finding| finding.verdict).filter(|verdict| verdict.is_hazard()).max();
    match worst {
        Some(Verdict::Lost) => 0,
        Some(_) => 1,
        None if 0 < summary.verdicts.unknown => 3,
        None if 0 < summary.verdicts.exposed => 2,
        None => 4,
    }
}

fn agree<K: Kind>(test: &str) {
    // Rows: broken in all, some, no order. Columns as `said`.
    let mut table = [[0_u64; 5]; 3];
    seeds::each(test, 1500, |seed| {
        let rng = Rng::new(seed);
        let trace = Trace::draw(&rng, K::draw(&rng));
        let (orders, broken) = trace.enumerate();
        let said = said(&trace);
        let row = if broken == 0 { 2 } else { usize::from(broken < orders) };
        table[row][said] += 1;
        let is_sound = match row {
            0 => said != 4 && said != 2 || K::may_be_silent(&trace, true),
            1 => said != 0 && (said != 4 || K::may_be_silent(&trace, false)),
            // Whole in this run: at risk only if the kernel broke a promise that another timing needs.
            _ => 2 <= said || said == 1 && !K::is_kept(&trace),
        };
        claim(0 < orders && is_sound, || {
            let names = ["lost", "at-risk", "exposed", "unknown", "nothing"];
            let says = names[said];
            format!("{broken} of {orders} orders are broken, the engine says {says}: {trace:?}")
        })
    });
    println!("{:<14} broken in   lost  at-risk  exposed  unknown  nothing", K::NAME);
    for (name, [lost, at_risk, exposed, unknown, nothing]) in
        ["all", "some", "none"].iter().zip(table)
    {
        println!(
            "{:<14} {name:<9} {lost:>6} {at_risk:>8} {exposed:>8} {unknown:>8} {nothing:>8}",
            ""
        );
    }
    if seeds::are_all() {
        let named: u64 = table[..2].iter().map(|[lost, at_risk, ..]| lost + at_risk).sum();
        assert!(0 < named && 0 < table[2][4], "the traces are all alike: {table:?}");
    }
}

#[test]
fn host_writes_are_judged_as_their_orders_are() {
    agree::<HostWrite>("sim::small::host_writes_are_judged_as_their_orders_are");
}

#[test]
fn manual_clears_are_judged_as_their_orders_are() {
    agree::<Clear>("sim::small::manual_clears_are_judged_as_their_orders_are");
}

#[test]
fn enables_are_judged_as_their_orders_are() {
    agree::<Enable>("sim::small::enables_are_judged_as_their_orders_are");
}

#[test]
fn ring_resets_are_judged_as_their_orders_are() {
    agree::<Ring>("sim::small::ring_resets_are_judged_as_their_orders_are");
}
