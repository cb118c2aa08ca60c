//! A witness drawn as the kernel's documents draw a race: one column per thread, time downwards, steps numbered.
//!
//! ```text
//!   step  at       within  vcpu 0 (tid 4712)      | tid 4711
//!    1   +0 ns     0.2 us  mark 0x400 dirty       |
//!    2~  +1.2 us   0.1 us                         | take bits 0x1 from 0x400
//! X  3~  +1.9 us   0.4 us  set SPTE of 0x400 ...  |
//! ```
//!
//! `~` says that at least one other step is not ordered against this one.

use ratatui::text::{Line, Span};

use crate::event::{Event, EventKind, Nanos, Tid};
use crate::order::{Bound, Instant};
use crate::tui::describe;
use crate::tui::figures::{cut, duration, wrap};
use crate::tui::model::Model;
use crate::tui::palette::Palette;
use crate::verdict::{Verdict, Witness};

/// Columns of the step's number and its earliest time.
const MARGIN: usize = 16;

/// Columns of the interval's length, where there is room for it.
const WITHIN: usize = 9;

/// Width from which there is room.
const WITHIN_FROM: usize = 100;

/// The drawing, and the orders that hold or do not hold between the steps.
#[must_use]
pub fn lines(model: &Model, witness: &Witness, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let threads = witness.threads();
    if threads.is_empty() {
        return vec![Line::styled("no events were kept for this finding", palette.quiet())];
    }
    let separators = 3 * (threads.len() - 1);
    let within = if width < WITHIN_FROM { 0 } else { WITHIN };
    let margin = MARGIN + within;
    let column = (width.saturating_sub(margin + separators) / threads.len()).max(12);
    let bar = format!(" {} ", palette.glyphs.column);
    let unordered = witness.unordered();

    let mut lines = vec![header(model, witness, &threads, column, within)];
    let origin = witness.steps.iter().map(|step| step.event.span.lo).min().unwrap_or_default();
    for (index, step) in witness.steps.iter().enumerate() {
        let is_losing = witness.losing == Some(index);
        let text = format!("{}: {}", step.note, describe::event(&step.event));
        let text = if step.note.is_empty() { describe::event(&step.event) } else { text };
        let style = if is_losing { palette.verdict(Verdict::Lost) } else { palette.text() };
        let place = threads.iter().position(|&tid| tid == step.event.tid).unwrap_or(0);
        for (row, part) in wrap(&text, column).into_iter().enumerate() {
            let margin_text = if row == 0 {
                let loses = if is_losing { palette.glyphs.losing } else { " " };
                let is_unordered = unordered.iter().flatten().any(|&at| at == index);
                let doubt = if is_unordered { "~" } else { " " };
                let time = format!("+{}", duration(drawn_at(&step.event).since(origin)));
                let length = duration(step.event.span.len_ns());
                let length = if within == 0 { String::new() } else { format!("{length:>8} ") };
                format!("{loses} {:>2}{doubt} {time:<9}{length} ", index + 1)
            } else {
                " ".repeat(margin)
            };
            let mut spans = vec![Span::styled(margin_text, palette.quiet())];
            for other in 0..threads.len() {
                if 0 < other {
                    spans.push(Span::styled(bar.clone(), palette.quiet()));
                }
                let cell = if other == place { part.as_str() } else { "" };
                spans.push(Span::styled(format!("{cell:<column$}"), style));
            }
            lines.push(Line::from(spans));
        }
    }
    lines.push(Line::default());
    lines.extend(instants(witness, origin, width));
    lines.extend(orders(witness, &unordered, palette, width));
    lines
}

/// The time a step is drawn at: its begin, but a return is where it ends.
const fn drawn_at(event: &Event) -> Nanos {
    let is_return = matches!(event.kind, EventKind::IoctlEnd { .. } | EventKind::RunEnd { .. });
    if is_return { event.span.hi } else { event.span.lo }
}

fn header(
    model: &Model,
    witness: &Witness,
    threads: &[Tid],
    column: usize,
    within: usize,
) -> Line<'static> {
    let palette = &model.palette;
    let names = threads.iter().map(|tid| {
        let step = witness.steps.iter().find(|step| step.event.tid == *tid);
        let name = step.map_or_else(String::new, |step| describe::thread(model, &step.event));
        format!("{:<column$}", cut(&name, column, palette.glyphs))
    });
    let bar = format!(" {} ", palette.glyphs.column);
    let names: Vec<_> = names.collect();
    let within = if within == 0 { "" } else { "  within " };
    let text = format!("step at         {within}{}", names.join(&bar));
    Line::styled(text, palette.heading())
}

/// Where the instants lie that the kernel does not show, and what proves it.
fn instants(witness: &Witness, origin: Nanos, width: usize) -> Vec<Line<'static>> {
    let told = witness.instants.iter().map(|&(step, Instant { what, within, lo, hi })| {
        let since = match lo {
            Bound::Nothing => String::from("any time"),
            _ => format!("+{} ({})", duration(within.lo.since(origin)), lo.name()),
        };
        let until = duration(within.hi.since(origin));
        format!("{} {} {since} to +{until} ({})", step + 1, what.name(), hi.name())
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() {
        return Vec::new();
    }
    let text = format!("hidden instants: {}", told.join("; "));
    wrap(&text, width).into_iter().map(Line::raw).collect()
}

fn orders(
    witness: &Witness,
    unordered: &[[usize; 2]],
    palette: &Palette,
    width: usize,
) -> Vec<Line<'static>> {
    let arrow = palette.glyphs.arrow;
    let known: Vec<_> = witness
        .edges
        .iter()
        .map(|edge| format!("{}{arrow}{} {}", edge.from + 1, edge.to + 1, edge.kind.name()))
        .collect();
    let unknown: Vec<_> =
        unordered.iter().map(|[a, b]| format!("{} and {}", a + 1, b + 1)).collect();
    let mut lines = Vec::new();
    if !known.is_empty() {
        let text = format!("order known: {}", known.join(", "));
        lines.extend(wrap(&text, width).into_iter().map(Line::raw));
    }
    if !unknown.is_empty() {
        let text = format!("~ either may come first: {}", unknown.join(", "));
        lines.extend(wrap(&text, width).into_iter().map(Line::raw));
    }
    if let Some(missing) = witness.missing {
        let text = format!("promised by the kernel on this path, and missing: {}", missing.name());
        lines.extend(wrap(&text, width).into_iter().map(Line::raw));
    }
    if !witness.gaps.is_empty() {
        let dropped: u64 = witness.gaps.iter().map(|gap| gap.dropped).sum();
        let text = format!(
            "{dropped} records were dropped meanwhile; without that, the verdict would be another"
        );
        lines.push(Line::styled(text, palette.warning()));
    }
    if let Some(losing) = witness.losing {
        lines.push(Line::styled(
            format!("{} from step {} on the page is lost", palette.glyphs.losing, losing + 1),
            palette.verdict(Verdict::Lost),
        ));
    }
    lines
}
