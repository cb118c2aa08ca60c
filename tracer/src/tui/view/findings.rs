//! The table of hazards and exposures.

use ratatui::text::{Line, Span};

use crate::tui::figures::{clock, cut, short};
use crate::tui::model::{List, Model};
use crate::tui::rows;
use crate::tui::view::frame::plural;
use crate::tui::view::overview::list_row;
use crate::verdict::{Finding, WindowKind};

/// Columns before the sentence.
const COLUMNS: usize = 2 + 8 + 4 + 6 + 11 + 11 + 6;

/// The table.
#[must_use]
pub fn table(model: &Model, first: usize, height: usize, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let summary = &model.shown.summary;
    let mut lines = vec![Line::styled(
        format!(
            "  {:<8}{:<4}{:<6}{:<11}{:<11}{:>5} {}",
            "verdict", "rule", " slot", "gfn", "first", "count", "what happened"
        ),
        palette.quiet(),
    )];
    let findings = rows::findings(model);
    if findings.is_empty() {
        lines.push(Line::styled(format!("  {}", nothing(model)), palette.quiet()));
    }
    for (index, finding) in findings.iter().enumerate().skip(first).take(height) {
        let gfn = finding.gfn.map_or_else(|| String::from("(slot)"), |gfn| gfn.to_string());
        let known = finding.known.map_or_else(String::new, |known| format!("[known: {known}] "));
        let sentence = format!("{known}{}", finding.sentence);
        lines.push(list_row(
            model,
            (List::Findings, index),
            vec![
                Span::styled(
                    format!("{:<8}", finding.verdict.name()),
                    palette.verdict(finding.verdict),
                ),
                Span::raw(format!(
                    "{:<4} {:<5}{gfn:<11}{:<11}{:>5} ",
                    finding.rule.name(),
                    finding.slot.to_string(),
                    clock(finding.first, model.begin()),
                    short(finding.count)
                )),
                Span::raw(cut(&sentence, width.saturating_sub(COLUMNS), palette.glyphs)),
            ],
        ));
    }
    let kept = summary.findings.len() as u64;
    if kept < summary.findings_total && lines.len() <= height {
        let rest = short(summary.findings_total - kept);
        lines.push(Line::styled(format!("  and {rest} more, only counted"), palette.warning()));
    }
    lines
}

/// Why the table is empty.
fn nothing(model: &Model) -> String {
    let summary = &model.shown.summary;
    let third_case = [WindowKind::FastFault, WindowKind::HostWrite];
    let exposed: u64 = third_case.map(|kind| summary.windows(kind).with_harvest).iter().sum();
    if 0 < summary.findings_total {
        String::from("none passes the filter (Esc clears it)")
    } else if 0 < exposed {
        let windows = plural(exposed, "window");
        format!("none so far; {windows} of the third case, which is allowed, had a harvest inside")
    } else {
        String::from("none so far")
    }
}

/// One finding as a line of text.
#[must_use]
pub fn plain(finding: &Finding) -> String {
    let gfn = finding.gfn.map_or_else(|| String::from("-"), |gfn| gfn.to_string());
    format!(
        "{} {} slot {} gfn {gfn} x{}: {}",
        finding.verdict.name(),
        finding.rule.name(),
        finding.slot,
        finding.count,
        finding.sentence
    )
}
