//! From the table of points to what is attached on this kernel, and why not more.

use std::collections::{BTreeMap, BTreeSet};

use super::kernel::Kernel;
use super::points::{POINTS, Point, Site};
use super::ways::{self, Way};
use crate::event::{Evidence, Operation, Plan, PlanEntry};

/// Which set of programs is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlanKind {
    /// kprobes and raw tracepoints.
    Kprobe,
    /// Raw tracepoints only.
    Tracepoint,
}

/// One program and the symbols it attaches to.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The program's line of the table.
    pub point: &'static Point,
    /// The symbols it attaches to, at least one.
    pub symbols: Vec<&'static str>,
}

/// What will be attached.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Which plan.
    pub kind: PlanKind,
    /// The programs to attach.
    pub attachments: Vec<Attachment>,
    /// What that observes.
    pub plan: Plan,
}

/// Programs the running kernel refused, with its reason.
pub type Refused = BTreeMap<&'static str, String>;

impl PlanKind {
    /// Its name in plans, reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    const fn ways(self) -> &'static [Way] {
        match self {
            Self::Kprobe => ways::KPROBE_WAYS,
            Self::Tracepoint => ways::TRACEPOINT_WAYS,
        }
    }

    const fn extras(self) -> &'static [&'static str] {
        match self {
            Self::Kprobe => ways::KPROBE_EXTRAS,
            Self::Tracepoint => ways::TRACEPOINT_EXTRAS,
        }
    }
}

impl Blueprint {
    /// Chooses for every operation the best way the kernel allows.
    #[must_use]
    pub fn new(kind: PlanKind, kernel: &Kernel, refused: &Refused) -> Self {
        let mut programs: BTreeSet<_> = kind.extras().iter().copied().collect();
        let entries: Vec<_> = Operation::ALL
            .iter()
            .map(|&operation| entry(kind, operation, kernel, refused, &mut programs))
            .collect();
        let attachments = POINTS
            .iter()
            .filter(|point| programs.contains(point.program))
            .filter_map(|point| {
                let symbols = sites(point, kernel, refused).ok()?;
                Some(Attachment { point, symbols })
            })
            .collect();
        Self { kind, attachments, plan: Plan { name: kind.name().to_owned(), entries } }
    }

    /// Why this plan cannot stand at all: without the ioctls and slots nothing can be judged. `None` if it can.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        self.plan
            .entries
            .iter()
            .find(|entry| {
                matches!(entry.operation, Operation::Ioctl | Operation::Slot)
                    && entry.evidence == Evidence::None
            })
            .map(|entry| entry.note.as_str())
    }
}

/// The best way to observe one operation; adds its programs to `chosen`.
fn entry(
    kind: PlanKind,
    operation: Operation,
    kernel: &Kernel,
    refused: &Refused,
    chosen: &mut BTreeSet<&'static str>,
) -> PlanEntry {
    let mut reasons: Vec<String> = Vec::new();
    for way in kind.ways().iter().filter(|way| way.operation == operation) {
        match points_of(way, kernel, refused) {
            Ok(points) => {
                chosen.extend(way.programs);
                let mut note = way.note.to_owned();
                if let Some(reason) = reasons.first() {
                    let lead = if note.is_empty() { "fallback: " } else { "; fallback: " };
                    note += &format!("{lead}{reason}");
                }
                return PlanEntry { operation, evidence: way.evidence, points, note };
            }
            Err(reason) => reasons.push(reason),
        }
    }
    let note = match reasons.first() {
        Some(reason) => reason.clone(),
        None => format!("not observable with the {} plan", kind.name()),
    };
    PlanEntry { operation, evidence: Evidence::None, points: Vec::new(), note }
}

/// The points of a way as text, or why one of them is missing.
fn points_of(way: &Way, kernel: &Kernel, refused: &Refused) -> Result<Vec<String>, String> {
    if let Some(condition) = &way.condition
        && !(condition.holds)(kernel)
    {
        return Err(condition.otherwise.to_owned());
    }
    let mut texts = Vec::new();
    for program in way.programs {
        let point = POINTS
            .iter()
            .find(|point| point.program == *program)
            .expect("ways name programs of the table (tested)");
        for symbol in sites(point, kernel, refused)? {
            texts.push(format!("{} {symbol}", point.site.kind()));
        }
    }
    Ok(texts)
}

/// The symbols a program attaches to on this kernel, or why it cannot.
fn sites(point: &Point, kernel: &Kernel, refused: &Refused) -> Result<Vec<&'static str>, String> {
    if let Some(reason) = refused.get(point.program) {
        return Err(reason.clone());
    }
    if point.program == "sys_exit" && !kernel.has_bpf_loop() {
        return Err("bpf_loop needs Linux 5.17".to_owned());
    }
    let found = |names: &[&'static str]| -> Vec<&'static str> {
        names.iter().copied().filter(|name| kernel.symbols.has(name)).collect()
    };
    let symbols = match point.site {
        // Tracepoints of the core kernel may lack the symbol they are recognised by; attaching tells.
        Site::Tracepoint(name) if name.starts_with("sys_") || name.starts_with("sched_") => {
            return Ok(vec![name]);
        }
        Site::Tracepoint(name) if kernel.symbols.has_tracepoint(name) => return Ok(vec![name]),
        Site::Tracepoint(name) => return Err(format!("this kernel has no tracepoint {name}")),
        Site::Entry(_) | Site::Return(_) | Site::EveryEntry(_) | Site::EveryReturn(_)
            if !kernel.has_kprobes =>
        {
            return Err("this kernel has no kprobes".to_owned());
        }
        Site::Entry(names) | Site::Return(names) => found(names).into_iter().take(1).collect(),
        Site::EveryEntry(names) | Site::EveryReturn(names) => found(names),
    };
    if symbols.is_empty() {
        let names = point.site.names().join(", ");
        return Err(format!("this kernel has no function {names} (inlined or absent)"));
    }
    Ok(symbols)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_name_programs_of_the_table() {
        for kind in [PlanKind::Kprobe, PlanKind::Tracepoint] {
            let programs = kind.ways().iter().flat_map(|way| way.programs).chain(kind.extras());
            for program in programs {
                assert!(POINTS.iter().any(|point| point.program == *program), "{program}");
            }
        }
    }

    #[test]
    fn the_best_ways_are_what_the_named_plans_say() {
        for kind in [PlanKind::Kprobe, PlanKind::Tracepoint] {
            let named = Plan::named(kind.name());
            for &operation in Operation::ALL {
                let mut ways = kind.ways().iter().filter(|way| way.operation == operation);
                let best = ways.next().map_or(Evidence::None, |way| way.evidence);
                assert_eq!(named.evidence(operation), best, "{} {operation}", kind.name());
            }
        }
    }

    /// A program that is preempted makes other threads of its CPU miss theirs (7.x).
    #[test]
    fn the_end_of_a_run_needs_no_tracepoint_where_those_are_preempted() {
        let mut runs = ways::KPROBE_WAYS.iter().filter(|way| way.operation == Operation::Run);
        let taken = runs.find(|way| way.condition.is_none()).expect("a way for every kernel");
        for program in taken.programs {
            let point = POINTS.iter().find(|point| point.program == *program);
            let site = point.map(|point| point.site);
            assert!(matches!(site, Some(Site::Entry(_))), "{program}: {site:?}");
        }
    }

    #[test]
    fn programs_have_one_line_each() {
        let names: BTreeSet<_> = POINTS.iter().map(|point| point.program).collect();
        assert_eq!(names.len(), POINTS.len());
    }
}
