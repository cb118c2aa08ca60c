//! The comparison as a person reads it: the conclusion, both sides in two columns, what changed.

use std::fmt::Write as _;

use crate::export::report::figures::micro;

use super::{CostRow, Diff, HazardRow, Pair, SideRow, WindowRow};

/// Hazards printed one by one, of those that appeared and of those that vanished.
const HAZARDS_MAX: usize = 20;

/// Columns of a label, and of a value.
const LABEL: usize = 22;
const VALUE: usize = 24;

/// Columns of a rule's id and name.
const LABEL_OF_RULE: usize = 34;
const WIDE: usize = 2 + LABEL_OF_RULE;

/// The text of a comparison.
pub(super) fn text(diff: &Diff) -> String {
    let mut text = format!("{}: {}\n\n", diff.conclusion.name(), diff.reason);
    sides(&mut text, &diff.before, &diff.after);
    if !diff.rules.is_empty() {
        let _ = writeln!(text, "\n{:<WIDE$}{:<VALUE$}  after", "findings by rule", "before");
        for row in &diff.rules {
            let cell = |hazards: u64, exposed: u64| format!("{hazards} hazards, {exposed} exposed");
            let label = format!("{} {}", row.rule, row.name);
            let before = cell(row.hazards.before, row.exposed.before);
            let after = cell(row.hazards.after, row.exposed.after);
            let _ = writeln!(text, "  {label:<LABEL_OF_RULE$}{before:<VALUE$}  {after}");
        }
    }
    hazards(&mut text, "only in the second", &diff.appeared);
    hazards(&mut text, "only in the first", &diff.vanished);
    if 0 < diff.hazards_in_both {
        let _ = writeln!(text, "\nhazards in both: {}", diff.hazards_in_both);
    }
    costs(&mut text, diff);
    windows(&mut text, diff);
    text
}

fn sides(text: &mut String, before: &SideRow, after: &SideRow) {
    let mut row = |label: &str, of: &dyn Fn(&SideRow) -> String| {
        let line = format!("{label:<LABEL$}{:<VALUE$}  {}", of(before), of(after));
        let _ = writeln!(text, "{}", line.trim_end());
    };
    row("", &|side| side.file.clone());
    row("kernel", &|side| side.kernel.clone());
    row("plan", &|side| side.plan.clone());
    row("outcome", &|side| side.outcome.to_owned());
    row("covered", &|side| format!("{:.3} s", side.covered_ns as f64 / 1e9));
    row("events", &|side| side.events.to_string());
    row("dropped records", &|side| side.dropped_events.to_string());
    row("integrity violations", &|side| side.integrity_violations.to_string());
    row("harvests", &|side| side.harvests.to_string());
    row("judged lost", &|side| side.verdicts.lost.to_string());
    row("judged at-risk", &|side| side.verdicts.at_risk.to_string());
    row("judged exposed", &|side| side.verdicts.exposed.to_string());
    row("judged safe", &|side| side.verdicts.safe.to_string());
    row("unknown", &|side| side.verdicts.unknown.to_string());
    // So many fit a column.
    const RULES: usize = 6;
    let longest = before.rules_off.len().max(after.rules_off.len());
    for nth in 0..longest.div_ceil(RULES).max(1) {
        row(if nth == 0 { "rules off" } else { "" }, &|side| {
            let some = side.rules_off.iter().skip(nth * RULES).take(RULES);
            let some = some.copied().collect::<Vec<_>>().join(" ");
            if nth == 0 && some.is_empty() { String::from("none") } else { some }
        });
    }
    if 0 < before.findings_unlisted + after.findings_unlisted {
        row("findings not listed", &|side| side.findings_unlisted.to_string());
    }
}

fn hazards(text: &mut String, what: &str, rows: &[HazardRow]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "\nhazards {what}");
    for HazardRow { verdict, rule, slot, gfn, count, sentence, known } in
        rows.iter().take(HAZARDS_MAX)
    {
        let page = gfn.as_ref().map_or(String::from("whole slot"), |gfn| format!("gfn {gfn}"));
        let known = known.map_or(String::new(), |known| format!(" (known: {known})"));
        let _ = writeln!(text, "  {verdict} {rule} {page} slot {slot}, {count} time(s){known}");
        let _ = writeln!(text, "    {sentence}");
    }
    if HAZARDS_MAX < rows.len() {
        let _ = writeln!(text, "  ... and {} more (--json)", rows.len() - HAZARDS_MAX);
    }
}

fn costs(text: &mut String, diff: &Diff) {
    if diff.harvests.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n{:<LABEL$}{:>9}{:>12}{:>10}{:>10}{:>10}{:>10}",
        "harvests", "number", "pages each", "p50 us", "p90 us", "p99 us", "max us"
    );
    for (op, Pair { before, after }) in &diff.harvests {
        for (side, row) in [("before", before), ("after", after)] {
            cost_line(text, &format!("  {op} {side}"), row);
        }
        let change = |of: fn(&CostRow) -> Option<u64>| change(of(before), of(after));
        let _ = writeln!(
            text,
            "{:<LABEL$}{:>21}{:>10}{:>10}{:>10}{:>10}",
            "  change",
            "",
            change(|row| row.ioctl_p50_ns),
            change(|row| row.ioctl_p90_ns),
            change(|row| row.ioctl_p99_ns),
            change(|row| row.ioctl_max_ns),
        );
    }
}

fn cost_line(text: &mut String, label: &str, row: &CostRow) {
    let CostRow { harvests, pages, ioctl_p50_ns, ioctl_p90_ns, ioctl_p99_ns, ioctl_max_ns } = *row;
    let _ = writeln!(
        text,
        "{label:<LABEL$}{harvests:>9}{:>12.1}{:>10}{:>10}{:>10}{:>10}",
        pages as f64 / harvests.max(1) as f64,
        micro(ioctl_p50_ns),
        micro(ioctl_p90_ns),
        micro(ioctl_p99_ns),
        micro(ioctl_max_ns)
    );
}

fn windows(text: &mut String, diff: &Diff) {
    if diff.windows.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n{:<LABEL$}{:>9}{:>12}{:>14}{:>10}{:>10}{:>12}",
        "windows", "closed", "left open", "with harvest", "p50 <= us", "p99 <= us", "longest us"
    );
    for (kind, Pair { before, after }) in &diff.windows {
        for (side, row) in [("before", before), ("after", after)] {
            let WindowRow { closed, open, with_harvest, p50_ns, p99_ns, longest_ns } = *row;
            let label = format!("  {kind} {side}");
            let _ = writeln!(
                text,
                "{label:<LABEL$}{closed:>9}{open:>12}{with_harvest:>14}{:>10}{:>10}{:>12}",
                micro(p50_ns),
                micro(p99_ns),
                micro(longest_ns)
            );
        }
    }
}

/// The change in percent of what was before.
fn change(before: Option<u64>, after: Option<u64>) -> String {
    match (before, after) {
        (Some(before), Some(after)) if before != 0 => {
            format!("{:+.0} %", 100.0 * (after as f64 / before as f64 - 1.0))
        }
        _ => String::new(),
    }
}
