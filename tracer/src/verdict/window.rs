//! Windows: allowed stretches in which a page is writable or written and not yet reported.

use crate::event::{Gfn, Nanos, SlotId, Tid, VmId};

/// The kinds of window (DESIGN.md, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WindowKind {
    /// Third case: lockless fast fault, from the cmpxchg to the mark.
    FastFault,
    /// Third case: host write, from the copy to the mark.
    HostWrite,
    /// Measured only: mark to SPTE store, inside `mmu_lock`.
    SlowFault,
    /// Measured only: write-protect to flush.
    Tlb,
}

impl WindowKind {
    /// All kinds, in reading order.
    pub const ALL: [Self; 4] = [Self::FastFault, Self::HostWrite, Self::SlowFault, Self::Tlb];

    /// The kind in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FastFault => "fast-fault",
            Self::HostWrite => "host-write",
            Self::SlowFault => "slow-fault",
            Self::Tlb => "tlb",
        }
    }
}

/// One window that has closed, or that the trace's end left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which kind.
    pub kind: WindowKind,
    /// The VM.
    pub vm: VmId,
    /// The slot.
    pub slot: SlotId,
    /// The page; for `tlb` windows the first page protected.
    pub gfn: Gfn,
    /// The thread that opened it.
    pub tid: Tid,
    /// Earliest time it can have opened.
    pub opened: Nanos,
    /// Latest time it can have closed; `None`: still open.
    pub closed: Option<Nanos>,
    /// Harvests of the slot that can have fallen inside.
    pub harvests_inside: u32,
}

impl Window {
    /// Upper bound of its duration; `None` while open.
    #[must_use]
    pub fn open_for_ns(&self) -> Option<u64> {
        self.closed.map(|closed| closed.since(self.opened))
    }
}
