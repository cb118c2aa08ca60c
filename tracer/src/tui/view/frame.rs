//! What surrounds every screen: title, VM line, playback, loss line, keys.

use std::collections::BTreeSet;

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::feed::Stage;
use crate::summary::VmSummary;
use crate::tui::figures::{clock, count, cut, duration, moment, short};
use crate::tui::keys;
use crate::tui::model::{Flow, Model, PromptKind, Tab};
use crate::tui::view::{SIZE_MIN, below};
use crate::verdict::rule::RuleSet;
use crate::verdict::{RuleId, Verdict};

/// `kvmdirty-trace  1 overview  2 memory ...        live 12.345678`
#[must_use]
pub fn title_line(model: &Model, width: u16) -> Line<'static> {
    let palette = &model.palette;
    let mut spans = vec![Span::styled(NAME, palette.heading())];
    for tab in Tab::ALL {
        let style = if tab == model.tab { palette.selected() } else { palette.text() };
        spans.push(Span::styled(tab_label(tab), style));
    }
    let (state, style) = state(model);
    let used: usize = spans.iter().map(Span::width).sum();
    let room = usize::from(width).saturating_sub(used);
    let state = cut(&state, room, palette.glyphs);
    spans.push(Span::styled(format!("{state:>room$}"), style));
    Line::from(spans)
}

const NAME: &str = "kvmdirty-trace ";

fn tab_label(tab: Tab) -> String {
    format!(" {} {} ", tab as usize + 1, tab.name())
}

/// The tab whose label covers a column of the title.
#[must_use]
pub fn tab_at(column: usize) -> Option<Tab> {
    let mut end = NAME.len();
    let from = end;
    Tab::ALL.into_iter().find(|&tab| {
        end += tab_label(tab).len();
        from <= column && column < end
    })
}

/// What the right end of the title says.
fn state(model: &Model) -> (String, Style) {
    let palette = &model.palette;
    let now = moment(model.shown.summary.now.since(model.begin()));
    if model.flow == Flow::Frozen {
        let behind = model.newest.summary.now.since(model.shown.summary.now);
        return (format!("FROZEN {}", duration(behind)), palette.warning());
    }
    match &model.shown.stage {
        Stage::Loading { done, total, .. } => {
            (format!("reading {}%", percent(*done, *total)), palette.warning())
        }
        Stage::Ended(_) => (format!("ended {now}"), palette.quiet()),
        Stage::Running if model.is_replay() => (String::from("replay"), palette.text()),
        Stage::Running => (format!("live {now}"), palette.text()),
    }
}

/// `qemu-system-x86 pid 4711 . kernel 6.12.95 . tdp . bitmap manual-protect . 4 vcpus . 3 slots, 1 logging since 0.01`
///
/// In as many lines as it takes, at most two.
#[must_use]
pub fn vm_lines(model: &Model, width: u16) -> Vec<Line<'static>> {
    let glyphs = model.palette.glyphs;
    let mut lines = vec![String::new()];
    for word in vm_words(model) {
        let line = lines.last_mut().expect("starts with one line and only grows");
        if line.is_empty() {
            *line = word;
        } else if usize::from(width) < line.chars().count() + 3 + word.chars().count() {
            lines.push(word);
        } else {
            line.push_str(&format!(" {} {word}", glyphs.dot));
        }
    }
    let quiet = model.palette.quiet();
    let lines = lines.into_iter().take(2);
    lines.map(|line| Line::styled(cut(&line, usize::from(width), glyphs), quiet)).collect()
}

fn vm_words(model: &Model) -> Vec<String> {
    let summary = &model.shown.summary;
    let facts = &model.facts;
    let mut words = Vec::new();
    match (facts.command.is_empty(), facts.pid) {
        (true, 0) => {}
        (true, pid) => words.push(format!("pid {pid}")),
        (false, 0) => words.push(facts.command.clone()),
        (false, pid) => words.push(format!("{} pid {pid}", facts.command)),
    }
    words.push(format!("kernel {}", model.setup.kernel));
    if !facts.mmu.is_empty() {
        words.push(facts.mmu.clone());
    }
    let vm = match (model.vm, summary.vms.as_slice()) {
        (Some(id), vms) => vms.iter().find(|vm| vm.vm == id),
        (None, [vm]) => Some(vm),
        (None, _) => None,
    };
    match vm {
        Some(vm) => words.extend(one_vm_words(model, vm)),
        None if summary.vms.is_empty() => words.push(String::from("no VM seen yet")),
        None => words.push(format!("{}: 5 chooses one", plural(summary.vms.len() as u64, "VM"))),
    }
    if !facts.file.is_empty() {
        let how = if model.is_replay() { "playing" } else { "recording to" };
        words.push(format!("{how} {}", facts.file));
    }
    words
}

fn one_vm_words(model: &Model, vm: &VmSummary) -> Vec<String> {
    let summary = &model.shown.summary;
    let vcpus = summary.vcpus.values().filter(|(id, _)| *id == vm.vm);
    let vcpus: BTreeSet<_> = vcpus.map(|(_, vcpu)| vcpu).collect();
    let logging = vm.slots.values().filter(|slot| slot.is_logging).count();
    let logs = vm.slots.values().filter(|slot| slot.is_logging);
    let since = logs.filter_map(|slot| slot.logging_since).min();
    let since = since
        .map_or_else(String::new, |since| format!(" for {}", moment(summary.now.since(since))));
    let mut words = vec![
        log_mode(vm.ring_bytes, vm.manual_protect),
        plural(vcpus.len() as u64, "vcpu"),
        format!("{}, {logging} logging{since}", plural(vm.slots.len() as u64, "slot")),
    ];
    if vm.is_gone {
        words.push(String::from("destroyed"));
    }
    words
}

/// How the VM reports dirty pages.
#[must_use]
pub fn log_mode(ring_bytes: u32, manual_protect: u32) -> String {
    if 0 < ring_bytes {
        return format!("ring {} KiB", ring_bytes / 1024);
    }
    match manual_protect & 3 {
        0 => String::from("bitmap"),
        1 => String::from("manual-protect"),
        // Bit 1 without bit 0 is refused by the kernel; saying what was read is still right.
        _ => String::from("manual-protect, initially set"),
    }
}

/// `lost 1  at-risk 0  exposed 12  unknown 300  safe 1,203,331`
#[must_use]
pub fn verdict_line(model: &Model) -> Line<'static> {
    let palette = &model.palette;
    let counts = &model.shown.summary.verdicts;
    let mut spans = Vec::new();
    for verdict in Verdict::ALL {
        let n = counts.get(verdict);
        // A word in the colour of danger only when there is danger.
        let style = if n == 0 { palette.quiet() } else { palette.verdict(verdict) };
        spans.push(Span::styled(format!("{} {}", verdict.name(), count(n)), style));
        spans.push(Span::raw("   "));
    }
    if model.vm.is_some() && 1 < model.shown.summary.vms.len() {
        spans.push(Span::styled("(all VMs)", palette.quiet()));
    }
    Line::from(spans)
}

/// `dropped 0 . gaps 0 . anomalies 0 . integrity 0 . probe 0.8% tool 1.1% max 25%`
#[must_use]
pub fn loss_line(model: &Model, width: u16) -> Line<'static> {
    let palette = &model.palette;
    let summary = &model.shown.summary;
    let dot = format!(" {} ", palette.glyphs.dot);
    let dropped = ("dropped", summary.dropped_events);
    let mut counts = vec![dropped, ("gaps", summary.gaps_total)];
    // Records that make no sense are rare: they may stay away from a narrow screen while there are none.
    let rare = [("anomalies", summary.anomalies_total), ("integrity", summary.integrity_total)];
    counts.extend(rare.into_iter().filter(|&(_, n)| 100 <= width || 0 < n));
    let mut spans = Vec::new();
    for (name, n) in counts {
        let style = if n == 0 { palette.quiet() } else { palette.warning() };
        let n = if n < 10_000_000 { count(n) } else { short(n) };
        spans.push(Span::styled(format!("{name} {n}"), style));
        spans.push(Span::styled(dot.clone(), palette.quiet()));
    }
    let rules = RuleSet::new(&model.setup.plan);
    let off = RuleId::ALL.into_iter().filter(|&rule| !rules.is_on(rule)).count();
    if 0 < off {
        let text = format!("{} off", plural(off as u64, "rule"));
        spans.push(Span::styled(text, palette.warning()));
        spans.push(Span::styled(dot, palette.quiet()));
    }
    let cost = match &model.shown.overhead {
        Some(overhead) => {
            // The demo's budget is no bound: its guest is there to be traced.
            let budget = Some(overhead.budget_percent).filter(|&percent| percent < 1000.0);
            let budget = budget.map_or_else(String::new, |percent| format!(" max {percent:.0}%"));
            format!(
                "cpu: probe {:.1}% tool {:.1}%{budget}",
                overhead.probe_percent, overhead.tool_percent
            )
        }
        None if model.is_replay() => format!("{} events", short(summary.events)),
        None => String::from("overhead not measured"),
    };
    let used: usize = spans.iter().map(Span::width).sum();
    let cost = cut(&cost, usize::from(width).saturating_sub(used), palette.glyphs);
    spans.push(Span::styled(cost, palette.quiet()));
    Line::from(spans)
}

/// `> 1x  12.345678 of 60.000000  [######|......]  9 hazards, 60 harvests`
#[must_use]
pub fn playback_line(model: &Model, width: u16) -> Line<'static> {
    let Some(playback) = &model.shown.playback else { return Line::default() };
    let palette = &model.palette;
    let glyphs = palette.glyphs;
    if let Stage::Loading { done, total, left_s } = &model.shown.stage {
        return loading_line(model, usize::from(width), (*done, *total), *left_s);
    }
    let (glyph, word) = match (playback.is_seeking, playback.is_playing) {
        (true, _) => (glyphs.play, "seeking"),
        (false, true) => (glyphs.play, "playing"),
        (false, false) => (glyphs.pause, "paused"),
    };
    let speed = f64::from(playback.speed_percent) / 100.0;
    let left = format!(
        "{glyph} {word} {speed}x  {} of {} ",
        clock(playback.position, playback.begin),
        clock(playback.end, playback.begin)
    );
    let right = format!(
        " {}, {}",
        plural(playback.marks.hazards.len() as u64, "hazard"),
        plural(playback.marks.harvests.len() as u64, "harvest")
    );
    let used = left.chars().count() + right.chars().count();
    let room = usize::from(width).saturating_sub(used);
    let length = playback.end.since(playback.begin).max(1);
    let column = |time: crate::event::Nanos| {
        let offset = u128::from(time.since(playback.begin)) * room as u128;
        usize::try_from(offset / u128::from(length)).unwrap_or(0).min(room.saturating_sub(1))
    };
    let here = column(playback.position);
    let mut cells: Vec<&str> =
        (0..room).map(|index| if index <= here { glyphs.filled } else { glyphs.empty }).collect();
    for &hazard in &playback.marks.hazards {
        if let Some(cell) = cells.get_mut(column(hazard)) {
            *cell = "!";
        }
    }
    Line::from(vec![
        Span::styled(left, palette.heading()),
        Span::styled(cells.concat(), palette.chart()),
        Span::styled(right, palette.quiet()),
    ])
}

fn percent(done: u64, total: u64) -> u64 {
    u64::try_from(u128::from(done) * 100 / u128::from(total.max(1))).unwrap_or(100)
}

/// `reading 34%, about 3 s left [####......]`
fn loading_line(
    model: &Model,
    width: usize,
    (done, total): (u64, u64),
    left_s: Option<u64>,
) -> Line<'static> {
    let glyphs = model.palette.glyphs;
    let left = left_s.map_or_else(String::new, |left| format!(", about {left} s left"));
    let text = format!("{} reading {}%{left} ", glyphs.play, percent(done, total));
    let room = width.saturating_sub(text.chars().count()) as u64;
    let filled = usize::try_from(room * percent(done, total) / 100).unwrap_or(0);
    let empty = (room as usize).saturating_sub(filled);
    let bar = format!("{}{}", glyphs.filled.repeat(filled), glyphs.empty.repeat(empty));
    Line::from(vec![
        Span::styled(text, model.palette.heading()),
        Span::styled(bar, model.palette.chart()),
    ])
}

/// The prompt, or what was just said, or the most useful keys.
#[must_use]
pub fn key_line(model: &Model, width: u16) -> Line<'static> {
    let palette = &model.palette;
    if let Some(prompt) = &model.prompt {
        let label = match prompt.kind {
            PromptKind::Filter => "filter: ",
            PromptKind::Gfn => "page (gfn): ",
            PromptKind::Time => "time: ",
        };
        return Line::from(vec![
            Span::styled(label, palette.heading()),
            Span::raw(prompt.text.clone()),
            Span::styled(" ", palette.selected()),
            Span::styled("  Enter accepts, Esc cancels", palette.quiet()),
        ]);
    }
    if let Some(notice) = &model.notice {
        return Line::styled(cut(notice, usize::from(width), palette.glyphs), palette.warning());
    }
    let mut words = Vec::new();
    if let Stage::Ended(why) = &model.shown.stage {
        words.push((why.clone(), palette.warning()));
    }
    if !model.filter.is_empty() {
        words.push((format!("filter {:?}", model.filter), palette.heading()));
    }
    let below = below(model);
    if 0 < below {
        words.push((format!("j {}", plural(below as u64, "more line")), palette.heading()));
    }
    words.extend(keys::hints(model).into_iter().map(|hint| (hint, palette.quiet())));
    let mut room = usize::from(width);
    let mut spans = Vec::new();
    for (word, style) in words {
        let word = cut(&word, usize::from(width), palette.glyphs);
        // A hint that does not fit whole says nothing; the help screen has them all.
        let Some(rest) = room.checked_sub(word.chars().count()) else { break };
        room = rest.saturating_sub(2);
        spans.extend([Span::styled(word, style), Span::raw("  ")]);
    }
    Line::from(spans)
}

/// `--- title -------`
#[must_use]
pub fn heading(model: &Model, title: &str, width: usize) -> Line<'static> {
    let rule = model.palette.glyphs.rule;
    let title = cut(title, width.saturating_sub(4), model.palette.glyphs);
    let rest = width.saturating_sub(3 + title.chars().count());
    Line::from(vec![
        Span::styled(format!("{rule} "), model.palette.quiet()),
        Span::styled(title, model.palette.heading()),
        Span::styled(format!(" {}", rule.repeat(rest)), model.palette.quiet()),
    ])
}

/// `1 slot`, `2 slots`.
#[must_use]
pub fn plural(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{} {noun}s", count(n)) }
}

/// What a terminal that is too small shows: why, and the figures that matter most.
#[must_use]
pub fn too_small(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let counts = &model.shown.summary.verdicts;
    let mut lines = vec![
        Line::styled(format!("{}x{} is too small:", area.width, area.height), palette.warning()),
        Line::raw(format!("{}x{} is needed", SIZE_MIN.0, SIZE_MIN.1)),
    ];
    for verdict in Verdict::ALL {
        let n = counts.get(verdict);
        let style = if n == 0 { palette.quiet() } else { palette.verdict(verdict) };
        lines.push(Line::styled(format!("{} {}", verdict.name(), short(n)), style));
    }
    lines.push(Line::raw(format!("dropped {}", short(model.shown.summary.dropped_events))));
    lines.push(Line::styled("q quit", palette.quiet()));
    lines
}
