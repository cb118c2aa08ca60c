//! Harvests: pages per iteration, whether that converges, and what each ioctl spent its time on.

use ratatui::text::{Line, Span};

use crate::event::Nanos;
use crate::feed::HarvestCost;
use crate::summary::Harvest;
use crate::tui::describe::ioctl_short;
use crate::tui::figures::{clock, count, cut, duration, short};
use crate::tui::model::{List, Model};
use crate::tui::palette::Glyphs;
use crate::tui::rows::{self, Convergence, Iteration};
use crate::tui::view::frame::{heading, plural};
use crate::tui::view::overview::list_row;
use crate::verdict::Verdict;

/// Rows of bars from which the times get bars of their own below the pages.
const TIMES_FROM: usize = 4;

/// Width of names and maxima before the bars.
const LABELS: usize = 15;

/// One number of an iteration.
type Field = fn(&Iteration) -> u64;

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
        "harvests {}: iteration {}, {}; {}",
        count(model.shown.summary.harvests_total),
        last.number,
        Convergence::of(&iterations).name(),
        added(model).unwrap_or_else(|| String::from("pages per iteration"))
    );
    let mut lines = vec![heading(model, &title, width)];
    let room = width.saturating_sub(LABELS);
    let newest = &iterations[iterations.len().saturating_sub(room)..];
    // A short history is drawn in wide bars, so that a few iterations already make a picture.
    let columns = (room / newest.len().max(1)).clamp(1, 4);
    let values = |field: Field| -> Vec<u64> {
        newest.iter().flat_map(|one| std::iter::repeat_n(field(one), columns)).collect()
    };
    let times = if TIMES_FROM <= bar_rows { TIMES.as_slice() } else { &[] };
    let pages = values(|iteration| iteration.pages);
    let highest = short(pages.iter().copied().max().unwrap_or(0));
    let bars = tall_bars(&pages, bar_rows - times.len(), palette.glyphs);
    for (index, bars) in bars.into_iter().enumerate() {
        let (name, highest) = if index == 0 { ("pages", highest.as_str()) } else { ("", "") };
        lines.push(bar_line(model, name, highest, bars));
    }
    for &(name, field) in times {
        let values = values(field);
        let highest = values.iter().copied().max().unwrap_or(0);
        let highest = if highest == 0 { String::from("-") } else { duration(highest) };
        let bars = tall_bars(&values, 1, palette.glyphs).concat();
        lines.push(bar_line(model, name, &highest, bars));
    }
    let newest = rows::harvests(model);
    let ioctl = newest.first().map_or_else(String::new, |harvest| {
        format!("; {}: {}", ioctl_short(harvest.op), self::times(harvest))
    });
    let pages = plural(last.pages, "page");
    let text = format!("last {pages} in {}{ioctl}", plural(last.harvests, "harvest"));
    lines.push(Line::styled(cut(&text, width, palette.glyphs), palette.quiet()));
    lines
}

/// The times of an iteration that get bars, each against its own maximum.
const TIMES: [(&str, Field); 3] = [
    ("ioctl", |iteration| iteration.ioctl_ns),
    ("protect", |iteration| iteration.protect_ns),
    ("flush", |iteration| iteration.flush_ns),
];

/// What tracing adds to a harvest: `GET +17 us on 20 us by tracing`.
#[must_use]
pub fn added(model: &Model) -> Option<String> {
    Some(match model.shown.overhead?.harvest? {
        HarvestCost::Compared { op, traced_ns, untraced_ns } => {
            let (sign, by) = match traced_ns.checked_sub(untraced_ns) {
                Some(more) => ("+", more),
                None => ("-", untraced_ns - traced_ns),
            };
            let without = duration(untraced_ns);
            format!("{} {sign}{} on {without} by tracing", ioctl_short(op), duration(by))
        }
        HarvestCost::AtLeast { per_harvest_ns } => {
            format!("at least {} of each by tracing", duration(per_harvest_ns))
        }
    })
}

fn bar_line(model: &Model, name: &str, highest: &str, bars: String) -> Line<'static> {
    Line::from(vec![
        Span::styled(format!("{name:<7}{highest:>7} "), model.palette.quiet()),
        Span::styled(bars, model.palette.chart()),
    ])
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
        lines.push(list_row(model, (List::Harvests, index), vec![Span::styled(text, style)]));
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
#[must_use]
pub fn tall_bars(values: &[u64], rows: usize, glyphs: &Glyphs) -> Vec<String> {
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
