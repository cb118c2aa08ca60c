//! A witness drawn as the kernel's documents draw a race: a column per thread, time downwards.
//!
//! ```text
//! step  within, us           tid 10                        | vcpu 0 (tid 11)
//!  1    0.000 .. 0.000       GET_DIRTY_LOG 0:1 begins      |
//!  2 ~  1.200 .. 1.450                                     | SPTE of 0x400 ... W: makes it writable
//! ```
//!
//! `~`: another step is not ordered against this one; `X`: from here on the page is lost.

use super::block::wrap;
use crate::event::{Nanos, Tid};
use crate::order::{Bound, Instant};
use crate::summary::{Summary, words};
use crate::verdict::{Step, Witness};

/// Columns of a whole drawing.
const WIDTH: usize = 116;

/// Columns before the threads, more where a step lasts long.
const MARGIN: usize = 27;

/// Threads with a column of their own; a witness of more is drawn as a list.
const COLUMNS_MAX: usize = 3;

/// The drawing, and below it which orders hold.
pub(super) fn draw(witness: &Witness, summary: &Summary) -> Vec<String> {
    let threads = witness.threads();
    if threads.is_empty() {
        return Vec::new();
    }
    let is_list = COLUMNS_MAX < threads.len();
    let columns = if is_list { 1 } else { threads.len() };
    let unordered = witness.unordered();
    let origin = witness.steps.iter().map(|step| step.event.span.lo).min().unwrap_or_default();
    let names: Vec<String> = match is_list {
        true => vec![String::from("thread: what it did")],
        false => threads.iter().map(|&tid| name(witness, tid, summary)).collect(),
    };
    let margins = margins(witness, &unordered, origin);
    let longest = margins.iter().map(|margin| margin.chars().count() + 1).max().unwrap_or(0);
    let margin_width = longest.max(MARGIN);
    let width = (WIDTH - margin_width - 3 * (columns - 1)) / columns;
    let padded = |margin: &str| format!("{margin:<margin_width$}");
    let mut lines = rows(&padded("step  within, us"), &names, width);
    for (step, margin) in witness.steps.iter().zip(&margins) {
        let place = threads.iter().position(|&tid| tid == step.event.tid).unwrap_or(0);
        let mut cells = vec![String::new(); columns];
        match is_list {
            true => {
                cells[0] = format!("{}: {}", name(witness, step.event.tid, summary), told(step))
            }
            false => cells[place] = told(step),
        }
        lines.extend(rows(&padded(margin), &cells, width));
    }
    lines.extend(instants(witness, origin));
    lines.extend(orders(witness, &unordered));
    lines
}

/// Per step its number, its sign and when it was.
fn margins(witness: &Witness, unordered: &[[usize; 2]], origin: Nanos) -> Vec<String> {
    let margin = |(index, step): (usize, &Step)| {
        let is_unordered = unordered.iter().flatten().any(|&at| at == index);
        let sign = match (witness.losing == Some(index), is_unordered) {
            (true, _) => 'X',
            (false, true) => '~',
            (false, false) => ' ',
        };
        let micro = |at: Nanos| at.since(origin) as f64 / 1e3;
        let (lo, hi) = (micro(step.event.span.lo), micro(step.event.span.hi));
        format!("{:>2} {sign}  {lo:.3} .. {hi:.3}", index + 1)
    };
    witness.steps.iter().enumerate().map(margin).collect()
}

/// The rows of one step: its cells, each wrapped to its column.
fn rows(margin: &str, cells: &[String], width: usize) -> Vec<String> {
    let wrapped: Vec<Vec<String>> = cells.iter().map(|cell| wrap(cell, width)).collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    let row = |n: usize| {
        let mut line = if n == 0 { margin.to_owned() } else { " ".repeat(margin.chars().count()) };
        for (at, cell) in wrapped.iter().enumerate() {
            let bar = if at == 0 { "" } else { " | " };
            line += &format!("{bar}{:<width$}", cell.get(n).map_or("", String::as_str));
        }
        line.trim_end().to_owned()
    };
    (0..height).map(row).collect()
}

fn told(step: &Step) -> String {
    let fact = words::event(&step.event);
    if step.note.is_empty() { fact } else { format!("{fact}: {}", step.note) }
}

fn name(witness: &Witness, tid: Tid, summary: &Summary) -> String {
    let step = witness.steps.iter().find(|step| step.event.tid == tid);
    step.map_or_else(String::new, |step| words::thread(summary, &step.event))
}

/// Where the instants lie that the kernel does not show, and what proves it.
fn instants(witness: &Witness, origin: Nanos) -> Vec<String> {
    let line = |&(step, instant): &(usize, Instant)| {
        let micro = |at: Nanos| at.since(origin) as f64 / 1e3;
        let Instant { what, within, lo, hi } = instant;
        let since = match lo {
            Bound::Nothing => String::from("not bounded"),
            _ => format!("{:.3} by {}", micro(within.lo), lo.name()),
        };
        format!(
            "{:>2}    {} since {since}, until {:.3} by {}",
            step + 1,
            what.name(),
            micro(within.hi),
            hi.name()
        )
    };
    let mut lines: Vec<String> = witness.instants.iter().map(line).collect();
    if !lines.is_empty() {
        lines.insert(0, String::from("hidden instants, us:"));
    }
    lines
}

fn orders(witness: &Witness, unordered: &[[usize; 2]]) -> Vec<String> {
    let known: Vec<_> = witness
        .edges
        .iter()
        .map(|edge| format!("{} before {} ({})", edge.from + 1, edge.to + 1, edge.kind.name()))
        .collect();
    let open: Vec<_> = unordered.iter().map(|[a, b]| format!("{} and {}", a + 1, b + 1)).collect();
    let mut lines = Vec::new();
    if !known.is_empty() {
        lines.extend(wrap(&format!("order known: {}", known.join(", ")), WIDTH));
    }
    if !open.is_empty() {
        lines.extend(wrap(&format!("~ either may come first: {}", open.join(", ")), WIDTH));
    }
    if let Some(missing) = witness.missing {
        lines
            .push(format!("missing: the order that the kernel promises here ({})", missing.name()));
    }
    if let Some(losing) = witness.losing {
        lines.push(format!("X from step {} on a write to the page is lost", losing + 1));
    }
    lines
}
