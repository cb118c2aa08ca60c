//! The tables of `docs/kernels.md`.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{Row, events_by_kind, mmu_name};
use crate::lab::{kernel::KERNELS, machine::Mmu};

/// The document: one table of runs, one of what fired where.
pub fn document(rows: &[Row]) -> String {
    let mut text = String::from(
        "# Kernels\n\n\
         Written by `cargo xtask lab matrix`: stock Debian kernels in the lab's emulated machine, \
         the\ndemo's guest, every log mode the kernel has. *tdp* is nested paging with the TDP MMU, \
         *shadow*\nnested paging with the older MMU (`tdp_mmu=0`), *npt0* shadow paging (`npt=0`). \
         A run is clean if\nit saw harvests, dropped no record, named no page except for a known \
         hazard of the stock kernel,\nfound no integrity violation, and page contents agree.\n\n",
    );
    let releases: BTreeSet<(&str, &str)> =
        rows.iter().map(|row| (row.cell.kernel.name, row.release.as_str())).collect();
    for (name, release) in releases {
        let _ = writeln!(text, "- **{name}**: {release}");
    }
    text += "\n## Runs\n\n\
             | kernel | mmu | CPUs | mode | vCPUs | plan | events | dropped | harvests | lost | \
             at risk | exposed | safe | unknown | content | result |\n\
             |---|---|--:|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|---|\n";
    for row in rows {
        text += &run_line(row);
    }
    text += "\n## What fired\n\nEvents by kind, over all runs of a kernel and memory management. \
             A point that is attached is not\nyet a point that fires.\n\n";
    text + &fired_table(rows)
}

fn run_line(row: &Row) -> String {
    let Row { cell, guest, result, .. } = row;
    let mut line = format!(
        "| {} | {} | {} | {} | {} | ",
        cell.kernel.name,
        mmu_name(cell.mmu),
        cell.cpus,
        guest.mode,
        guest.vcpus
    );
    let complaints = row.complaints();
    let verdict = if complaints.is_empty() { "clean".to_owned() } else { complaints.join("; ") };
    let verdict = verdict.replace('\n', " ").replace('|', "/");
    if let Ok(report) = result {
        let verdicts = &report.verdicts;
        let known = report.hazards.len() - report.new_hazards().count();
        let known = if known == 0 { String::new() } else { format!(" ({known} known)") };
        let content = if report.oracle.lost_pages == 0 {
            format!("{} agree", report.oracle.compared)
        } else {
            format!("{} of {} lost", report.oracle.lost_pages, report.oracle.compared)
        };
        let _ = write!(
            line,
            "{} | {} | {} | {} | {} | {} | {} | {} | {} | {content} | {verdict}{known} |",
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

fn fired_table(rows: &[Row]) -> String {
    let columns: Vec<(&str, Mmu)> = KERNELS
        .iter()
        .flat_map(|kernel| [Mmu::Tdp, Mmu::Shadow, Mmu::Npt0].map(|mmu| (kernel.name, mmu)))
        .filter(|&(name, mmu)| {
            rows.iter().any(|row| row.cell.kernel.name == name && row.cell.mmu == mmu)
        })
        .collect();
    let sums: Vec<_> = columns
        .iter()
        .map(|&(name, mmu)| {
            let here = move |row: &&Row| row.cell.kernel.name == name && row.cell.mmu == mmu;
            events_by_kind(rows.iter().filter(here))
        })
        .collect();
    let kinds: BTreeSet<&String> = sums.iter().flat_map(|sums| sums.keys()).collect();
    let heads = columns.iter().map(|&(name, mmu)| format!(" {name} {} |", mmu_name(mmu)));
    let mut text = format!("| event |{}\n|---|", heads.collect::<String>());
    text += &"--:|".repeat(columns.len());
    text.push('\n');
    for kind in kinds {
        let counts = sums.iter().map(|sums| format!(" {} |", sums.get(kind).unwrap_or(&0)));
        let _ = writeln!(text, "| {kind} |{}", counts.collect::<String>());
    }
    text
}
