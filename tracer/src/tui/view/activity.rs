//! Activity: rates as sparklines, one line per operation.

use ratatui::text::{Line, Span};

use crate::event::{Evidence, Kind, Nanos, Operation};
use crate::summary::{Bucket, Series, Summary};
use crate::tui::figures::{bars, short};
use crate::tui::model::Model;
use crate::tui::view::frame::heading;

/// One count of a bucket.
pub type Field = fn(&Bucket) -> u64;

/// A line of the panel: its name, its count, the operation it is of, and the records it shows itself by.
type Row = (&'static str, Field, Operation, &'static [Kind]);

/// Width of names and rates before the bars.
const LABELS: usize = 23;

const ROWS: [Row; 6] = [
    ("marks", |bucket| bucket.marks, Operation::Mark, &[Kind::Mark]),
    ("fast faults", |bucket| bucket.fast_faults, Operation::FastFault, &[Kind::FastFault]),
    (
        "slow faults",
        |bucket| bucket.slow_faults,
        Operation::SpteChange,
        &[Kind::Fault, Kind::SpteSet],
    ),
    (
        "harvested pages",
        |bucket| bucket.harvested_pages,
        Operation::HarvestWord,
        &[Kind::HarvestWord, Kind::UserWord],
    ),
    ("flushes", |bucket| bucket.flushes, Operation::Flush, &[Kind::Flush]),
    ("host writes", |bucket| bucket.host_writes, Operation::HostWrite, &[Kind::HostWrite]),
];

/// Of VMs with dirty rings only.
const RING: Row =
    ("ring pushes", |bucket| bucket.ring_pushes, Operation::RingPush, &[Kind::RingPush]);

/// The panel's lines, its heading included.
#[must_use]
pub fn height(model: &Model) -> u16 {
    if has_rings(model) { 8 } else { 7 }
}

fn has_rings(model: &Model) -> bool {
    model.shown.summary.vms.iter().any(|vm| 0 < vm.ring_bytes)
}

/// The panel.
#[must_use]
pub fn lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let summary = &model.shown.summary;
    let mut lines = vec![heading(model, "activity per second", width)];
    let room = width.saturating_sub(LABELS);
    let ring = has_rings(model).then_some(RING);
    for (name, field, operation, kinds) in ROWS.into_iter().chain(ring) {
        let mut spans = vec![Span::styled(format!("{name:<15} "), palette.quiet())];
        let is_silent = kinds.iter().all(|&kind| summary.by_kind.get(kind) == 0);
        match model.setup.plan.evidence(operation) {
            // A zero would claim that nothing happened.
            Evidence::None => spans.push(Span::styled("     - not observed", palette.quiet())),
            Evidence::Nearest if is_silent => {
                spans.push(Span::styled("     - by traces only", palette.quiet()));
            }
            Evidence::Nearest | Evidence::Direct => {
                let bars = bars(&columns(summary, room, field), palette.glyphs);
                spans.push(Span::raw(format!("{:>6} ", short(rate(summary, field)))));
                spans.push(Span::styled(bars, palette.chart()));
            }
        }
        lines.push(Line::from(spans));
    }
    lines
}

/// The bucket that is still filling begins here.
const fn current(summary: &Summary) -> u64 {
    summary.now.0 - summary.now.0 % Series::BUCKET_NS
}

/// Per second, over the last second of whole buckets; of a shorter trace, what it holds.
#[must_use]
pub fn rate(summary: &Summary, field: Field) -> u64 {
    const SECOND_NS: u64 = 1_000_000_000;
    let buckets = &summary.series.buckets;
    if summary.covered_ns() < SECOND_NS {
        return buckets.iter().map(field).sum();
    }
    let until = current(summary);
    let last = until.saturating_sub(SECOND_NS)..until;
    buckets.iter().rev().filter(|bucket| last.contains(&bucket.start.0)).map(field).sum()
}

/// The newest `width` buckets, oldest first, placed by time so that a silent bucket is a blank.
#[must_use]
pub fn columns(summary: &Summary, width: usize, field: Field) -> Vec<u64> {
    let mut columns = vec![0; width];
    let now = Nanos(current(summary));
    for bucket in summary.series.buckets.iter().rev() {
        let age = now.since(bucket.start) / Series::BUCKET_NS;
        let Ok(age) = usize::try_from(age) else { break };
        if width <= age {
            break;
        }
        columns[width - 1 - age] += field(bucket);
    }
    columns
}
