//! The text report: what a person reads first.

use std::fmt::Write as _;

use super::json::percentile;
use crate::event::{IoctlOp, Setup};
use crate::outcome::Outcome;
use crate::summary::Summary;
use crate::verdict::rule::RuleSet;
use crate::verdict::{Finding, UnknownCause, Verdict, WindowKind};

/// Findings printed one by one.
const FINDINGS_MAX: usize = 20;

/// Harvests printed one by one.
const HARVESTS_MAX: usize = 8;

/// The report of a judged trace.
#[must_use]
pub fn report(summary: &Summary, setup: &Setup) -> String {
    let mut text = String::new();
    let outcome = Outcome::of(summary);
    let verdicts = &summary.verdicts;
    line(&mut text, format_args!("{}: {}", outcome.name(), meaning(outcome)));
    line(&mut text, format_args!(""));
    line(
        &mut text,
        format_args!(
            "verdicts   lost {}  at-risk {}  exposed {}  unknown {}  safe {}",
            verdicts.lost, verdicts.at_risk, verdicts.exposed, verdicts.unknown, verdicts.safe
        ),
    );
    line(
        &mut text,
        format_args!(
            "covered    {:.3} s, {} events, {} harvests, kernel {}, {} plan, epsilon {} ns",
            summary.covered_ns() as f64 / 1e9,
            summary.events,
            summary.harvests_total,
            setup.kernel,
            setup.plan.name,
            setup.epsilon_ns
        ),
    );
    line(
        &mut text,
        format_args!(
            "dropped    {} records in {} gaps; anomalies {}; integrity violations {}",
            summary.dropped_events,
            summary.gaps_total,
            summary.anomalies_total,
            summary.integrity_total
        ),
    );
    for gap in summary.gaps.iter().take(FINDINGS_MAX) {
        let place = gap.lane.map_or(String::from("any lane"), |lane| lane.to_string());
        let (from, to) = (seconds(summary, gap.from.0), seconds(summary, gap.to.0));
        line(
            &mut text,
            format_args!(
                "  gap      {} on {place}, {from} to {to}: {}",
                gap.dropped,
                gap.cause.name()
            ),
        );
    }
    vms(&mut text, summary);
    harvests(&mut text, summary);
    windows(&mut text, summary);
    reasons(&mut text, summary, &RuleSet::new(&setup.plan));
    findings(&mut text, summary);
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a String takes everything");
}

/// Time since the first record.
fn seconds(summary: &Summary, at: u64) -> String {
    let begin = summary.begin.map_or(0, |begin| begin.0);
    format!("{:.6} s", at.saturating_sub(begin) as f64 / 1e9)
}

const fn meaning(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Clean => "no page was lost or at risk in what is covered below",
        Outcome::Hazard => "pages were lost or at risk, see below",
        Outcome::Failed => "the trace could not be judged",
        Outcome::Inconclusive => {
            "no hazard was found, but records are missing, order was violated or no harvest was seen completely"
        }
    }
}

/// The ioctl's name in reports.
#[must_use]
pub const fn op_name(op: IoctlOp) -> &'static str {
    match op {
        IoctlOp::GetDirtyLog => "get",
        IoctlOp::ClearDirtyLog => "clear",
        IoctlOp::ResetDirtyRings => "reset",
        IoctlOp::SetMemory => "set-memory",
        IoctlOp::EnableCap => "enable-cap",
    }
}

fn vms(text: &mut String, summary: &Summary) {
    for vm in &summary.vms {
        let mode = match (vm.ring_bytes, vm.manual_protect & 3) {
            (0, 0) => "bitmap",
            (0, 1) => "bitmap, manual-protect",
            (0, _) => "bitmap, manual-protect, initially set",
            _ => "dirty ring",
        };
        line(text, format_args!("vm {}     process {}, {mode}", vm.vm, vm.tgid));
        for (id, slot) in vm.slots.iter().filter(|(_, slot)| 0 < slot.harvests || slot.is_logging) {
            line(
                text,
                format_args!(
                    "  slot {id}  gfn {} + {} pages, {}, {} harvests took {} pages",
                    slot.base,
                    slot.npages,
                    if slot.is_logging { "logging" } else { "not logging" },
                    slot.harvests,
                    slot.pages_harvested
                ),
            );
        }
    }
}

fn harvests(text: &mut String, summary: &Summary) {
    if summary.harvests.is_empty() {
        return;
    }
    line(text, format_args!(""));
    line(
        text,
        format_args!(
            "harvests   {:>6} {:>6} {:>5} {:>9} {:>10} {:>10} {:>10}  seen",
            "id", "slot", "op", "pages", "ioctl us", "protect us", "flush us"
        ),
    );
    for harvest in summary.harvests.iter().rev().take(HARVESTS_MAX).rev() {
        let micro = |ns: u64| format!("{:.1}", ns as f64 / 1e3);
        let flush = match (harvest.flush_ns, harvest.flush_counter_moved) {
            (Some(ns), _) => micro(ns),
            (None, true) => String::from("counted"),
            (None, false) => String::from("-"),
        };
        line(
            text,
            format_args!(
                "           {:>6} {:>6} {:>5} {:>9} {:>10} {:>10} {:>10}  {}",
                harvest.id,
                harvest.slot.to_string(),
                op_name(harvest.op),
                harvest.pages,
                micro(harvest.end.since(harvest.begin)),
                micro(harvest.protect_ns),
                flush,
                if harvest.is_complete { "completely" } else { "in part" }
            ),
        );
    }
}

fn windows(text: &mut String, summary: &Summary) {
    line(text, format_args!(""));
    for kind in WindowKind::ALL {
        let stats = summary.windows(kind);
        if stats.closed == 0 && stats.open == 0 {
            continue;
        }
        let micro =
            |ns: Option<u64>| ns.map_or(String::from("-"), |ns| format!("{:.1}", ns as f64 / 1e3));
        line(
            text,
            format_args!(
                "windows    {:<11} {} closed, {} open, {} with a harvest inside; us: p50 <= {}, p99 <= {}, longest {}",
                kind.name(),
                stats.closed,
                stats.open,
                stats.with_harvest,
                micro(percentile(stats, 50)),
                micro(percentile(stats, 99)),
                micro(stats.longest.first().and_then(crate::verdict::Window::open_for_ns)),
            ),
        );
    }
}

fn reasons(text: &mut String, summary: &Summary, rules: &RuleSet) {
    for (cause, count) in &summary.unknown_causes {
        let what = match cause {
            UnknownCause::NotObserved(operation) => format!("{} {operation}", cause.name()),
            cause => cause.name().to_owned(),
        };
        line(text, format_args!("unknown    {count} because: {what}"));
    }
    for (rule, operation, evidence) in &summary.rules_off {
        line(
            text,
            format_args!(
                "rule {:<5} {}: {operation} is observed {}",
                if rules.is_on(*rule) { "half" } else { "off" },
                rule.name(),
                match evidence {
                    crate::event::Evidence::None => "not at all",
                    crate::event::Evidence::Nearest => "only by its nearest observable",
                    crate::event::Evidence::Direct => "directly",
                }
            ),
        );
    }
    for (name, count) in &summary.benign {
        line(text, format_args!("benign     {count} {name}"));
    }
}

fn findings(text: &mut String, summary: &Summary) {
    for verdict in [Verdict::Lost, Verdict::AtRisk, Verdict::Exposed] {
        let of = summary.findings.iter().filter(|finding| finding.verdict == verdict);
        for finding in of.take(FINDINGS_MAX) {
            line(text, format_args!(""));
            finding_lines(text, finding, summary);
        }
    }
    let listed = summary.findings.len() as u64;
    if listed < summary.findings_total {
        line(text, format_args!("... and {} findings more", summary.findings_total - listed));
    }
}

fn finding_lines(text: &mut String, finding: &Finding, summary: &Summary) {
    let page = finding.gfn.map_or(String::from("whole slot"), |gfn| format!("gfn {gfn}"));
    line(
        text,
        format_args!(
            "{} {} {page} slot {} vm {}: {} time(s), first at {}",
            finding.verdict.name(),
            finding.rule.name(),
            finding.slot,
            finding.vm,
            finding.count,
            seconds(summary, finding.first.0)
        ),
    );
    line(text, format_args!("  {}", finding.sentence));
    if let Some(known) = finding.known {
        line(text, format_args!("  known on this kernel release: {known}"));
    }
    for (index, step) in finding.witness.steps.iter().enumerate() {
        let mark = if finding.witness.losing == Some(index) { "  <- lost here" } else { "" };
        line(
            text,
            format_args!(
                "  {:>2}. thread {:<8} {} .. {}  {}: {}{mark}",
                index + 1,
                step.event.tid,
                seconds(summary, step.event.span.lo.0),
                seconds(summary, step.event.span.hi.0),
                step.event.kind.kind().name(),
                step.note
            ),
        );
    }
}
