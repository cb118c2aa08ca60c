//! Whether the second of two traces is worse.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Side, rules_off};
use crate::outcome::Outcome;
use crate::summary::{Summary, VerdictCounts};
use crate::verdict::RuleId;

/// What the comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conclusion {
    /// A rule has hazards that had none, or a clearly larger share of what was judged is a hazard.
    Worse,
    /// Neither.
    Same,
    /// Hazards are gone or clearly rarer, and no new ones came.
    Better,
    /// Not worse as far as it goes, but the second trace proves too little to say so.
    Inconclusive,
}

impl Conclusion {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worse => "worse",
            Self::Same => "same",
            Self::Better => "better",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// How a process that says so ends.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Worse => Outcome::Hazard,
            Self::Same | Self::Better => Outcome::Clean,
            Self::Inconclusive => Outcome::Inconclusive,
        }
    }
}

/// Shares within this factor of each other are the same: two runs of one kernel never judge the same pages.
const SAME_WITHIN: f64 = 1.25;

/// The conclusion, and the sentence that says why.
pub(super) fn conclude(before: &Side<'_>, after: &Side<'_>) -> (Conclusion, String) {
    let hazards = |side: &Side<'_>| -> BTreeSet<RuleId> {
        side.summary.hazards().map(|finding| finding.rule).collect()
    };
    let (rules_before, rules_after) = (hazards(before), hazards(after));
    let new: Vec<_> = rules_after.difference(&rules_before).map(|rule| rule.name()).collect();
    if !new.is_empty() {
        let reason = format!("{} found hazards only in the second recording", new.join(", "));
        return (Conclusion::Worse, reason);
    }
    let (share_before, share_after) = (Share::of(before.summary), Share::of(after.summary));
    if share_before.hazards() * SAME_WITHIN < share_after.hazards() {
        return (Conclusion::Worse, format!("hazards went from {share_before} to {share_after}"));
    }
    if let Some(reason) = doubt(before, after) {
        return (Conclusion::Inconclusive, reason);
    }
    let gone: Vec<_> = rules_before.difference(&rules_after).map(|rule| rule.name()).collect();
    if !gone.is_empty() {
        let reason = format!("{} found hazards only in the first recording", gone.join(", "));
        return (Conclusion::Better, reason);
    }
    if share_after.hazards() * SAME_WITHIN < share_before.hazards() {
        return (Conclusion::Better, format!("hazards went from {share_before} to {share_after}"));
    }
    let reason = match (rules_after.is_empty(), share_after.hazard) {
        (true, 0) => String::from("neither recording shows a hazard"),
        _ => format!("hazards were {share_before} and are {share_after}, by the same rules"),
    };
    (Conclusion::Same, reason)
}

/// Why the second recording cannot show that nothing became worse.
fn doubt(before: &Side<'_>, after: &Side<'_>) -> Option<String> {
    let off = |side: &Side<'_>| rules_off(side.summary);
    let newly_off: Vec<_> = off(after).difference(&off(before)).copied().collect();
    if !newly_off.is_empty() {
        return Some(format!("{} judged only the first recording", newly_off.join(", ")));
    }
    let Summary { dropped_events, gaps_total, integrity_total, .. } = *after.summary;
    (Outcome::of(after.summary) == Outcome::Inconclusive).then(|| {
        if 0 < dropped_events + gaps_total {
            format!(
                "{dropped_events} records were dropped in {gaps_total} gaps of the second recording"
            )
        } else if 0 < integrity_total {
            format!("the second recording has {integrity_total} integrity violations")
        } else {
            String::from("no harvest was seen completely in the second recording")
        }
    })
}

/// Hazards among what was judged.
#[derive(Clone, Copy)]
struct Share {
    hazard: u64,
    judged: u64,
}

impl Share {
    fn of(summary: &Summary) -> Self {
        let VerdictCounts { lost, at_risk, exposed, safe, unknown: _ } = summary.verdicts;
        Self { hazard: lost + at_risk, judged: lost + at_risk + exposed + safe }
    }

    fn hazards(self) -> f64 {
        self.hazard as f64 / self.judged.max(1) as f64
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} judgements", self.hazard, self.judged)
    }
}
