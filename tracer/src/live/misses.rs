//! Records that are missing without a trace in any sequence, located by polling every counter there is.

use std::collections::BTreeMap;

use kvmdirty_common::hook::HOOKS_MAX;
use kvmdirty_common::{Hook, limits};

use super::clock;
use super::counters::{self, Links};
use super::mapped::Counters;
use super::object::Object;
use super::points::POINTS;
use crate::event::{Gap, GapCause, Nanos};

/// Which counter increased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Counter {
    /// The probe's own, per hook.
    Hook(Hook),
    /// The kernel did not run this program: it was running already.
    Recursion(&'static str),
    /// The kernel did not run this kprobe.
    Kprobe(&'static str),
}

/// Records of one hook that found no room on one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops {
    /// The CPU.
    pub cpu: u16,
    /// The hook's name.
    pub hook: &'static str,
    /// How many records.
    pub records: u64,
}

/// Every miss counter with its last reading.
pub struct Misses {
    counters: Counters,
    links: Links,
    last: BTreeMap<Counter, u64>,
    polled: Nanos,
}

impl Misses {
    /// Counts from now on.
    #[must_use]
    pub fn new(counters: Counters, links: Links) -> Self {
        Self { counters, links, last: BTreeMap::new(), polled: Nanos(clock::now()) }
    }

    /// When the counters were read last: misses up to then are known.
    #[must_use]
    pub const fn polled(&self) -> Nanos {
        self.polled
    }

    /// Misses per program at the last reading.
    #[must_use]
    pub fn by_program(&self) -> Vec<(&'static str, u64)> {
        let of_program = |(&counter, &n): (&Counter, &u64)| match counter {
            Counter::Recursion(program) | Counter::Kprobe(program) => Some((program, n)),
            Counter::Hook(_) => None,
        };
        self.last.iter().filter_map(of_program).collect()
    }

    /// Reads all counters; every increase is a gap since the previous reading.
    pub fn poll(&mut self, object: &Object) -> Vec<Gap> {
        let begin = Nanos(clock::now());
        let mut readings = Vec::new();
        for &hook in Hook::ALL {
            let missed = self.hook_misses(hook);
            readings.push((Counter::Hook(hook), missed));
        }
        let recursions = counters::recursion_misses(object).into_iter();
        readings.extend(recursions.map(|(name, n)| (Counter::Recursion(name), n)));
        let kprobes = self.links.missed();
        readings.extend(kprobes.into_iter().map(|(name, n)| (Counter::Kprobe(name), n)));

        let end = Nanos(clock::now());
        let from = self.polled;
        let mut gaps = Vec::new();
        for (counter, value) in readings {
            let last = self.last.insert(counter, value).unwrap_or(0);
            if last < value && !is_harmless(counter) {
                gaps.push(gap(counter, value - last, from, end));
            }
        }
        self.polled = begin;
        gaps
    }

    /// Records that found no room in a ring, by CPU and hook; only those that are more than none.
    #[must_use]
    pub fn drops(&self) -> Vec<Drops> {
        let of_cpu = |cpu: u32| {
            Hook::ALL.iter().map(move |&hook| Drops {
                cpu: cpu as u16,
                hook: hook.name(),
                records: self.counters.word(cpu * 2 * HOOKS_MAX + hook as u32),
            })
        };
        (0..limits::CPUS_MAX).flat_map(of_cpu).filter(|drops| drops.records != 0).collect()
    }

    fn hook_misses(&self, hook: Hook) -> u64 {
        let of_cpu = |cpu| self.counters.word(cpu * 2 * HOOKS_MAX + HOOKS_MAX + hook as u32);
        (0..limits::CPUS_MAX).map(of_cpu).sum()
    }
}

/// Skipped runs of these programs leave nothing out that a verdict could rest on; they are told per program only.
///
/// The contention programs run for every contended lock of the host, and are found running already where a lock taken
/// inside a BPF program or an interrupt is contended as well, or where one is preempted (7.x). No rule rests on a wait:
/// if one for `mmu_lock` is missing, it is in the mmu_lock view only.
///
/// `thread_exit` removes a thread from the table. One that stays behind has left its brackets (or those returns are
/// counted as missed), and costs room: a full table is counted by itself.
fn is_harmless(counter: Counter) -> bool {
    matches!(counter, Counter::Recursion("contention_begin" | "contention_end" | "thread_exit"))
}

fn gap(counter: Counter, dropped: u64, from: Nanos, to: Nanos) -> Gap {
    let hook_of = |program: &str| {
        POINTS.iter().find(|point| point.program == program).map(|point| point.hook)
    };
    let (hook, cause) = match counter {
        Counter::Hook(Hook::ThreadTable) => (Some(Hook::ThreadTable), GapCause::ThreadTable),
        Counter::Hook(hook) => (Some(hook), GapCause::ProbeMissed),
        Counter::Recursion(program) | Counter::Kprobe(program) => {
            (hook_of(program), GapCause::ProbeMissed)
        }
    };
    Gap { lane: None, hook, cause, from, to, dropped }
}
