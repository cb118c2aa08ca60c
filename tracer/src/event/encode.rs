//! Events back to records: the inverse of [`super::decode()`], for litmus files, imports and the simulator.

use super::{Event, EventKind, IoctlRef, MarkWord, PageRef, SlotRef};
use kvmdirty_common::RawEvent;
use kvmdirty_common::kind::{flag, gfnref, slotref};
use kvmdirty_common::raw::{CLASS_SHIFT, SPAN_SATURATED};

/// Encodes one event as the probe would have written it.
#[must_use]
pub fn encode(event: &Event) -> RawEvent {
    let Event { span, vm, tid, lane, seq, kind } = *event;
    let (args, flags) = args_and_flags(&kind);
    RawEvent {
        ts_ns: span.hi.0,
        vm: vm.0,
        tid: tid.0,
        seq,
        span_ns: u32::try_from(span.len_ns()).unwrap_or(SPAN_SATURATED),
        cpu: lane.cpu.0,
        kind: kind.kind() as u8,
        flags: flags | (lane.class as u8) << CLASS_SHIFT,
        args,
    }
}

fn args_and_flags(kind: &EventKind) -> ([u64; 4], u8) {
    match *kind {
        EventKind::VmSeen { tgid, manual_protect, ring_bytes, generation, created, flushes } => (
            [u64::from(tgid), pair(manual_protect, ring_bytes), generation, flushes],
            when(created, flag::VM_CREATED),
        ),
        EventKind::VmGone => ([0; 4], 0),
        EventKind::SlotState { slot, base, npages, bitmap, commit } => {
            ([slot_bits(slot), base.0, npages, bitmap], when(commit, flag::SLOT_COMMIT))
        }
        EventKind::IoctlBegin { op, first, count, flushes } => {
            ([op_bits(op), first, count, flushes], 0)
        }
        EventKind::IoctlEnd { op, ret, flushes, words, words_cut } => {
            ([op_bits(op), ret as u64, flushes, words], when(words_cut, flag::WORDS_CUT))
        }
        EventKind::Flush { before, after, first, npages } => ([before, after, first.0, npages], 0),
        EventKind::RingReset { vcpu, before, after, ret, dirty_index, size, bracketed } => (
            [u64::from(vcpu.0), pair(before, after), ret as u64, pair(dirty_index, size)],
            when(!bracketed, flag::AT_TRACEPOINT),
        ),
        EventKind::SlotProtect { slot, level } => ([slot_bits(slot), u64::from(level), 0, 0], 0),
        EventKind::Invalidate { start, end, flushes_before, flushes_after } => {
            ([start, end, flushes_before, flushes_after], 0)
        }
        EventKind::LockWait { lock, lcb_flags, ret } => {
            ([lock, u64::from(lcb_flags), ret as u64, 0], 0)
        }
        EventKind::HarvestWord { first, mask, protected, slot } => {
            ([first.0, mask, protected, slot_bits(slot)], 0)
        }
        EventKind::UserWord { first, mask, protected, writable } => {
            ([first.0, mask, protected, writable], 0)
        }
        EventKind::RmapAdd { gfn, sptep, slot } => ([gfn.0, sptep, slot_bits(slot), 0], 0),
        EventKind::RingPush { offset, slot, index, vcpu } => {
            ([offset, u64::from(slot.to_abi()), u64::from(index), u64::from(vcpu.0)], 0)
        }
        EventKind::RunBegin { vcpu } => ([u64::from(vcpu.0), 0, 0, 0], 0),
        EventKind::RunEnd { vcpu, ret, exit_reason } => {
            let flags = when(ret.is_none(), flag::RUN_NO_RETURN);
            ([u64::from(vcpu.0), ret.unwrap_or_default() as u64, exit_reason, 0], flags)
        }
        EventKind::Split { page, old, errno } => ([page_bits(page), old.0, errno as u64, 0], 0),
        EventKind::Zap { page } => ([page_bits(page), 0, 0, 0], 0),
        EventKind::Mark { .. }
        | EventKind::SpteChange { .. }
        | EventKind::FastFault { .. }
        | EventKind::Fault { .. }
        | EventKind::HostWrite { .. }
        | EventKind::SpteSet { .. } => write_args(kind),
    }
}

/// The kinds that describe a write on its way to the log.
fn write_args(kind: &EventKind) -> ([u64; 4], u8) {
    match *kind {
        EventKind::Mark { gfn, slot, word, spte, has_vcpu, in_fast } => {
            let (word, word_flag) = match word {
                MarkWord::Unread => (0, 0),
                MarkWord::Bitmap(word) => (word, flag::MARK_WORD),
                MarkWord::Ring(index) => (u64::from(index), flag::MARK_RING),
            };
            let flags = word_flag
                | when(spte.is_some(), flag::MARK_SPTE)
                | when(!has_vcpu, flag::MARK_NO_VCPU)
                | when(in_fast, flag::MARK_IN_FAST);
            ([gfn.0, slot_bits(slot), word, spte.unwrap_or_default().0], flags)
        }
        EventKind::SpteChange { page, old, new, sptep, shadow } => (
            [page_bits(page), old.unwrap_or_default().0, new.0, sptep],
            when(shadow, flag::SPTE_SHADOW) | when(old.is_none(), flag::SPTE_NO_OLD),
        ),
        EventKind::FastFault { page, old, ret, sptep, fixed } => {
            ([page_bits(page), old.0, ret as u64, sptep], when(fixed, flag::FAST_FIXED))
        }
        EventKind::Fault { addr, error_code, ret, vcpu } => {
            ([addr, error_code, ret as u64, u64::from(vcpu.0)], 0)
        }
        EventKind::HostWrite { gpa, bytes, slot, writer, failed, data_at_mark } => {
            let flags = match data_at_mark {
                Some(true) => flag::HOST_DATA_AT_MARK,
                Some(false) => flag::HOST_NO_DATA_AT_MARK,
                None => 0,
            };
            ([gpa, bytes, slot_bits(slot), u64::from(writer) | u64::from(failed) << 8], flags)
        }
        EventKind::SpteSet { page, new, word, sptep, logging, ring } => (
            [page_bits(page), new.0, word.unwrap_or_default(), sptep],
            when(word.is_some(), flag::SET_WORD)
                | when(logging, flag::SET_LOGGING)
                | when(ring, flag::SET_RING),
        ),
        _ => unreachable!("args_and_flags passes on only the kinds above"),
    }
}

fn when(condition: bool, bit: u8) -> u8 {
    if condition { bit } else { 0 }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn slot_bits(slot: SlotRef) -> u64 {
    let logging = if slot.logging { slotref::LOGGING } else { 0 };
    let bitmap = if slot.has_bitmap { slotref::HAS_BITMAP } else { 0 };
    u64::from(slot.id.to_abi()) | logging | bitmap
}

fn page_bits(page: PageRef) -> u64 {
    let as_bits =
        page.as_id.map_or(0, |as_id| u64::from(as_id) << gfnref::AS_SHIFT | gfnref::HAS_AS);
    page.gfn.0 & gfnref::GFN | u64::from(page.level) << gfnref::LEVEL_SHIFT | as_bits
}

fn op_bits(op: IoctlRef) -> u64 {
    op.op as u64 | u64::from(op.mem_flags) << 8 | u64::from(op.slot.to_abi()) << 32
}

#[cfg(test)]
mod tests {
    use super::super::{AnomalyKind, decode};
    use super::*;
    use kvmdirty_common::{Class, Kind};
    use proptest::prelude::*;

    proptest! {
        // Whatever decodes, decodes to the same event after encoding it: nothing an event holds is lost on the wire.
        #[test]
        fn what_decodes_survives_encoding(
            ts_ns in any::<u64>(), vm in any::<u64>(), tid in any::<u32>(), seq in any::<u32>(),
            span_ns in 0..u32::MAX, cpu in any::<u16>(), kind in 0..Kind::ALL.len(),
            flags in any::<u8>(), args in any::<[u64; 4]>(), width in 0..20,
        ) {
            // Of random numbers none is a page; of narrower ones most are.
            let args = args.map(|arg| arg >> width);
            let kind = Kind::ALL[kind] as u8;
            let raw = RawEvent { ts_ns: ts_ns.max(u64::from(u32::MAX)), vm, tid, seq, span_ns, cpu, kind, flags, args };
            match decode(&raw).map_err(|anomaly| anomaly.kind) {
                Ok(event) => prop_assert_eq!(decode(&encode(&event)), Ok(event)),
                Err(AnomalyKind::NoSuchPage) => {
                    prop_assert!((1 << 52) <= args[0] || (1 << 52) <= args[1].saturating_add(args[2]));
                }
                Err(_) => {
                    let is_class = flags >> CLASS_SHIFT <= Class::Syscall as u8;
                    prop_assert!(!is_class || kind == 4 || kind == 5);
                }
            }
        }
    }
}
