//! Drawing: the model in, cells out. A view reads nothing but the model.
//!
//! ```text
//! +------------------------------------------------------------+
//! | kvmdirty-trace  1 overview  2 memory ...    live 12.345678 |  title
//! | qemu pid 4711 . kernel 6.12 . tdp . manual-protect . ...   |  VM line
//! |                                                            |
//! |   one screen: a tab, or what lies over it                  |  body
//! |                                                            |
//! | > 1x  [=======|------------]  12.3 of 60.0                 |  replay only
//! | dropped 0 . gaps 0 . anomalies 0 . overhead ...            |  loss line: never hidden
//! | ? help  q quit  / filter ...                               |  keys, prompt or notice
//! +------------------------------------------------------------+
//! ```

pub mod frame;
pub mod overview;

pub mod activity;
pub mod findings;
pub mod harvests;
pub mod histogram;
pub mod windows;

pub mod closeup;
pub mod coverage;
pub mod detail;
pub mod lock;
pub mod memory;
pub mod page;
pub mod vms;
pub mod witness;

pub mod help;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use crate::tui::model::{List, Model, Overlay, Tab};
use crate::tui::msg::{Msg, Wish};
use crate::tui::rows;

/// The smallest terminal every screen fits.
pub const SIZE_MIN: (u16, u16) = (80, 24);

/// Draws one frame.
pub fn view(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    if area.width < SIZE_MIN.0 || area.height < SIZE_MIN.1 {
        frame.render_widget(Paragraph::new(frame::too_small(model, area)), area);
        return;
    }
    let [title, vm, body, playback, loss, keys] = areas(model, area);
    frame.render_widget(frame::title_line(model, title.width), title);
    frame.render_widget(Paragraph::new(frame::vm_lines(model, vm.width)), vm);
    draw_body(frame, model, body);
    frame.render_widget(frame::playback_line(model, playback.width), playback);
    frame.render_widget(frame::loss_line(model, loss.width), loss);
    frame.render_widget(frame::key_line(model, keys.width), keys);
}

/// Title, VM line, body, playback, loss line, keys.
fn areas(model: &Model, area: Rect) -> [Rect; 6] {
    let playback_rows = if model.is_replay() { 1 } else { 0 };
    let vm_rows = if frame::vm_lines(model, area.width).len() < 2 { 1 } else { 2 };
    Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(vm_rows),
        Constraint::Min(1),
        Constraint::Length(playback_rows),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(area)
}

/// What a click means: a tab of the title, or a row of the overview's list.
#[must_use]
pub fn click(model: &Model, column: u16, row: u16) -> Option<Msg> {
    let area = Rect::new(0, 0, model.size.0, model.size.1);
    let [title, _, body, _, _, _] = areas(model, area);
    if row == title.y {
        return frame::tab_at(usize::from(column)).map(|tab| Msg::Wish(Wish::GoTo(tab)));
    }
    let is_list = model.overlays.is_empty() && model.tab == Tab::Overview;
    is_list.then(|| overview::row_at(model, body, row)).flatten().map(Msg::Select)
}

fn draw_body(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    if let Some((lines, scroll)) = text(model, area.width) {
        // A scroll position from before a resize may lie beyond the end.
        let first = scroll.min(lines.len().saturating_sub(usize::from(area.height)));
        let heading = lines.first().cloned();
        let mut lines: Vec<_> =
            lines.into_iter().skip(first).take(usize::from(area.height)).collect();
        // A journey follows its end: its heading stays, so that one knows of which page it is.
        if let (Some(Overlay::Page { .. }), Some(heading), Some(top)) =
            (model.overlays.last(), heading, lines.first_mut())
        {
            *top = heading;
        }
        frame.render_widget(Paragraph::new(lines), area);
        return;
    }
    match (model.overlays.last(), model.tab) {
        (Some(_), _) | (None, Tab::Coverage | Tab::Lock) => {}
        (None, Tab::Overview) => overview::draw(frame, model, area),
        (None, Tab::Memory) => memory::draw(frame, model, area),
        (None, Tab::Vms) => vms::draw(frame, model, area),
    }
}

/// Screens that are text one scrolls through: their lines and the first one shown.
fn text(model: &Model, width: u16) -> Option<(Vec<Line<'static>>, usize)> {
    let width = usize::from(width);
    Some(match model.overlays.last() {
        Some(Overlay::Finding { finding, scroll }) => {
            (detail::finding_lines(model, finding, width), *scroll)
        }
        Some(Overlay::Window { window, scroll }) => {
            (detail::window_lines(model, window, width), *scroll)
        }
        Some(Overlay::Harvest { id, scroll }) => (detail::harvest_lines(model, *id), *scroll),
        Some(Overlay::Rule { rule, scroll }) => (detail::rule_lines(model, *rule, width), *scroll),
        Some(Overlay::Page { vm, gfn, scroll }) => (page::lines(model, *vm, *gfn, width), *scroll),
        Some(Overlay::Help { scroll }) => (help::lines(model, width), *scroll),
        Some(Overlay::Windows { scroll }) => (histogram::lines(model, width), *scroll),
        Some(Overlay::Range { range, selected }) => {
            let (lines, line) = closeup::lines(model, range, *selected, width);
            (lines, (line + 1).saturating_sub(usize::from(body_height(model))))
        }
        None => match model.tab {
            Tab::Coverage => (coverage::lines(model, width), model.coverage_scroll),
            Tab::Lock => (lock::lines(model, width), model.lock_scroll),
            Tab::Overview | Tab::Memory | Tab::Vms => return None,
        },
    })
}

/// How far the text on screen can be scrolled.
#[must_use]
pub fn scroll_limit(model: &Model) -> usize {
    text(model, model.size.0)
        .map_or(0, |(lines, _)| lines.len().saturating_sub(usize::from(body_height(model))))
}

/// Lines of the text on screen below its last row.
#[must_use]
pub fn below(model: &Model) -> usize {
    let Some((lines, scroll)) = text(model, model.size.0) else { return 0 };
    let height = usize::from(body_height(model));
    lines.len().saturating_sub(scroll.saturating_add(height))
}

fn body_height(model: &Model) -> u16 {
    let [_, _, body, _, _, _] = areas(model, Rect::new(0, 0, model.size.0, model.size.1));
    body.height
}

/// What `y` copies: the text on screen, or the selected row.
#[must_use]
pub fn plain_selection(model: &Model) -> Option<String> {
    if let Some((lines, _)) = text(model, model.size.0) {
        let lines: Vec<_> =
            lines.iter().map(|line| line.to_string().trim_end().to_owned()).collect();
        return Some(lines.join("\n"));
    }
    let begin = model.begin();
    match model.tab {
        Tab::Overview => match model.overview.list {
            List::Findings => {
                rows::findings(model).get(model.overview.selected).map(|row| findings::plain(row))
            }
            List::Windows => rows::windows(model)
                .get(model.overview.selected)
                .map(|row| windows::row(row, begin)),
            List::Harvests => rows::harvests(model)
                .get(model.overview.selected)
                .map(|row| harvests::row(row, begin)),
        },
        Tab::Memory | Tab::Coverage | Tab::Lock | Tab::Vms => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::feed::{Snapshot, Stage};
    use crate::tui::model::Flow;
    use crate::tui::msg::Step;
    use crate::tui::palette::Theme;
    use crate::tui::sample::{
        after, busy, empty, lossy, overflowing, poorly_attached, replay, screen, with,
    };
    use crate::tui::update::update;

    /// Ways to every screen there is.
    fn ways() -> Vec<Vec<Wish>> {
        let mut ways: Vec<_> = Tab::ALL.iter().map(|&tab| vec![Wish::GoTo(tab)]).collect();
        ways.extend([
            vec![Wish::Right],
            vec![Wish::Left],
            vec![Wish::Enter],
            vec![Wish::Enter, Wish::Enter],
            vec![Wish::Enter, Wish::Explain],
            vec![Wish::Right, Wish::Enter],
            vec![Wish::Left, Wish::Enter],
            vec![Wish::GoTo(Tab::Memory), Wish::Enter],
            vec![Wish::GoTo(Tab::Memory), Wish::Enter, Wish::Move(Step::Bottom), Wish::Enter],
            vec![Wish::Windows],
            vec![Wish::Help],
            vec![Wish::Help, Wish::Move(Step::Bottom)],
            vec![Wish::Filter],
        ]);
        ways
    }

    fn states() -> Vec<(&'static str, Model)> {
        let mut frozen = busy();
        frozen.flow = Flow::Frozen;
        let mut ended = replay();
        let stage = Stage::Ended(String::from("the VMM has exited"));
        let snapshot = Snapshot { stage, ..(*ended.shown).clone() };
        update(&mut ended, Msg::Snapshot(Arc::new(snapshot)));
        vec![
            ("empty", empty()),
            ("busy", busy()),
            ("frozen", frozen),
            ("lossy", poorly_attached(with(busy(), lossy))),
            ("overflowing", with(busy(), overflowing)),
            ("replay", replay()),
            ("ended", ended),
        ]
    }

    #[test]
    fn every_screen_holds_in_every_state_size_and_theme() {
        for (state, model) in states() {
            for way in ways() {
                for theme in Theme::ALL {
                    let mut model = model.clone();
                    model.palette = theme.palette();
                    let model = after(model, &way);
                    // Themes differ in style alone, but for the glyphs of ASCII.
                    let has_own_glyphs = matches!(theme, Theme::Dark | Theme::Ascii);
                    let sizes = [(80, 24), (160, 50), (101, 31)];
                    for (columns, rows) in &sizes[..if has_own_glyphs { 3 } else { 1 }] {
                        let (columns, rows) = (*columns, *rows);
                        let text = screen(&model, columns, rows);
                        let place = format!("{state} {way:?} {theme:?} {columns}x{rows}\n{text}");
                        assert!(text.contains("dropped "), "the loss line is missing: {place}");
                        assert!(
                            text.lines().next().is_some_and(|line| line.contains("1 overview"))
                        );
                        assert!(theme != Theme::Ascii || text.is_ascii(), "{place}");
                        assert!(state != "frozen" || text.contains("FROZEN"), "{place}");
                        assert!(state != "lossy" || text.contains("dropped 4,203"), "{place}");
                    }
                    for (columns, rows) in [(79, 24), (40, 10), (10, 3), (1, 1)] {
                        let text = screen(&model, columns, rows);
                        assert!(columns < 40 || text.contains("too small"), "{text}");
                    }
                }
            }
        }
    }
}
