//! What the MMU did to pages, and dirty rings.

use super::{Thread, Translator};
use crate::event::{EventKind, Gfn, Nanos, PageRef, SlotId, Spte, VcpuId};
use crate::trace::import::fact::{Fact, Function, Record};
use crate::trace::import::survey::Seen;

impl Translator {
    /// What the MMU did to pages.
    pub(super) fn page(&mut self, record: &Record, thread: &mut Thread) {
        let now = Nanos(record.ts);
        let vm = self.vm(thread);
        let since_last = thread.last.unwrap_or_default();
        let page = |gfn, level, as_id| PageRef { gfn: Gfn(gfn), level, as_id };
        match record.fact {
            Fact::SpteChanged { as_id, gfn, level, old, new } => {
                if self.fold(thread, gfn, old, new) {
                    return;
                }
                let kind = EventKind::SpteChange {
                    page: page(gfn, level, Some(as_id)),
                    old: Some(Spte(old)),
                    new: Spte(new),
                    sptep: 0,
                    shadow: false,
                };
                self.emit(record, vm, since_last, kind);
            }
            Fact::SpteSet { gfn, level, new, sptep } => {
                // With the TDP MMU the change itself is recorded; this one is emitted even if nothing changed.
                if self.survey.has(Seen::SpteChanged) {
                    return;
                }
                let kind = EventKind::SpteSet {
                    page: page(gfn, level, None),
                    new: Spte(new),
                    word: None,
                    sptep,
                    logging: false,
                    ring: false,
                };
                self.emit(record, vm, thread.requested.unwrap_or(now), kind);
            }
            Fact::FastFault { addr, sptep, old, ret, is_fixed } => {
                let begin = thread.open.remove(&Function::FastFault).map(|(begin, _)| begin);
                let kind = EventKind::FastFault {
                    page: page(addr >> 12, 1, None),
                    old: Spte(old),
                    ret,
                    sptep,
                    fixed: is_fixed,
                };
                self.emit(record, vm, begin.or(thread.outer).unwrap_or_default(), kind);
            }
            Fact::RingPush { .. } | Fact::RingReset { .. } => self.ring(record, thread),
            Fact::Split { .. } | Fact::Zap { .. } | Fact::Invalidate { .. } => {
                self.removal(record, thread);
            }
            Fact::SpteRequested => {}
            _ => unreachable!("take passes on only the facts above"),
        }
    }

    fn removal(&mut self, record: &Record, thread: &Thread) {
        let vm = self.vm(thread);
        let since_last = thread.last.unwrap_or_default();
        let page = |gfn, level| PageRef { gfn: Gfn(gfn), level, as_id: None };
        match record.fact {
            Fact::Split { gfn, level, old, errno } => {
                let kind = EventKind::Split { page: page(gfn, level), old: Spte(old), errno };
                self.emit(record, vm, since_last, kind);
            }
            Fact::Zap { gfn, level } => {
                self.emit(record, vm, since_last, EventKind::Zap { page: page(gfn, level) });
            }
            Fact::Invalidate { start, end } => {
                let kind =
                    EventKind::Invalidate { start, end, flushes_before: 0, flushes_after: 0 };
                self.emit(record, vm, Nanos(record.ts), kind);
            }
            _ => unreachable!("page passes on only the facts above"),
        }
    }

    fn ring(&mut self, record: &Record, thread: &Thread) {
        let now = Nanos(record.ts);
        let vm = self.vm(thread);
        match record.fact {
            Fact::RingPush { ring, dirty, slot, offset } => {
                let slot = SlotId::from_abi(slot);
                let kind = EventKind::RingPush { offset, slot, index: dirty, vcpu: VcpuId(ring) };
                self.emit(record, vm, now, kind);
            }
            Fact::RingReset { ring, dirty, reset } => {
                let before = self.rings.insert(ring, reset).unwrap_or(reset);
                let kind = EventKind::RingReset {
                    vcpu: VcpuId(ring),
                    before,
                    after: reset,
                    ret: i64::from(reset.wrapping_sub(before)),
                    dirty_index: dirty,
                    size: self.survey.ring_bytes() / 16,
                    bracketed: false,
                };
                self.emit(record, vm, now, kind);
            }
            _ => unreachable!("page passes on only the facts above"),
        }
    }

    /// A write-protect inside a harvest word belongs to the word's record.
    fn fold(&self, thread: &mut Thread, gfn: u64, old: u64, new: u64) -> bool {
        let Some((_, args)) = thread.open.get(&Function::HarvestWord) else { return false };
        let (Some(base), Some(offset)) = (args.base, args.offset) else { return false };
        let masks = self.survey.masks();
        let bit = gfn.wrapping_sub(base.wrapping_add(offset));
        let is_closing = masks.is_open(Spte(old)) && !masks.is_open(Spte(new));
        if is_closing && bit < 64 {
            thread.protected |= 1 << bit;
        }
        is_closing && bit < 64
    }
}
