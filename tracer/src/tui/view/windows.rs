//! Windows: how long each kind stays open, and the longest ones.

use ratatui::text::{Line, Span};

use crate::event::{Evidence, Nanos, Operation};
use crate::tui::figures::{bars, clock, count, cut, duration, percentile, short};
use crate::tui::model::{List, Model};
use crate::tui::rows;
use crate::tui::view::frame::heading;
use crate::tui::view::histogram;
use crate::tui::view::overview::list_row;
use crate::verdict::{Window, WindowKind};

/// Width from which the histograms themselves fit beside the percentiles.
const HISTOGRAM_FROM: usize = 70;

/// The panel, at most seven lines.
#[must_use]
pub fn lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let summary = &model.shown.summary;
    let mut lines = vec![heading(model, "windows", width)];
    let mut header =
        format!("{:<10}{:>7}{:>6}{:>8}{:>8}", "kind", "closed", "open", "p50 <", "p99 <");
    if HISTOGRAM_FROM <= width {
        header.push_str(&format!("{:>8}  {:<24}", "longest", "1 ns, x2 per bar, 16 ms+"));
    }
    lines.push(Line::styled(header, palette.quiet()));
    for kind in WindowKind::ALL {
        let stats = summary.windows(kind);
        let at = |percent| {
            percentile(&stats.histogram, percent).map_or_else(|| String::from("-"), duration)
        };
        if stats.closed == 0 && unseen(model, kind).is_some() {
            let text = format!("{:<10}      -  not on this plan", kind.name());
            lines.push(Line::styled(text, palette.quiet()));
            continue;
        }
        let mut spans = vec![Span::raw(format!(
            "{:<10}{:>7}{:>6}{:>8}{:>8}",
            kind.name(),
            short(stats.closed),
            short(stats.open),
            at(50),
            at(99)
        ))];
        if HISTOGRAM_FROM <= width {
            let longest = stats.longest.first().and_then(Window::open_for_ns);
            let longest = longest.map_or_else(|| String::from("-"), duration);
            spans.push(Span::raw(format!("{longest:>8}  ")));
            // Beyond 2^24 ns a bar stands for everything longer.
            let (head, tail) = stats.histogram.split_at(stats.histogram.len().min(24));
            let mut columns = head.to_vec();
            columns.push(tail.iter().sum());
            spans.push(Span::styled(bars(&columns, palette.glyphs), palette.chart()));
        }
        lines.push(Line::from(spans));
    }
    let inside: u64 = [WindowKind::FastFault, WindowKind::HostWrite]
        .into_iter()
        .map(|kind| summary.windows(kind).with_harvest)
        .sum();
    lines.push(Line::styled(
        format!("third case with a harvest inside: {}", count(inside)),
        if inside == 0 { palette.quiet() } else { palette.text() },
    ));
    lines
}

/// The operation that would have to be observed directly for windows of this kind to be seen.
#[must_use]
pub fn unseen(model: &Model, kind: WindowKind) -> Option<Operation> {
    let operation = histogram::operation(kind);
    (model.setup.plan.evidence(operation) == Evidence::None).then_some(operation)
}

/// The list of the longest windows.
#[must_use]
pub fn table(model: &Model, first: usize, height: usize, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(
        format!(
            "  {:<11}{:<8}{:<14}{:>9}  {:<12}{:>8}  {}",
            "kind", "slot", "gfn", "open for", "opened", "tid", "harvests"
        ),
        model.palette.quiet(),
    )];
    let begin = model.begin();
    let windows = rows::windows(model);
    if windows.is_empty() {
        lines.push(Line::styled("  no window has closed yet", model.palette.quiet()));
    }
    for (index, window) in windows.iter().enumerate().skip(first).take(height) {
        let text = cut(&row(window, begin), width.saturating_sub(2), model.palette.glyphs);
        lines.push(list_row(model, (List::Windows, index), vec![Span::raw(text)]));
    }
    lines
}

/// One window as a row.
#[must_use]
pub fn row(window: &Window, begin: Nanos) -> String {
    let open_for = window.open_for_ns().map_or_else(|| String::from("open"), duration);
    format!(
        "{:<11}{:<8}{:<14}{:>9}  {:<12}{:>8}  {}",
        window.kind.name(),
        window.slot.to_string(),
        window.gfn.to_string(),
        open_for,
        clock(window.opened, begin),
        window.tid.to_string(),
        window.harvests_inside
    )
}
