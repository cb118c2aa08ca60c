//! What tracing costs: the same guest's harvests with and without it, and each program of the probe.

use std::fmt::Write as _;

use serde::Serialize;

use crate::demo::protocol::{GuestReport, IoctlTimes, Quantiles};
use crate::live::Cost;

/// What tracing may add to the time of a harvest ioctl, per page it reports.
///
/// A page costs one SPTE read back, or one visit of its SPTE under `mmu_lock`; the kernel itself takes 20 to 100 ns.
const BUDGET_NS_PER_PAGE: f64 = 500.0;

/// Host-side times of the harvest ioctls with and without the probe attached.
#[derive(Serialize)]
pub struct HarvestTime {
    untraced: Option<Side>,
    traced: Side,
    added_ns_per_page: Option<f64>,
    budget_ns_per_page: f64,
    is_within_budget: Option<bool>,
}

/// One of the two.
#[derive(Serialize)]
struct Side {
    #[serde(flatten)]
    ioctls: IoctlTimes,
    /// Pages (ring: entries) all harvests reported.
    pages: u64,
    /// Time inside the ioctls per page.
    ns_per_page: Option<f64>,
}

/// What one program of the probe cost.
#[derive(Serialize)]
pub struct ProgramCost {
    program: &'static str,
    runs: u64,
    /// Per run, the kernel's own measuring (about 60 ns) included.
    ns_per_run: f64,
}

impl HarvestTime {
    /// Compares two runs of the same guest.
    #[must_use]
    pub fn new(untraced: Option<&GuestReport>, traced: &GuestReport) -> Self {
        let (untraced, traced) = (untraced.map(Side::new), Side::new(traced));
        let added_ns_per_page = untraced
            .as_ref()
            .and_then(|untraced| untraced.ns_per_page)
            .zip(traced.ns_per_page)
            .map(|(untraced, traced)| traced - untraced);
        Self {
            untraced,
            traced,
            added_ns_per_page,
            budget_ns_per_page: BUDGET_NS_PER_PAGE,
            is_within_budget: added_ns_per_page.map(|added| added <= BUDGET_NS_PER_PAGE),
        }
    }

    /// As lines of the text report.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let before = self.untraced.as_ref().map(|side| side.ioctls).unwrap_or_default();
        let now = self.traced.ioctls;
        let ioctls = [
            ("get", now.get, before.get),
            ("clear", now.clear, before.clear),
            ("reset", now.reset, before.reset),
        ];
        for (name, traced, untraced) in ioctls {
            let Some(traced) = traced else { continue };
            let us = |ns: u64| ns as f64 / 1e3;
            let untraced = untraced.map_or(String::from("not measured"), |untraced| {
                format!("{:.1} us", us(untraced.median_ns))
            });
            let _ = writeln!(
                text,
                "harvest    {name}: median {:.1} us traced, {untraced} untraced; p99 {:.1} us, longest {:.1} us",
                us(traced.median_ns),
                us(traced.p99_ns),
                us(traced.max_ns)
            );
        }
        if let (Some(added), Some(traced)) = (self.added_ns_per_page, self.traced.ns_per_page) {
            let _ = writeln!(
                text,
                "harvest    {traced:.0} ns per page traced, {:.0} untraced: tracing adds {added:.0}, its budget is {:.0} ({})",
                traced - added,
                self.budget_ns_per_page,
                if self.is_within_budget == Some(true) { "kept" } else { "exceeded" },
            );
        }
        text
    }
}

impl Side {
    fn new(report: &GuestReport) -> Self {
        let ioctls = report.ioctl_times;
        let total: u64 = [ioctls.get, ioctls.clear, ioctls.reset]
            .iter()
            .flatten()
            .map(|times: &Quantiles| times.total_ns)
            .sum();
        let pages = report.vms.iter().map(|vm| vm.reported).sum();
        let ns_per_page = (0 < pages).then(|| total as f64 / pages as f64);
        Self { ioctls, pages, ns_per_page }
    }
}

/// The programs that ran, dearest in all first.
#[must_use]
pub fn programs(costs: &[Cost]) -> Vec<ProgramCost> {
    let mut costs: Vec<_> = costs.iter().filter(|cost| 0 < cost.runs && 0 < cost.run_ns).collect();
    costs.sort_by_key(|cost| std::cmp::Reverse(cost.run_ns));
    costs
        .into_iter()
        .map(|cost| ProgramCost {
            program: cost.program,
            runs: cost.runs,
            ns_per_run: cost.run_ns as f64 / cost.runs as f64,
        })
        .collect()
}

/// The programs as lines of the text report.
#[must_use]
pub fn programs_text(costs: &[ProgramCost]) -> String {
    let mut text = String::new();
    for ProgramCost { program, runs, ns_per_run } in costs {
        let _ =
            writeln!(text, "probe      {program:<20} {runs:>10} runs, {ns_per_run:>6.0} ns each");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::config::Mode;

    fn report(total_ns: u64, reported: u64) -> GuestReport {
        let times = Quantiles { calls: 1, median_ns: total_ns, p99_ns: 0, max_ns: 0, total_ns };
        let ioctl_times = IoctlTimes { get: Some(times), ..IoctlTimes::default() };
        let vm = serde_json::json!({
            "vm": 0, "iterations": 1, "reported": reported, "copied": 0, "stores": 0,
            "exits": {"out": 0, "mmio": 0, "interrupted": 0, "ring_full": 0},
            "compared": 0, "changed": 0, "lost": [], "unreset": 0
        });
        GuestReport {
            pid: 1,
            mode: Mode::Get,
            elapsed_ns: 1,
            vms: vec![serde_json::from_value(vm).unwrap()],
            ioctl_times,
            workloads: Vec::new(),
        }
    }

    #[test]
    fn what_tracing_adds_is_told_per_page_beside_its_budget() {
        let time = HarvestTime::new(Some(&report(1000, 10)), &report(3000, 20));
        assert_eq!(time.added_ns_per_page, Some(50.0));
        assert_eq!(time.is_within_budget, Some(true));
        assert!(time.text().contains("150 ns per page traced, 100 untraced: tracing adds 50"));
        let dear = HarvestTime::new(Some(&report(1000, 10)), &report(9000, 10));
        assert!(dear.text().contains("exceeded"));
        assert_eq!(HarvestTime::new(None, &report(1, 0)).added_ns_per_page, None);
    }

    #[test]
    fn programs_that_never_ran_are_left_out() {
        let cost = |program, runs, run_ns| Cost { program, runs, run_ns };
        let rows = programs(&[cost("a", 2, 100), cost("b", 0, 0), cost("c", 1, 900)]);
        assert_eq!(rows.iter().map(|row| row.program).collect::<Vec<_>>(), ["c", "a"]);
        assert!(programs_text(&rows).contains("50 ns each"));
    }
}
