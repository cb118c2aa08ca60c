//! The hooks: every program of the probe, by the number under which its misses are counted.

macro_rules! hooks {
    ($($(#[$doc:meta])* $name:ident = $value:literal => $text:literal),+ $(,)?) => {
        /// A program of the probe. The drop counters are indexed by it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Hook { $($(#[$doc])* $name = $value),+ }

        impl Hook {
            /// All hooks, in order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The hook of that number.
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)+ _ => None }
            }

            /// The hook's name in reports: lower case, kebab.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

hooks! {
    /// `sys_enter`/`sys_exit` for the ioctls of the target (tracepoint plan).
    Syscall = 0 => "syscall",
    /// `kvm_vm_ioctl`.
    VmIoctl = 1 => "vm-ioctl",
    /// `kvm_arch_vcpu_ioctl_run`.
    Run = 2 => "run",
    /// The mark family.
    Mark = 3 => "mark",
    /// `kvm_arch_mmu_enable_log_dirty_pt_masked`.
    HarvestWord = 4 => "harvest-word",
    /// `kvm_tdp_mmu_spte_changed` and the shadow MMU's stores.
    SpteChange = 5 => "spte-change",
    /// The fast page fault.
    FastFault = 6 => "fast-fault",
    /// The fault bracket.
    Fault = 7 => "fault",
    /// Remote TLB flushes.
    Flush = 8 => "flush",
    /// Writes of the host into guest memory.
    HostWrite = 9 => "host-write",
    /// Dirty-ring pushes.
    RingPush = 10 => "ring-push",
    /// Dirty-ring resets.
    RingReset = 11 => "ring-reset",
    /// Memslot commits.
    Slot = 12 => "slot",
    /// rmap insertions.
    RmapAdd = 13 => "rmap-add",
    /// Huge-page splits.
    Split = 14 => "split",
    /// MMU-notifier invalidations and zaps.
    Zap = 15 => "zap",
    /// VM creation and destruction.
    Vm = 16 => "vm",
    /// `contention_begin`/`contention_end` on a followed `mmu_lock`.
    Contention = 17 => "contention",
    /// Whole-slot write-protection helpers.
    SlotProtect = 18 => "slot-protect",
    /// The thread table was full, so a bracket could not be opened.
    ThreadTable = 19 => "thread-table",
    /// Records that user space asks the probe to emit: the inventory at attach.
    Inventory = 20 => "inventory",
}

/// Hooks there is room for in the per-CPU counter array.
///
/// Entry `hook` counts records dropped because a ring was full; they took a sequence number. Entry `HOOKS_MAX + hook`
/// counts what left no trace in any sequence: a bracket that could not be opened, an exit without its entry, an entry
/// while its bracket is open.
pub const HOOKS_MAX: u32 = 32;
