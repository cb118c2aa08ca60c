//! The tables of `docs/kernels.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{Row, mmu_name};
use crate::lab::{guest, machine::Mmu, report::Report};

const MMUS: [Mmu; 3] = [Mmu::Tdp, Mmu::Shadow, Mmu::Npt0];

/// One line per run.
pub fn runs(rows: &[Row]) -> String {
    let mut text = String::from(
        "| mmu | CPUs | guest | mode | vCPUs | plan | events | dropped | harvests | lost | at risk | \
         exposed | safe | unknown | content | result |\n\
         |---|--:|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|---|\n",
    );
    for row in rows {
        text += &run_line(row);
    }
    text
}

fn run_line(row: &Row) -> String {
    let Row { cell, guest, result, .. } = row;
    let mut line = format!(
        "| {} | {} | {} | {} | {} | ",
        mmu_name(cell.mmu),
        cell.cpus,
        if guest.name == guest.mode { "plain" } else { guest.name },
        guest.mode,
        guest.vcpus
    );
    let verdict = in_words(row);
    if let Ok(report) = result {
        let verdicts = &report.verdicts;
        let content = if report.oracle.lost_pages == 0 {
            format!("{} agree", report.oracle.compared)
        } else {
            format!("{} of {} lost", report.oracle.lost_pages, report.oracle.compared)
        };
        let _ = write!(
            line,
            "{} | {} | {} | {} | {} | {} | {} | {} | {} | {content} | {verdict} |",
            report.plan,
            report.events,
            report.dropped_events,
            report.harvests,
            verdicts.lost,
            verdicts.at_risk,
            verdicts.exposed,
            verdicts.safe,
            verdicts.unknown,
        );
    } else {
        let _ = write!(line, "| | | | | | | | | | not run: {verdict} |");
    }
    line + "\n"
}

/// `clean`, or what is not, with the known hazards and why pages are unknown.
fn in_words(row: &Row) -> String {
    let complaints = row.complaints();
    let mut words = if complaints.is_empty() { "clean".to_owned() } else { complaints.join("; ") };
    if let Ok(report) = &row.result {
        let known = report.hazards.len() - report.new_hazards().count();
        if known != 0 {
            let _ = write!(words, " ({known} known)");
        }
        for (cause, count) in &report.unknown_causes {
            let _ = write!(words, "; {count} unknown: {cause}");
        }
    }
    if 0 < row.resets {
        let _ = write!(words, "; {}", guest::in_words(row.resets));
    }
    words.replace('\n', " ").replace('|', "/")
}

/// A run in one line, for the terminal.
pub fn row_in_words(row: &Row) -> String {
    let events = row.result.as_ref().map_or(0, |report| report.events);
    format!("{}: {events} events: {}", row.guest.file(), in_words(row))
}

/// Rows of one memory management that came to a report.
fn reports(rows: &[Row], mmu: Mmu) -> impl Iterator<Item = &Report> {
    let here = rows.iter().filter(move |row| row.cell.mmu == mmu);
    here.filter_map(|row| row.result.as_ref().ok())
}

/// A table with one column per memory management.
fn by_mmu(first: &str, lines: &BTreeMap<String, [String; 3]>) -> String {
    let heads = MMUS.map(mmu_name).join(" | ");
    let mut text = format!("| {first} | {heads} |\n|---|--:|--:|--:|\n");
    for (name, cells) in lines {
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text
}

/// How often each operation was seen inside the one that contains it.
pub fn self_check(rows: &[Row]) -> String {
    let mut lines: BTreeMap<String, [String; 3]> = BTreeMap::new();
    for (column, mmu) in MMUS.into_iter().enumerate() {
        let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for check in reports(rows, mmu).flat_map(|report| &report.self_check) {
            let sum = sums.entry(format!("{} in: {}", check.operation, check.inside)).or_default();
            *sum = (sum.0 + check.hits, sum.1 + check.exits);
        }
        for (name, (hits, exits)) in sums {
            lines.entry(name).or_default()[column] = format!("{hits} of {exits}");
        }
    }
    by_mmu("operation", &lines)
}

/// Events by kind.
pub fn fired(rows: &[Row]) -> String {
    let kinds: BTreeSet<&String> = MMUS
        .iter()
        .flat_map(|&mmu| reports(rows, mmu))
        .flat_map(|r| r.events_by_kind.keys())
        .collect();
    let count = |kind: &String, mmu| {
        let counts = reports(rows, mmu).filter_map(|report| report.events_by_kind.get(kind));
        counts.sum::<u64>().to_string()
    };
    let lines =
        kinds.into_iter().map(|kind| (kind.clone(), MMUS.map(|mmu| count(kind, mmu)))).collect();
    by_mmu("event", &lines)
}

/// Time inside the harvest ioctls per page they reported, with and without the tool.
pub fn times(rows: &[Row]) -> String {
    let mut text = String::from(
        "| mmu | CPUs | mode | vCPUs | untraced | traced | added |\n|---|--:|---|--:|--:|--:|--:|\n",
    );
    let shown = |ns: Option<f64>| ns.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
    for row in rows.iter().filter(|row| row.guest.name == row.guest.mode) {
        let Ok(report) = &row.result else { continue };
        let time = &report.harvest_time;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            mmu_name(row.cell.mmu),
            row.cell.cpus,
            row.guest.mode,
            row.guest.vcpus,
            shown(time.untraced.as_ref().and_then(|side| side.ns_per_page)),
            shown(time.traced.ns_per_page),
            shown(time.added_ns_per_page),
        );
    }
    text
}

/// What a guest was told to do and could not.
pub fn skipped(rows: &[Row]) -> String {
    let mut lines = BTreeSet::new();
    for row in rows {
        let Ok(report) = &row.result else { continue };
        for workload in &report.guest.workloads {
            if let Some(reason) = &workload.skipped {
                let mmu = mmu_name(row.cell.mmu);
                lines.insert(format!("\n`{}` was skipped on {mmu}: {reason}\n", workload.workload));
            }
        }
    }
    lines.into_iter().collect()
}
