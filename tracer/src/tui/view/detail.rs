//! One finding, window or harvest, and a rule's page: text one scrolls through.

use ratatui::text::{Line, Span};

use crate::event::Event;
use crate::summary::Harvest;
use crate::tui::describe;
use crate::tui::figures::{clock, count, duration, wrap};
use crate::tui::model::Model;
use crate::tui::view::findings;
use crate::tui::view::frame::{heading, plural};
use crate::tui::view::harvests::worst;
use crate::tui::view::{page, witness};
use crate::verdict::{Finding, RuleId, Window, WindowKind};

/// One finding: what, where, when, and the witness that makes its case.
#[must_use]
pub fn finding_lines(model: &Model, finding: &Finding, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let dot = palette.glyphs.dot;
    let begin = model.begin();
    let title = format!("{} {}", finding.rule.name(), finding.rule.rule().name);
    let mut lines = vec![heading(model, &title, width)];
    let page = finding.gfn.map_or_else(|| String::from("whole slot"), |gfn| format!("gfn {gfn}"));
    let when = if finding.first == finding.last {
        format!("at {}", clock(finding.first, begin))
    } else {
        format!("from {} to {}", clock(finding.first, begin), clock(finding.last, begin))
    };
    lines.push(Line::from(vec![
        Span::styled(finding.verdict.name(), palette.verdict(finding.verdict)),
        Span::raw(format!(
            " {dot} vm {} {dot} slot {} {dot} {page} {dot} {when} {dot} {}",
            finding.vm,
            finding.slot,
            plural(finding.count, "time")
        )),
    ]));
    if let Some(known) = finding.known {
        let text = format!("known hazard of this kernel release: {known}");
        lines.push(Line::styled(text, palette.warning()));
    }
    lines.extend(wrap(&finding.sentence, width).into_iter().map(Line::raw));
    lines.push(heading(model, "witness", width));
    lines.extend(witness::lines(model, &finding.witness, width));
    lines
}

/// A rule's page, its drawings untouched.
#[must_use]
pub fn rule_lines(model: &Model, rule: RuleId, width: usize) -> Vec<Line<'static>> {
    let rule = rule.rule();
    let title = format!("{} {}", rule.id.name(), rule.name);
    let mut lines = vec![heading(model, &title, width)];
    lines.extend(reflow(&rule.page(), width).into_iter().map(Line::raw));
    lines
}

/// A rule's page without its title: paragraphs fitted to the width, drawings as they are.
fn reflow(page: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut paragraph = String::new();
    let mut drawing: Option<Vec<String>> = None;
    for line in page.lines().skip(1) {
        if line.starts_with("```") {
            lines.extend(wrap(&std::mem::take(&mut paragraph), width));
            drawing = match drawing.take() {
                Some(drawing) => {
                    lines.extend(narrow(drawing, width));
                    None
                }
                None => Some(Vec::new()),
            };
        } else if let Some(drawing) = &mut drawing {
            drawing.push(line.to_owned());
        } else if line.trim().is_empty() {
            lines.extend(wrap(&std::mem::take(&mut paragraph), width));
            lines.push(String::new());
        } else {
            paragraph.push_str(line);
            paragraph.push(' ');
        }
    }
    lines.extend(wrap(&paragraph, width));
    lines
}

/// A drawing that fits: blank columns are taken out, one by one; what is still too long goes on below itself.
fn narrow(drawing: Vec<String>, width: usize) -> Vec<String> {
    let mut rows: Vec<Vec<char>> = drawing.iter().map(|line| line.chars().collect()).collect();
    loop {
        let widest = rows.iter().map(Vec::len).max().unwrap_or(0);
        // Two blank columns side by side stay one, so that columns of the drawing stay apart.
        let is_blank =
            |column: usize| rows.iter().all(|row| row.get(column).is_none_or(|&c| c == ' '));
        let spare = (0..widest).rev().find(|&column| is_blank(column) && is_blank(column + 1));
        let Some(column) = spare.filter(|_| width < widest) else { break };
        for row in &mut rows {
            if column < row.len() {
                row.remove(column);
            }
        }
    }
    rows.into_iter().flat_map(|row| folded(&String::from_iter(row), width)).collect()
}

/// A row of a drawing in lines of at most `width`: its last column goes on below where it began.
fn folded(row: &str, width: usize) -> Vec<String> {
    if row.chars().count() <= width {
        return vec![row.to_owned()];
    }
    let column = row.rfind("  ").map_or(0, |at| row[..at + 2].chars().count());
    let column = if width < column + 16 { 0 } else { column };
    let head: String = row.chars().take(column).collect();
    let tail: String = row.chars().skip(column).collect();
    let mut parts = wrap(&tail, width - column).into_iter();
    let first = format!("{head}{}", parts.next().unwrap_or_default());
    std::iter::once(first).chain(parts.map(|part| format!("{:column$}{part}", ""))).collect()
}

/// One window and the events of its page around it.
#[must_use]
pub fn window_lines(model: &Model, window: &Window, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let begin = model.begin();
    let mut lines = vec![heading(model, &format!("{} window", window.kind.name()), width)];
    let open_for = window.open_for_ns().map_or_else(|| String::from("still open"), duration);
    let closed = window.closed.map_or_else(|| String::from("-"), |closed| clock(closed, begin));
    for (name, value) in [
        ("vm", window.vm.to_string()),
        ("slot", window.slot.to_string()),
        ("gfn", window.gfn.to_string()),
        ("thread", window.tid.to_string()),
        ("opened", format!("{} or later", clock(window.opened, begin))),
        ("closed", format!("{closed} or earlier")),
        ("open for", format!("at most {open_for}")),
        ("harvests", format!("{} of the slot can have fallen inside", window.harvests_inside)),
    ] {
        lines.push(Line::from(vec![
            Span::styled(format!("  {name:<10}"), palette.quiet()),
            Span::raw(value),
        ]));
    }
    lines.extend(wrap(meaning(window.kind), width).into_iter().map(Line::raw));
    lines.push(heading(model, "events of the page in and around it", width));
    let around = window.opened.0.saturating_sub(AROUND_NS)
        ..=window.closed.map_or(u64::MAX, |closed| closed.0.saturating_add(AROUND_NS));
    let is_near = |event: &Event| around.contains(&event.span.hi.0);
    lines.extend(page::event_lines(model, window.vm, window.gfn, is_near, width));
    lines
}

/// Events this long before and after a window are shown with it.
const AROUND_NS: u64 = 10_000_000;

const fn meaning(kind: WindowKind) -> &'static str {
    match kind {
        WindowKind::FastFault => {
            "Allowed: a lockless fault made the page writable before it marked it. Harmless if the slot is \
             harvested once more after the window closed."
        }
        WindowKind::HostWrite => {
            "Allowed: the host wrote the page before it marked it. Harmless if the slot is harvested once more \
             after the window closed."
        }
        WindowKind::SlowFault => {
            "Measured only: from the mark to the SPTE store of one fault, both inside mmu_lock."
        }
        WindowKind::Tlb => {
            "Measured only: from the write-protect to the end of the flush; stale TLB entries may still write."
        }
    }
}

/// One harvest and where its time went.
#[must_use]
pub fn harvest_lines(model: &Model, id: u64) -> Vec<Line<'static>> {
    let width = usize::from(model.size.0);
    let Some(harvest) = model.shown.summary.harvests.iter().find(|harvest| harvest.id == id) else {
        return vec![Line::raw(format!("harvest {id} is not among those kept any more"))];
    };
    let palette = &model.palette;
    let begin = model.begin();
    let title = format!("harvest {}: {}", harvest.id, describe::ioctl(harvest.op));
    let mut lines = vec![heading(model, &title, width)];
    let completeness =
        if harvest.is_complete { "every record was seen" } else { "records are missing" };
    for (name, value) in [
        ("vm", harvest.vm.to_string()),
        ("slot", harvest.slot.to_string()),
        ("iteration", harvest.iteration.to_string()),
        ("thread", harvest.tid.to_string()),
        ("begin", clock(harvest.begin, begin)),
        ("end", clock(harvest.end, begin)),
        ("returned", harvest.ret.to_string()),
        ("taken", format!("{} pages in {} words", count(harvest.pages), count(harvest.words))),
        ("verdict", worst(harvest.worst).to_owned()),
        ("records", completeness.to_owned()),
    ] {
        lines.push(Line::from(vec![
            Span::styled(format!("  {name:<10}"), palette.quiet()),
            Span::raw(value),
        ]));
    }
    lines.push(heading(model, "where its time went", width));
    lines.extend(time_lines(model, harvest, width));
    lines.push(heading(model, "findings inside it", width));
    let inside = harvest.begin..=harvest.end;
    let findings: Vec<_> = model
        .shown
        .summary
        .findings
        .iter()
        .filter(|finding| finding.vm == harvest.vm && inside.contains(&finding.first))
        .map(|finding| Line::raw(findings::plain(finding)))
        .collect();
    if findings.is_empty() {
        lines.push(Line::styled("  none", palette.quiet()));
    }
    lines.extend(findings);
    lines
}

fn time_lines(model: &Model, harvest: &Harvest, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let all = harvest.end.since(harvest.begin);
    let flush = harvest.flush_ns.unwrap_or(0);
    let rest = all.saturating_sub(harvest.protect_ns).saturating_sub(flush);
    let flush_name = match (harvest.flush_ns, harvest.flush_counter_moved) {
        (Some(_), _) => "flush",
        (None, true) => "flush: counted, not timed",
        (None, false) => "flush: none seen",
    };
    [
        ("first to last word", harvest.protect_ns),
        (flush_name, flush),
        ("rest: mmu_lock, copy to user", rest),
        ("ioctl", all),
    ]
    .into_iter()
    .map(|(name, ns)| {
        let room = width.saturating_sub(44) as u128;
        let bar = u128::from(ns) * room / u128::from(all.max(1));
        let bar = palette.glyphs.filled.repeat(usize::try_from(bar).unwrap_or(0));
        Line::from(vec![
            Span::styled(format!("  {name:<30}"), palette.quiet()),
            Span::raw(format!("{:>9}  ", duration(ns))),
            Span::styled(bar, palette.chart()),
        ])
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use crate::tui::msg::Wish;
    use crate::tui::palette::Theme;
    use crate::tui::sample::{after, busy, empty, screen};
    use crate::verdict::RuleId;

    #[test]
    fn a_loss_is_drawn_as_two_columns() {
        let model = after(busy(), &[Wish::Enter]);
        assert_snapshot!(screen(&model, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        ─ K05 harvested-not-flushed ────────────────────────────────────────────────────
        lost · vm 0xffff888100000000 · slot 0:0 · gfn 0x1000 · from 1.200000 to 1.400000
        harvest 6 took the bit and returned without a flush; vcpu 1 wrote through its
        stale TLB entry
        ─ witness ──────────────────────────────────────────────────────────────────────
        step at         tid 4711                       │ vcpu 1 (tid 4713)
           1  +100 us   takes the bit: take bits 0x1   │
                        from 0x1000, protected 0x1     │
           2~ +500 us                                  │ marks: mark 0x1000 dirty
                                                       │ without mmu_lock, bit set at
                                                       │ return
           3~ +498 us                                  │ makes it writable: fast fault
                                                       │ on 0x1000 set W again, was
                                                       │ 0x80000801 RO
        ✗  4~ +900 us   returns unflushed:             │
                        GET_DIRTY_LOG 0:0 returns 0    │

        order known: 1→4 program-order, 1→2 reads-from, 1→3 real-time, 2→4 real-time
        ~ either may come first: 2 and 3, 3 and 4
        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        j 1 more line  Esc back  x rule  Enter open  e litmus  E JSON  y copy  n hazard
        "#);
    }

    #[test]
    fn a_wide_terminal_gives_the_columns_room() {
        let model = after(busy(), &[Wish::Enter]);
        assert_snapshot!(screen(&model, 140, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms                                                               live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus · 2 slots, 1 logging for 2.4 s
        ─ K05 harvested-not-flushed ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
        lost · vm 0xffff888100000000 · slot 0:0 · gfn 0x1000 · from 1.200000 to 1.400000 · 3 times
        harvest 6 took the bit and returned without a flush; vcpu 1 wrote through its stale TLB entry
        ─ witness ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
        step at           within tid 4711                                                 │ vcpu 1 (tid 4713)
           1  +100 us    3.0 us  takes the bit: take bits 0x1 from 0x1000, protected 0x1  │
           2~ +500 us    2.0 us                                                           │ marks: mark 0x1000 dirty without mmu_lock, bit set at
                                                                                          │ return
           3~ +498 us    5.0 us                                                           │ makes it writable: fast fault on 0x1000 set W again, was
                                                                                          │ 0x80000801 RO
        ✗  4~ +900 us    900 us  returns unflushed: GET_DIRTY_LOG 0:0 returns 0           │

        order known: 1→4 program-order, 1→2 reads-from, 1→3 real-time, 2→4 real-time
        ~ either may come first: 2 and 3, 3 and 4
        ✗ from step 4 on the page is lost





        dropped 0 · gaps 0 · anomalies 0 · integrity 0 · cpu: probe 3.1% tool 1.2% max 25%
        Esc back  x rule  Enter open  e litmus  E JSON  y copy  n hazard  ? help
        "#);
    }

    #[test]
    fn ascii_draws_the_same() {
        let mut model = after(busy(), &[Wish::Enter]);
        model.palette = Theme::Ascii.palette();
        assert!(screen(&model, 80, 24).is_ascii());
    }

    #[test]
    fn the_rule_is_one_key_away_and_back() {
        let model = after(busy(), &[Wish::Enter, Wish::Explain]);
        let text = screen(&model, 80, 24);
        assert_snapshot!(text.lines().skip(3).take(18).collect::<Vec<_>>().join("\n"), @r#"
        ─ K05 harvested-not-flushed ────────────────────────────────────────────────────

        A harvest took bits and no TLB flush both started after the last write-protect
        and finished before the ioctl returned.

        Kernel: `kvm_get_dirty_log_protect()` flushes after it has dropped `mmu_lock`
        and before it copies the bitmap to user space, if any word was not zero
        (virt/kvm/kvm_main.c). At enable, `kvm_mmu_slot_apply_flags()` flushes always
        since b64d740ea7dd; 5.10 only if an SPTE changed, which is a listed stock-kernel
        hazard.

        vcpu (cpu 0)                         harvester (cpu 1)
        write gfn 7 (TLB holds W)
                                             take bit 7, clear W
                                             return                           (no flush)
        write gfn 7 through the TLB          page 7 was copied already        <- lost

        Evidence: each flush with begin and end, and the VM's flush counter at the
        "#);
        assert_eq!(after(model, &[Wish::Back]).overlays.len(), 1);
    }

    #[test]
    fn no_drawing_of_a_rule_is_cut() {
        for rule in RuleId::ALL {
            for line in super::rule_lines(&busy(), rule, 80) {
                assert!(line.width() <= 80, "{}: {line}", rule.name());
            }
        }
        let folded =
            super::folded("mark gfn 7            visit gfn 7: read-only, or not in the rmap", 48);
        assert_eq!(
            folded,
            [
                "mark gfn 7            visit gfn 7: read-only, or",
                "                      not in the rmap"
            ]
        );
    }

    #[test]
    fn a_finding_without_a_witness_says_so() {
        let model = after(busy(), &[Wish::NextHazard, Wish::Enter]);
        let text = screen(&model, 80, 24);
        assert_snapshot!(text.lines().skip(3).take(8).collect::<Vec<_>>().join("\n"), @r#"
        ─ K15 enabled-not-protected ────────────────────────────────────────────────────
        at-risk · vm 0xffff888100000000 · slot 0:0 · gfn 0x2000 · at 0.012400 · 1 time
        known hazard of this kernel release: enable-skips-flush
        stayed writable when logging was turned on
        ─ witness ──────────────────────────────────────────────────────────────────────
        no events were kept for this finding
        "#);
    }

    #[test]
    fn a_window_tells_what_it_allows() {
        let model = after(busy(), &[Wish::Right, Wish::Enter]);
        assert_snapshot!(screen(&model, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        ─ fast-fault window ────────────────────────────────────────────────────────────
          vm        0xffff888100000000
          slot      0:0
          gfn       0x1234
          thread    4712
          opened    1.000000 or later
          closed    1.000031 or earlier
          open for  at most 31 us
          harvests  1 of the slot can have fallen inside
        Allowed: a lockless fault made the page writable before it marked it. Harmless
        if the slot is harvested once more after the window closed.
        ─ events of the page in and around it ──────────────────────────────────────────
          looking for its events






        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        Esc back  Enter open  y copy  ? help
        "#);
    }

    #[test]
    fn a_harvest_tells_where_its_time_went() {
        let model = after(busy(), &[Wish::Left, Wish::Enter]);
        assert_snapshot!(screen(&model, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        ─ harvest 12: GET_DIRTY_LOG ────────────────────────────────────────────────────
          vm        0xffff888100000000
          slot      0:0
          iteration 12
          thread    4711
          begin     2.399100
          end       2.400000
          returned  0
          taken     10 pages in 100 words
          verdict   safe
          records   every record was seen
        ─ where its time went ──────────────────────────────────────────────────────────
          first to last word               600 us  ████████████████████████
          flush                            120 us  ████
          rest: mmu_lock, copy to user     180 us  ███████
          ioctl                            900 us  ████████████████████████████████████
        ─ findings inside it ───────────────────────────────────────────────────────────
          none

        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        Esc back  y copy  ? help
        "#);
    }

    #[test]
    fn with_nothing_selected_the_keys_say_so() {
        let model = after(empty(), &[Wish::Enter, Wish::Explain]);
        assert_eq!(model.notice.as_deref(), Some("select a finding first"));
    }
}
