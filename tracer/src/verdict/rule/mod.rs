//! The rules, one file each; `explain K05` prints the page a file opens with, and `docs/rules.md` is made of all of
//! them.

pub mod k01_unreported_writable;
pub mod k02_mark_before_writable;
pub mod k03_harvest_inside_locked_fault;
pub mod k04_harvested_not_protected;
pub mod k05_harvested_not_flushed;
pub mod k06_ring_reset_dropped;
pub mod k07_mark_dropped;
pub mod k08_host_write_unreported;
pub mod k09_residue_after_last_harvest;
pub mod k10_flush_assumed;
pub mod k11_log_dropped_unread;
pub mod k12_zap_unflushed;
pub mod k13_wrong_gfn;
pub mod k14_clear_unread;
pub mod k15_enabled_not_protected;

use super::RuleId;
use crate::event::{Evidence, Operation, Plan};

/// A rule: what it says, and what must be observed for it to speak.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its stable id.
    pub id: RuleId,
    /// Its name, kebab-case.
    pub name: &'static str,
    /// When it is broken, in one sentence.
    pub sentence: &'static str,
    /// Without these it is off.
    pub needs: &'static [Need],
    /// Without these it is half on: it still finds what values show, and vouches for nothing: `safe` then rests on the
    /// other rules.
    pub wants: &'static [Need],
    /// The source of its file; [`Rule::page`] is made of it.
    pub source: &'static str,
}

/// An operation and the least evidence of it that will do.
pub type Need = (Operation, Evidence);

/// All rules, by number.
pub const ALL: [&Rule; 15] = [
    &k01_unreported_writable::RULE,
    &k02_mark_before_writable::RULE,
    &k03_harvest_inside_locked_fault::RULE,
    &k04_harvested_not_protected::RULE,
    &k05_harvested_not_flushed::RULE,
    &k06_ring_reset_dropped::RULE,
    &k07_mark_dropped::RULE,
    &k08_host_write_unreported::RULE,
    &k09_residue_after_last_harvest::RULE,
    &k10_flush_assumed::RULE,
    &k11_log_dropped_unread::RULE,
    &k12_zap_unflushed::RULE,
    &k13_wrong_gfn::RULE,
    &k14_clear_unread::RULE,
    &k15_enabled_not_protected::RULE,
];

impl RuleId {
    /// The rule of this id.
    #[must_use]
    pub const fn rule(self) -> &'static Rule {
        ALL[self as usize]
    }
}

impl Rule {
    /// The page `explain` prints: the file's documentation as Markdown.
    #[must_use]
    pub fn page(&self) -> String {
        let lines = self.source.lines().map_while(|line| line.strip_prefix("//!"));
        let mut page = String::new();
        for line in lines {
            page.push_str(line.strip_prefix(' ').unwrap_or(line));
            page.push('\n');
        }
        page
    }
}

/// `docs/rules.md`: all pages.
#[must_use]
pub fn rules_page() -> String {
    let mut page = String::from(
        "# The rules\n\nMade from the rule files (`tracer/src/verdict/rule/`) by \
         `KVMDIRTY_UPDATE=1 cargo test --test docs`; that test fails when it is stale.\n",
    );
    for rule in ALL {
        page.push_str("\n## ");
        page.push_str(&rule.page());
    }
    page
}

/// How far a rule may speak on a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Fully.
    On,
    /// Only to name hazards, for want of this operation.
    Half(Operation, Evidence),
    /// Not at all, for want of this operation.
    Off(Operation, Evidence),
}

/// The rules and how far each may speak on the plan of a trace.
#[derive(Clone, Debug)]
pub struct RuleSet {
    reach: [Reach; 15],
    sees_flushes: bool,
    has_write_protect: bool,
    unseen_opening: Option<Operation>,
}

impl RuleSet {
    /// The rules on that plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let lacks = |needs: &[Need]| {
            let mut needs = needs.iter().map(|&(op, least)| (op, least, plan.evidence(op)));
            needs.find(|(_, least, found)| found < least).map(|(op, _, found)| (op, found))
        };
        let reach = ALL.map(|rule| match (lacks(rule.needs), lacks(rule.wants)) {
            (Some((op, found)), _) => Reach::Off(op, found),
            (None, Some((op, found))) => Reach::Half(op, found),
            (None, None) => Reach::On,
        });
        Self {
            reach,
            sees_flushes: Evidence::Direct <= plan.evidence(Operation::Flush),
            unseen_opening: unseen_opening(plan),
            has_write_protect: Evidence::Nearest <= plan.evidence(Operation::WriteProtect),
        }
    }

    /// How far the rule may speak.
    #[must_use]
    pub const fn reach(&self, rule: RuleId) -> Reach {
        self.reach[rule as usize]
    }

    /// The rule may at least name hazards.
    #[must_use]
    pub const fn is_on(&self, rule: RuleId) -> bool {
        !matches!(self.reach[rule as usize], Reach::Off(..))
    }

    /// The rule may argue from what it did not see.
    #[must_use]
    pub fn is_whole(&self, rule: RuleId) -> bool {
        self.reach[rule as usize] == Reach::On
    }

    /// Flushes are seen one by one.
    #[must_use]
    pub const fn sees_flushes(&self) -> bool {
        self.sees_flushes
    }

    /// Protection of pages is seen at all.
    #[must_use]
    pub const fn has_write_protect(&self) -> bool {
        self.has_write_protect
    }

    /// An operation that makes pages writable and is not observed: one that was seen closed may be open again.
    #[must_use]
    pub const fn unseen_opening(&self) -> Option<Operation> {
        self.unseen_opening
    }

    /// Rules that are off or half on, and the operation each misses.
    #[must_use]
    pub fn off(&self) -> Vec<(RuleId, Operation, Evidence)> {
        let rules = RuleId::ALL.into_iter().zip(self.reach);
        rules
            .filter_map(|(rule, reach)| match reach {
                Reach::On => None,
                Reach::Half(op, found) | Reach::Off(op, found) => Some((rule, op, found)),
            })
            .collect()
    }
}

/// Where a harvest shows only which pages it protected, the others are known by what opened and closed them. A plan
/// that reads SPTEs back when the ioctl returns sees their state itself.
fn unseen_opening(plan: &Plan) -> Option<Operation> {
    let needed = match plan.evidence(Operation::WriteProtect) {
        Evidence::Direct => &[Operation::SpteChange, Operation::FastFault][..],
        Evidence::Nearest | Evidence::None => &[Operation::SpteChange],
    };
    needed.iter().copied().find(|&operation| plan.evidence(operation) == Evidence::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_listed_by_their_number() {
        for (rule, id) in ALL.iter().zip(RuleId::ALL) {
            assert_eq!(rule.id, id);
            let page = rule.page();
            let first = page.lines().next().unwrap_or_default();
            assert!(first.starts_with(&format!("{} ", id.name())), "{first}");
            assert!(first.contains(rule.name), "{first}");
            for part in ["```text", "Evidence:", "Look-alikes:", "Blind spots:", "Kernel:"] {
                assert!(page.contains(part), "{} lacks {part}", id.name());
            }
        }
    }

    #[test]
    fn an_empty_plan_turns_every_rule_off_and_a_complete_one_none() {
        assert_eq!(RuleSet::new(&Plan::default()).off().len(), 15);
        assert_eq!(RuleSet::new(&Plan::complete("litmus")).off(), []);
    }
}
