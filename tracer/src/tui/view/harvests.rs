//! Harvests: pages per iteration, whether that converges, and what each ioctl spent its time on.

use ratatui::text::{Line, Span};

use crate::event::Nanos;
use crate::summary::Harvest;
use crate::tui::describe::ioctl_short;
use crate::tui::figures::{clock, count, cut, duration, short};
use crate::tui::model::Model;
use crate::tui::palette::Glyphs;
use crate::tui::rows::{self, Convergence};
use crate::tui::view::frame::{heading, plural};
use crate::tui::view::overview::list_row;
use crate::verdict::Verdict;

/// The panel: a heading, bars of the given height, a line on the last iteration.
#[must_use]
pub fn lines(model: &Model, width: usize, bar_rows: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let iterations = rows::iterations(model);
    let Some(last) = iterations.last() else {
        return vec![
            heading(model, "harvests: none yet", width),
            Line::styled("no GET, CLEAR or RESET has returned", palette.quiet()),
        ];
    };
    let title = format!(
        "harvests {}: iteration {}, {}; pages per iteration",
        count(model.shown.summary.harvests_total),
        last.number,
        Convergence::of(&iterations).name()
    );
    let mut lines = vec![heading(model, &title, width)];
    let pages: Vec<_> = iterations.iter().map(|iteration| iteration.pages).collect();
    let label = format!("{:>6} ", short(pages.iter().copied().max().unwrap_or(0)));
    let room = width.saturating_sub(label.len());
    let newest = &pages[pages.len().saturating_sub(room)..];
    // A short history is drawn in wide bars, so that a few iterations already make a picture.
    let columns = (room / newest.len().max(1)).clamp(1, 4);
    let newest: Vec<_> =
        newest.iter().flat_map(|&pages| std::iter::repeat_n(pages, columns)).collect();
    for (index, bars) in tall_bars(&newest, bar_rows, palette.glyphs).into_iter().enumerate() {
        let label = if index == 0 { label.clone() } else { " ".repeat(label.len()) };
        lines.push(Line::from(vec![
            Span::styled(label, palette.quiet()),
            Span::styled(bars, palette.chart()),
        ]));
    }
    let newest = rows::harvests(model);
    let ioctl = newest.first().map_or_else(String::new, |harvest| {
        format!("; {}: {}", ioctl_short(harvest.op), times(harvest))
    });
    let pages = plural(last.pages, "page");
    let text = format!("last {pages} in {}{ioctl}", plural(last.harvests, "harvest"));
    lines.push(Line::styled(cut(&text, width, palette.glyphs), palette.quiet()));
    lines
}

/// Where a harvest's time went.
fn times(harvest: &Harvest) -> String {
    let flush = match (harvest.flush_ns, harvest.flush_counter_moved) {
        (Some(ns), _) => format!("flush {}", duration(ns)),
        (None, true) => String::from("flush counted"),
        (None, false) => String::from("no flush"),
    };
    format!(
        "words {}, {flush}, ioctl {}",
        duration(harvest.protect_ns),
        duration(harvest.end.since(harvest.begin))
    )
}

/// The list of harvests, newest first.
#[must_use]
pub fn table(model: &Model, first: usize, height: usize, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let mut lines = vec![Line::styled(
        format!(
            "  {:<6}{:<6}{:>5} {:<12}{:>7}{:>8}{:>8}{:>8}  {}",
            "op", "slot", "iter", "begin", "pages", "protect", "flush", "ioctl", "verdict"
        ),
        palette.quiet(),
    )];
    let begin = model.begin();
    let harvests = rows::harvests(model);
    if harvests.is_empty() {
        lines.push(Line::styled("  no harvest yet", palette.quiet()));
    }
    for (index, harvest) in harvests.iter().enumerate().skip(first).take(height) {
        let style = harvest.worst.map_or(palette.quiet(), |verdict| palette.verdict(verdict));
        let text = cut(&row(harvest, begin), width.saturating_sub(2), palette.glyphs);
        lines.push(list_row(model, index, vec![Span::styled(text, style)]));
    }
    lines
}

/// One harvest as a row.
#[must_use]
pub fn row(harvest: &Harvest, begin: Nanos) -> String {
    let flush = match (harvest.flush_ns, harvest.flush_counter_moved) {
        (Some(ns), _) => duration(ns),
        (None, true) => String::from("counted"),
        (None, false) => String::from("none"),
    };
    let verdict = match (harvest.worst, harvest.is_complete) {
        (Some(verdict), true) => verdict.name().to_owned(),
        (Some(verdict), false) => format!("{}, incomplete", verdict.name()),
        (None, true) => String::from("-"),
        (None, false) => String::from("incomplete"),
    };
    format!(
        "{:<6}{:<6}{:>5} {:<12}{:>7}{:>8}{:>8}{:>8}  {verdict}",
        ioctl_short(harvest.op),
        harvest.slot.to_string(),
        short(harvest.iteration),
        clock(harvest.begin, begin),
        short(harvest.pages),
        duration(harvest.protect_ns),
        flush,
        duration(harvest.end.since(harvest.begin))
    )
}

/// Bars of several rows, top row first.
fn tall_bars(values: &[u64], rows: usize, glyphs: &Glyphs) -> Vec<String> {
    let highest = values.iter().copied().max().unwrap_or(0).max(1);
    let levels = (rows * glyphs.bars.len()) as u128;
    let mut lines = vec![String::new(); rows];
    for &value in values {
        let level = (u128::from(value) * levels).div_ceil(u128::from(highest));
        let level = usize::try_from(level).unwrap_or(0);
        for (row, line) in lines.iter_mut().enumerate() {
            let below = (rows - 1 - row) * glyphs.bars.len();
            let glyph = match level.saturating_sub(below) {
                0 => " ",
                part => glyphs.bars[(part - 1).min(glyphs.bars.len() - 1)],
            };
            line.push_str(glyph);
        }
    }
    lines
}

/// The worst verdict of a harvest, in words.
#[must_use]
pub fn worst(verdict: Option<Verdict>) -> &'static str {
    verdict.map_or("not judged", Verdict::name)
}
