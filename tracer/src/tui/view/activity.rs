//! Activity: rates as sparklines, one line per operation.

use ratatui::text::{Line, Span};

use crate::summary::{Bucket, Series};
use crate::tui::figures::{bars, short};
use crate::tui::model::Model;
use crate::tui::view::frame::heading;

/// One count of a bucket.
type Field = fn(&Bucket) -> u64;

/// Width of names and rates before the bars.
const LABELS: usize = 23;

/// The panel, at most seven lines.
#[must_use]
pub fn lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let series = &model.shown.summary.series;
    let mut lines = vec![heading(model, "activity per second", width)];
    let rows: [(&str, Field); 6] = [
        ("marks", |bucket| bucket.marks),
        ("fast faults", |bucket| bucket.fast_faults),
        ("slow faults", |bucket| bucket.slow_faults),
        ("harvested pages", |bucket| bucket.harvested_pages),
        ("flushes", |bucket| bucket.flushes),
        ("host writes", |bucket| bucket.host_writes),
    ];
    for (name, field) in rows {
        let values = columns(series, width.saturating_sub(LABELS), field);
        lines.push(Line::from(vec![
            Span::styled(format!("{name:<15} "), palette.quiet()),
            Span::raw(format!("{:>6} ", short(rate(series, field)))),
            Span::styled(bars(&values, palette.glyphs), palette.chart()),
        ]));
    }
    lines
}

/// Per second, over the last second of whole buckets; the newest bucket is still filling.
#[must_use]
pub fn rate(series: &Series, field: Field) -> u64 {
    let per_second = 1_000_000_000 / Series::BUCKET_NS;
    let Some(newest) = series.buckets.back() else { return 0 };
    let until = newest.start.0;
    let from = until.saturating_sub(per_second * Series::BUCKET_NS);
    let whole: Vec<_> =
        series.buckets.iter().rev().skip(1).take_while(|bucket| from <= bucket.start.0).collect();
    if whole.is_empty() {
        return field(newest) * per_second;
    }
    whole.iter().map(|bucket| field(bucket)).sum()
}

/// The newest `width` buckets, oldest first, placed by time so that a silent bucket is a blank.
fn columns(series: &Series, width: usize, field: Field) -> Vec<u64> {
    let mut columns = vec![0; width];
    let Some(newest) = series.buckets.back() else { return columns };
    for bucket in series.buckets.iter().rev() {
        let age = newest.start.since(bucket.start) / Series::BUCKET_NS;
        let Ok(age) = usize::try_from(age) else { break };
        if width <= age {
            break;
        }
        columns[width - 1 - age] += field(bucket);
    }
    columns
}
