//! What tracing costs, told per probe and per harvest.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;

use crate::demo::protocol::{Harvest, IoctlTimes};
use crate::event::IoctlOp;
use crate::feed::{HarvestCost, ProbeCount};
use crate::live::Cost;
use crate::live::points::POINTS;

/// What each attached program did, given the kernel's counters of runs and of runs it skipped.
#[must_use]
pub fn probes(costs: Vec<Cost>, misses: &[(&'static str, u64)]) -> Vec<ProbeCount> {
    let count = |cost: Cost| {
        let of_program = misses.iter().filter(|(program, _)| *program == cost.program);
        ProbeCount {
            point: point_text(cost.program),
            hits: cost.runs,
            misses: of_program.map(|(_, n)| n).sum(),
            run_ns: cost.run_ns,
        }
    };
    costs.into_iter().filter(|cost| is_attached(cost.program)).map(count).collect()
}

/// Nanoseconds that programs have run which run in harvests only; `None`: the plan has no such programs.
#[must_use]
pub fn harvest_run_ns(costs: &[Cost]) -> Option<u64> {
    let mut times = costs.iter().filter(|cost| runs_in_harvests(cost.program)).peekable();
    times.peek()?;
    Some(times.map(|cost| cost.run_ns).sum())
}

/// The program is attached somewhere; others are only run once, to read the kernel.
fn is_attached(program: &str) -> bool {
    POINTS.iter().any(|point| point.program == program)
}

/// `kprobe mark_page_dirty_in_slot`.
fn point_text(program: &str) -> String {
    let point = POINTS.iter().find(|point| point.program == program);
    point.map_or_else(
        || program.to_owned(),
        |point| format!("{} {}", point.site.kind(), point.site.names().join("|")),
    )
}

/// Programs on functions that only a harvest calls: the words of a bitmap, the reset of a ring.
fn runs_in_harvests(program: &str) -> bool {
    matches!(program, "word" | "word_return" | "reset" | "reset_return")
}

/// Harvest times as the demo's guest takes them, against those of a run without a probe.
#[derive(Debug)]
pub struct GuestTimes {
    harvests: Receiver<Harvest>,
    /// Nanoseconds per ioctl, the newest.
    traced: VecDeque<u64>,
    /// The ioctl compared and its median without a probe.
    op: Option<(IoctlOp, u64)>,
}

impl GuestTimes {
    /// Times kept: a median over more would not follow what the guest does now.
    const KEPT: usize = 256;

    /// Takes the guest's own words from `harvests`.
    #[must_use]
    pub fn new(untraced: &IoctlTimes, harvests: Receiver<Harvest>) -> Self {
        let ops = [
            (IoctlOp::GetDirtyLog, untraced.get),
            (IoctlOp::ResetDirtyRings, untraced.reset),
            (IoctlOp::ClearDirtyLog, untraced.clear),
        ];
        let op = ops.into_iter().find_map(|(op, times)| Some((op, times?.median_ns)));
        Self { harvests, traced: VecDeque::new(), op }
    }

    /// The ioctl's medians, once the guest has harvested.
    pub fn cost(&mut self) -> Option<HarvestCost> {
        let (op, untraced_ns) = self.op?;
        for harvest in self.harvests.try_iter() {
            let (ns, calls) = match op {
                IoctlOp::GetDirtyLog => (harvest.get_ns, 1),
                IoctlOp::ClearDirtyLog => (harvest.clear_ns, harvest.clears),
                _ => (harvest.reset_ns, harvest.resets),
            };
            self.traced.extend(ns.checked_div(calls));
        }
        let excess = self.traced.len().saturating_sub(Self::KEPT);
        self.traced.drain(..excess);
        let mut sorted: Vec<_> = self.traced.iter().copied().collect();
        sorted.sort_unstable();
        let &traced_ns = sorted.get(sorted.len() / 2)?;
        Some(HarvestCost::Compared { op, traced_ns, untraced_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::protocol::Quantiles;

    #[test]
    fn the_added_time_is_the_difference_of_two_medians() {
        let (tell, harvests) = std::sync::mpsc::channel();
        let median = Quantiles {
            calls: 9,
            median_ns: 20_000,
            p99_ns: 50_000,
            max_ns: 60_000,
            total_ns: 200_000,
        };
        let untraced = IoctlTimes { get: Some(median), ..IoctlTimes::default() };
        let mut times = GuestTimes::new(&untraced, harvests);
        assert_eq!(times.cost(), None);
        for get_ns in [90_000, 30_000, 36_000] {
            let harvest = Harvest { get_ns, ..HARVEST };
            tell.send(harvest).expect("the other end lives");
        }
        let cost = times.cost().expect("three harvests");
        let expected = HarvestCost::Compared {
            op: IoctlOp::GetDirtyLog,
            traced_ns: 36_000,
            untraced_ns: 20_000,
        };
        assert_eq!(cost, expected);
    }

    const HARVEST: Harvest = Harvest {
        vm: 0,
        iteration: 1,
        is_final: false,
        slot: Some(0),
        reported: 1,
        copied: 1,
        get_ns: 0,
        clears: 0,
        clear_ns: 0,
        resets: 0,
        reset_ns: 0,
        unreset: 0,
        begin_ns: 0,
        end_ns: 0,
    };

    #[test]
    fn programs_are_named_by_where_they_are_attached() {
        let cost = |program| Cost { program, runs: 3, run_ns: 30 };
        let counts = probes(vec![cost("mark"), cost("read_memory")], &[("mark", 2)]);
        assert_eq!(counts.len(), 1);
        assert_eq!(counts[0].point, "kprobe mark_page_dirty_in_slot");
        assert_eq!((counts[0].hits, counts[0].misses, counts[0].run_ns), (3, 2, 30));
        assert_eq!(harvest_run_ns(&[cost("word"), cost("mark")]), Some(30));
        assert_eq!(harvest_run_ns(&[cost("sys_exit")]), None);
    }
}
