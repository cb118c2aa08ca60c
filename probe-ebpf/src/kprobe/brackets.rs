//! What a thread has open in the kprobe plan. A time of 0 means: not open.

/// Open brackets; part of [`crate::thread::Thread`].
#[repr(C)]
pub struct Brackets {
    /// A mark.
    pub mark: Mark,
    /// A fast page fault.
    pub fast: Fast,
    /// A page fault.
    pub fault: Fault,
    /// A bitmap word being harvested, or the word a slot helper is protecting.
    pub word: Word,
    /// `mmu_set_spte`.
    pub set: Set,
    /// A remote TLB flush.
    pub flush: Flush,
    /// A host write.
    pub host: Host,
    /// A dirty-ring reset.
    pub reset: Reset,
    /// A whole-slot helper.
    pub protect: Protect,
    /// A rmap insertion.
    pub rmap: Rmap,
    /// An MMU-notifier invalidation.
    pub invalidate: Invalidate,
}

/// A mark.
#[repr(C)]
pub struct Mark {
    pub begin_ns: u64,
    pub kvm: u64,
    pub slot: u64,
    pub gfn: u64,
    pub spte: u64,
    /// The dirty ring it pushes to; 0: none.
    pub ring: u64,
    pub flags: u64,
}

/// A fast page fault. `sptep` is set from the walk to the end of the lockless part.
#[repr(C)]
pub struct Fast {
    pub begin_ns: u64,
    pub kvm: u64,
    pub fault: u64,
    pub sptep: u64,
    /// Where the walk puts the SPTE's value, and that value.
    pub out: u64,
    pub old: u64,
}

/// A page fault.
#[repr(C)]
pub struct Fault {
    pub begin_ns: u64,
    pub addr: u64,
    pub error_code: u64,
    pub vcpu_id: u64,
    /// Non-zero: a mark or an SPTE change happened inside.
    pub is_touched: u64,
}

/// A bitmap word.
#[repr(C)]
pub struct Word {
    pub begin_ns: u64,
    pub first: u64,
    pub mask: u64,
    pub protected: u64,
    pub slotref: u64,
    /// First gfn of the slot, and the address of its first rmap head (shadow MMU).
    pub base: u64,
    pub rmap: u64,
    /// gfn + 1 whose rmap is being walked.
    pub walked: u64,
}

/// `mmu_set_spte`.
#[repr(C)]
pub struct Set {
    pub begin_ns: u64,
    pub kvm: u64,
    pub sptep: u64,
    pub old: u64,
}

/// A remote TLB flush.
#[repr(C)]
pub struct Flush {
    pub begin_ns: u64,
    pub kvm: u64,
    pub before: u64,
    pub first: u64,
    pub npages: u64,
}

/// A host write.
#[repr(C)]
pub struct Host {
    pub begin_ns: u64,
    pub kvm: u64,
    pub gpa: u64,
    pub bytes: u64,
    pub slotref: u64,
    pub writer: u64,
    /// Where the bytes come from (kernel) and go to (user).
    pub data: u64,
    pub hva: u64,
    /// The `gfn_to_hva_cache` it goes through, 0 if none: the writer refreshes one that has become stale.
    pub cache: u64,
    /// Flags of the evidence taken at the nested mark; bit 7: the bytes were the same before.
    pub flags: u64,
}

/// A dirty-ring reset.
#[repr(C)]
pub struct Reset {
    pub begin_ns: u64,
    pub kvm: u64,
    pub ring: u64,
    pub before: u64,
}

/// A whole-slot helper.
#[repr(C)]
pub struct Protect {
    pub begin_ns: u64,
    pub kvm: u64,
    pub slotref: u64,
    pub level: u64,
}

/// A rmap insertion.
#[repr(C)]
pub struct Rmap {
    pub begin_ns: u64,
    pub kvm: u64,
    pub gfn: u64,
    pub sptep: u64,
    pub slotref: u64,
}

/// An MMU-notifier invalidation.
#[repr(C)]
pub struct Invalidate {
    pub begin_ns: u64,
    pub kvm: u64,
    pub start: u64,
    pub end: u64,
    pub before: u64,
}
