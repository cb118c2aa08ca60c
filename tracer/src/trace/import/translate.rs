//! Facts to events: brackets are paired, bounds taken from the same thread's records around.
//!
//! A tracepoint shows a point behind the operation. What happened lies between it and the record of the same thread
//! before it, by program order; that interval is the event's span. A function whose entry alone was probed ends before
//! the thread's next record.

mod bracket;
mod page;
mod probe;

use std::collections::BTreeMap;

use super::fact::{Args, Fact, Function, Record};
use super::survey::{Seen, Survey};
use crate::event::{
    Class, CpuId, Event, EventKind, Gap, GapCause, IoctlOp, Lane, Nanos, RawEvent, SlotId, SlotRef,
    Span, Tid, VmId, encode,
};

/// Turns facts into records.
#[derive(Debug)]
pub(super) struct Translator {
    survey: Survey,
    threads: BTreeMap<Tid, Thread>,
    /// Next number per CPU.
    seqs: BTreeMap<CpuId, u32>,
    /// Time of the newest record per CPU.
    newest: BTreeMap<CpuId, Nanos>,
    rings: BTreeMap<u32, u32>,
    slots: BTreeMap<(VmId, SlotId), (u64, u64, bool)>,
    pub records: Vec<RawEvent>,
    pub gaps: Vec<Gap>,
}

/// Where a thread is.
#[derive(Debug, Default)]
struct Thread {
    /// Time of its newest record, and of the newest that is not inside a fault's handling.
    last: Option<Nanos>,
    outer: Option<Nanos>,
    requested: Option<Nanos>,
    vm: Option<VmId>,
    run: Option<Nanos>,
    exit_reason: u64,
    ioctl: Option<(IoctlOp, Nanos)>,
    fault: Option<(Nanos, EventKind)>,
    open: BTreeMap<Function, (Nanos, Args)>,
    /// Pages of the open harvest word that lost W (or D).
    protected: u64,
}

/// Functions whose return may not have been probed: the next record of the thread ends them.
const LEAVES: [Function; 3] = [Function::Mark, Function::HarvestWord, Function::Flush];

impl Translator {
    pub(super) fn new(survey: Survey) -> Self {
        Self {
            survey,
            threads: BTreeMap::new(),
            seqs: BTreeMap::new(),
            newest: BTreeMap::new(),
            rings: BTreeMap::new(),
            slots: BTreeMap::new(),
            records: Vec::new(),
            gaps: Vec::new(),
        }
    }

    /// Says what is known from the file as a whole: one VM, its log mode, the slots that were given.
    pub(super) fn begin(&mut self, slots: &[super::SlotLayout]) {
        let at = Record { ts: self.survey.begin, cpu: 0, tid: 0, fact: Fact::Exit };
        let vm = self.survey.only_vm();
        let seen = EventKind::VmSeen {
            tgid: 0,
            manual_protect: u32::from(self.survey.has(Seen::Clear)),
            ring_bytes: self.survey.ring_bytes(),
            generation: 0,
            created: false,
            flushes: 0,
        };
        if vm != VmId::UNKNOWN {
            self.emit(&at, vm, Nanos(at.ts), seen);
        }
        for layout in slots {
            let slot = SlotRef { id: layout.id, logging: false, has_bitmap: false };
            let kind = EventKind::SlotState {
                slot,
                base: layout.first,
                npages: layout.npages,
                bitmap: 0,
                commit: false,
            };
            self.emit(&at, vm, Nanos(at.ts), kind);
        }
    }

    /// Takes the next record, in order of time.
    pub(super) fn take(&mut self, record: &Record) {
        match record.fact {
            // Some were dropped, even where the kernel did not count them.
            Fact::Dropped(n) => return self.gap(record, GapCause::RingFull, n.max(1)),
            Fact::Damaged => return self.gap(record, GapCause::Damaged, 0),
            _ => {}
        }
        self.newest.insert(CpuId(record.cpu), Nanos(record.ts));
        let mut thread = self.threads.remove(&Tid(record.tid)).unwrap_or_default();
        self.end_leaves(record, &mut thread);
        match record.fact {
            Fact::Probe { function, is_return, args } => {
                self.probe(record, &mut thread, (function, is_return), args);
            }
            Fact::IoctlEnter { .. }
            | Fact::IoctlExit { .. }
            | Fact::Entry { .. }
            | Fact::Exit
            | Fact::UserExit { .. }
            | Fact::PageFault { .. } => self.bracket(record, &mut thread),
            _ => self.page(record, &mut thread),
        }
        let now = Nanos(record.ts);
        thread.last = Some(now);
        if !is_inside_fault(&record.fact) {
            thread.outer = Some(now);
        }
        match record.fact {
            Fact::SpteRequested => thread.requested = Some(now),
            // The push of the same fault comes between its request and its store.
            Fact::RingPush { .. } | Fact::Probe { .. } => {}
            _ => thread.requested = None,
        }
        self.threads.insert(Tid(record.tid), thread);
    }

    /// A function of which only the entry is probed has ended when its thread does something else.
    fn end_leaves(&mut self, record: &Record, thread: &mut Thread) {
        for function in LEAVES {
            let is_inside = function == Function::HarvestWord
                && matches!(record.fact, Fact::SpteChanged { .. });
            if !self.survey.has(Seen::Return(function))
                && !is_inside
                && let Some((begin, args)) = thread.open.remove(&function)
            {
                self.leaf(record, thread, (function, begin), args);
            }
        }
    }

    fn vm(&self, thread: &Thread) -> VmId {
        thread.vm.unwrap_or_else(|| self.survey.only_vm())
    }

    fn gap(&mut self, record: &Record, cause: GapCause, dropped: u64) {
        let cpu = CpuId(record.cpu);
        let from = self.newest.get(&cpu).copied().unwrap_or(Nanos(self.survey.begin));
        self.gaps.push(Gap {
            lane: Some(Lane { class: Class::Page, cpu }),
            hook: None,
            cause,
            from,
            to: Nanos(record.ts).max(from),
            dropped,
        });
    }

    fn emit(&mut self, record: &Record, vm: VmId, since: Nanos, kind: EventKind) {
        let cpu = CpuId(record.cpu);
        let seq = self.seqs.entry(cpu).or_default();
        let now = Nanos(record.ts);
        let event = Event {
            span: Span { lo: since.min(now), hi: now },
            vm,
            tid: Tid(record.tid),
            lane: Lane { class: Class::Page, cpu },
            seq: *seq,
            kind,
        };
        *seq = seq.wrapping_add(1);
        self.records.push(encode(&event));
    }
}

/// Records inside the handling of a fault bound nothing of the fault before them.
fn is_inside_fault(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::SpteRequested
            | Fact::RingPush { .. }
            | Fact::Probe { function: Function::Mark | Function::FastFault, .. }
    )
}
