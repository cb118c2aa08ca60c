//! How long windows stay open: one histogram per kind, with percentiles.

use ratatui::text::{Line, Span};

use crate::event::Operation;
use crate::summary::WindowStats;
use crate::tui::figures::{duration, percentile, short};
use crate::tui::model::Model;
use crate::tui::view::frame::heading;
use crate::tui::view::harvests::tall_bars;
use crate::verdict::{Window, WindowKind};

/// Rows of each histogram.
const ROWS: usize = 3;

/// Columns per bucket.
const COLUMNS: usize = 2;

/// The screen.
#[must_use]
pub fn lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for kind in WindowKind::ALL {
        let stats = model.shown.summary.windows(kind);
        let counts = format!(
            "{} closed, {} open, {} with a harvest inside",
            short(stats.closed),
            short(stats.open),
            short(stats.with_harvest)
        );
        lines.push(heading(model, &format!("{}: {counts}", kind.name()), width));
        lines.push(Line::styled(format!("  {}", meaning(kind)), model.palette.quiet()));
        lines.extend(kind_lines(model, kind, stats));
    }
    lines
}

fn kind_lines(model: &Model, kind: WindowKind, stats: &WindowStats) -> Vec<Line<'static>> {
    let palette = &model.palette;
    if stats.closed == 0 {
        let text = match super::windows::unseen(model, kind) {
            Some(operation) => {
                format!("  not seen on this plan: {operation} is not observed directly")
            }
            None => String::from("  none has closed"),
        };
        return vec![Line::styled(text, palette.quiet())];
    }
    let at = |percent: u64| {
        percentile(&stats.histogram, percent).map_or_else(|| String::from("-"), duration)
    };
    let longest = stats.longest.first().and_then(Window::open_for_ns);
    let mut lines = vec![Line::raw(format!(
        "  p50 < {}  p90 < {}  p99 < {}  longest {}",
        at(50),
        at(90),
        at(99),
        longest.map_or_else(|| String::from("-"), duration),
    ))];
    // The buckets that hold anything, with one empty neighbour on each side.
    let used = |&n: &u64| 0 < n;
    let first = stats.histogram.iter().position(used).unwrap_or(0).saturating_sub(1);
    let last = stats.histogram.iter().rposition(used).unwrap_or(0) + 1;
    let last = last.min(stats.histogram.len() - 1);
    let values: Vec<_> = stats.histogram[first..=last]
        .iter()
        .flat_map(|&n| std::iter::repeat_n(n, COLUMNS))
        .collect();
    for bars in tall_bars(&values, ROWS, palette.glyphs) {
        lines.push(Line::from(vec![Span::raw("  "), Span::styled(bars, palette.chart())]));
    }
    lines.push(Line::styled(format!("  {}", axis(first, last)), palette.quiet()));
    lines
}

/// The lower bound of every fifth bucket below its bar.
fn axis(first: usize, last: usize) -> String {
    let mut text = String::new();
    for bucket in (first..=last).step_by(5) {
        let column = (bucket - first) * COLUMNS;
        text.push_str(&" ".repeat(column.saturating_sub(text.len())));
        text.push_str(&duration(1 << bucket));
    }
    text
}

const fn meaning(kind: WindowKind) -> &'static str {
    match kind {
        WindowKind::FastFault => "writable until marked, without mmu_lock",
        WindowKind::HostWrite => "written by the host until marked",
        WindowKind::SlowFault => "marked until writable, inside mmu_lock",
        WindowKind::Tlb => "write-protected until flushed",
    }
}

/// The operation a kind of window shows itself by.
#[must_use]
pub const fn operation(kind: WindowKind) -> Operation {
    match kind {
        WindowKind::FastFault => Operation::FastFault,
        WindowKind::HostWrite => Operation::HostWrite,
        WindowKind::SlowFault => Operation::SpteChange,
        WindowKind::Tlb => Operation::Flush,
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use crate::tui::msg::Wish;
    use crate::tui::sample::{after, busy, poorly_attached, screen};

    #[test]
    fn every_kind_has_its_histogram_or_says_why_not() {
        let model = after(poorly_attached(busy()), &[Wish::Windows]);
        assert_snapshot!(screen(&model, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        ─ fast-fault: 123k closed, 2 open, 3 with a harvest inside ─────────────────────
          writable until marked, without mmu_lock
          p50 < 512 ns  p90 < 1.0 us  p99 < 1.0 us  longest 31 us
            ██
            ██
            ██▆▆        ▁▁
          128 ns    4.0 us
        ─ host-write: 0 closed, 0 open, 0 with a harvest inside ────────────────────────
          written by the host until marked
          not seen on this plan: host-write is not observed directly
        ─ slow-fault: 0 closed, 0 open, 0 with a harvest inside ────────────────────────
          marked until writable, inside mmu_lock
          none has closed
        ─ tlb: 12 closed, 0 open, 0 with a harvest inside ──────────────────────────────
          write-protected until flushed
          p50 < 262 us  p90 < 262 us  p99 < 262 us  longest -
            ██
            ██
            ██
        dropped 0 · gaps 0 · 4 rules off · cpu: probe 3.1% tool 1.2% max 25%
        j 1 more line  Esc back  y copy  ? help  space freeze
        "#);
    }
}
