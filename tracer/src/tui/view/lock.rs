//! mmu_lock as seen from outside: who waited, how long, beside the harvests and faults that hold it.

use ratatui::text::{Line, Span};

use crate::event::{Evidence, Operation};
use crate::summary::FaultTimes;
use crate::tui::describe::{ioctl_short, thread_name};
use crate::tui::figures::{bars, clock, count, cut, duration, percentile, short};
use crate::tui::model::Model;
use crate::tui::rows;
use crate::tui::view::activity::{Field, columns, rate};
use crate::tui::view::frame::{heading, plural};

/// Harvests shown beside the waits.
const HARVESTS: usize = 12;

/// The screen.
#[must_use]
pub fn lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let mut lines = vec![heading(model, "waits for mmu_lock", width)];
    match model.setup.plan.evidence(Operation::LockWait) {
        Evidence::Direct | Evidence::Nearest => lines.extend(wait_lines(model)),
        Evidence::None => {
            let text = "not observed: this kernel or plan has no contention_begin/contention_end";
            lines.push(Line::styled(text, palette.warning()));
            lines.push(Line::raw("below, what the ioctl brackets still tell"));
        }
    }
    lines.push(heading(model, "waiters and holders, per second", width));
    lines.extend(activity_lines(model, width));
    lines.push(heading(model, "faults beside a harvest of their VM, and apart from any", width));
    lines.extend(fault_lines(model));
    let title = "harvests: inside the lock, and the rest, which bounds their wait from above";
    lines.push(heading(model, title, width));
    lines.push(Line::styled(
        format!(
            "  {:<6}{:<6}{:<12}{:>9}{:>9}{:>9}{:>9}",
            "op", "slot", "begin", "ioctl", "words", "flush", "rest"
        ),
        palette.quiet(),
    ));
    let harvests = rows::harvests(model);
    if harvests.is_empty() {
        lines.push(Line::styled("  no harvest yet", palette.quiet()));
    }
    for harvest in harvests.iter().take(HARVESTS) {
        let all = harvest.end.since(harvest.begin);
        let flush = harvest.flush_ns.unwrap_or(0);
        let rest = all.saturating_sub(harvest.protect_ns).saturating_sub(flush);
        let flush = harvest.flush_ns.map_or_else(|| String::from("-"), duration);
        lines.push(Line::raw(format!(
            "  {:<6}{:<6}{:<12}{:>9}{:>9}{flush:>9}{:>9}",
            ioctl_short(harvest.op),
            harvest.slot.to_string(),
            clock(harvest.begin, model.begin()),
            duration(all),
            duration(harvest.protect_ns),
            duration(rest)
        )));
    }
    lines
}

/// Waits above what holds the lock, over the same time.
fn activity_lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let summary = &model.shown.summary;
    let is_observed = model.setup.plan.evidence(Operation::LockWait) != Evidence::None;
    let waits: [Row; 2] = [
        ("waits", |bucket| bucket.lock_waits, |n| short(n)),
        ("time waited", |bucket| bucket.lock_wait_ns, duration),
    ];
    let holders: [Row; 2] = [
        ("slow faults", |bucket| bucket.slow_faults, |n| short(n)),
        ("harvested pages", |bucket| bucket.harvested_pages, |n| short(n)),
    ];
    let rows = waits.into_iter().filter(|_| is_observed).chain(holders);
    rows.map(|(name, field, unit)| {
        let bars_of = columns(summary, width.saturating_sub(26), field);
        Line::from(vec![
            Span::styled(format!("{name:<15} "), palette.quiet()),
            Span::raw(format!("{:>9} ", unit(rate(summary, field)))),
            Span::styled(bars(&bars_of, palette.glyphs), palette.chart()),
        ])
    })
    .collect()
}

/// A line of the activity: its name, its number, and how that is written.
type Row = (&'static str, Field, fn(u64) -> String);

/// How much longer faults take while a harvest of their VM is under way: waiting for `mmu_lock` is part of that.
fn fault_lines(model: &Model) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let waits = &model.shown.summary.lock_waits;
    if waits.beside_harvest.faults + waits.apart.faults == 0 {
        let text = match model.setup.plan.evidence(Operation::Fault) {
            Evidence::None => "  fault brackets are not observed on this plan",
            Evidence::Nearest | Evidence::Direct => "  no fault so far",
        };
        return vec![Line::styled(text, palette.quiet())];
    }
    let line = |name: &str, times: &FaultTimes| {
        let at = |percent| {
            percentile(&times.histogram, percent).map_or_else(|| String::from("-"), duration)
        };
        Line::from(vec![
            Span::raw(format!(
                "  {name:<8}{:>8} faults  p50 < {:>7}  p99 < {:>7}  longest {:>7}  ",
                short(times.faults),
                at(50),
                at(99),
                duration(times.longest_ns)
            )),
            Span::styled(
                bars(times.histogram.get(6..26).unwrap_or_default(), palette.glyphs),
                palette.chart(),
            ),
        ])
    };
    vec![line("beside", &waits.beside_harvest), line("apart", &waits.apart)]
}

fn wait_lines(model: &Model) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let summary = &model.shown.summary;
    let waits = &summary.lock_waits;
    let mut lines = vec![Line::raw(format!(
        "{} ({} readers, {} writers), {} waited in all",
        plural(waits.waits, "wait"),
        count(waits.readers),
        count(waits.writers),
        duration(waits.wait_ns)
    ))];
    if waits.waits == 0 {
        lines.push(Line::styled("no one had to wait so far", palette.quiet()));
        return lines;
    }
    let at =
        |percent| percentile(&waits.histogram, percent).map_or_else(|| String::from("-"), duration);
    lines.push(Line::from(vec![
        Span::raw(format!("p50 < {}, p99 < {}  ", at(50), at(99))),
        Span::styled(bars(&waits.histogram, palette.glyphs), palette.chart()),
        Span::styled(" x2 per bar", palette.quiet()),
    ]));
    lines.push(Line::styled(
        format!("  {:<24}{:>8}{:>10}{:>10}{:>10}", "thread", "waits", "in all", "mean", "longest"),
        palette.quiet(),
    ));
    let mut threads: Vec<_> = waits.by_thread.iter().collect();
    threads.sort_by_key(|(tid, (_, ns, _))| (std::cmp::Reverse(*ns), **tid));
    for (tid, &(n, ns, longest)) in threads {
        let name = cut(&thread_name(model, *tid), 24, palette.glyphs);
        lines.push(Line::raw(format!(
            "  {name:<24}{:>8}{:>10}{:>10}{:>10}",
            short(n),
            duration(ns),
            duration(ns / n.max(1)),
            duration(longest)
        )));
    }
    lines
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use std::collections::BTreeMap;
    use std::sync::Arc;

    use crate::event::Tid;
    use crate::summary::{FaultTimes, LockWaits};
    use crate::tui::model::Tab;
    use crate::tui::msg::Wish;
    use crate::tui::sample::{after, busy, screen, with};

    fn faults(faults: u64, buckets: std::ops::Range<usize>) -> FaultTimes {
        let n = faults / buckets.len() as u64;
        let histogram = (0..40).map(|bucket| if buckets.contains(&bucket) { n } else { 0 });
        let longest_ns = (1 << buckets.end) - 1;
        FaultTimes { faults, longest_ns, histogram: histogram.collect() }
    }

    #[test]
    fn waits_are_told_by_thread() {
        let model = with(busy(), |summary| {
            summary.lock_waits = LockWaits {
                waits: 12,
                wait_ns: 3_400_000,
                readers: 10,
                writers: 2,
                by_thread: BTreeMap::from([
                    (Tid(4711), (2, 2_400_000, 2_000_000)),
                    (Tid(4713), (10, 1_000_000, 300_000)),
                ]),
                histogram: (0..40)
                    .map(|n| if (15..20).contains(&n) { 25 - n } else { 0 })
                    .collect(),
                beside_harvest: faults(40, 15..19),
                apart: faults(4_000, 11..14),
                ..LockWaits::default()
            };
            for (index, bucket) in summary.series.buckets.iter_mut().enumerate() {
                bucket.lock_waits = index as u64 % 3;
                bucket.lock_wait_ns = 400_000 * (index as u64 % 3);
            }
        });
        assert_snapshot!(screen(&after(model, &[Wish::GoTo(Tab::Lock)]), 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        ─ waits for mmu_lock ───────────────────────────────────────────────────────────
        12 waits (10 readers, 2 writers), 3.4 ms waited in all
        p50 < 262 us, p99 < 1.0 ms                 ██▇▆▅                     x2 per bar
          thread                     waits    in all      mean   longest
          tid 4711                       2    2.4 ms    1.2 ms    2.0 ms
          vcpu 1 (tid 4713)             10    1.0 ms    100 us    300 us
        ─ waiters and holders, per second ──────────────────────────────────────────────
        waits                   3                                             ▅█ ▅█ ▅█
        time waited        1.2 ms                                             ▅█ ▅█ ▅█
        slow faults          1200                                            ██████████
        harvested pages     36.0k                                            ██████████
        ─ faults beside a harvest of their VM, and apart from any ──────────────────────
          beside        40 faults  p50 <  131 us  p99 <  524 us  longest  524 us
          apart       4000 faults  p50 <  8.1 us  p99 <   16 us  longest   16 us       █
        ─ harvests: inside the lock, and the rest, which bounds their wait from above ──
          op    slot  begin           ioctl    words    flush     rest
          GET   0:0   2.399100       900 us   600 us   120 us   180 us
          GET   0:0   2.199100       900 us   600 us   120 us   180 us
          GET   0:0   1.999100       900 us   600 us   120 us   180 us
        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        j 9 more lines  ? help  q quit  Tab screen  space freeze
        "#);
    }

    #[test]
    fn an_unobserved_lock_is_not_shown_as_uncontended() {
        let mut model = after(busy(), &[Wish::GoTo(Tab::Lock)]);
        Arc::make_mut(&mut model.setup).plan.entries.clear();
        let text = screen(&model, 80, 24);
        assert_snapshot!(text.lines().skip(3).take(5).collect::<Vec<_>>().join("\n"), @r#"
        ─ waits for mmu_lock ───────────────────────────────────────────────────────────
        not observed: this kernel or plan has no contention_begin/contention_end
        below, what the ioctl brackets still tell
        ─ waiters and holders, per second ──────────────────────────────────────────────
        slow faults          1200                                            ██████████
        "#);
    }
}
