//! The faults: one named way each in which a kernel or a VMM breaks dirty logging.
//!
//! Every fault is a deviation from the healthy protocol at one place of the model, found by its name there. Numbers in
//! the comments are rows of the catalogue of real bugs.

use kvmdirty_trace::verdict::RuleId::{
    self, K01, K02, K03, K04, K05, K06, K07, K08, K09, K10, K11, K12, K13, K14, K15,
};

use super::config::{Config, Kernel, Mmu, Mode};

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident => $name:literal, $rules:expr, $proof:ident;)+) => {
        /// A fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $fault),+ }

        impl Fault {
            pub const ALL: &'static [Self] = &[$(Self::$fault),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$fault => $name),+ }
            }

            /// The rules that may speak where the fault fired.
            pub fn rules(self) -> &'static [RuleId] {
                match self { $(Self::$fault => &$rules),+ }
            }

            /// Whether page contents can show the loss.
            pub fn proof(self) -> Proof {
                match self { $(Self::$fault => Proof::$proof),+ }
            }
        }
    };
}

/// What shows that a fault did harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Pages whose last copy differs from their contents.
    Content,
    /// The protocol was broken, but contents stay right in this model (another flush heals it).
    Protocol,
}

faults! {
    /// Fast fault marks, then makes the SPTE writable (2013, second diagram).
    FastMarkFirst => "fast-mark-before-cmpxchg", [K02, K04], Content;
    /// Fast fault does not mark at all (row 3's small sister).
    FastNoMark => "fast-no-mark", [K01, K13, K15], Content;
    /// Slow fault drops mmu_lock between mark and store.
    SlowUnlocked => "slow-lock-dropped-before-store", [K02, K03, K04], Content;
    /// Slow fault does not mark.
    SlowNoMark => "slow-no-mark", [K01, K13, K15], Content;
    /// Shadow MMU: rmap insertion after the mark and outside the lock (2013, first diagram).
    RmapLate => "rmap-add-after-unlock", [K02, K03, K04], Content;
    /// Harvest takes the bits and write-protects nothing.
    HarvestNoProtect => "harvest-no-write-protect", [K04, K06], Content;
    /// Harvest skips one page of a word (rows 8, 9).
    HarvestSkipsPage => "harvest-skips-page", [K04, K06], Content;
    /// Harvest does not flush.
    HarvestNoFlush => "harvest-no-flush", [K05, K06, K10], Content;
    /// Harvest returns first and flushes later (row 2).
    HarvestFlushLate => "harvest-flush-after-return", [K05, K06, K10], Content;
    /// Harvest flushes before its last write-protect.
    HarvestFlushEarly => "harvest-flush-before-last-protect", [K05, K06], Content;
    /// Harvest does not take mmu_lock.
    HarvestUnlocked => "harvest-without-mmu-lock", [K02, K03, K04], Content;
    /// Harvest write-protects by what it read, then takes whatever is there (row 1, edde99ce0529).
    ProtectBeforeXchg => "protect-before-xchg", [K02, K03, K04, K07], Content;
    /// Harvest flushes only if an SPTE changed, while another thread's write-protect is not flushed yet (row 2,
    /// 6dbf79e7164e). On the shadow MMU that write-protect has no record: a lockless fault whose SPTE it closed looks
    /// like one that marked first (K02, never `lost`).
    FlushAssumed => "flush-skipped-already-read-only", [K02, K04, K05, K06, K10], Protocol;
    /// Logging is turned on without write-protecting.
    EnableNoProtect => "enable-no-write-protect", [K15, K04], Content;
    /// Logging is turned on, one page is skipped (row 8).
    EnableSkipsPage => "enable-skips-page", [K15, K04], Content;
    /// Logging is turned on without a flush (row 7).
    EnableNoFlush => "enable-no-flush", [K05], Content;
    /// Logging is turned on without waiting for faults on the old slot object.
    EnableNoSrcu => "enable-without-srcu-grace", [K01, K07, K15, K04], Content;
    /// Host write marks before it writes.
    HostMarkFirst => "host-mark-before-write", [K08], Content;
    /// Emulated cmpxchg does not mark (row 11, 910c57dfa4d1).
    HostNoMark => "host-no-mark", [K08], Content;
    /// A mark without running vCPU is dropped (row 17).
    MarkDropped => "mark-dropped-without-vcpu", [K07, K08], Content;
    /// Ring reset pops entries and does not protect them.
    RingNoProtect => "ring-reset-no-protect", [K06, K04], Content;
    /// Ring reset returns on a signal with a batch popped and not protected (row 20).
    RingEintr => "ring-reset-eintr", [K06, K04], Content;
    /// Mark names the neighbour's gfn (rows 14, 27).
    WrongGfn => "mark-wrong-gfn", [K13, K01, K04, K08, K15], Content;
    /// A lockless fault opens a huge SPTE and marks one page of it (row 3, c126d94f2c90).
    HugeOneMark => "huge-spte-one-mark", [K13, K01, K04], Content;
    /// A zap of a writable SPTE is not flushed (row 22); the harvest's own flush heals it here.
    ZapNoFlush => "zap-without-flush", [K12], Protocol;
    /// A non-atomic store overwrites the W bit of a fast fault (row 5, ba3a6120a4e7).
    ClobberedSpte => "spte-store-not-atomic", [K03, K04, K10, K12], Protocol;
    /// The VMM turns logging off with bits unread (row 24).
    LogDropped => "log-off-with-unread-bits", [K11, K09], Content;
    /// The VMM clears bits it has never read.
    ClearUnread => "clear-of-unread-bits", [K14], Content;
    /// The VMM harvests for the last time while the guest still runs.
    FinalTooEarly => "final-harvest-before-stop", [K09, K11], Content;
}

impl Fault {
    /// The fault can happen in this configuration.
    pub fn fits(self, config: &Config) -> bool {
        let Config { mode, mmu, pml, .. } = *config;
        let has_fast = !pml && config.has_fast_faults();
        let clears = matches!(mode, Mode::Manual | Mode::ManualInitSet);
        match self {
            Self::FastMarkFirst | Self::FastNoMark | Self::ClobberedSpte => has_fast,
            Self::ProtectBeforeXchg => has_fast && mode == Mode::Get,
            Self::SlowUnlocked | Self::SlowNoMark | Self::WrongGfn | Self::ZapNoFlush => true,
            // What 5.10 inserts into the rmap has no record.
            Self::RmapLate => {
                mmu == Mmu::Shadow && mode != Mode::Ring && config.kernel != Kernel::V5_10
            }
            Self::HarvestNoProtect
            | Self::HarvestSkipsPage
            | Self::HarvestNoFlush
            | Self::HarvestFlushLate
            | Self::HarvestFlushEarly => mode != Mode::Ring,
            Self::HarvestUnlocked => mode == Mode::Get,
            Self::HugeOneMark => {
                config.huge && !config.splits_eagerly && mode != Mode::ManualInitSet
            }
            Self::FlushAssumed => !pml,
            Self::EnableNoProtect | Self::EnableSkipsPage | Self::EnableNoFlush => {
                mode != Mode::ManualInitSet
            }
            Self::EnableNoSrcu => mode != Mode::ManualInitSet && !pml,
            Self::HostMarkFirst | Self::HostNoMark => true,
            Self::MarkDropped => true,
            Self::RingNoProtect | Self::RingEintr => mode == Mode::Ring,
            Self::LogDropped | Self::FinalTooEarly => mode == Mode::Get,
            Self::ClearUnread => clears,
        }
    }
}
