//! What the pure part must be told before the first record: the kernel's masks, the clock's uncertainty, the plan.

use super::plan::Plan;
use super::spte::SpteMasks;

/// Everything a pipeline depends on besides records. Live it comes from the attach, offline from the header.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Setup {
    /// `uname -r` of the traced kernel.
    pub kernel: String,
    /// Clock uncertainty between two CPUs, in nanoseconds (DESIGN.md: epsilon).
    pub epsilon_ns: u64,
    /// SPTE masks of the traced kernel.
    pub masks: SpteMasks,
    /// What was observable.
    pub plan: Plan,
    /// The last harvest of every slot is declared to be the final one (`--final`, demo, lab): K09, K11 and K14 may
    /// then name hazards.
    pub is_final: bool,
    /// Bounds on memory.
    pub limits: Limits,
}

/// Bounds on what the analysis keeps. Reaching one is never growth: what is not followed is counted as unknown, for the
/// limit (`crate::verdict::UnknownCause::Limit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Tracked pages over all VMs.
    pub pages_max: u64,
    /// Findings kept with their witness; further ones are only counted.
    pub findings_max: u32,
    /// Threads followed at once.
    pub threads_max: u32,
}

impl Limits {
    /// The bounds used unless configured otherwise: 2^28 pages are 1 TiB of guest memory.
    pub const STANDARD: Self =
        Self { pages_max: 1 << 28, findings_max: 10_000, threads_max: 65_536 };
}

impl Setup {
    /// A complete plan with the masks of a recent kernel, for litmus traces and the simulator.
    #[must_use]
    pub fn complete(name: &str) -> Self {
        Self {
            kernel: String::from("0.0.0-litmus"),
            epsilon_ns: 0,
            masks: SpteMasks { present: 1 << 11, mmu_writable: 1 << 10, ..SpteMasks::W_ONLY },
            plan: Plan::complete(name),
            is_final: false,
            limits: Limits::STANDARD,
        }
    }
}
