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
/// A record that names no known class, kind or ioctl, or no possible page, is an [`Anomaly`]; it is a value for the
/// caller to count.
pub fn decode(raw: &RawEvent) -> Result<Event, Anomaly> {
    decode_for(raw, Copied)
}

/// Who takes a decoded record.
pub trait Taker {
    /// What comes of it.
    type Out;

    /// Takes what the record says. Inlined into each kind's arm of [`decode_for`], where the kind is known.
    fn take(self, decoded: Result<&Event, &Anomaly>) -> Self::Out;
}

/// Takes a copy.
struct Copied;

impl Taker for Copied {
    type Out = Result<Event, Anomaly>;

    #[inline(always)]
    fn take(self, decoded: Result<&Event, &Anomaly>) -> Self::Out {
        match decoded {
            Ok(event) => Ok(*event),
            Err(anomaly) => Err(*anomaly),
        }
    }
}

/// Decodes one record and hands it on.
///
/// Each of the frequent kinds makes its event and hands it on by itself: one that is made in all arms and handed on
/// after the match is put together from the fields of all kinds, and everybody asks for its kind again.
#[inline]
pub fn decode_for<T: Taker>(raw: &RawEvent, taker: T) -> T::Out {
    let (at, cpu, class_bits) = (Nanos(raw.ts_ns), CpuId(raw.cpu), raw.flags >> CLASS_SHIFT);
    let Some(class) = Class::from_u8(class_bits) else {
        let lane = Lane { class: Class::Page, cpu };
        return taker.take(Err(&Anomaly { at, lane, kind: AnomalyKind::UnknownClass(class_bits) }));
    };
    let lane = Lane { class, cpu };
    let Some(kind) = Kind::from_u8(raw.kind) else {
        return taker.take(Err(&Anomaly { at, lane, kind: AnomalyKind::UnknownKind(raw.kind) }));
    };
    // A saturated span bounds the begin only from above; 0 is the one lower bound that is certainly true.
    let lo = if raw.span_ns == kvmdirty_common::raw::SPAN_SATURATED {
        Nanos(0)
    } else {
        Nanos(raw.ts_ns.saturating_sub(u64::from(raw.span_ns)))
    };
    let head = Event {
        span: Span { lo, hi: at },
        vm: VmId(raw.vm),
        tid: Tid(raw.tid),
        lane,
        seq: raw.seq,
        kind: EventKind::VmGone,
    };
    let no_page = GFN_END <= raw.args[0];
    match kind {
        Kind::Mark | Kind::HarvestWord | Kind::UserWord | Kind::RingPush if no_page => {
            taker.take(Err(&Anomaly { at, lane, kind: AnomalyKind::NoSuchPage }))
        }
        Kind::Mark => taker.take(Ok(&Event { kind: mark(raw), ..head })),
        Kind::FastFault => taker.take(Ok(&Event { kind: fast_fault(raw), ..head })),
        Kind::Fault => taker.take(Ok(&Event { kind: fault(raw), ..head })),
        Kind::SpteChange => taker.take(Ok(&Event { kind: spte_change(raw), ..head })),
        Kind::SpteSet => taker.take(Ok(&Event { kind: spte_set(raw), ..head })),
        Kind::HarvestWord => taker.take(Ok(&Event { kind: harvest_word(raw), ..head })),
        Kind::UserWord => taker.take(Ok(&Event { kind: user_word(raw), ..head })),
        Kind::HostWrite => taker.take(Ok(&Event { kind: host_write(raw), ..head })),
        Kind::RingPush => taker.take(Ok(&Event { kind: ring_push(raw), ..head })),
        Kind::RmapAdd
        | Kind::RunBegin
        | Kind::RunEnd
        | Kind::Split
        | Kind::Zap
        | Kind::VmSeen
        | Kind::VmGone
        | Kind::SlotState
        | Kind::IoctlBegin
        | Kind::IoctlEnd
        | Kind::Flush
        | Kind::RingReset
        | Kind::SlotProtect
        | Kind::Invalidate
        | Kind::LockWait => match rarer(kind, raw) {
            Ok(kind) => taker.take(Ok(&Event { kind, ..head })),
            Err(kind) => taker.take(Err(&Anomaly { at, lane, kind })),
        },
    }
}

/// Above this a page's address does not fit into 64 bits; below, a word or a slot of pages behind it needs no care.
const GFN_END: u64 = 1 << 52;

/// The page a record is about, or the first of several, for those who want it before they take the record.
#[must_use]
pub fn page_ahead(raw: &RawEvent) -> Option<Gfn> {
    match Kind::from_u8(raw.kind)? {
        Kind::Mark | Kind::HarvestWord | Kind::UserWord => Some(Gfn(raw.args[0])),
        Kind::SpteChange | Kind::SpteSet => Some(Gfn(raw.args[0] & gfnref::GFN)),
        // Those of a page that a mark or a store of the same fault names just before, and those of no page.
        _ => None,
    }
}

/// The kinds that are few in any trace.
#[inline(never)]
fn rarer(kind: Kind, raw: &RawEvent) -> Result<EventKind, AnomalyKind> {
    let [a, b, c, d] = raw.args;
    let has = |bit: u8| raw.flags & bit != 0;
    Ok(match kind {
        Kind::IoctlBegin => {
            EventKind::IoctlBegin { op: ioctl_ref(a)?, first: b, count: c, flushes: d }
        }
        Kind::IoctlEnd => EventKind::IoctlEnd {
            op: ioctl_ref(a)?,
            ret: b as i64,
            flushes: c,
            words: d,
            words_cut: has(flag::WORDS_CUT),
        },
        Kind::VmSeen => EventKind::VmSeen {
            tgid: a as u32,
            manual_protect: b as u32,
            ring_bytes: (b >> 32) as u32,
            generation: c,
            created: has(flag::VM_CREATED),
            flushes: d,
        },
        Kind::SlotState if GFN_END <= b.saturating_add(c) => return Err(AnomalyKind::NoSuchPage),
        Kind::RmapAdd if GFN_END <= a => return Err(AnomalyKind::NoSuchPage),
        Kind::SlotState => EventKind::SlotState {
            slot: slot_ref(a),
            base: Gfn(b),
            npages: c,
            bitmap: d,
            commit: has(flag::SLOT_COMMIT),
        },
        Kind::Flush => EventKind::Flush { before: a, after: b, first: Gfn(c), npages: d },
        Kind::RingReset => ring_reset(raw),
        Kind::SlotProtect => EventKind::SlotProtect { slot: slot_ref(a), level: b as u8 },
        Kind::Invalidate => {
            EventKind::Invalidate { start: a, end: b, flushes_before: c, flushes_after: d }
        }
        Kind::LockWait => EventKind::LockWait { lock: a, lcb_flags: b as u32, ret: c as i64 },
        Kind::RmapAdd => EventKind::RmapAdd { gfn: Gfn(a), sptep: b, slot: slot_ref(c) },
        Kind::RunBegin => EventKind::RunBegin { vcpu: VcpuId(a as u32) },
        Kind::RunEnd => EventKind::RunEnd {
            vcpu: VcpuId(a as u32),
            ret: (!has(flag::RUN_NO_RETURN)).then_some(b as i64),
            exit_reason: c,
        },
        Kind::Split => EventKind::Split { page: page_ref(a), old: Spte(b), errno: c as i64 },
        Kind::Zap => EventKind::Zap { page: page_ref(a) },
        _ => EventKind::VmGone,
    })
}

// These are inlined into their arm of `decode_for`, so that what takes the event knows its kind.
#[inline(always)]
fn mark(raw: &RawEvent) -> EventKind {
    let [gfn, slot, word, spte] = raw.args;
    let has = |bit: u8| raw.flags & bit != 0;
    EventKind::Mark {
        gfn: Gfn(gfn),
        slot: slot_ref(slot),
        word: match (has(flag::MARK_WORD), has(flag::MARK_RING)) {
            (_, true) => MarkWord::Ring(word as u32),
            (true, false) => MarkWord::Bitmap(word),
            (false, false) => MarkWord::Unread,
        },
        spte: has(flag::MARK_SPTE).then_some(Spte(spte)),
        has_vcpu: !has(flag::MARK_NO_VCPU),
        in_fast: has(flag::MARK_IN_FAST),
    }
}

#[inline(always)]
fn fast_fault(raw: &RawEvent) -> EventKind {
    let [page, old, ret, sptep] = raw.args;
    let fixed = raw.flags & flag::FAST_FIXED != 0;
    EventKind::FastFault { page: page_ref(page), old: Spte(old), ret: ret as i64, sptep, fixed }
}

#[inline(always)]
fn fault(raw: &RawEvent) -> EventKind {
    let [addr, error_code, ret, vcpu] = raw.args;
    EventKind::Fault { addr, error_code, ret: ret as i64, vcpu: VcpuId(vcpu as u32) }
}

#[inline(always)]
fn spte_change(raw: &RawEvent) -> EventKind {
    let [page, old, new, sptep] = raw.args;
    EventKind::SpteChange {
        page: page_ref(page),
        old: (raw.flags & flag::SPTE_NO_OLD == 0).then_some(Spte(old)),
        new: Spte(new),
        sptep,
        shadow: raw.flags & flag::SPTE_SHADOW != 0,
    }
}

#[inline(always)]
fn spte_set(raw: &RawEvent) -> EventKind {
    let [page, new, word, sptep] = raw.args;
    let has = |bit: u8| raw.flags & bit != 0;
    EventKind::SpteSet {
        page: page_ref(page),
        new: Spte(new),
        word: has(flag::SET_WORD).then_some(word),
        sptep,
        logging: has(flag::SET_LOGGING),
        ring: has(flag::SET_RING),
    }
}

#[inline(always)]
fn harvest_word(raw: &RawEvent) -> EventKind {
    let [first, mask, protected, slot] = raw.args;
    EventKind::HarvestWord { first: Gfn(first), mask, protected, slot: slot_ref(slot) }
}

#[inline(always)]
fn user_word(raw: &RawEvent) -> EventKind {
    let [first, mask, protected, writable] = raw.args;
    EventKind::UserWord { first: Gfn(first), mask, protected, writable }
}

#[inline(always)]
fn host_write(raw: &RawEvent) -> EventKind {
    let [gpa, bytes, slot, how] = raw.args;
    EventKind::HostWrite {
        gpa,
        bytes,
        slot: slot_ref(slot),
        writer: how as u8,
        failed: how >> 8 & 1 != 0,
        data_at_mark: data_at_mark(raw.flags & KIND_FLAGS),
    }
}

#[inline(always)]
fn ring_push(raw: &RawEvent) -> EventKind {
    let [offset, slot, index, vcpu] = raw.args;
    EventKind::RingPush {
        offset,
        slot: SlotId::from_abi(slot as u32),
        index: index as u32,
        vcpu: VcpuId(vcpu as u32),
    }
}

fn ring_reset(raw: &RawEvent) -> EventKind {
    let [vcpu, indexes, ret, ring] = raw.args;
    EventKind::RingReset {
        vcpu: VcpuId(vcpu as u32),
        before: indexes as u32,
        after: (indexes >> 32) as u32,
        ret: ret as i64,
        dirty_index: ring as u32,
        size: (ring >> 32) as u32,
        bracketed: raw.flags & flag::AT_TRACEPOINT == 0,
    }
}

#[inline]
fn slot_ref(packed: u64) -> SlotRef {
    SlotRef {
        id: SlotId::from_abi(packed as u32),
        logging: packed & slotref::LOGGING != 0,
        has_bitmap: packed & slotref::HAS_BITMAP != 0,
    }
}

#[inline]
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
