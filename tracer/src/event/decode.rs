//! Records to events. Total: every 64 bytes decode to an [`Event`] or an [`Anomaly`].

use super::{
    Anomaly, AnomalyKind, CpuId, Event, EventKind, Gfn, IoctlRef, Lane, MarkWord, Nanos, PageRef,
    SlotId, SlotRef, Span, Spte, Tid, VcpuId, VmId,
};
use kvmdirty_common::kind::{flag, gfnref, slotref};
use kvmdirty_common::raw::{CLASS_SHIFT, KIND_FLAGS};
use kvmdirty_common::{Class, IoctlOp, Kind, RawEvent};

/// Decodes one record.
///
/// # Errors
/// A record that names no known class, kind or ioctl is an [`Anomaly`]; it is a value for the caller to count.
pub fn decode(raw: &RawEvent) -> Result<Event, Anomaly> {
    let at = Nanos(raw.ts_ns);
    let class_bits = raw.flags >> CLASS_SHIFT;
    let cpu = CpuId(raw.cpu);
    let class = Class::from_u8(class_bits).unwrap_or(Class::Page);
    let lane = Lane { class, cpu };
    let anomaly = |kind| Anomaly { at, lane, kind };
    if Class::from_u8(class_bits).is_none() {
        return Err(anomaly(AnomalyKind::UnknownClass(class_bits)));
    }
    let Some(kind) = Kind::from_u8(raw.kind) else {
        return Err(anomaly(AnomalyKind::UnknownKind(raw.kind)));
    };
    let kind = event_kind(kind, raw).map_err(anomaly)?;
    // A saturated span bounds the begin only from above; 0 is the one lower bound that is certainly true.
    let lo = if raw.span_ns == kvmdirty_common::raw::SPAN_SATURATED {
        Nanos(0)
    } else {
        Nanos(raw.ts_ns.saturating_sub(u64::from(raw.span_ns)))
    };
    Ok(Event {
        span: Span { lo, hi: at },
        vm: VmId(raw.vm),
        tid: Tid(raw.tid),
        lane,
        seq: raw.seq,
        kind,
    })
}

fn event_kind(kind: Kind, raw: &RawEvent) -> Result<EventKind, AnomalyKind> {
    let [a, b, c, d] = raw.args;
    Ok(match kind {
        Kind::IoctlBegin => {
            EventKind::IoctlBegin { op: ioctl_ref(a)?, first: b, count: c, flushes: d }
        }
        Kind::IoctlEnd => EventKind::IoctlEnd {
            op: ioctl_ref(a)?,
            ret: b as i64,
            flushes: c,
            words: d,
            words_cut: raw.flags & flag::WORDS_CUT != 0,
        },
        Kind::VmSeen
        | Kind::VmGone
        | Kind::SlotState
        | Kind::Flush
        | Kind::RingReset
        | Kind::SlotProtect
        | Kind::Invalidate
        | Kind::LockWait => boundary_kind(kind, raw),
        Kind::Mark | Kind::SpteChange | Kind::FastFault | Kind::Fault | Kind::SpteSet => {
            fault_kind(kind, raw)
        }
        Kind::HarvestWord => {
            EventKind::HarvestWord { first: Gfn(a), mask: b, protected: c, slot: slot_ref(d) }
        }
        Kind::UserWord => EventKind::UserWord { first: Gfn(a), mask: b, protected: c, writable: d },
        Kind::RmapAdd => EventKind::RmapAdd { gfn: Gfn(a), sptep: b, slot: slot_ref(c) },
        Kind::HostWrite => EventKind::HostWrite {
            gpa: a,
            bytes: b,
            slot: slot_ref(c),
            writer: d as u8,
            failed: d >> 8 & 1 != 0,
            data_at_mark: data_at_mark(raw.flags & KIND_FLAGS),
        },
        Kind::RingPush => EventKind::RingPush {
            offset: a,
            slot: SlotId::from_abi(b as u32),
            index: c as u32,
            vcpu: VcpuId(d as u32),
        },
        Kind::RunBegin => EventKind::RunBegin { vcpu: VcpuId(a as u32) },
        Kind::RunEnd => EventKind::RunEnd { vcpu: VcpuId(a as u32), ret: b as i64, exit_reason: c },
        Kind::Split => EventKind::Split { page: page_ref(a), old: Spte(b), errno: c as i64 },
        Kind::Zap => EventKind::Zap { page: page_ref(a) },
    })
}

/// The records of VMs, slots, flushes and resets.
fn boundary_kind(kind: Kind, raw: &RawEvent) -> EventKind {
    let [a, b, c, d] = raw.args;
    let has = |bit: u8| raw.flags & bit != 0;
    match kind {
        Kind::VmSeen => EventKind::VmSeen {
            tgid: a as u32,
            manual_protect: b as u32,
            ring_bytes: (b >> 32) as u32,
            generation: c,
            created: has(flag::VM_CREATED),
            flushes: d,
        },
        Kind::VmGone => EventKind::VmGone,
        Kind::SlotState => EventKind::SlotState {
            slot: slot_ref(a),
            base: Gfn(b),
            npages: c,
            bitmap: d,
            commit: has(flag::SLOT_COMMIT),
        },
        Kind::Flush => EventKind::Flush { before: a, after: b, first: Gfn(c), npages: d },
        Kind::RingReset => EventKind::RingReset {
            vcpu: VcpuId(a as u32),
            before: b as u32,
            after: (b >> 32) as u32,
            ret: c as i64,
            dirty_index: d as u32,
            size: (d >> 32) as u32,
            bracketed: !has(flag::AT_TRACEPOINT),
        },
        Kind::SlotProtect => EventKind::SlotProtect { slot: slot_ref(a), level: b as u8 },
        Kind::Invalidate => {
            EventKind::Invalidate { start: a, end: b, flushes_before: c, flushes_after: d }
        }
        _ => EventKind::LockWait { lock: a, lcb_flags: b as u32, ret: c as i64 },
    }
}

/// The records of one fault: its mark, its store, its bracket.
fn fault_kind(kind: Kind, raw: &RawEvent) -> EventKind {
    let [a, b, c, d] = raw.args;
    let has = |bit: u8| raw.flags & bit != 0;
    match kind {
        Kind::Mark => EventKind::Mark {
            gfn: Gfn(a),
            slot: slot_ref(b),
            word: match (has(flag::MARK_WORD), has(flag::MARK_RING)) {
                (_, true) => MarkWord::Ring(c as u32),
                (true, false) => MarkWord::Bitmap(c),
                (false, false) => MarkWord::Unread,
            },
            spte: has(flag::MARK_SPTE).then_some(Spte(d)),
            has_vcpu: !has(flag::MARK_NO_VCPU),
            in_fast: has(flag::MARK_IN_FAST),
        },
        Kind::SpteChange => EventKind::SpteChange {
            page: page_ref(a),
            old: (!has(flag::SPTE_NO_OLD)).then_some(Spte(b)),
            new: Spte(c),
            sptep: d,
            shadow: has(flag::SPTE_SHADOW),
        },
        Kind::FastFault => EventKind::FastFault {
            page: page_ref(a),
            old: Spte(b),
            ret: c as i64,
            sptep: d,
            fixed: has(flag::FAST_FIXED),
        },
        Kind::SpteSet => EventKind::SpteSet {
            page: page_ref(a),
            new: Spte(b),
            word: has(flag::SET_WORD).then_some(c),
            sptep: d,
            logging: has(flag::SET_LOGGING),
            ring: has(flag::SET_RING),
        },
        _ => EventKind::Fault { addr: a, error_code: b, ret: c as i64, vcpu: VcpuId(d as u32) },
    }
}

fn slot_ref(packed: u64) -> SlotRef {
    SlotRef {
        id: SlotId::from_abi(packed as u32),
        logging: packed & slotref::LOGGING != 0,
        has_bitmap: packed & slotref::HAS_BITMAP != 0,
    }
}

fn page_ref(packed: u64) -> PageRef {
    PageRef {
        gfn: Gfn(packed & gfnref::GFN),
        level: (packed >> gfnref::LEVEL_SHIFT) as u8,
        as_id: (packed & gfnref::HAS_AS != 0).then_some((packed >> gfnref::AS_SHIFT & 0xf) as u8),
    }
}

fn ioctl_ref(packed: u64) -> Result<IoctlRef, AnomalyKind> {
    let Some(op) = IoctlOp::from_u8(packed as u8) else {
        return Err(AnomalyKind::UnknownIoctl(packed as u8));
    };
    let slot = SlotId::from_abi((packed >> 32) as u32);
    Ok(IoctlRef { op, slot, mem_flags: (packed >> 8) as u32 & 0x00ff_ffff })
}

/// `None` where the evidence was not taken or could not tell (the bytes were the same before the write).
fn data_at_mark(flags: u8) -> Option<bool> {
    if flags & flag::HOST_DATA_AT_MARK != 0 {
        Some(true)
    } else if flags & flag::HOST_NO_DATA_AT_MARK != 0 {
        Some(false)
    } else {
        None
    }
}
