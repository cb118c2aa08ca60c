//! Verdicts: what the order of events allows one to say about a page (DESIGN.md, section 4).

pub(crate) mod edges;
pub mod finding;
pub mod window;

pub mod harvest;
pub mod tally;

pub mod benign;

pub(crate) mod ledger;
pub(crate) mod page;
pub mod state;

pub mod rule;

pub mod detector;

pub use benign::LookAlike;
pub use finding::{Edge, EdgeKind, Finding, Step, Witness};
pub use harvest::Harvest;
pub use state::{PageRange, PageState};
pub use tally::VerdictCounts;
pub use window::{Window, WindowKind, WindowStats};

use crate::event::Operation;

/// What is said of one page and window. Ordered from best to worst, `Unknown` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The rule holds in every order of O.
    Safe,
    /// A missing record, probe or initial state could change the result.
    Unknown,
    /// An allowed window that a harvest fell into, or that nothing later harvested.
    Exposed,
    /// Broken in some order of O; or whole in O, broken in G, and a promised edge is missing.
    AtRisk,
    /// Broken in every order of O.
    Lost,
}

impl Verdict {
    /// All verdicts, worst first: the order in which reports print them.
    pub const ALL: [Self; 5] = [Self::Lost, Self::AtRisk, Self::Exposed, Self::Unknown, Self::Safe];

    /// The verdict in text: `lost`, `at-risk`, `exposed`, `unknown`, `safe`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::AtRisk => "at-risk",
            Self::Exposed => "exposed",
            Self::Unknown => "unknown",
            Self::Safe => "safe",
        }
    }

    /// `lost` or `at-risk`.
    #[must_use]
    pub const fn is_hazard(self) -> bool {
        matches!(self, Self::Lost | Self::AtRisk)
    }
}

/// Stable rule ids (DESIGN.md, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "`verdict::rule` documents each rule in a file of its own")]
pub enum RuleId {
    K01,
    K02,
    K03,
    K04,
    K05,
    K06,
    K07,
    K08,
    K09,
    K10,
    K11,
    K12,
    K13,
    K14,
    K15,
}

impl RuleId {
    /// All rules, by number.
    pub const ALL: [Self; 15] = [
        Self::K01,
        Self::K02,
        Self::K03,
        Self::K04,
        Self::K05,
        Self::K06,
        Self::K07,
        Self::K08,
        Self::K09,
        Self::K10,
        Self::K11,
        Self::K12,
        Self::K13,
        Self::K14,
        Self::K15,
    ];

    /// The id in text: `K01`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; 15] = [
            "K01", "K02", "K03", "K04", "K05", "K06", "K07", "K08", "K09", "K10", "K11", "K12",
            "K13", "K14", "K15",
        ];
        NAMES[self as usize]
    }

    /// The rule of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name().eq_ignore_ascii_case(name))
    }
}

/// Why a verdict is `unknown`, or a rule is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnknownCause {
    /// Records that could decide were dropped.
    Dropped,
    /// The state is from before we attached.
    BeforeAttach,
    /// An operation the rule needs is not observed on this plan.
    NotObserved(Operation),
    /// The intervals are closer than the clock uncertainty.
    WithinEpsilon,
    /// A configured limit was reached.
    Limit,
    /// A standing integrity violation.
    Integrity,
    /// The trace ended before the window did.
    TraceEnd,
}

impl UnknownCause {
    /// The cause in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dropped => "dropped-records",
            Self::BeforeAttach => "before-attach",
            Self::NotObserved(_) => "not-observed",
            Self::WithinEpsilon => "within-epsilon",
            Self::Limit => "limit",
            Self::Integrity => "integrity",
            Self::TraceEnd => "trace-end",
        }
    }
}
