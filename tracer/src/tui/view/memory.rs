//! Memory map: every slot as a heat map of its gfns, and what one cell of it holds.
//!
//! ```text
//! slot 0:0  0x0..0x40000  1024 MiB  logging         darkest: 12.3k pages harvested
//!          0x0 ..-+%#%+-...
//!      0x10000 ....
//! ...
//! cell 0x400..0x800: 123 harvested, 45 made writable, 0 windows, worst safe
//! ```

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use crate::event::{SlotId, VmId};
use crate::summary::{HeatCell, SlotSummary, Summary};
use crate::tui::figures::{count, cut, moment, shade, short};
use crate::tui::model::{Model, Shades};
use crate::tui::rows;
use crate::tui::scroll::{cell_gfns, first_row};
use crate::tui::view::frame::{heading, plural};
use crate::tui::view::harvests::worst;
use crate::verdict::Verdict;

/// Cells in one row of the map.
pub const COLUMNS: usize = 64;

/// Columns before the cells.
const MARGIN: usize = 14;

/// Draws the map.
pub fn draw(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let [head, map, legend] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(3)])
            .areas(area);
    let width = usize::from(area.width);
    let title = format!("guest memory, shaded by {} (s changes)", shades_text(model));
    frame.render_widget(heading(model, &title, width), head);
    let slots = rows::slots(model);
    if slots.is_empty() {
        let text = Line::styled("no memslot has been seen yet", model.palette.quiet());
        frame.render_widget(text, map);
        return;
    }
    let mut lines = Vec::new();
    let mut selected_line = 0;
    for (index, &(vm, id, slot)) in slots.iter().enumerate() {
        if index == model.memory.slot {
            selected_line = lines.len() + model.memory.cell / COLUMNS;
        }
        lines.extend(slot_lines(model, index, (vm, id, slot), width));
    }
    let height = usize::from(map.height);
    let first = first_row(selected_line, lines.len(), height);
    let lines: Vec<_> = lines.into_iter().skip(first).take(height).collect();
    frame.render_widget(Paragraph::new(lines), map);
    frame.render_widget(Paragraph::new(legend_lines(model, &slots, width)), legend);
}

fn slot_lines(
    model: &Model,
    index: usize,
    (vm, id, slot): (VmId, SlotId, &SlotSummary),
    width: usize,
) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let values = values(model, vm, id, slot);
    let highest = values.iter().copied().max().unwrap_or(0);
    let logging = if slot.is_logging { "logging" } else { "not logging" };
    let mut text = format!(
        "slot {id}  {}..{:#x}  {}  {logging}  {}",
        slot.base,
        slot.base.0.saturating_add(slot.npages),
        size(slot.npages),
        plural(slot.harvests, "harvest")
    );
    if model.memory.shades != Shades::Verdict {
        let unit = if model.memory.shades == Shades::Rate { "/s" } else { "" };
        text.push_str(&format!("  darkest {}{unit}", short(highest)));
    }
    let style = if index == model.memory.slot { palette.heading() } else { palette.quiet() };
    let mut lines = vec![Line::styled(cut(&text, width, palette.glyphs), style)];
    // Twice as wide where there is room: cells are then nearly square.
    let cell_columns = if MARGIN + 2 * COLUMNS <= width { 2 } else { 1 };
    for (row, cells) in slot.heat.chunks(COLUMNS).enumerate() {
        let gfn = cell_gfns(slot, row * COLUMNS).start;
        let mut spans = vec![Span::styled(format!("{:>12}  ", gfn.to_string()), palette.quiet())];
        for (column, cell) in cells.iter().enumerate() {
            let value = values.get(row * COLUMNS + column).copied().unwrap_or(0);
            let (glyph, style) = cell_glyph(model, cell, value, highest);
            let is_selected =
                index == model.memory.slot && row * COLUMNS + column == model.memory.cell;
            let style = if is_selected { style.patch(palette.selected()) } else { style };
            // Reversing a full block gives a blank: the cursor then shows itself by its own glyph.
            let glyph = if is_selected { "+" } else { glyph };
            spans.push(Span::styled(glyph.repeat(cell_columns), style));
        }
        lines.push(Line::from(spans));
    }
    lines
}

/// Guest memory of a number of 4 KiB pages.
fn size(npages: u64) -> String {
    if npages < 256 {
        format!("{} KiB", npages * 4)
    } else {
        format!("{} MiB", count(npages / 256))
    }
}

/// The summary that rates are taken against: the oldest kept, if enough time has passed since.
fn earlier(model: &Model) -> Option<&Summary> {
    const ENOUGH_NS: u64 = 400_000_000;
    let earlier = model.earlier.front()?;
    (ENOUGH_NS <= model.shown.summary.now.since(earlier.now)).then_some(earlier)
}

fn shades_text(model: &Model) -> String {
    let name = model.memory.shades.name();
    match (model.memory.shades, earlier(model)) {
        (Shades::Rate, Some(earlier)) => {
            let lately = moment(model.shown.summary.now.since(earlier.now));
            format!("{name}, pages/s in the last {lately}")
        }
        (Shades::Rate, None) => format!("{name}, mean pages/s"),
        (Shades::Harvested | Shades::Opened | Shades::Windows | Shades::Verdict, _) => {
            name.to_owned()
        }
    }
}

/// The number each cell of a slot is shaded by.
fn values(model: &Model, vm: VmId, id: SlotId, slot: &SlotSummary) -> Vec<u64> {
    let field: fn(&HeatCell) -> u64 = match model.memory.shades {
        Shades::Rate => return rates(model, vm, id, slot),
        Shades::Harvested => |cell| cell.harvested,
        Shades::Opened => |cell| cell.opened,
        Shades::Windows => |cell| cell.windows,
        Shades::Verdict => |_| 0,
    };
    slot.heat.iter().map(field).collect()
}

/// Pages harvested per second lately; without a past to compare with, in the mean since logging began.
fn rates(model: &Model, vm: VmId, id: SlotId, slot: &SlotSummary) -> Vec<u64> {
    let summary = &model.shown.summary;
    let before = earlier(model).and_then(|earlier| {
        let vm = earlier.vms.iter().find(|other| other.vm == vm)?;
        let heat = &vm.slots.get(&id)?.heat;
        (heat.len() == slot.heat.len()).then_some((earlier.now, heat))
    });
    let since = before
        .map_or_else(|| slot.logging_since.or(summary.begin).unwrap_or_default(), |(then, _)| then);
    let passed_ns = u128::from(summary.now.since(since).max(1));
    let rate = |(index, cell): (usize, &HeatCell)| {
        let then = before.map_or(0, |(_, heat)| heat[index].harvested);
        let pages = u128::from(cell.harvested.saturating_sub(then));
        u64::try_from((pages * 1_000_000_000).div_ceil(passed_ns)).unwrap_or(u64::MAX)
    };
    slot.heat.iter().enumerate().map(rate).collect()
}

fn cell_glyph(model: &Model, cell: &HeatCell, value: u64, highest: u64) -> (&'static str, Style) {
    let palette = &model.palette;
    match model.memory.shades {
        Shades::Verdict => match cell.worst {
            None => (palette.glyphs.shades[0], palette.quiet()),
            Some(verdict) => (letter(verdict), palette.verdict(verdict)),
        },
        Shades::Rate | Shades::Harvested | Shades::Opened | Shades::Windows => {
            let index = shade(value, highest);
            let style = if index == 0 { palette.quiet() } else { palette.chart() };
            (palette.glyphs.shades[index], style)
        }
    }
}

const fn letter(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Lost => "L",
        Verdict::AtRisk => "A",
        Verdict::Exposed => "E",
        Verdict::Unknown => "u",
        Verdict::Safe => "s",
    }
}

fn legend_lines(
    model: &Model,
    slots: &[(VmId, SlotId, &SlotSummary)],
    width: usize,
) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let glyphs = palette.glyphs;
    let legend = match model.memory.shades {
        Shades::Verdict => format!(
            "L lost  A at-risk  E exposed  u unknown  s safe  {} not judged",
            glyphs.shades[0]
        ),
        Shades::Rate | Shades::Harvested | Shades::Opened | Shades::Windows => {
            format!(
                "{} none  {} few to {} many, logarithmic",
                glyphs.shades[0], glyphs.shades[1], glyphs.shades[4]
            )
        }
    };
    let mut lines = vec![heading(model, &legend, width)];
    let Some(&(vm, id, slot)) = slots.get(model.memory.slot) else { return lines };
    let Some(cell) = slot.heat.get(model.memory.cell) else { return lines };
    let gfns = cell_gfns(slot, model.memory.cell);
    lines.push(Line::raw(format!("gfn {}..{}: {}", gfns.start, gfns.end, cell_text(cell))));
    let rate = rates(model, vm, id, slot).get(model.memory.cell).copied().unwrap_or(0);
    let text = format!("{} pages/s here   arrows move   Enter page by page", short(rate));
    lines.push(Line::styled(text, palette.quiet()));
    lines
}

fn cell_text(cell: &HeatCell) -> String {
    format!(
        "{} harvested, {} made writable, {} windows, {}",
        short(cell.harvested),
        short(cell.opened),
        short(cell.windows),
        worst(cell.worst)
    )
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use crate::tui::model::Tab;
    use crate::tui::msg::{Step, Wish};
    use crate::tui::palette::Theme;
    use crate::tui::sample::{after, busy, empty, screen, us, with};

    #[test]
    fn without_slots_there_is_no_map() {
        let text = screen(&after(empty(), &[Wish::GoTo(Tab::Memory)]), 80, 24);
        assert_snapshot!(text.lines().skip(2).take(2).collect::<Vec<_>>().join("\n"), @r#"
        ─ guest memory, shaded by dirty rate, mean pages/s (s changes) ─────────────────
        no memslot has been seen yet
        "#);
    }

    #[test]
    fn slots_are_shaded_by_range() {
        let model = after(busy(), &[Wish::GoTo(Tab::Memory), Wish::Right, Wish::Right]);
        assert_snapshot!(screen(&model, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        ─ guest memory, shaded by dirty rate, mean pages/s (s changes) ─────────────────
        slot 0:0  0x0..0x40000  1,024 MiB  logging  12 harvests  darkest 3940/s
                 0x0  ·░+░▒▒▒▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓████████████████████████████
             0x10000  ████████████████████████████████████····························
             0x20000  ································································
             0x30000  ································································
        slot 0:3  0xfffc0..0x100000  256 KiB  not logging  0 harvests  darkest 0/s









        ─ · none  ░ few to █ many, logarithmic ─────────────────────────────────────────
        gfn 0x800..0xc00: 4 harvested, 2 made writable, 0 windows, not judged
        2 pages/s here   arrows move   Enter page by page
        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        ? help  q quit  Tab screen  Enter open  s sort  : page  space freeze
        "#);
        let verdicts = after(model, &[Wish::Sort, Wish::Sort, Wish::Sort, Wish::Move(Step::Down)]);
        let mut ascii = verdicts;
        ascii.palette = Theme::Ascii.palette();
        let text = screen(&ascii, 80, 24);
        assert!(text.is_ascii());
        assert_snapshot!(text, @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 - kernel 6.12.95 - tdp - manual-protect - 2 vcpus
        2 slots, 1 logging for 2.4 s
        - guest memory, shaded by third-case windows (s changes) -----------------------
        slot 0:0  0x0..0x40000  1,024 MiB  logging  12 harvests  darkest 1
                 0x0  ....#...........................................................
             0x10000  ..+.............................................................
             0x20000  ................................................................
             0x30000  ................................................................
        slot 0:3  0xfffc0..0x100000  256 KiB  not logging  0 harvests  darkest 0









        - . none  - few to # many, logarithmic -----------------------------------------
        gfn 0x10800..0x10c00: 4356 harvested, 3 made writable, 0 windows, not judged
        1752 pages/s here   arrows move   Enter page by page
        dropped 0 - gaps 0 - cpu: probe 3.1% tool 1.2% max 25%
        ? help  q quit  Tab screen  Enter open  s sort  : page  space freeze
        "#);
    }

    #[test]
    fn a_wide_terminal_doubles_the_cells() {
        let model = after(busy(), &[Wish::GoTo(Tab::Memory)]);
        let text = screen(&model, 160, 30);
        assert_snapshot!(text.lines().skip(2).take(6).collect::<Vec<_>>().join("\n"), @r#"
        ─ guest memory, shaded by dirty rate, mean pages/s (s changes) ─────────────────────────────────────────────────────────────────────────────────────────────────
        slot 0:0  0x0..0x40000  1,024 MiB  logging  12 harvests  darkest 3940/s
                 0x0  ++░░░░░░▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓████████████████████████████████████████████████████████
             0x10000  ████████████████████████████████████████████████████████████████████████························································
             0x20000  ································································································································
             0x30000  ································································································································
        "#);
    }

    #[test]
    fn steps_go_over_the_edge_of_a_slot() {
        let mut model = after(busy(), &[Wish::GoTo(Tab::Memory), Wish::Move(Step::Bottom)]);
        assert_eq!((model.memory.slot, model.memory.cell), (1, 0));
        model = after(model, &[Wish::Move(Step::Up)]);
        assert_eq!((model.memory.slot, model.memory.cell), (0, 192));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_once_they_are_known() {
        let hotter = |summary: &mut crate::summary::Summary| {
            summary.now = us(3_500_000);
            for vm in &mut summary.vms {
                for slot in vm.slots.values_mut().filter(|slot| !slot.heat.is_empty()) {
                    slot.heat[9].harvested += 2_000;
                }
            }
        };
        let model = after(with(busy(), hotter), &[Wish::GoTo(Tab::Memory)]);
        let (vm, id, slot) = crate::tui::rows::slots(&model)[0];
        let rates = super::rates(&model, vm, id, slot);
        assert_eq!((rates[8], rates[9]), (0, 2_000));
        let text = screen(&model, 80, 24);
        assert!(text.contains("dirty rate, pages/s in the last 1.0 s"), "{text}");
        assert!(text.contains("darkest 2000/s"), "{text}");
    }
}
