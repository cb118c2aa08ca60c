//! The attach plan as data: which operations were observable, how, and how well.
//!
//! `live` computes it from the running kernel, recordings store it, rules read it to know whether they may speak.

use std::fmt;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident => $text:literal),+ $(,)?) => {
        /// An operation of dirty logging (DESIGN.md, section 2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Operation { $($(#[$doc])* $name),+ }

        impl Operation {
            /// All operations, in reading order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The operation's name in plans, reports and JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

operations! {
    /// Begin and end of GET, CLEAR, RESET, SET_MEMORY, ENABLE_CAP.
    Ioctl => "ioctl",
    /// Memslots with their flags and bitmap.
    Slot => "slot",
    /// KVM_RUN brackets: which thread is which vCPU.
    Run => "run",
    /// Dirty marks.
    Mark => "mark",
    /// Words (or ring batches) a harvest took, with their masks.
    HarvestWord => "harvest-word",
    /// Which pages of a word were write-protected (or lost D).
    WriteProtect => "write-protect",
    /// SPTE changes with old and new value.
    SpteChange => "spte-change",
    /// Lockless fast page faults.
    FastFault => "fast-fault",
    /// `*sptep` at the entry of a fast fault's mark.
    FastFaultEvidence => "fast-fault-evidence",
    /// Fault brackets.
    Fault => "fault",
    /// rmap insertions of the shadow MMU.
    RmapAdd => "rmap-add",
    /// Remote TLB flushes with begin and end.
    Flush => "flush",
    /// The flush request counter of the VM.
    FlushCounter => "flush-counter",
    /// Host writes into guest memory.
    HostWrite => "host-write",
    /// Guest bytes at the entry of a host write's mark.
    HostWriteEvidence => "host-write-evidence",
    /// Dirty-ring pushes.
    RingPush => "ring-push",
    /// Dirty-ring resets.
    RingReset => "ring-reset",
    /// Huge-page splits.
    Split => "split",
    /// Zaps and MMU-notifier invalidations.
    Zap => "zap",
    /// Waits for mmu_lock.
    LockWait => "lock-wait",
}

/// How well an operation is observed.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// Not at all.
    #[default]
    None,
    /// By its nearest observable; bounds are wider or values are read a little later.
    Nearest,
    /// By a probe on the operation itself.
    Direct,
}

/// One line of the plan.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlanEntry {
    /// The operation.
    pub operation: Operation,
    /// How well it is observed.
    pub evidence: Evidence,
    /// What was attached, for example `kprobe mark_page_dirty_in_slot`.
    pub points: Vec<String>,
    /// What is missing and why, empty if nothing.
    pub note: String,
}

/// The attach plan of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// `kprobe` or `tracepoint`; `litmus` and `import` for traces that no probe of ours wrote.
    pub name: String,
    /// One entry per operation that was looked for.
    pub entries: Vec<PlanEntry>,
}

impl Plan {
    /// How well `operation` is observed.
    #[must_use]
    pub fn evidence(&self, operation: Operation) -> Evidence {
        self.entries
            .iter()
            .filter(|entry| entry.operation == operation)
            .map(|entry| entry.evidence)
            .max()
            .unwrap_or_default()
    }

    /// What the plan of that name observes on a kernel that has every point it asks for: `kprobe` everything,
    /// `tracepoint` what [`TRACEPOINT`] lists. Any other name is taken to observe everything.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name != "tracepoint" {
            return Self::complete(name);
        }
        let entries = TRACEPOINT.iter().map(|&(operation, evidence)| PlanEntry {
            operation,
            evidence,
            points: Vec::new(),
            note: String::new(),
        });
        Self { name: name.to_owned(), entries: entries.collect() }
    }

    /// A plan that observes everything directly, for litmus traces and the simulator.
    #[must_use]
    pub fn complete(name: &str) -> Self {
        let entries = Operation::ALL
            .iter()
            .map(|&operation| PlanEntry {
                operation,
                evidence: Evidence::Direct,
                points: Vec::new(),
                note: String::new(),
            })
            .collect();
        Self { name: name.to_owned(), entries }
    }
}

/// What the tracepoint plan observes at best; `live` holds its table of attach points against this.
pub const TRACEPOINT: [(Operation, Evidence); 12] = [
    (Operation::Ioctl, Evidence::Direct),
    (Operation::Slot, Evidence::Nearest),
    (Operation::Run, Evidence::Direct),
    (Operation::Mark, Evidence::Nearest),
    (Operation::HarvestWord, Evidence::Nearest),
    (Operation::WriteProtect, Evidence::Nearest),
    (Operation::SpteChange, Evidence::Nearest),
    (Operation::FlushCounter, Evidence::Nearest),
    (Operation::RingPush, Evidence::Direct),
    (Operation::RingReset, Evidence::Nearest),
    (Operation::Zap, Evidence::Nearest),
    (Operation::LockWait, Evidence::Direct),
];

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
