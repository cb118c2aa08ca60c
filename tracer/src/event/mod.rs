//! Events: what one record of the probe says, in the words of KVM.
//!
//! ```text
//! RawEvent --decode--> Event { span, vm, tid, lane, seq, kind } | Anomaly
//! ```
//!
//! This module is pure: it has no clock, no I/O and no `Result`. A record that makes no sense becomes an [`Anomaly`],
//! a missing one a [`Gap`]; both flow on to the verdict.

pub mod batch;
pub mod decode;
pub mod encode;
pub mod id;
pub mod plan;
mod sequence;
pub mod setup;
pub mod spte;
pub mod tid_index;

pub use batch::{Batch, Gap, GapCause};
pub use decode::decode;
pub use encode::encode;
pub use id::{CpuId, Gfn, Lane, Nanos, SlotId, Span, Tid, VcpuId, VmId};
pub use kvmdirty_common::{Class, IoctlOp, Kind, RawEvent};
pub use plan::{Evidence, Operation, Plan, PlanEntry};
pub use sequence::{Place, Sequence};
pub use setup::{Limits, Setup};
pub use spte::{Spte, SpteMasks};
pub use tid_index::TidIndex;

/// One operation of the kernel, with the interval that is proven to contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The operation lies inside this interval. Narrower bounds of its hidden instants are the business of `order`.
    pub span: Span,
    /// The VM, or [`VmId::UNKNOWN`].
    pub vm: VmId,
    /// The thread that did it.
    pub tid: Tid,
    /// Where the record travelled: class and CPU.
    pub lane: Lane,
    /// The record's number on its lane.
    pub seq: u32,
    /// What happened.
    pub kind: EventKind,
}

/// What happened. One variant per [`Kind`] of the wire, same names, same meaning; units and sources are documented
/// there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "every variant and field is documented at `kvmdirty_common::Kind`")]
pub enum EventKind {
    VmSeen {
        tgid: u32,
        manual_protect: u32,
        ring_bytes: u32,
        generation: u64,
        created: bool,
        flushes: u64,
    },
    VmGone,
    SlotState {
        slot: SlotRef,
        base: Gfn,
        npages: u64,
        bitmap: u64,
        commit: bool,
    },
    IoctlBegin {
        op: IoctlRef,
        first: u64,
        count: u64,
        flushes: u64,
    },
    IoctlEnd {
        op: IoctlRef,
        ret: i64,
        flushes: u64,
        words: u64,
        words_cut: bool,
    },
    Flush {
        before: u64,
        after: u64,
        first: Gfn,
        npages: u64,
    },
    RingReset {
        vcpu: VcpuId,
        before: u32,
        after: u32,
        ret: i64,
        dirty_index: u32,
        size: u32,
        bracketed: bool,
    },
    SlotProtect {
        slot: SlotRef,
        level: u8,
    },
    Invalidate {
        start: u64,
        end: u64,
        flushes_before: u64,
        flushes_after: u64,
    },
    LockWait {
        lock: u64,
        lcb_flags: u32,
        ret: i64,
    },
    Mark {
        gfn: Gfn,
        slot: SlotRef,
        word: MarkWord,
        spte: Option<Spte>,
        has_vcpu: bool,
        in_fast: bool,
    },
    SpteChange {
        page: PageRef,
        old: Option<Spte>,
        new: Spte,
        sptep: u64,
        shadow: bool,
    },
    FastFault {
        page: PageRef,
        old: Spte,
        ret: i64,
        sptep: u64,
        fixed: bool,
    },
    Fault {
        addr: u64,
        error_code: u64,
        ret: i64,
        vcpu: VcpuId,
    },
    HarvestWord {
        first: Gfn,
        mask: u64,
        protected: u64,
        slot: SlotRef,
    },
    UserWord {
        first: Gfn,
        mask: u64,
        protected: u64,
        writable: u64,
    },
    RmapAdd {
        gfn: Gfn,
        sptep: u64,
        slot: SlotRef,
    },
    HostWrite {
        gpa: u64,
        bytes: u64,
        slot: SlotRef,
        writer: u8,
        failed: bool,
        data_at_mark: Option<bool>,
    },
    RingPush {
        offset: u64,
        slot: SlotId,
        index: u32,
        vcpu: VcpuId,
    },
    RunBegin {
        vcpu: VcpuId,
    },
    RunEnd {
        vcpu: VcpuId,
        /// `None`: not observed.
        ret: Option<i64>,
        exit_reason: u64,
    },
    SpteSet {
        page: PageRef,
        new: Spte,
        word: Option<u64>,
        sptep: u64,
        logging: bool,
        ring: bool,
    },
    Split {
        page: PageRef,
        old: Spte,
        errno: i64,
    },
    Zap {
        page: PageRef,
    },
}

impl EventKind {
    /// The kind of the wire this is.
    #[must_use]
    #[inline(always)]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::VmSeen { .. } => Kind::VmSeen,
            Self::VmGone => Kind::VmGone,
            Self::SlotState { .. } => Kind::SlotState,
            Self::IoctlBegin { .. } => Kind::IoctlBegin,
            Self::IoctlEnd { .. } => Kind::IoctlEnd,
            Self::Flush { .. } => Kind::Flush,
            Self::RingReset { .. } => Kind::RingReset,
            Self::SlotProtect { .. } => Kind::SlotProtect,
            Self::Invalidate { .. } => Kind::Invalidate,
            Self::LockWait { .. } => Kind::LockWait,
            Self::Mark { .. } => Kind::Mark,
            Self::SpteChange { .. } => Kind::SpteChange,
            Self::FastFault { .. } => Kind::FastFault,
            Self::Fault { .. } => Kind::Fault,
            Self::HarvestWord { .. } => Kind::HarvestWord,
            Self::UserWord { .. } => Kind::UserWord,
            Self::RmapAdd { .. } => Kind::RmapAdd,
            Self::HostWrite { .. } => Kind::HostWrite,
            Self::RingPush { .. } => Kind::RingPush,
            Self::RunBegin { .. } => Kind::RunBegin,
            Self::RunEnd { .. } => Kind::RunEnd,
            Self::SpteSet { .. } => Kind::SpteSet,
            Self::Split { .. } => Kind::Split,
            Self::Zap { .. } => Kind::Zap,
        }
    }
}

/// A memslot as a record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRef {
    /// Address space and id.
    pub id: SlotId,
    /// `KVM_MEM_LOG_DIRTY_PAGES` was set in the slot object the kernel used.
    pub logging: bool,
    /// That object had a dirty bitmap.
    pub has_bitmap: bool,
}

/// A guest page (or huge page) as an SPTE maps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// First gfn of the mapping.
    pub gfn: Gfn,
    /// Level of the SPTE: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB.
    pub level: u8,
    /// Address space, where the probe could tell.
    pub as_id: Option<u8>,
}

/// The ioctl a bracket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoctlRef {
    /// Which ioctl.
    pub op: IoctlOp,
    /// Its slot (GET, CLEAR, SET_MEMORY; 0:0 otherwise).
    pub slot: SlotId,
    /// `flags` of SET_MEMORY: bit 0 is `KVM_MEM_LOG_DIRTY_PAGES`.
    pub mem_flags: u32,
}

/// What a mark showed of the place it marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkWord {
    /// Nothing was read.
    Unread,
    /// The bitmap word at the mark's exit. Our bit reading 0 proves that a harvest already took it.
    Bitmap(u64),
    /// The ring's `dirty_index` after the push.
    Ring(u32),
}

/// A record that does not fit the model; counted, located and shown, never ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// The record's time.
    pub at: Nanos,
    /// Its lane.
    pub lane: Lane,
    /// What is wrong with it.
    pub kind: AnomalyKind,
}

/// What can be wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnomalyKind {
    /// No [`Kind`] has this number.
    UnknownKind(u8),
    /// No [`Class`] has this number.
    UnknownClass(u8),
    /// An ioctl record names no [`IoctlOp`].
    UnknownIoctl(u8),
    /// It names a page that no guest can have: its address would not fit into 64 bits.
    NoSuchPage,
    /// Delivered after the watermark had passed it.
    Late,
}
