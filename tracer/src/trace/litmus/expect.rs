//! Expectations: what a litmus file says of the judgement, and the comparison with a summary.

use std::fmt;

use super::field::{Fields, Problem};
use super::read::Slots;
use super::{Litmus, rule_named, window_named};
use crate::event::{Gfn, SlotId, SpteMasks, VmId};
use crate::summary::Summary;
use crate::verdict::{EdgeKind, Finding, RuleId, UnknownCause, Verdict, WindowKind};

/// One `expect` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// A finding with this verdict, by this rule, at this place. `safe`: no finding there, and something was judged
    /// safe. `unknown` is one of these where it names a rule.
    Verdict {
        /// The verdict.
        verdict: Verdict,
        /// The rule that speaks; `None`: any.
        rule: Option<RuleId>,
        /// Where.
        place: Place,
        /// The promised edge whose absence a predictive finding names; `None`: any, or none.
        missing: Option<EdgeKind>,
    },
    /// Something is unknown, for this cause, and the place has no hazard.
    Unknown {
        /// The cause by name; `None`: any.
        cause: Option<&'static str>,
        /// Where no hazard may be found.
        place: Place,
    },
    /// No hazard at all.
    NoHazard,
    /// A window of this kind.
    Window {
        /// The kind.
        kind: WindowKind,
        /// Where.
        place: Place,
        /// Harvests that can have fallen inside.
        harvests: Option<u32>,
        /// Whether it is still open at the end.
        is_open: Option<bool>,
        /// Upper bound of its duration, in nanoseconds.
        length_ns: Option<u64>,
    },
    /// An integrity violation stands.
    Integrity,
    /// A rule is off.
    RuleOff(RuleId),
    /// A look-alike was counted under this name.
    Benign(String),
    /// Hazards that no line expects are allowed. Exported witnesses say so: what is left out of them may have kept
    /// another rule whole.
    Others,
}

/// Where something is expected; what is `None` may be anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The VM.
    pub vm: Option<VmId>,
    /// The slot.
    pub slot: Option<SlotId>,
    /// The page.
    pub gfn: Option<Gfn>,
}

/// An expectation that the judgement does not meet, or a hazard that nobody expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What was expected.
    pub expected: String,
    /// What was found instead.
    pub found: String,
}

impl Place {
    /// Whether the place is this page.
    #[must_use]
    pub fn matches(&self, vm: VmId, slot: SlotId, gfn: Option<Gfn>) -> bool {
        self.vm.is_none_or(|own| own == vm)
            && self.slot.is_none_or(|own| own == slot)
            && self.gfn.is_none_or(|own| gfn == Some(own))
    }

    fn holds(&self, finding: &Finding) -> bool {
        self.matches(finding.vm, finding.slot, finding.gfn)
    }
}

/// Compares a judgement with what the file expects of it. A hazard no line expects is a mismatch, too.
#[must_use]
pub fn check(litmus: &Litmus, summary: &Summary) -> Vec<Mismatch> {
    let mut mismatches = Vec::new();
    for expectation in &litmus.expectations {
        if !expectation.is_met(summary) {
            mismatches.push(Mismatch { expected: expectation.to_string(), found: seen(summary) });
        }
    }
    let are_others_allowed = litmus.expectations.contains(&Expectation::Others);
    for hazard in summary.hazards().filter(|_| !are_others_allowed) {
        if !litmus.expectations.iter().any(|expectation| expectation.covers(hazard)) {
            let expected = String::from("no other hazard");
            mismatches.push(Mismatch { expected, found: shown(hazard) });
        }
    }
    mismatches
}

impl Expectation {
    fn is_met(&self, summary: &Summary) -> bool {
        let mut findings = summary.findings.iter();
        match self {
            Self::Verdict { verdict: Verdict::Safe, rule, place, .. } => {
                let is_bad = |finding: &Finding| {
                    place.holds(finding) && rule.is_none_or(|r| r == finding.rule)
                };
                summary.verdicts.safe > 0 && !findings.any(|finding| is_bad(finding))
            }
            Self::Verdict { verdict, rule, place, missing } => findings.any(|finding| {
                finding.verdict == *verdict
                    && rule.is_none_or(|rule| rule == finding.rule)
                    && place.holds(finding)
                    && missing.is_none_or(|kind| finding.witness.missing == Some(kind))
            }),
            Self::Unknown { cause, place } => {
                let is_known = summary
                    .unknown_causes
                    .iter()
                    .any(|(seen, n)| *n > 0 && cause.is_none_or(|cause| cause == seen.name()));
                is_known && !summary.hazards().any(|finding| place.holds(finding))
            }
            Self::NoHazard => summary.hazards().next().is_none(),
            Self::Window { kind, place, harvests, is_open, length_ns } => {
                let stats = summary.windows(*kind);
                stats.longest.iter().chain(&stats.left_open).any(|window| {
                    place.matches(window.vm, window.slot, Some(window.gfn))
                        && harvests.is_none_or(|n| n == window.harvests_inside)
                        && is_open.is_none_or(|open| open == window.closed.is_none())
                        && length_ns.is_none_or(|length| window.open_for_ns() == Some(length))
                })
            }
            Self::Integrity => summary.integrity_total > 0,
            Self::RuleOff(rule) => summary.rules_off.iter().any(|(off, ..)| off == rule),
            Self::Others => true,
            Self::Benign(name) => summary.benign.get(name.as_str()).is_some_and(|n| *n > 0),
        }
    }

    /// The hazard is one this line speaks of.
    fn covers(&self, hazard: &Finding) -> bool {
        matches!(self, Self::Verdict { verdict, rule, place, .. }
            if *verdict == hazard.verdict
                && rule.is_none_or(|rule| rule == hazard.rule)
                && place.holds(hazard))
    }
}

fn shown(finding: &Finding) -> String {
    let gfn = finding.gfn.map_or_else(String::new, |gfn| format!(" gfn={gfn}"));
    format!("{} {} slot={}{gfn}", finding.verdict.name(), finding.rule.name(), finding.slot)
}

fn seen(summary: &Summary) -> String {
    let mut parts: Vec<String> = summary.findings.iter().map(|finding| shown(finding)).collect();
    let causes = summary.unknown_causes.iter();
    parts.extend(causes.map(|(cause, n)| format!("unknown {} x{n}", cause.name())));
    for kind in WindowKind::ALL {
        let stats = summary.windows(kind);
        let windows = stats.longest.iter().chain(&stats.left_open);
        parts.extend(windows.map(|window| {
            let open =
                window.open_for_ns().map_or(String::from("open"), |length| format!("ns={length}"));
            let inside = window.harvests_inside;
            format!("window {} gfn={} harvests={inside} {open}", kind.name(), window.gfn)
        }));
    }
    parts.push(format!("{} safe", summary.verdicts.safe));
    parts.push(format!("{} integrity violations", summary.integrity_total));
    parts.join("; ")
}

const KNOWN: &str = "lost|at-risk|exposed|safe|unknown [K01] [gfn=0x7] [slot=0:1] [vm=0x1] [missing=flush-ack], no-hazard, \
    unknown [cause=dropped-records] [gfn=..], window <kind> [gfn=..] [harvests=1] [open=yes|no] [ns=40], \
    integrity, rule-off K01, others, or benign <name>";

/// Reads the words behind `expect`.
pub(super) fn read(words: &[&str], masks: &SpteMasks) -> Result<Expectation, Problem> {
    let bad = |word: &str| Problem::Word { word: word.to_owned(), place: "expect", known: KNOWN };
    let [what, rest @ ..] = words else { return Err(bad("expect")) };
    let rule = rest.first().and_then(|word| rule_named(word));
    let kind = rest.first().and_then(|word| window_named(word));
    let verdict = Verdict::ALL.into_iter().find(|verdict| verdict.name() == *what);
    let named = usize::from(match *what {
        "window" => kind.is_some(),
        _ => rule.is_some(),
    });
    let slots = Slots::default();
    let fields = match *what {
        "benign" => Fields::new(&[], masks, &slots, super::read::VM),
        _ => Fields::new(&rest[named..], masks, &slots, super::read::VM),
    };
    let place = Place {
        vm: fields.value("vm")?.map(VmId),
        slot: fields.value("slot")?,
        gfn: fields.value("gfn")?,
    };
    let expectation = match (*what, verdict) {
        ("unknown", _) if rule.is_none() => Expectation::Unknown {
            cause: match fields.text("cause") {
                Some(name) => Some(cause_named(name).ok_or_else(|| bad(name))?),
                None => None,
            },
            place,
        },
        (_, Some(verdict)) => Expectation::Verdict {
            verdict,
            rule,
            place,
            missing: match fields.text("missing") {
                Some(name) => Some(edge_named(name).ok_or_else(|| bad(name))?),
                None => None,
            },
        },
        ("no-hazard", _) => Expectation::NoHazard,
        ("window", _) => Expectation::Window {
            kind: kind.ok_or_else(|| bad("window"))?,
            place,
            harvests: fields.value("harvests")?,
            is_open: fields.value("open")?,
            length_ns: fields.value("ns")?,
        },
        ("integrity", _) => Expectation::Integrity,
        ("others", _) => Expectation::Others,
        ("rule-off", _) => Expectation::RuleOff(rule.ok_or_else(|| bad("rule-off"))?),
        ("benign", _) if !rest.is_empty() => Expectation::Benign(rest.join(" ")),
        _ => return Err(bad(what)),
    };
    fields.unread().map_or(Ok(expectation), |word| Err(bad(word)))
}

/// The edge of that name, as [`EdgeKind::name`] gives it.
fn edge_named(text: &str) -> Option<EdgeKind> {
    EdgeKind::ALL.into_iter().find(|kind| kind.name() == text)
}

/// The cause of that name, as [`UnknownCause::name`] gives it.
fn cause_named(text: &str) -> Option<&'static str> {
    use crate::event::Operation;
    let causes = [
        UnknownCause::Dropped,
        UnknownCause::BeforeAttach,
        UnknownCause::NotObserved(Operation::Mark),
        UnknownCause::WithinEpsilon,
        UnknownCause::Limit,
        UnknownCause::Integrity,
        UnknownCause::TraceEnd,
    ];
    causes.into_iter().map(UnknownCause::name).find(|name| *name == text)
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict { verdict, rule, place, missing } => {
                f.write_str(verdict.name())?;
                if let Some(rule) = rule {
                    write!(f, " {}", rule.name())?;
                }
                write!(f, "{place}")?;
                missing.map_or(Ok(()), |kind| write!(f, " missing={}", kind.name()))
            }
            Self::Unknown { cause, place } => {
                f.write_str("unknown")?;
                if let Some(cause) = cause {
                    write!(f, " cause={cause}")?;
                }
                write!(f, "{place}")
            }
            Self::NoHazard => f.write_str("no-hazard"),
            Self::Window { kind, place, harvests, is_open, length_ns } => {
                write!(f, "window {}{place}", kind.name())?;
                if let Some(harvests) = harvests {
                    write!(f, " harvests={harvests}")?;
                }
                if let Some(open) = is_open {
                    f.write_str(if *open { " open=yes" } else { " open=no" })?;
                }
                length_ns.map_or(Ok(()), |length| write!(f, " ns={length}"))
            }
            Self::Integrity => f.write_str("integrity"),
            Self::RuleOff(rule) => write!(f, "rule-off {}", rule.name()),
            Self::Benign(name) => write!(f, "benign {name}"),
            Self::Others => f.write_str("others"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vm, slot, gfn } = self;
        if let Some(vm) = vm {
            write!(f, " vm={vm}")?;
        }
        if let Some(slot) = slot {
            write!(f, " slot={slot}")?;
        }
        gfn.map_or(Ok(()), |gfn| write!(f, " gfn={gfn}"))
    }
}
