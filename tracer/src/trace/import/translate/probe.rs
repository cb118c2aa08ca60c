//! Kprobes and kretprobes on functions of KVM.

use super::bracket::{ioctl, ioctl_end};
use super::{Thread, Translator};
use crate::event::{EventKind, Gfn, IoctlOp, MarkWord, Nanos, SlotId, SlotRef, VmId};
use crate::trace::import::fact::{Args, Function, Record};

impl Translator {
    pub(super) fn probe(
        &mut self,
        record: &Record,
        thread: &mut Thread,
        (function, is_return): (Function, bool),
        args: Args,
    ) {
        if let Some(kvm) = args.kvm {
            thread.vm = Some(VmId(kvm));
        }
        let now = Nanos(record.ts);
        if !is_return {
            self.slot_state(record, thread, args);
            thread.open.insert(function, (now, args));
            if function == Function::HarvestWord {
                thread.protected = 0;
            }
            if let Some(op) = ioctl_of(function) {
                let vm = self.vm(thread);
                let begin = EventKind::IoctlBegin {
                    op: ioctl(op, args.slot),
                    first: 0,
                    count: 0,
                    flushes: 0,
                };
                self.emit(record, vm, now, begin);
            }
            return;
        }
        let Some((begin, entry)) = thread.open.remove(&function) else { return };
        match ioctl_of(function) {
            Some(op) => {
                let ret = args.ret.map_or(0, |ret| i64::from(ret as u32 as i32));
                let vm = self.vm(thread);
                self.emit(record, vm, begin, ioctl_end(ioctl(op, entry.slot), ret));
            }
            None => self.leaf(record, thread, (function, begin), entry),
        }
    }

    /// A mark, a harvest word or a flush has ended by now.
    pub(super) fn leaf(
        &mut self,
        record: &Record,
        thread: &Thread,
        (function, begin): (Function, Nanos),
        args: Args,
    ) {
        let Args { gfn, offset, mask, base, .. } = args;
        let kind = match function {
            Function::Mark => gfn.zip(slot_ref(args)).map(|(gfn, slot)| EventKind::Mark {
                gfn: Gfn(gfn),
                slot,
                word: MarkWord::Unread,
                spte: None,
                has_vcpu: true,
                in_fast: thread.open.contains_key(&Function::FastFault),
            }),
            Function::HarvestWord => (|| {
                let first = Gfn(base?.wrapping_add(offset?));
                // Only a slot that logs is harvested.
                let slot = SlotRef {
                    logging: true,
                    has_bitmap: true,
                    ..slot_ref(args).or(slot_id(args))?
                };
                Some(EventKind::HarvestWord {
                    first,
                    mask: mask?,
                    protected: thread.protected,
                    slot,
                })
            })(),
            Function::Flush => {
                Some(EventKind::Flush { before: 0, after: 0, first: Gfn(0), npages: 0 })
            }
            Function::GetLog | Function::ClearLog | Function::ResetRings | Function::FastFault => {
                None
            }
        };
        if let Some(kind) = kind {
            self.emit(record, self.vm(thread), begin, kind);
        }
    }

    /// A memslot that a probe's argument showed for the first time, or changed.
    fn slot_state(&mut self, record: &Record, thread: &Thread, args: Args) {
        let (Some(slot), Some(base), Some(npages)) = (slot_ref(args), args.base, args.npages)
        else {
            return;
        };
        let vm = self.vm(thread);
        let state = (base, npages, slot.logging);
        if self.slots.insert((vm, slot.id), state) != Some(state) {
            let bitmap = args.bitmap.unwrap_or(0);
            let kind =
                EventKind::SlotState { slot, base: Gfn(base), npages, bitmap, commit: false };
            self.emit(record, vm, Nanos(record.ts), kind);
        }
    }
}

fn ioctl_of(function: Function) -> Option<IoctlOp> {
    match function {
        Function::GetLog => Some(IoctlOp::GetDirtyLog),
        Function::ClearLog => Some(IoctlOp::ClearDirtyLog),
        Function::ResetRings => Some(IoctlOp::ResetDirtyRings),
        Function::Mark | Function::HarvestWord | Function::Flush | Function::FastFault => None,
    }
}

fn slot_id(args: Args) -> Option<SlotRef> {
    let id = SlotId { as_id: args.as_id.unwrap_or(0) as u16, id: args.id? as u16 };
    Some(SlotRef { id, logging: false, has_bitmap: false })
}

/// The memslot of a probe's arguments; `None` if they do not say whether it logs.
fn slot_ref(args: Args) -> Option<SlotRef> {
    let has_bitmap = args.bitmap.is_some_and(|bitmap| bitmap != 0);
    let logging = match (args.flags, args.bitmap) {
        (Some(flags), _) => flags & 1 != 0,
        (None, Some(_)) => has_bitmap,
        (None, None) => return None,
    };
    Some(SlotRef { logging, has_bitmap, ..slot_id(args)? })
}
