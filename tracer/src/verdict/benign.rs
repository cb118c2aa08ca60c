//! Look-alikes: patterns that resemble a lost page and are not one, counted under their own names (KVM.md, 5.4).

macro_rules! look_alikes {
    ($($(#[$doc:meta])* $name:ident => $text:literal),+ $(,)?) => {
        /// A benign pattern.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum LookAlike { $($(#[$doc])* $name),+ }

        impl LookAlike {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

look_alikes! {
    /// A slow fault marks before it stores the SPTE; both are inside one hold of `mmu_lock`.
    MarkBeforeStoreLocked => "mark-before-store-under-lock",
    /// A mark whose cmpxchg then failed: the fault is retried.
    MarkWithoutStore => "mark-without-store",
    /// A mark on the slot object that logging is just replacing: it has no bitmap yet.
    OldSlotMark => "mark-on-old-slot-object",
    /// Manual protect: GET reads the bitmap and protects nothing; CLEAR does.
    ManualGet => "manual-protect-get",
    /// PML: a mark outside any fault, drained from the hardware buffer at an exit.
    PmlDrain => "pml-drain",
    /// A ring batch with an empty mask (6.1, first round of a reset).
    EmptyBatch => "empty-ring-batch",
    /// Only A/D or software bits changed.
    Aging => "aging",
    /// A huge SPTE was split: its children stay writable and the harvest protects them next.
    SplitChildren => "split-children",
    /// A bit that is set since logging began (KVM_DIRTY_LOG_INITIALLY_SET).
    InitiallySet => "initially-set",
    /// A bit nobody was seen to set: marked by a path without a probe. It only reports too much.
    UnexplainedBit => "unexplained-bit",
    /// A harvest took the bit before the mark returned.
    MarkTakenAtOnce => "mark-taken-at-once",
    /// A mark without a running vCPU that the bitmap shows recorded.
    MarkWithoutVcpu => "mark-without-vcpu",
    /// An access-tracked SPTE gets its W back.
    AccessTracked => "access-tracked",
    /// The host writes steal time when a vCPU is scheduled out, also after the last harvest.
    StealTime => "steal-time-at-sched-out",
    /// The page was re-opened, and marked again, between its write-protect and the harvest's return.
    ReopenedInHarvest => "reopened-before-return",
}

/// How often each was seen.
#[derive(Clone, Copy, Debug)]
pub struct LookAlikes([u64; LookAlike::ALL.len()]);

impl Default for LookAlikes {
    fn default() -> Self {
        Self([0; LookAlike::ALL.len()])
    }
}

impl LookAlikes {
    /// Counts `n` of one kind.
    pub fn add(&mut self, kind: LookAlike, n: u64) {
        self.0[kind as usize] += n;
    }

    /// Those that were seen, by name.
    pub fn seen(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        LookAlike::ALL
            .iter()
            .map(|&kind| (kind.name(), self.0[kind as usize]))
            .filter(|&(_, n)| 0 < n)
    }
}
