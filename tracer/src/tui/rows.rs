//! The rows of every list, filtered and in order: what a selection's index points into.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::{IoctlOp, SlotId, VmId};
use crate::summary::{Harvest, SlotSummary};
use crate::tui::describe;
use crate::tui::model::{Direction, List, Model, Sort};
use crate::verdict::{Finding, PageRange, Verdict, Window};

/// The findings of the VM looked at that pass the filter, sorted.
#[must_use]
pub fn findings(model: &Model) -> Vec<&Arc<Finding>> {
    let mut rows: Vec<_> =
        model.shown.summary.findings.iter().filter(|finding| is_shown(model, finding)).collect();
    rows.sort_by(|a, b| {
        let order = compare(a, b, model.overview.sort);
        match model.overview.direction {
            Direction::Forward => order,
            Direction::Backward => order.reverse(),
        }
    });
    rows
}

/// The longest windows of all kinds, longest first.
#[must_use]
pub fn windows(model: &Model) -> Vec<Window> {
    let mut rows: Vec<_> = model
        .shown
        .summary
        .windows
        .iter()
        .flat_map(|stats| stats.longest.iter().copied())
        .filter(|window| is_of(model, window.vm) && passes(model, || window_text(window)))
        .collect();
    rows.sort_by_key(|window| std::cmp::Reverse(window.open_for_ns()));
    rows
}

/// The harvests, newest first.
#[must_use]
pub fn harvests(model: &Model) -> Vec<Harvest> {
    model
        .shown
        .summary
        .harvests
        .iter()
        .rev()
        .filter(|harvest| is_shown_harvest(model, harvest))
        .copied()
        .collect()
}

/// Slots of the VM looked at.
#[must_use]
pub fn slots(model: &Model) -> Vec<(VmId, SlotId, &SlotSummary)> {
    model
        .shown
        .summary
        .vms
        .iter()
        .filter(|vm| is_of(model, vm.vm))
        .flat_map(|vm| vm.slots.iter().map(move |(&id, slot)| (vm.vm, id, slot)))
        .collect()
}

/// How many rows the overview's list has.
#[must_use]
pub fn list_len(model: &Model) -> usize {
    len_of(model, model.overview.list)
}

/// How many rows one of the overview's lists has.
#[must_use]
pub fn len_of(model: &Model, list: List) -> usize {
    match list {
        List::Findings => {
            let findings = model.shown.summary.findings.iter();
            findings.filter(|finding| is_shown(model, finding)).count()
        }
        List::Windows => windows(model).len(),
        List::Harvests => {
            let harvests = model.shown.summary.harvests.iter();
            harvests.filter(|harvest| is_shown_harvest(model, harvest)).count()
        }
    }
}

fn is_shown(model: &Model, finding: &Finding) -> bool {
    is_of(model, finding.vm) && passes(model, || finding_text(finding))
}

fn is_shown_harvest(model: &Model, harvest: &Harvest) -> bool {
    is_of(model, harvest.vm) && passes(model, || harvest_text(harvest))
}

/// Findings whose page lies in a range, in the order of the list.
#[must_use]
pub fn findings_in<'a>(model: &'a Model, range: &PageRange) -> Vec<&'a Arc<Finding>> {
    findings(model)
        .into_iter()
        .filter(|finding| {
            finding.vm == range.vm
                && finding.slot == range.slot
                && finding.gfn.is_some_and(|gfn| range.holds(gfn))
        })
        .collect()
}

/// One pass over all slots: what a migration calls an iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Iteration {
    /// Its number.
    pub number: u64,
    /// Slots harvested in it.
    pub harvests: u64,
    /// Pages taken.
    pub pages: u64,
    /// From first to last word, over its harvests, in nanoseconds.
    pub protect_ns: u64,
    /// In flushes, as far as they were timed, in nanoseconds.
    pub flush_ns: u64,
    /// In the ioctls, in nanoseconds.
    pub ioctl_ns: u64,
    /// Worst verdict on its pages.
    pub worst: Option<Verdict>,
}

/// The iterations still known, oldest first.
///
/// Where the VMM reads with GET and clears with CLEAR, an iteration is one GET per slot: CLEAR may cut a slot into
/// pieces and take as many calls as it likes.
#[must_use]
pub fn iterations(model: &Model) -> Vec<Iteration> {
    let harvests = &model.shown.summary.harvests;
    let seen = |op| harvests.iter().any(|harvest| harvest.op == op && is_of(model, harvest.vm));
    let op = [IoctlOp::GetDirtyLog, IoctlOp::ResetDirtyRings, IoctlOp::ClearDirtyLog]
        .into_iter()
        .find(|&op| seen(op));
    let mut iterations: BTreeMap<u64, Iteration> = BTreeMap::new();
    for harvest in harvests {
        if Some(harvest.op) != op || !is_of(model, harvest.vm) {
            continue;
        }
        let iteration = iterations
            .entry(harvest.iteration)
            .or_insert(Iteration { number: harvest.iteration, ..Iteration::default() });
        iteration.harvests += 1;
        iteration.pages += harvest.pages;
        iteration.protect_ns += harvest.protect_ns;
        iteration.flush_ns += harvest.flush_ns.unwrap_or(0);
        iteration.ioctl_ns += harvest.end.since(harvest.begin);
        iteration.worst = iteration.worst.max(harvest.worst);
    }
    iterations.into_values().collect()
}

/// Whether pages left per iteration go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convergence {
    /// Fewer than three iterations.
    TooEarly,
    /// The last ones took less and less.
    Converging,
    /// They take about the same.
    Steady,
    /// They take more and more.
    Diverging,
}

impl Convergence {
    /// The word on screen.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooEarly => "too early to tell",
            Self::Converging => "converging",
            Self::Steady => "steady",
            Self::Diverging => "diverging",
        }
    }

    /// Compares the mean of the last iterations with the mean of as many before them, four each once there are so many;
    /// within a tenth is steady. Single iterations vary far more than that.
    #[must_use]
    pub fn of(iterations: &[Iteration]) -> Self {
        let n = (iterations.len() / 2).min(4) as u64;
        if iterations.len() < 3 {
            return Self::TooEarly;
        }
        let mut newest = iterations.iter().rev().map(|iteration| u128::from(iteration.pages));
        let last: u128 = newest.by_ref().take(n as usize).sum();
        let before: u128 = newest.take(n as usize).sum();
        if last * 10 < before * 9 {
            Self::Converging
        } else if before * 11 < last * 10 {
            Self::Diverging
        } else {
            Self::Steady
        }
    }
}

fn is_of(model: &Model, vm: VmId) -> bool {
    model.vm.is_none_or(|wanted| wanted == vm)
}

fn passes(model: &Model, text: impl FnOnce() -> String) -> bool {
    if model.filter.is_empty() {
        return true;
    }
    let text = text().to_lowercase();
    model.filter.split_whitespace().all(|word| text.contains(word))
}

fn finding_text(finding: &Finding) -> String {
    let gfn = finding.gfn.map(|gfn| gfn.to_string()).unwrap_or_default();
    format!(
        "{} {} {} {gfn} {} {}",
        finding.verdict.name(),
        finding.rule.name(),
        finding.slot,
        finding.sentence,
        finding.known.unwrap_or_default()
    )
}

fn window_text(window: &Window) -> String {
    format!("{} {} {} {}", window.kind.name(), window.slot, window.gfn, window.tid)
}

fn harvest_text(harvest: &Harvest) -> String {
    let verdict = harvest.worst.map_or("", Verdict::name);
    format!("{} {} {} {verdict}", describe::ioctl(harvest.op), harvest.slot, harvest.tid)
}

fn compare(a: &Finding, b: &Finding, sort: Sort) -> Ordering {
    let time = || a.first.cmp(&b.first).then(a.rule.cmp(&b.rule)).then(a.gfn.cmp(&b.gfn));
    match sort {
        // Worst first; everything else smallest first, counts largest first.
        Sort::Verdict => b.verdict.cmp(&a.verdict).then_with(time),
        Sort::Time => time(),
        Sort::Rule => a.rule.cmp(&b.rule).then_with(time),
        Sort::Page => (a.slot, a.gfn).cmp(&(b.slot, b.gfn)).then_with(time),
        Sort::Count => b.count.cmp(&a.count).then_with(time),
    }
}
