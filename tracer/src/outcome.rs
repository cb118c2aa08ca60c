//! How the process ends: the one place that maps results to an exit status (DESIGN.md, section 4).

use std::process::ExitCode;

use crate::summary::Summary;
use crate::verdict::RuleId;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Nothing was found in what was covered.
    Clean,
    /// A hazard was found, or the content oracle found a lost write.
    Hazard,
    /// The command failed or was misused.
    Failed,
    /// No hazard, but records are missing, an integrity violation stands, no harvest was seen completely, every rule
    /// is off, or a bundled recording was played instead of a live guest.
    Inconclusive,
}

impl Outcome {
    /// The outcome of a judged trace.
    #[must_use]
    pub fn of(summary: &Summary) -> Self {
        let hazards = summary.verdicts.lost + summary.verdicts.at_risk;
        let has_complete_harvest = summary.harvests.iter().any(|harvest| harvest.is_complete);
        if 0 < hazards || summary.hazards().next().is_some() {
            Self::Hazard
        } else if 0 < summary.dropped_events
            || 0 < summary.gaps_total
            || 0 < summary.integrity_total
            || !has_complete_harvest
            || every_rule_is_off(summary)
        {
            Self::Inconclusive
        } else {
            Self::Clean
        }
    }

    /// The exit status.
    #[must_use]
    pub const fn status(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Hazard => 1,
            Self::Failed => 2,
            Self::Inconclusive => 3,
        }
    }

    /// The word for it in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Hazard => "hazard",
            Self::Failed => "failed",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// Nothing was judged: the evidence (of an import, say) is too poor for every rule.
fn every_rule_is_off(summary: &Summary) -> bool {
    RuleId::ALL.iter().all(|rule| summary.rules_off.iter().any(|(off, ..)| off == rule))
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Evidence, IoctlOp, Nanos, Operation, SlotId, Tid, VmId};
    use crate::summary::Harvest;

    fn harvest() -> Harvest {
        Harvest {
            id: 1,
            vm: VmId(1),
            slot: SlotId::default(),
            op: IoctlOp::GetDirtyLog,
            iteration: 1,
            tid: Tid(1),
            begin: Nanos(1),
            end: Nanos(2),
            ret: 0,
            words: 0,
            pages: 0,
            protect_ns: 0,
            flush_ns: None,
            flush_counter_moved: false,
            is_complete: true,
            worst: None,
        }
    }

    #[test]
    fn a_trace_without_a_complete_harvest_proves_nothing() {
        assert_eq!(Outcome::of(&Summary::default()), Outcome::Inconclusive);
    }

    #[test]
    fn a_hazard_outranks_dropped_records_and_these_outrank_clean() {
        let mut summary = Summary::default();
        summary.harvests.push_back(harvest());
        assert_eq!(Outcome::of(&summary), Outcome::Clean);
        summary.dropped_events = 1;
        assert_eq!(Outcome::of(&summary), Outcome::Inconclusive);
        summary.verdicts.at_risk = 1;
        assert_eq!(Outcome::of(&summary), Outcome::Hazard);
    }

    #[test]
    fn a_trace_that_no_rule_could_judge_proves_nothing() {
        let mut summary = Summary::default();
        summary.harvests.push_back(harvest());
        summary.rules_off =
            RuleId::ALL.map(|rule| (rule, Operation::Mark, Evidence::None)).to_vec();
        assert_eq!(Outcome::of(&summary), Outcome::Inconclusive);
        summary.rules_off.pop();
        assert_eq!(Outcome::of(&summary), Outcome::Clean);
    }

    #[test]
    fn exposed_pages_alone_are_clean() {
        let mut summary = Summary::default();
        summary.harvests.push_back(harvest());
        summary.verdicts.exposed = 5;
        assert_eq!(Outcome::of(&summary).status(), 0);
    }
}
