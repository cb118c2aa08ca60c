//! Coverage: what was observed and how well, which rules speak, where records are missing, what stays unknown.

use std::collections::BTreeMap;

use ratatui::text::{Line, Span};

use crate::event::{Evidence, Gap, Kind, Operation};
use crate::summary::{Check, State};
use crate::tui::figures::{clock, count, cut, duration, short, wrap};
use crate::tui::model::Model;
use crate::tui::view::frame::heading;
use crate::tui::view::harvests;
use crate::verdict::rule::{Reach, RuleSet};
use crate::verdict::{RuleId, UnknownCause};

/// The screen.
#[must_use]
pub fn lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    lines.extend(plan_lines(model, width));
    lines.extend(probe_lines(model, width));
    lines.extend(check_lines(model, width));
    lines.extend(rule_lines(model, width));
    lines.extend(gap_lines(model, width));
    lines.extend(unknown_lines(model, width));
    lines
}

fn plan_lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let setup = &model.setup;
    let title = format!(
        "{} plan on {}; clock uncertainty between CPUs {}",
        setup.plan.name,
        setup.kernel,
        duration(setup.epsilon_ns)
    );
    let mut lines = vec![
        heading(model, &title, width),
        Line::styled(
            format!("  {:<20}{:<9}{:>8}  attached", "operation", "seen", "records"),
            palette.quiet(),
        ),
    ];
    for entry in &setup.plan.entries {
        let records: u64 =
            kinds(entry.operation).iter().map(|&kind| model.shown.summary.by_kind.get(kind)).sum();
        // Evidence that rides on other records has none of its own to count.
        let records = match (kinds(entry.operation).is_empty(), entry.evidence) {
            (true, _) | (_, Evidence::None) => String::from("-"),
            (false, Evidence::Nearest | Evidence::Direct) => short(records),
        };
        let (seen, style) = match entry.evidence {
            Evidence::None => ("no", palette.warning()),
            Evidence::Nearest => ("nearest", palette.text()),
            Evidence::Direct => ("direct", palette.text()),
        };
        let mut text = entry.points.join(", ");
        if !entry.note.is_empty() {
            text = if text.is_empty() {
                entry.note.clone()
            } else {
                format!("{text}; {}", entry.note)
            };
        }
        let room = width.saturating_sub(41);
        let mut parts = wrap(&text, room).into_iter();
        lines.push(Line::from(vec![
            Span::raw(format!("  {:<20}", entry.operation.name())),
            Span::styled(format!("{seen:<9}"), style),
            Span::raw(format!("{records:>8}  ")),
            Span::raw(cut(&parts.next().unwrap_or_default(), room, palette.glyphs)),
        ]));
        lines.extend(parts.map(|part| Line::raw(format!("{:41}{part}", ""))));
    }
    lines
}

/// What each program did and missed, the most expensive first, and what that costs.
fn probe_lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let mut lines = vec![heading(model, "probes: hits, misses, cost", width)];
    let mut probes: Vec<_> = model.shown.probes.iter().collect();
    if probes.is_empty() {
        let text = if model.is_replay() {
            "  counted only while tracing; what was missed then stands below as gaps"
        } else {
            "  not counted yet"
        };
        lines.push(Line::styled(text, palette.quiet()));
        return lines;
    }
    probes.sort_by_key(|probe| std::cmp::Reverse(probe.run_ns));
    lines.push(Line::styled(
        format!("  {:>8}{:>8}{:>10}{:>10}  {}", "hits", "missed", "mean", "in all", "probe"),
        palette.quiet(),
    ));
    for probe in probes {
        let style = if probe.misses == 0 { palette.text() } else { palette.warning() };
        let mean = probe.run_ns.checked_div(probe.hits);
        let text = format!(
            "  {:>8}{:>8}{:>10}{:>10}  {}",
            short(probe.hits),
            short(probe.misses),
            mean.map_or_else(|| String::from("-"), duration),
            duration(probe.run_ns),
            probe.point
        );
        lines.push(Line::styled(cut(&text, width, palette.glyphs), style));
    }
    if let Some(added) = harvests::added(model) {
        lines.push(Line::raw(format!("  harvests: {added}")));
    }
    lines
}

/// Attached is not firing: how often an operation was seen inside the one that contains it.
fn check_lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let mut lines = vec![heading(
        model,
        "self-check: seen inside another (silent: inlined, or not done)",
        width,
    )];
    let checks = model.shown.summary.self_check.checks().filter(|check| check.exits != 0);
    lines.extend(checks.map(|check| {
        let Check { operation, wrapper, exits, hits } = check;
        let style = match check.state() {
            State::Fires => palette.text(),
            State::Silent => palette.warning(),
            State::Unexercised => palette.quiet(),
        };
        let seen = format!("{} of {}", short(hits), short(exits));
        let state = check.state().name();
        let text = format!("  {:<15}{seen:>15}  {state:<14}in {wrapper}", operation.name());
        Line::styled(cut(&text, width, palette.glyphs), style)
    }));
    if lines.len() == 1 {
        lines.push(Line::styled("  nothing that contains another operation yet", palette.quiet()));
    }
    lines
}

/// The records an operation shows itself by.
const fn kinds(operation: Operation) -> &'static [Kind] {
    match operation {
        Operation::Ioctl => &[Kind::IoctlBegin, Kind::IoctlEnd],
        Operation::Slot => &[Kind::SlotState],
        Operation::Run => &[Kind::RunBegin, Kind::RunEnd],
        Operation::Mark => &[Kind::Mark],
        Operation::HarvestWord => &[Kind::HarvestWord, Kind::UserWord],
        Operation::SpteChange => &[Kind::SpteChange, Kind::SpteSet],
        Operation::FastFault => &[Kind::FastFault],
        Operation::Fault => &[Kind::Fault],
        Operation::RmapAdd => &[Kind::RmapAdd],
        Operation::Flush => &[Kind::Flush],
        Operation::HostWrite => &[Kind::HostWrite],
        Operation::RingPush => &[Kind::RingPush],
        Operation::RingReset => &[Kind::RingReset],
        Operation::Split => &[Kind::Split],
        Operation::Zap => &[Kind::Zap, Kind::Invalidate],
        Operation::LockWait => &[Kind::LockWait],
        Operation::WriteProtect
        | Operation::FastFaultEvidence
        | Operation::FlushCounter
        | Operation::HostWriteEvidence => &[],
    }
}

fn rule_lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let rules = RuleSet::new(&model.setup.plan);
    let mut lines = vec![heading(model, "rules", width)];
    let of = |wanted: fn(Reach) -> bool| {
        let rules = RuleId::ALL.into_iter().filter(|&rule| wanted(rules.reach(rule)));
        let names: Vec<_> = rules.map(RuleId::name).collect();
        if names.is_empty() { String::from("none") } else { names.join(" ") }
    };
    let on = of(|reach| matches!(reach, Reach::On));
    lines.push(Line::raw(format!("  on:      {on}")));
    let half = of(|reach| matches!(reach, Reach::Half(..)));
    lines.push(Line::raw(format!("  half on: {half} (they name hazards, and vouch for nothing)")));
    let off = of(|reach| matches!(reach, Reach::Off(..)));
    lines.push(Line::raw(format!("  off:     {off}")));
    for rule in RuleId::ALL {
        let (state, operation, found) = match rules.reach(rule) {
            Reach::On => continue,
            Reach::Half(operation, found) => ("half on", operation, found),
            Reach::Off(operation, found) => ("off", operation, found),
        };
        let why = match found {
            Evidence::None => "is not observed",
            Evidence::Nearest | Evidence::Direct => "is not observed directly",
        };
        lines.push(Line::from(vec![
            Span::styled(format!("  {} {state}", rule.name()), palette.warning()),
            Span::raw(format!(": {operation} {why} ({})", rule.rule().name)),
        ]));
    }
    lines
}

fn gap_lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let summary = &model.shown.summary;
    let title = format!(
        "dropped records: {} in {} gaps",
        count(summary.dropped_events),
        count(summary.gaps_total)
    );
    let mut lines = vec![heading(model, &title, width)];
    if summary.gaps.is_empty() {
        lines.push(Line::styled("  none", palette.quiet()));
    } else {
        lines.push(Line::styled(
            format!("  {}", gap_strip(model, width.saturating_sub(4))),
            palette.warning(),
        ));
        let mut by_cause: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
        for gap in &summary.gaps {
            let hook = gap.hook.map_or("any hook", |hook| hook.name());
            let entry = by_cause.entry((gap.cause.name(), hook)).or_default();
            entry.0 += 1;
            entry.1 += gap.dropped;
        }
        for ((cause, hook), (gaps, dropped)) in by_cause {
            let text =
                format!("  {cause} at {hook}: {} records in {} gaps", count(dropped), count(gaps));
            lines.push(Line::raw(text));
        }
        lines.extend(summary.gaps.iter().map(|gap| gap_line(model, gap)));
        let rest = summary.gaps_total.saturating_sub(summary.gaps.len() as u64);
        if 0 < rest {
            lines.push(Line::raw(format!("  and {} more gaps, only counted", count(rest))));
        }
    }
    if 0 < summary.anomalies_total {
        let text = format!("  {} records made no sense", count(summary.anomalies_total));
        lines.push(Line::styled(text, palette.warning()));
        for anomaly in summary.anomalies.iter().take(20) {
            let at = clock(anomaly.at, model.begin());
            lines.push(Line::raw(format!("  {at} {}: {:?}", anomaly.lane, anomaly.kind)));
        }
    }
    if 0 < summary.integrity_total {
        let text = format!(
            "  {} integrity violations: the trace contradicts a lock's promise",
            count(summary.integrity_total)
        );
        lines.push(Line::styled(text, palette.warning()));
    }
    lines
}

/// The time covered, with the gaps in it.
fn gap_strip(model: &Model, width: usize) -> String {
    let summary = &model.shown.summary;
    let begin = model.begin();
    let length = u128::from(summary.now.since(begin).max(1));
    let mut cells = vec![model.palette.glyphs.rule; width];
    for gap in &summary.gaps {
        let column = |time: crate::event::Nanos| {
            let offset = u128::from(time.since(begin)) * width as u128 / length;
            usize::try_from(offset).unwrap_or(width).min(width.saturating_sub(1))
        };
        for cell in cells.iter_mut().take(column(gap.to) + 1).skip(column(gap.from)) {
            *cell = "!";
        }
    }
    cells.concat()
}

fn gap_line(model: &Model, gap: &Gap) -> Line<'static> {
    let begin = model.begin();
    let lane = gap.lane.map_or_else(|| String::from("any lane"), |lane| lane.to_string());
    let hook = gap.hook.map_or("any hook", |hook| hook.name());
    Line::raw(format!(
        "  {} to {}  {:<13} {lane}, {hook}: {}",
        clock(gap.from, begin),
        clock(gap.to, begin),
        gap.cause.name(),
        count(gap.dropped)
    ))
}

fn unknown_lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let summary = &model.shown.summary;
    let mut lines = vec![heading(model, "why verdicts are unknown", width)];
    if summary.unknown_causes.is_empty() {
        lines.push(Line::styled("  none is", model.palette.quiet()));
    }
    for (cause, n) in &summary.unknown_causes {
        let text = match cause {
            UnknownCause::NotObserved(operation) => format!("{operation} is not observed"),
            UnknownCause::Dropped
            | UnknownCause::BeforeAttach
            | UnknownCause::WithinEpsilon
            | UnknownCause::Limit
            | UnknownCause::Integrity
            | UnknownCause::TraceEnd => cause.name().to_owned(),
        };
        lines.push(Line::raw(format!("  {:>12}  {text}", count(*n))));
    }
    lines.push(heading(model, "seen and known to be harmless", width));
    if summary.benign.is_empty() {
        lines.push(Line::styled("  none", model.palette.quiet()));
    }
    for (name, n) in &summary.benign {
        lines.push(Line::raw(format!("  {:>12}  {name}", count(*n))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::check_lines;
    use crate::event::{CpuId, Event, EventKind, Nanos};
    use crate::tui::model::Tab;
    use crate::tui::msg::{Step, Wish};
    use crate::tui::sample::{after, busy, lossy, poorly_attached, screen, with};

    #[test]
    fn the_plan_and_its_records_come_first() {
        let model = after(busy(), &[Wish::GoTo(Tab::Coverage)]);
        assert_snapshot!(screen(&model, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        ─ kprobe plan on 6.12.95; clock uncertainty between CPUs 0 ns ──────────────────
          operation           seen      records  attached
          ioctl               direct          0
          slot                direct          0
          run                 direct          0
          mark                direct          0
          harvest-word        direct          0
          write-protect       direct          -
          spte-change         direct          0
          fast-fault          direct          0
          fast-fault-evidence direct          -
          fault               direct          0
          rmap-add            direct          0
          flush               direct          0
          flush-counter       direct          -
          host-write          direct          0
          host-write-evidence direct          -
          ring-push           direct          0
          ring-reset          direct          0
        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        j 17 more lines  ? help  q quit  Tab screen  space freeze
        "#);
    }

    #[test]
    fn an_attached_operation_that_is_never_seen_is_called_silent() {
        let word = Event {
            span: crate::event::Span { lo: Nanos(1), hi: Nanos(2) },
            vm: crate::event::VmId(1),
            tid: crate::event::Tid(7),
            lane: crate::event::Lane { class: kvmdirty_common::Class::Page, cpu: CpuId(0) },
            seq: 0,
            kind: EventKind::HarvestWord {
                first: crate::event::Gfn(0),
                mask: 1,
                protected: 0,
                slot: crate::event::SlotRef {
                    id: crate::event::SlotId::default(),
                    logging: true,
                    has_bitmap: true,
                },
            },
        };
        let model = with(busy(), |summary| {
            for _ in 0..20 {
                summary.self_check.observe(&word);
            }
        });
        let lines: Vec<String> = check_lines(&model, 80).iter().map(ToString::to_string).collect();
        let expected = "  write-protect          0 of 20  silent        in harvested word";
        assert_eq!(lines[1], expected);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn gaps_are_located_and_rules_say_why_they_are_off() {
        let model = poorly_attached(with(busy(), lossy));
        let model = after(model, &[Wish::GoTo(Tab::Coverage), Wish::Move(Step::Bottom)]);
        assert_snapshot!(screen(&model, 80, 26), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
          on:      K03 K04 K07 K09 K11 K14 K15
          half on: K01 K05 K06 K13 (they name hazards, and vouch for nothing)
          off:     K02 K08 K10 K12
          K01 half on: fast-fault is not observed (unreported-writable)
          K02 off: fast-fault is not observed (mark-before-writable)
          K05 half on: flush is not observed directly (harvested-not-flushed)
          K06 half on: flush is not observed directly (ring-reset-dropped)
          K08 off: host-write is not observed (host-write-unreported)
          K10 off: flush is not observed directly (flush-assumed)
          K12 off: flush is not observed directly (zap-unflushed)
          K13 half on: fast-fault is not observed (wrong-gfn)
        ─ dropped records: 4,203 in 2 gaps ─────────────────────────────────────────────
          ───────────────!────────────────────────────────────────────!!!!!!!!!───────
          ring-full at any hook: 4,203 records in 2 gaps
          0.500000 to 0.520000  ring-full     page/cpu1, any hook: 4,200
          2.000000 to 2.250000  ring-full     any lane, any hook: 3
        ─ why verdicts are unknown ─────────────────────────────────────────────────────
                 4,000  dropped-records
                   300  before-attach
        ─ seen and known to be harmless ────────────────────────────────────────────────
                    17  failed-cmpxchg
        dropped 4,203 · gaps 2 · 4 rules off · cpu: probe 3.1% tool 1.2% max 25%
        ? help  q quit  Tab screen  space freeze
        "#);
    }
}
