//! Ioctls, KVM_RUN and faults.

use super::{Thread, Translator};
use crate::event::{EventKind, IoctlOp, IoctlRef, Nanos, SlotId, Tid, VcpuId};
use crate::trace::import::fact::{Fact, Function, Record, Request};
use crate::trace::import::survey::Seen;

/// A slot no record names. `KVM_USER_MEM_SLOTS` is below it, so no VMM can have it.
const SLOT_UNNAMED: SlotId = SlotId { as_id: u16::MAX, id: u16::MAX };

impl Translator {
    /// Ioctls, KVM_RUN and faults.
    pub(super) fn bracket(&mut self, record: &Record, thread: &mut Thread) {
        let now = Nanos(record.ts);
        let vm = self.vm(thread);
        match record.fact {
            Fact::IoctlEnter { request: Request::Run { .. } } => {
                thread.run = Some(now);
                thread.exit_reason = 0;
                let vcpu = self.survey.vcpu(Tid(record.tid));
                self.emit(record, vm, now, EventKind::RunBegin { vcpu });
            }
            Fact::IoctlEnter { request: Request::Vm { op, .. } } => {
                if self.is_bracketed(op) {
                    return;
                }
                thread.ioctl = Some((op, now));
                let begin =
                    EventKind::IoctlBegin { op: ioctl(op, None), first: 0, count: 0, flushes: 0 };
                self.emit(record, vm, now, begin);
            }
            Fact::IoctlExit { ret } => {
                if let Some(begin) = thread.run.take() {
                    let vcpu = self.survey.vcpu(Tid(record.tid));
                    let exit_reason = thread.exit_reason;
                    let ret = Some(ret);
                    self.emit(record, vm, begin, EventKind::RunEnd { vcpu, ret, exit_reason });
                } else if let Some((op, begin)) = thread.ioctl.take() {
                    self.emit(record, vm, begin, ioctl_end(ioctl(op, None), ret));
                }
            }
            Fact::PageFault { vcpu, addr, error_code } => {
                let fault = EventKind::Fault { addr, error_code, ret: 0, vcpu: VcpuId(vcpu) };
                thread.fault = Some((now, fault));
            }
            Fact::Entry { vcpu } => {
                // Back in the guest: the fault was handled, or will come again.
                self.end_fault(record, thread, 1);
                if !self.survey.has(Seen::Run) && thread.run.is_none() {
                    thread.run = Some(now);
                    self.emit(record, vm, now, EventKind::RunBegin { vcpu: VcpuId(vcpu) });
                }
            }
            Fact::Exit => self.end_fault(record, thread, 1),
            Fact::UserExit { reason } => {
                self.end_fault(record, thread, 0);
                thread.exit_reason = reason;
                if !self.survey.has(Seen::Run)
                    && let Some(begin) = thread.run.take()
                {
                    let vcpu = self.survey.vcpu(Tid(record.tid));
                    let end = EventKind::RunEnd { vcpu, ret: None, exit_reason: reason };
                    self.emit(record, vm, begin, end);
                }
            }
            _ => unreachable!("take passes on only the facts above"),
        }
    }

    fn end_fault(&mut self, record: &Record, thread: &mut Thread, result: i64) {
        if let Some((begin, EventKind::Fault { addr, error_code, vcpu, .. })) = thread.fault.take()
        {
            let fault = EventKind::Fault { addr, error_code, ret: result, vcpu };
            self.emit(record, self.vm(thread), begin, fault);
        }
    }

    /// The ioctl is seen better by its kprobes, which name the slot.
    fn is_bracketed(&self, op: IoctlOp) -> bool {
        let of = |function| {
            self.survey.has(Seen::Complete(function)) && self.survey.has(Seen::Return(function))
        };
        match op {
            IoctlOp::GetDirtyLog => of(Function::GetLog),
            IoctlOp::ClearDirtyLog => of(Function::ClearLog),
            IoctlOp::ResetDirtyRings => of(Function::ResetRings),
            IoctlOp::SetMemory | IoctlOp::EnableCap => false,
        }
    }
}

/// An ioctl, with the slot its probe showed.
pub(super) fn ioctl(op: IoctlOp, slot: Option<u64>) -> IoctlRef {
    let slot = slot.map_or(SLOT_UNNAMED, |slot| SlotId::from_abi(slot as u32));
    IoctlRef { op, slot, mem_flags: 0 }
}

pub(super) fn ioctl_end(op: IoctlRef, ret: i64) -> EventKind {
    EventKind::IoctlEnd { op, ret, flushes: 0, words: 0, words_cut: false }
}
