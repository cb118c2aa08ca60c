//! A range of gfns page by page: what is known of each, and the findings on it.
//!
//! ```text
//! - slot 0:0, gfn 0x400..0x800: 1024 pages, one per cell -------------
//! . unknown 12  p protected 800  m reported 200  w writable 10  o unreported 2
//! gfn 0x412: writable and reported
//! lost K05 slot 0:0 gfn 0x412 x3: ...
//!       0x400  ppppmmmmwwwwoooo....
//!       0x440  ...
//! ```

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::tui::figures::{cut, short};
use crate::tui::model::Model;
use crate::tui::rows;
use crate::tui::view::findings;
use crate::tui::view::frame::{heading, plural};
use crate::verdict::{PageRange, PageState, Verdict};

/// Cells in one row.
pub const COLUMNS: usize = 64;

/// The screen; the line of the selected cell is the second value.
#[must_use]
pub fn lines(
    model: &Model,
    range: &PageRange,
    selected: usize,
    width: usize,
) -> (Vec<Line<'static>>, usize) {
    let palette = &model.palette;
    let cells = range.cells() as usize;
    let each = range.cell(0).npages;
    let per_cell =
        if each <= 1 { String::from("one per cell") } else { format!("{each} per cell") };
    let end = range.first.0.saturating_add(range.npages);
    let title = format!(
        "slot {}, gfn {}..{end:#x}: {}, {per_cell}",
        range.slot,
        range.first,
        plural(range.npages, "page")
    );
    let mut lines = vec![heading(model, &title, width)];
    let states = states(model, range);
    let verdicts = verdicts(model, range);
    lines.push(Line::styled(legend(model, states), palette.quiet()));
    lines.extend(cell_lines(model, range, selected, width));
    let above = lines.len();
    for first in (0..cells).step_by(COLUMNS) {
        let gfn = range.cell(first as u64).first.to_string();
        let mut spans = vec![Span::styled(format!("{gfn:>12}  "), palette.quiet())];
        for cell in first..cells.min(first + COLUMNS) {
            let (glyph, style) = glyph(model, states.map(|states| states[cell]), verdicts[cell]);
            let style = if cell == selected { style.patch(palette.selected()) } else { style };
            spans.push(Span::styled(glyph, style));
        }
        lines.push(Line::from(spans));
    }
    (lines, above + selected / COLUMNS)
}

/// The selected cell, and the worst finding in it.
fn cell_lines(
    model: &Model,
    range: &PageRange,
    selected: usize,
    width: usize,
) -> [Line<'static>; 2] {
    let palette = &model.palette;
    let cell = range.cell((selected as u64).min(range.cells().saturating_sub(1)));
    let state = states(model, range).and_then(|states| states.get(selected));
    let state = state.map_or("", |state| state.name());
    let text = if cell.npages <= 1 {
        format!("gfn {}: {state}", cell.first)
    } else {
        let end = cell.first.0.saturating_add(cell.npages);
        format!("gfn {}..{end:#x}: none worse than {state}", cell.first)
    };
    let findings = rows::findings_in(model, &cell);
    let more = match findings.len() {
        0 | 1 => String::new(),
        n => format!("(and {} more) ", n - 1),
    };
    let found = findings.first().map_or_else(
        || Line::styled("no finding", palette.quiet()),
        |worst| {
            let text = cut(&format!("{more}{}", findings::plain(worst)), width, palette.glyphs);
            Line::styled(text, palette.verdict(worst.verdict))
        },
    );
    [Line::raw(text), found]
}

/// The states, once they have come for this range.
fn states<'a>(model: &'a Model, range: &PageRange) -> Option<&'a [PageState]> {
    let closeup = model.shown.closeup.as_deref()?;
    let is_whole = closeup.states.len() as u64 == range.cells();
    (closeup.range == *range && is_whole).then_some(closeup.states.as_slice())
}

/// The worst finding of each cell.
fn verdicts(model: &Model, range: &PageRange) -> Vec<Option<Verdict>> {
    let cells = range.cells();
    let mut verdicts = vec![None; cells as usize];
    for finding in rows::findings_in(model, range) {
        let Some(gfn) = finding.gfn else { continue };
        let offset = u128::from(gfn.0 - range.first.0);
        // The inverse of `PageRange::cell`, which rounds bounds down.
        let cell = ((offset + 1) * u128::from(cells)).div_ceil(u128::from(range.npages.max(1))) - 1;
        if let Some(worst) = verdicts.get_mut(usize::try_from(cell).unwrap_or(usize::MAX)) {
            *worst = (*worst).max(Some(finding.verdict));
        }
    }
    verdicts
}

fn glyph(
    model: &Model,
    state: Option<PageState>,
    verdict: Option<Verdict>,
) -> (&'static str, Style) {
    let palette = &model.palette;
    match (verdict, state) {
        (Some(Verdict::Lost), _) => ("L", palette.verdict(Verdict::Lost)),
        (Some(Verdict::AtRisk), _) => ("A", palette.verdict(Verdict::AtRisk)),
        (Some(Verdict::Exposed), _) => ("E", palette.verdict(Verdict::Exposed)),
        (Some(Verdict::Unknown | Verdict::Safe) | None, None) => {
            (palette.glyphs.shades[0], palette.quiet())
        }
        (Some(Verdict::Unknown | Verdict::Safe) | None, Some(state)) => {
            let style = match state {
                PageState::Unknown | PageState::Protected => palette.quiet(),
                PageState::Reported => palette.chart(),
                PageState::Open => palette.text(),
                PageState::Unreported => palette.warning(),
            };
            (letter(model, state), style)
        }
    }
}

fn letter(model: &Model, state: PageState) -> &'static str {
    match state {
        PageState::Unknown => model.palette.glyphs.shades[0],
        PageState::Protected => "p",
        PageState::Reported => "m",
        PageState::Open => "w",
        PageState::Unreported => "o",
    }
}

/// Letters, what each means, and how many cells have it.
fn legend(model: &Model, states: Option<&[PageState]>) -> String {
    let Some(states) = states else { return String::from("asking for the pages' states") };
    let words = PageState::ALL.into_iter().map(|state| {
        let n = states.iter().filter(|&&other| other == state).count() as u64;
        let word = match state {
            PageState::Unknown => "unknown",
            PageState::Protected => "protected",
            PageState::Reported => "reported",
            PageState::Open => "writable",
            PageState::Unreported => "unreported",
        };
        format!("{} {word} {}", letter(model, state), short(n))
    });
    words.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use insta::assert_snapshot;

    use super::*;
    use crate::event::{Gfn, SlotId};
    use crate::feed::{Closeup, Request, Snapshot};
    use crate::tui::model::{Overlay, Tab};
    use crate::tui::msg::{Effect, Msg, Step, Wish};
    use crate::tui::sample::{VM, after, busy, screen, with};
    use crate::tui::update::update;

    fn closeup(npages: u64) -> Model {
        let mut model = after(busy(), &[Wish::GoTo(Tab::Memory)]);
        for _ in 0..4 {
            update(&mut model, Msg::Wish(Wish::Right));
        }
        let asked = update(&mut model, Msg::Wish(Wish::Enter));
        let range = PageRange { vm: VM, slot: SlotId::default(), first: Gfn(0x1000), npages: 1024 };
        assert_eq!(asked, Some(Effect::Ask(Request::Look(range))));
        let range = PageRange { npages, ..range };
        model.overlays = vec![Overlay::Range { range, selected: 0 }];
        let states = (0..range.cells()).map(|cell| PageState::ALL[cell as usize / 7 % 5]).collect();
        let closeup = Some(Arc::new(Closeup { range, states }));
        let snapshot = Snapshot { closeup, ..(*model.shown).clone() };
        update(&mut model, Msg::Snapshot(Arc::new(snapshot)));
        model
    }

    #[test]
    fn each_page_has_its_state_and_its_finding() {
        let model = closeup(1024);
        assert_snapshot!(screen(&model, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        ─ slot 0:0, gfn 0x1000..0x1400: 1,024 pages, one per cell ──────────────────────
        · unknown 210  p protected 205  m reported 203  w writable 203  o unreported 203
        gfn 0x1000: not known
        lost K05 slot 0:0 gfn 0x1000 x3: harvest 6 took the bit and returned without a …
              0x1000  L······pppppppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmmwwwwwwwo
              0x1040  oooooo·······pppppppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmmww
              0x1080  wwwwwooooooo·······pppppppmmmmmmmwwwwwwwooooooo·······pppppppmmm
              0x10c0  mmmmwwwwwwwooooooo·······pppppppmmmmmmmwwwwwwwooooooo·······pppp
              0x1100  pppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmmwwwwwwwooooooo·····
              0x1140  ··pppppppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmmwwwwwwwoooooo
              0x1180  o·······pppppppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmmwwwwwww
              0x11c0  ooooooo·······pppppppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmmw
              0x1200  wwwwwwooooooo·······pppppppmmmmmmmwwwwwwwooooooo····E··pppppppmm
              0x1240  mmmmmwwwwwwwooooooo·······pppppppmmmmmmmwwwwwwwooooooo·······ppp
              0x1280  ppppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmmwwwwwwwooooooo····
              0x12c0  ···pppppppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmmwwwwwwwooooo
              0x1300  oo·······pppppppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmmwwwwww
              0x1340  wooooooo·······pppppppmmmmmmmwwwwwwwooooooo·······pppppppmmmmmmm
              0x1380  wwwwwwwooooooo·······pppppppmmmmmmmwwwwwwwooooooo·······pppppppm
        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        j 1 more line  Esc back  Enter open  Left previous  Right next  : page  x rule
        "#);
        let mut model = after(model, &[Wish::Move(Step::Down), Wish::Right]);
        let asked = update(&mut model, Msg::Wish(Wish::Enter));
        assert_eq!(asked, Some(Effect::Ask(Request::Follow { vm: VM, gfn: Gfn(0x1041) })));
    }

    #[test]
    fn a_small_cell_is_shown_among_its_neighbours() {
        let small = |summary: &mut crate::summary::Summary| {
            for slot in summary.vms.iter_mut().flat_map(|vm| vm.slots.values_mut()) {
                slot.npages = slot.npages.min(4_096);
            }
        };
        let mut model = after(with(busy(), small), &[Wish::GoTo(Tab::Memory)]);
        model.memory.cell = 70;
        let asked = update(&mut model, Msg::Wish(Wish::Enter));
        let range = PageRange { vm: VM, slot: SlotId::default(), first: Gfn(0x400), npages: 1024 };
        assert_eq!(asked, Some(Effect::Ask(Request::Look(range))));
        let selected = Overlay::Range { range, selected: 70 * 16 - 0x400 };
        assert_eq!(model.overlays.last(), Some(&selected));
    }

    #[test]
    fn a_large_range_is_zoomed_into_once_more_and_left_step_by_step() {
        let mut model = closeup(1 << 16);
        let inner = PageRange { vm: VM, slot: SlotId::default(), first: Gfn(0x1000), npages: 64 };
        let asked = update(&mut model, Msg::Wish(Wish::Enter));
        assert_eq!(asked, Some(Effect::Ask(Request::Look(inner))));
        let asked = update(&mut model, Msg::Wish(Wish::Back));
        assert!(matches!(asked, Some(Effect::Ask(Request::Look(_)))), "{asked:?}");
        assert_eq!(update(&mut model, Msg::Wish(Wish::Back)), Some(Effect::Ask(Request::LookAway)));
    }

    #[test]
    fn a_finding_is_shown_in_the_cell_that_holds_its_page() {
        for npages in [1, 64, 1025, 1 << 16] {
            let range = PageRange { vm: VM, slot: SlotId::default(), first: Gfn(0x1000), npages };
            let verdicts = verdicts(&busy(), &range);
            for (cell, verdict) in verdicts.iter().enumerate() {
                let holds = range.cell(cell as u64).holds(Gfn(0x1000));
                assert_eq!(*verdict == Some(Verdict::Lost), holds, "cell {cell} of {npages}");
            }
        }
    }
}
