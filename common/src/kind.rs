//! What a record says: one discriminant per kind of fact, and the meaning of `args` and `flags` for each.
//!
//! Packings used by several kinds:
//! - *slotref*: bits 0..16 slot id, 16..32 address space (together KVM's `as_id << 16 | id`), 32..64 the slot's
//!   `flags` (`KVM_MEM_*`, bit 0 = `KVM_MEM_LOG_DIRTY_PAGES`), with [`slotref::HAS_BITMAP`] in bit 63.
//! - *gfnref*: bits 0..48 gfn, 48..56 level (1 = 4 KiB), 56..60 address space, bit 60 [`gfnref::HAS_AS`].
//! - *opref* (ioctls): bits 0..8 [`IoctlOp`], 8..32 memslot flags (SET_MEMORY only), 32..64 slot number.

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal => $text:literal),+ $(,)?) => {
        /// The kind of a record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $value),+ }

        impl Kind {
            /// All kinds, in order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The kind of that number.
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)+ _ => None }
            }

            /// The kind's name in litmus files, exports and reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

kinds! {
    /// A VM came into view. `[tgid, manual_dirty_log_protect | dirty_ring_bytes << 32, slots generation, flush
    /// counter]`. Flag [`flag::VM_CREATED`]: seen from its creation on.
    VmSeen = 1 => "vm-seen",
    /// A VM was destroyed. No args.
    VmGone = 2 => "vm-gone",
    /// A memslot as the kernel holds it. `[slotref, base_gfn, npages, dirty_bitmap address]`; npages 0: deleted.
    /// Flag [`flag::SLOT_COMMIT`]: from a commit (span = the commit), else from an inventory.
    SlotState = 3 => "slot-state",
    /// An ioctl of the VM began. `[opref, first page (CLEAR) or first gfn (SET_MEMORY), pages, flush counter]`.
    IoctlBegin = 4 => "ioctl-begin",
    /// The ioctl returned. `[opref, return value as i64, flush counter, bitmap words emitted]`; span = the ioctl.
    /// Flag [`flag::WORDS_CUT`]: not all words of the user bitmap could be emitted.
    IoctlEnd = 5 => "ioctl-end",
    /// A remote TLB flush, from request to all acknowledged (function exit).
    /// `[flush counter at entry, flush counter at exit, first gfn, pages (0 = whole VM)]`; span = entry to exit.
    /// Source: `kvm_flush_remote_tlbs`, virt/kvm/kvm_main.c.
    Flush = 6 => "flush",
    /// `kvm_dirty_ring_reset` of one ring. `[ring index (vCPU), reset_index before | after << 32, return value as i64,
    /// dirty_index | size << 32]`; span = the function, 0 when only its tracepoint was seen ([`flag::AT_TRACEPOINT`]).
    /// Flag [`flag::RESET_NO_BEFORE`]: reset_index before was not observed (attached in between); it then equals after.
    RingReset = 7 => "ring-reset",
    /// A helper that write-protects or clears D of a whole slot. `[slotref, first level, 0, 0]`; span = the helper.
    SlotProtect = 8 => "slot-protect",
    /// Host virtual range invalidated by an MMU notifier. `[start hva, end hva, flush counter at entry, at exit]`.
    Invalidate = 9 => "invalidate",
    /// A wait for a followed VM's `mmu_lock`. `[lock address, contention flags (LCB_F_*), return value, 0]`;
    /// span = the wait.
    LockWait = 10 => "lock-wait",

    /// A dirty mark. `[gfn, slotref, evidence word, SPTE at entry]`; span = the marking function.
    /// Flags: [`flag::MARK_WORD`]: args[2] is the bitmap word re-read at exit; its bit is 1 only if it was still set
    /// after the record's time was taken, and 0 only if it had been taken before. [`flag::MARK_RING`]: args[2] is the
    /// ring's `dirty_index` after the push. [`flag::MARK_SPTE`]: args[3] is `*sptep` of the running fault, read at
    /// entry, before anything was marked. [`flag::MARK_NO_VCPU`]: no vCPU was running on this thread. Source:
    /// `mark_page_dirty_in_slot`, virt/kvm/kvm_main.c.
    Mark = 32 => "mark",
    /// An SPTE changed value. `[gfnref, old, new, sptep (0 = unknown)]`; span = from the last proven point before the
    /// store to this record (0 when only the tracepoint was seen).
    /// Flag [`flag::SPTE_SHADOW`]: shadow MMU; [`flag::SPTE_NO_OLD`]: old was not observed (tracepoint plan).
    /// Source: `kvm_tdp_mmu_spte_changed`, `mmu_spte_update`, arch/x86/kvm/mmu/.
    SpteChange = 33 => "spte-change",
    /// `fast_page_fault` ended. `[gfnref, old SPTE, return value, sptep]`; span = the function.
    /// Flag [`flag::FAST_FIXED`]: its cmpxchg succeeded and W was set.
    FastFault = 34 => "fast-fault",
    /// A page fault was handled. `[fault address (gpa; gva on shadow paging), error code, return value, vcpu id]`;
    /// span = the handler.
    Fault = 35 => "fault",
    /// A harvest took a bitmap word (or a batch of ring entries) and protected its pages. `[first gfn, mask taken, gfns
    /// seen to lose W (or D), slotref]`; span = `kvm_arch_mmu_enable_log_dirty_pt_masked`, so the xchg lies before its
    /// begin. Mask 0: nothing was harvested, a whole-slot helper ([`Kind::SlotProtect`]) protected these pages.
    HarvestWord = 36 => "harvest-word",
    /// A bitmap word as the harvest handed it to user space, read at the ioctl's return (tracepoint plan).
    /// `[first gfn, mask, gfns whose SPTE was read back without W (under PML: or without D), gfns whose SPTE was read
    /// back with it]`; the slot is that of the enclosing ioctl of the thread. In a RESET, which names no slot, the mask
    /// is of ring entries it popped; a page may be in several words.
    UserWord = 37 => "user-word",
    /// An SPTE was inserted into a rmap. `[gfn, sptep, slotref, 0]`; span = `__rmap_add`.
    RmapAdd = 38 => "rmap-add",
    /// The host wrote guest memory. `[gpa, bytes, slotref, writer | failed << 8]`; span = the writing function, which
    /// includes its mark. Flags [`flag::HOST_DATA_AT_MARK`], [`flag::HOST_NO_DATA_AT_MARK`]: what the guest bytes
    /// showed when the nested mark was entered.
    HostWrite = 39 => "host-write",
    /// A dirty-ring entry was pushed. `[page offset in slot, slot number, dirty_index after, ring index (vCPU)]`.
    RingPush = 40 => "ring-push",
    /// A vCPU thread entered KVM_RUN. `[vcpu id, vcpu address, 0, 0]`.
    RunBegin = 41 => "run-begin",
    /// KVM_RUN returned. `[vcpu id, return value as i64, exit reason, 0]`; span = the ioctl.
    /// Flag [`flag::RUN_NO_RETURN`]: the return value was not observed.
    RunEnd = 42 => "run-end",
    /// The shadow MMU set an SPTE, seen at its tracepoint (tracepoint plan).
    /// `[gfnref, new SPTE, bitmap word of the gfn, sptep]`; span = since `kvm_mmu_spte_requested` of the same fault (0:
    /// not seen). Flags: [`flag::SET_WORD`]: args[2] was read; [`flag::SET_LOGGING`]: the slot was logging;
    /// [`flag::SET_RING`]: the VM uses a dirty ring.
    SpteSet = 43 => "spte-set",
    /// A huge SPTE was split. `[gfnref of the huge page, old SPTE, errno as i64, 0]`.
    Split = 44 => "split",
    /// A shadow page or range was zapped. `[gfnref, 0, 0, 0]`.
    Zap = 45 => "zap",
}

/// The ring and sequence a record travels in, so that one cannot push out another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Page records, ring sharded by CPU.
    Page = 0,
    /// Boundary records of probes that cannot be preempted.
    Boundary = 1,
    /// Records of the syscall tracepoints (tracepoint plan), which may be preempted.
    Syscall = 2,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Page, Self::Boundary, Self::Syscall];

    /// The class with that number.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Page),
            1 => Some(Self::Boundary),
            2 => Some(Self::Syscall),
            _ => None,
        }
    }
}

/// The ioctls that matter to dirty logging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum IoctlOp {
    /// KVM_GET_DIRTY_LOG.
    GetDirtyLog = 1,
    /// KVM_CLEAR_DIRTY_LOG.
    ClearDirtyLog = 2,
    /// KVM_RESET_DIRTY_RINGS.
    ResetDirtyRings = 3,
    /// KVM_SET_USER_MEMORY_REGION or its second form.
    SetMemory = 4,
    /// KVM_ENABLE_CAP of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 or a dirty ring; `args[1]` capability, `args[2]` its
    /// args[0].
    EnableCap = 5,
}

impl IoctlOp {
    /// The operation with that number.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::GetDirtyLog),
            2 => Some(Self::ClearDirtyLog),
            3 => Some(Self::ResetDirtyRings),
            4 => Some(Self::SetMemory),
            5 => Some(Self::EnableCap),
            _ => None,
        }
    }
}

/// Flags per kind (bits 0..6 of `RawEvent::flags`).
pub mod flag {
    /// [`super::Kind::VmSeen`]: the VM was seen from its creation on.
    pub const VM_CREATED: u8 = 1;
    /// [`super::Kind::SlotState`]: from a commit.
    pub const SLOT_COMMIT: u8 = 1;
    /// [`super::Kind::IoctlEnd`]: words are missing.
    pub const WORDS_CUT: u8 = 1;
    /// [`super::Kind::RingReset`]: only the tracepoint was seen.
    pub const AT_TRACEPOINT: u8 = 1;
    /// [`super::Kind::RingReset`]: reset_index before is not known.
    pub const RESET_NO_BEFORE: u8 = 2;
    /// [`super::Kind::Mark`]: args[2] is the bitmap word at exit.
    pub const MARK_WORD: u8 = 1;
    /// [`super::Kind::Mark`]: args[2] is the ring's dirty_index after the push.
    pub const MARK_RING: u8 = 2;
    /// [`super::Kind::Mark`]: args[3] is the SPTE at entry.
    pub const MARK_SPTE: u8 = 4;
    /// [`super::Kind::Mark`]: no vCPU was running on this thread.
    pub const MARK_NO_VCPU: u8 = 8;
    /// [`super::Kind::Mark`]: inside `fast_page_fault`, so without `mmu_lock`.
    pub const MARK_IN_FAST: u8 = 16;
    /// [`super::Kind::SpteChange`]: shadow MMU.
    pub const SPTE_SHADOW: u8 = 1;
    /// [`super::Kind::SpteChange`]: the old value was not observed.
    pub const SPTE_NO_OLD: u8 = 2;
    /// [`super::Kind::FastFault`]: the cmpxchg succeeded.
    pub const FAST_FIXED: u8 = 1;
    /// [`super::Kind::HostWrite`]: the guest bytes already were the data when the mark was entered, and were not
    /// before.
    pub const HOST_DATA_AT_MARK: u8 = 1;
    /// [`super::Kind::HostWrite`]: the guest bytes were not yet the data when the mark was entered.
    pub const HOST_NO_DATA_AT_MARK: u8 = 2;
    /// [`super::Kind::RunEnd`]: the return value was not observed.
    pub const RUN_NO_RETURN: u8 = 1;
    /// [`super::Kind::SpteSet`]: args[2] is the bitmap word.
    pub const SET_WORD: u8 = 1;
    /// [`super::Kind::SpteSet`]: the slot was logging.
    pub const SET_LOGGING: u8 = 2;
    /// [`super::Kind::SpteSet`]: the VM uses a dirty ring.
    pub const SET_RING: u8 = 4;
}

/// Writers of [`Kind::HostWrite`].
pub mod writer {
    /// `__kvm_write_guest_page`.
    pub const GUEST_PAGE: u8 = 1;
    /// `kvm_write_guest_offset_cached`.
    pub const CACHED: u8 = 2;
    /// `kvm_vcpu_unmap` of a writable map.
    pub const UNMAP: u8 = 3;
    /// `emulator_cmpxchg_emulated`.
    pub const CMPXCHG: u8 = 4;
    /// `record_steal_time`.
    pub const STEAL_TIME: u8 = 5;
    /// `kvm_setup_guest_pvclock`.
    pub const PVCLOCK: u8 = 6;
    /// `kvm_steal_time_set_preempted`, inside `kvm_arch_vcpu_put`: a vCPU leaves its CPU.
    pub const STEAL_TIME_PREEMPTED: u8 = 7;
}

/// Packing of slot references.
pub mod slotref {
    /// The slot has a dirty bitmap.
    pub const HAS_BITMAP: u64 = 1 << 63;
    /// `KVM_MEM_LOG_DIRTY_PAGES` of the slot's flags.
    pub const LOGGING: u64 = 1 << 32;
}

/// Packing of gfn references.
pub mod gfnref {
    /// Bits of the gfn.
    pub const GFN: u64 = (1 << 48) - 1;
    /// Shift of the level.
    pub const LEVEL_SHIFT: u32 = 48;
    /// Shift of the address space.
    pub const AS_SHIFT: u32 = 56;
    /// The address space is known.
    pub const HAS_AS: u64 = 1 << 60;
}
