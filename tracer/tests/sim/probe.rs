//! The probe of the model: it writes the records the real one would write on the run's plan, and knows no truth.

use std::collections::BTreeMap;

use kvmdirty_trace::event::{
    Class, Event, EventKind, Kind, Lane, Nanos, RawEvent, Span, VmId, encode,
};

use super::config::{Config, Kernel, ProbePlan};
use super::machine::{Machine, Thread};

pub const VM: VmId = VmId(0xffff_8881_0400_0000);

/// Records so far.
pub struct Probe {
    plan: ProbePlan,
    /// `__rmap_add()` has a place for a probe: on 5.10 it has none.
    sees_rmap: bool,
    attached_at: u64,
    pub records: Vec<RawEvent>,
    /// Tracepoint plan: pages whose SPTE was seen to be set, which can be read back; `true`: a huge one.
    pub set: BTreeMap<u64, bool>,
    seqs: BTreeMap<Lane, u32>,
}

impl Probe {
    pub fn new(config: &Config) -> Self {
        Self {
            plan: config.plan,
            sees_rmap: config.kernel != Kernel::V5_10,
            attached_at: if config.attach_ns == 0 { 0 } else { u64::MAX },
            records: Vec::new(),
            set: BTreeMap::new(),
            seqs: BTreeMap::new(),
        }
    }

    /// Operations that begin from now on are seen.
    pub fn attach(&mut self, now: u64) {
        self.attached_at = now;
    }

    fn sees(&self, kind: Kind) -> bool {
        match self.plan {
            // Waits for locks are seen at the contention tracepoints, user words at the ioctl's return: the kprobe plan
            // has better for both. `spte-set` is the tracepoint plan's view of the shadow MMU, and a ring push is
            // folded into its mark.
            ProbePlan::Kprobe if kind == Kind::RmapAdd => self.sees_rmap,
            ProbePlan::Kprobe => !matches!(kind, Kind::UserWord | Kind::SpteSet | Kind::RingPush),
            ProbePlan::Tracepoint => match kind {
                Kind::VmSeen
                | Kind::SlotState
                | Kind::IoctlBegin
                | Kind::IoctlEnd
                | Kind::RingReset
                | Kind::UserWord
                | Kind::Invalidate
                | Kind::RingPush
                | Kind::RunBegin
                | Kind::RunEnd
                | Kind::SpteSet => true,
                Kind::VmGone
                | Kind::Flush
                | Kind::SlotProtect
                | Kind::LockWait
                | Kind::Mark
                | Kind::SpteChange
                | Kind::FastFault
                | Kind::Fault
                | Kind::HarvestWord
                | Kind::RmapAdd
                | Kind::HostWrite
                | Kind::Split
                | Kind::Zap => false,
            },
        }
    }

    fn class(&self, kind: Kind) -> Class {
        let by_syscall = matches!(
            kind,
            Kind::IoctlBegin | Kind::IoctlEnd | Kind::UserWord | Kind::RunBegin | Kind::RunEnd
        );
        if self.plan == ProbePlan::Tracepoint && by_syscall {
            Class::Syscall
        } else if (kind as u8) < Kind::Mark as u8 {
            Class::Boundary
        } else {
            Class::Page
        }
    }

    fn emit(&mut self, thread: &Thread, vm: VmId, span: Span, kind: EventKind) {
        let wire = kind.kind();
        // A bracket whose entry was not probed leaves no record.
        if !self.sees(wire) || span.lo.0 < self.attached_at {
            return;
        }
        if let EventKind::SpteSet { page, .. } = &kind {
            self.set.insert(page.gfn.0, 1 < page.level);
        }
        let lane = Lane { class: self.class(wire), cpu: thread.cpu };
        let seq = self.seqs.entry(lane).or_insert(0);
        let event = Event { span, vm, tid: thread.tid, lane, seq: *seq, kind };
        *seq += 1;
        self.records.push(encode(&event));
    }
}

impl Machine {
    /// Emits an operation that began at `since` on the thread's clock and ends now.
    pub fn emit_since(&self, thread: &Thread, since: u64, kind: EventKind) {
        let span = Span { lo: Nanos(since), hi: Nanos(self.clock(thread)) };
        self.probe.borrow_mut().emit(thread, VM, span, kind);
    }

    /// Emits an instant.
    pub fn emit(&self, thread: &Thread, kind: EventKind) {
        self.emit_since(thread, self.clock(thread), kind);
    }

    /// Emits an instant of which the probe could not tell the VM, or of another one.
    pub fn emit_for(&self, thread: &Thread, vm: VmId, kind: EventKind) {
        let span = Span::at(Nanos(self.clock(thread)));
        self.probe.borrow_mut().emit(thread, vm, span, kind);
    }
}
