//! Plots as SVG: how pages per harvest go down, how long windows are open, where the dirty pages lie.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::escaped;
use crate::event::{IoctlOp, SlotId, VmId};
use crate::export::event_row::op_name;
use crate::summary::{HISTOGRAM_BUCKETS, Harvest, HeatCell, SlotSummary, Summary};
use crate::verdict::{Verdict, WindowKind};

/// Size of a plot, and of the space for its axes.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 22.0;
const TOP: f64 = 8.0;

/// Bars of a plot; more harvests than that share bars.
const BARS_MAX: usize = 280;

/// A few bars need not fill the plot.
const BAR_WIDTH_MAX: f64 = 40.0;

/// One bar.
struct Bar {
    value: f64,
    class: &'static str,
    /// Shown when one points at it.
    title: String,
}

/// Pages and cost of each harvest, one figure per slot and ioctl that took pages.
pub(super) fn convergence(summary: &Summary) -> Vec<String> {
    let mut series: BTreeMap<(VmId, SlotId, &str), Vec<&Harvest>> = BTreeMap::new();
    for harvest in &summary.harvests {
        let slot =
            if harvest.op == IoctlOp::ResetDirtyRings { SlotId::default() } else { harvest.slot };
        series.entry((harvest.vm, slot, op_name(harvest.op))).or_default().push(harvest);
    }
    let mut figures = Vec::new();
    for ((vm, slot, op), harvests) in series {
        if harvests.iter().all(|harvest| harvest.pages == 0) {
            continue;
        }
        let of = match op {
            "reset" => format!("vm {vm}"),
            _ => format!("slot {slot} of vm {vm}"),
        };
        let pages = |harvest: &Harvest| harvest.pages as f64;
        let micros = |harvest: &Harvest| harvest.end.since(harvest.begin) as f64 / 1e3;
        let caption = format!("pages per {op}, {of}, iteration by iteration");
        figures.push(bars(&caption, &harvest_bars(&harvests, pages), &harvest_labels(&harvests)));
        let caption = format!("microseconds per {op}, {of}");
        figures.push(bars(&caption, &harvest_bars(&harvests, micros), &harvest_labels(&harvests)));
    }
    figures
}

fn harvest_bars(harvests: &[&Harvest], value: impl Fn(&Harvest) -> f64) -> Vec<Bar> {
    let per_bar = harvests.len().div_ceil(BARS_MAX).max(1);
    let bar = |group: &[&Harvest]| {
        // Of a group the largest is shown: a plot must not hide an outlier.
        let top = group.iter().copied().max_by(|a, b| value(a).total_cmp(&value(b)));
        let worst = group.iter().filter_map(|harvest| harvest.worst).max();
        let class = match worst {
            Some(Verdict::Lost | Verdict::AtRisk) => "bar lost",
            Some(Verdict::Exposed) => "bar exposed",
            Some(Verdict::Safe | Verdict::Unknown) | None => "bar",
        };
        let title = top.map_or_else(String::new, |harvest| {
            format!(
                "harvest {}, iteration {}: {} pages, {:.1} us, worst verdict {}",
                harvest.id,
                harvest.iteration,
                harvest.pages,
                harvest.end.since(harvest.begin) as f64 / 1e3,
                worst.map_or("none", Verdict::name)
            )
        });
        Bar { value: top.map_or(0.0, &value), class, title }
    };
    harvests.chunks(per_bar).map(bar).collect()
}

fn harvest_labels(harvests: &[&Harvest]) -> Vec<(f64, String)> {
    let label = |harvest: Option<&&Harvest>| {
        harvest.map_or_else(String::new, |harvest| harvest.iteration.to_string())
    };
    let middle = harvests.get(harvests.len() / 2);
    vec![(0.0, label(harvests.first())), (0.5, label(middle)), (1.0, label(harvests.last()))]
}

/// How long windows were open, one figure per kind, in powers of two.
pub(super) fn window_histograms(summary: &Summary) -> Vec<String> {
    let mut figures = Vec::new();
    for kind in WindowKind::ALL {
        let counts = &summary.windows(kind).histogram;
        let Some(first) = counts.iter().position(|&count| 0 < count) else {
            continue;
        };
        let last = counts.iter().rposition(|&count| 0 < count).unwrap_or(first);
        // A little room on both sides, so that a single bar is seen as one of many possible.
        let (from, to) = (first.saturating_sub(2), (last + 3).min(HISTOGRAM_BUCKETS));
        let bars_of: Vec<Bar> = (from..to)
            .map(|bucket| Bar {
                value: counts[bucket] as f64,
                class: "bar",
                title: format!(
                    "{} to {}: {} windows",
                    span(1 << bucket),
                    span(2 << bucket),
                    counts[bucket]
                ),
            })
            .collect();
        let n = (to - from) as f64;
        let labels =
            (from..to).step_by(3).map(|bucket| ((bucket - from) as f64 / n, span(1 << bucket)));
        let caption = format!("{} windows by how long they were open", kind.name());
        figures.push(bars(&caption, &bars_of, &labels.collect::<Vec<_>>()));
    }
    figures
}

fn span(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// Bars over a base line; labels stand below at their share of the width.
fn bars(caption: &str, bars: &[Bar], labels: &[(f64, String)]) -> String {
    let top = bars.iter().map(|bar| bar.value).fold(0.0, f64::max).max(1e-9);
    let (width, height) = (WIDTH - LEFT - 4.0, HEIGHT - BOTTOM - TOP);
    let step = (width / bars.len().max(1) as f64).min(BAR_WIDTH_MAX);
    let says = |class: &str, what: &'static str| {
        if bars.iter().any(|bar| bar.class == class) { what } else { "" }
    };
    let lost = says("bar lost", "; red: a page lost or at risk");
    let exposed = says("bar exposed", "; amber: an exposed page");
    let mut svg = begin(&format!("{caption}{lost}{exposed}"), WIDTH, HEIGHT);
    for (share, text) in [(0.0, number(0.0)), (0.5, number(top / 2.0)), (1.0, number(top))] {
        let y = TOP + height * (1.0 - share);
        let _ = write!(
            svg,
            "<path class=\"axis\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            WIDTH - 4.0,
            LEFT - 6.0,
            y + 4.0
        );
    }
    for (n, bar) in bars.iter().enumerate() {
        // A bar of something is never thinner than can be seen.
        let tall = if bar.value == 0.0 { 0.0 } else { (height * bar.value / top).max(1.0) };
        let _ = write!(
            svg,
            "<rect class=\"{}\" x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{tall:.2}\"><title>{}</title></rect>",
            bar.class,
            LEFT + step * n as f64,
            TOP + height - tall,
            (step * 0.9).max(0.6),
            escaped(&bar.title)
        );
    }
    for (share, text) in labels {
        let anchor = if *share < 0.95 { "start" } else { "end" };
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            LEFT + step * bars.len() as f64 * share,
            HEIGHT - 6.0,
            escaped(text)
        );
    }
    end(svg)
}

fn number(value: f64) -> String {
    if value != 0.0 && value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Cells of a row of a heat map.
const HEAT_COLUMNS: usize = 64;
const HEAT_CELL: f64 = 14.0;

/// Where the harvested pages lie, one figure per slot that was harvested.
pub(super) fn heat_maps(summary: &Summary) -> Vec<String> {
    let mut figures = Vec::new();
    for vm in &summary.vms {
        for (id, slot) in &vm.slots {
            let top = slot.heat.iter().map(|cell| cell.harvested).max().unwrap_or(0);
            if 0 < top {
                figures.push(heat_map(&format!("slot {id} of vm {}", vm.vm), slot, top));
            }
        }
    }
    figures
}

fn heat_map(of: &str, slot: &SlotSummary, top: u64) -> String {
    let n = slot.heat.len() as u64;
    let rows = (slot.npages.min(n) as usize).div_ceil(HEAT_COLUMNS) as f64;
    let per_cell = slot.npages.div_ceil(n).max(1);
    let caption = format!(
        "pages taken from {of}: {} pages from gfn {} on, {per_cell} per cell, darkest {top} times; \
         X: a page lost or at risk",
        slot.npages, slot.base
    );
    let mut svg = begin(&caption, HEAT_COLUMNS as f64 * HEAT_CELL + 2.0, rows * HEAT_CELL + 2.0);
    // The detector puts the page at offset o into cell o * n / npages; a small slot has cells without a page.
    let gfn = |index: usize| {
        let offset = (u128::from(slot.npages) * index as u128).div_ceil(u128::from(n));
        slot.base.0 + u64::try_from(offset).unwrap_or(0)
    };
    let ranges = (0..slot.heat.len()).map(|index| (gfn(index), gfn(index + 1)));
    let cells = slot.heat.iter().zip(ranges).filter(|(_, (first, last))| first < last);
    for (index, (cell, (first, last))) in cells.enumerate() {
        let x = (index % HEAT_COLUMNS) as f64 * HEAT_CELL + 1.0;
        let y = (index / HEAT_COLUMNS) as f64 * HEAT_CELL + 1.0;
        let HeatCell { harvested, opened, windows, worst, .. } = *cell;
        let shade = (harvested as f64 / top as f64).sqrt();
        let _ = write!(
            svg,
            "<rect class=\"cell\" x=\"{x}\" y=\"{y}\" width=\"{HEAT_CELL}\" height=\"{HEAT_CELL}\" fill-opacity=\"{shade:.2}\"><title>gfn {first:#x}..{last:#x}: taken {harvested}, made writable {opened}, windows {windows}, worst verdict {}</title></rect>",
            worst.map_or("none", Verdict::name)
        );
        if worst.is_some_and(Verdict::is_hazard) {
            let _ = write!(
                svg,
                "<rect class=\"mark\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/><text class=\"lost\" x=\"{:.1}\" y=\"{:.1}\">X</text>",
                x + 1.0,
                y + 1.0,
                HEAT_CELL - 2.0,
                HEAT_CELL - 2.0,
                x + 3.5,
                y + 11.0
            );
        }
    }
    end(svg)
}

fn begin(caption: &str, width: f64, height: f64) -> String {
    let caption = escaped(caption);
    format!(
        "<figure><figcaption>{caption}</figcaption>\n<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{caption}\">"
    )
}

fn end(mut svg: String) -> String {
    svg.push_str("</svg></figure>\n");
    svg
}
