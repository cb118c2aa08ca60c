//! The only place where the model changes. Does no I/O: what must be done outside is returned as an effect.

use std::sync::Arc;

use crate::event::{Gfn, VmId};
use crate::feed::{Request, Seek, Snapshot};
use crate::tui::model::{Direction, Flow, List, Model, Overlay, PromptKind, Shades, Sort, Tab};
use crate::tui::msg::{Effect, ExportFormat, Msg, Wish};
use crate::tui::prompt;
use crate::tui::rows;
use crate::tui::scroll;
use crate::verdict::Finding;

/// Speeds of a replay, in percent of real time.
const SPEED_PERCENT: std::ops::RangeInclusive<u32> = 1..=100_000;

/// Takes one message.
pub fn update(model: &mut Model, msg: Msg) -> Option<Effect> {
    match msg {
        Msg::Snapshot(snapshot) => {
            take_snapshot(model, snapshot);
            None
        }
        Msg::Resize(columns, rows) => {
            model.size = (columns, rows);
            None
        }
        Msg::Told(notice) => {
            model.notice = Some(notice);
            None
        }
        Msg::Scroll(rows) => {
            scroll::by(model, i64::from(rows));
            None
        }
        Msg::Select(index) => {
            model.overview.selected = index;
            scroll::clamp(model);
            None
        }
        Msg::Typed(typed) => prompt::type_key(model, typed),
        Msg::Wish(wish) => {
            model.notice = None;
            grant(model, wish)
        }
    }
}

/// Keeps the selected finding selected when others come before it.
fn take_snapshot(model: &mut Model, snapshot: Arc<Snapshot>) {
    model.newest = Arc::clone(&snapshot);
    if model.flow == Flow::Frozen {
        return;
    }
    let selected = match model.overview.list {
        // The first row stays the first row: it is where one looks for the worst.
        List::Findings if 0 < model.overview.selected => {
            rows::findings(model).get(model.overview.selected).map(|finding| Arc::clone(finding))
        }
        List::Findings | List::Windows | List::Harvests => None,
    };
    model.shown = snapshot;
    if let Some(selected) = selected {
        let same = |finding: &&Arc<Finding>| {
            finding.rule == selected.rule
                && finding.vm == selected.vm
                && finding.slot == selected.slot
                && finding.gfn == selected.gfn
                && finding.first == selected.first
        };
        let position = rows::findings(model).iter().position(same);
        model.overview.selected = position.unwrap_or(model.overview.selected);
    }
    scroll::clamp(model);
}

fn grant(model: &mut Model, wish: Wish) -> Option<Effect> {
    match wish {
        Wish::Quit => return Some(Effect::Quit),
        Wish::Suspend => return Some(Effect::Suspend),
        Wish::Redraw => return Some(Effect::Redraw),
        Wish::Help => toggle_help(model),
        Wish::Back => return back(model),
        Wish::NextTab => go_to(model, model.tab.turned(1)),
        Wish::PreviousTab => go_to(model, model.tab.turned(Tab::ALL.len() - 1)),
        Wish::GoTo(tab) => go_to(model, tab),
        Wish::Move(step) => scroll::step(model, step),
        Wish::Left => return sideways(model, Sideways::Left),
        Wish::Right => return sideways(model, Sideways::Right),
        Wish::Enter => return enter(model),
        Wish::Sort => sort(model),
        Wish::ReverseSort => {
            model.overview.direction = match model.overview.direction {
                Direction::Forward => Direction::Backward,
                Direction::Backward => Direction::Forward,
            };
        }
        Wish::NextHazard => return hazard(model, Sideways::Right),
        Wish::PreviousHazard => return hazard(model, Sideways::Left),
        Wish::Freeze => toggle_freeze(model),
        Wish::Filter => prompt::open(model, PromptKind::Filter),
        Wish::GoToGfn => prompt::open(model, PromptKind::Gfn),
        Wish::GoToTime => prompt::open(model, PromptKind::Time),
        Wish::Explain => explain(model),
        Wish::ExportLitmus => return export(model, ExportFormat::Litmus),
        Wish::ExportJson => return export(model, ExportFormat::Json),
        Wish::Copy => return copy(model),
        Wish::TogglePlay => return toggle_play(model),
        Wish::Faster => return speed(model, |percent| percent.saturating_mul(2)),
        Wish::Slower => return speed(model, |percent| percent / 2),
        Wish::StepForward(kind) => return Some(seek(Seek::Next(kind))),
        Wish::StepBack(kind) => return Some(seek(Seek::Previous(kind))),
        Wish::SeekBegin => return Some(seek(Seek::Begin)),
        Wish::SeekEnd => return Some(seek(Seek::End)),
    }
    None
}

/// Which way along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sideways {
    Left,
    Right,
}

impl Sideways {
    /// The neighbour of `index` among `len`, around the ends.
    const fn turn(self, index: usize, len: usize) -> usize {
        match self {
            Self::Left => (index + len - 1) % len,
            Self::Right => (index + 1) % len,
        }
    }

    /// The neighbour of `index` among `len`, no further than the ends.
    fn step(self, index: usize, len: usize) -> usize {
        match self {
            Self::Left => index.saturating_sub(1),
            Self::Right => (index + 1).min(len.saturating_sub(1)),
        }
    }
}

pub(super) const fn seek(seek: Seek) -> Effect {
    Effect::Ask(Request::Seek(seek))
}

fn toggle_help(model: &mut Model) {
    match model.overlays.last() {
        Some(Overlay::Help { .. }) => {
            model.overlays.pop();
        }
        Some(_) | None => model.overlays.push(Overlay::Help { scroll: 0 }),
    }
}

fn toggle_freeze(model: &mut Model) {
    match model.flow {
        Flow::Flowing => model.flow = Flow::Frozen,
        Flow::Frozen => {
            model.flow = Flow::Flowing;
            take_snapshot(model, Arc::clone(&model.newest));
        }
    }
}

fn go_to(model: &mut Model, tab: Tab) {
    model.overlays.clear();
    model.tab = tab;
}

/// Closes what lies on top; with nothing on top, lets go of the filter, then of the VM.
fn back(model: &mut Model) -> Option<Effect> {
    match model.overlays.pop() {
        Some(Overlay::Page { .. } | Overlay::Window { .. }) => Some(Effect::Ask(Request::Unfollow)),
        Some(_) => None,
        None => {
            if model.filter.is_empty() {
                model.vm = None;
            } else {
                model.filter.clear();
            }
            scroll::clamp(model);
            None
        }
    }
}

fn sideways(model: &mut Model, way: Sideways) -> Option<Effect> {
    if let Some(Overlay::Page { vm, gfn, scroll }) = model.overlays.last_mut() {
        gfn.0 = match way {
            Sideways::Left => gfn.0.saturating_sub(1),
            Sideways::Right => gfn.0.saturating_add(1),
        };
        *scroll = usize::MAX;
        return Some(Effect::Ask(Request::Follow { vm: *vm, gfn: *gfn }));
    }
    if !model.overlays.is_empty() {
        return None;
    }
    match model.tab {
        Tab::Overview => {
            let index = way.turn(model.overview.list as usize, List::ALL.len());
            model.overview.list = List::ALL[index];
            model.overview.selected = 0;
        }
        Tab::Memory => {
            let cells =
                rows::slots(model).get(model.memory.slot).map_or(0, |(_, _, slot)| slot.heat.len());
            model.memory.cell = way.step(model.memory.cell, cells);
        }
        Tab::Coverage | Tab::Lock | Tab::Vms => {}
    }
    None
}

fn enter(model: &mut Model) -> Option<Effect> {
    match model.overlays.last() {
        None => match model.tab {
            Tab::Overview => enter_list(model),
            Tab::Memory => {
                enter_cell(model);
                None
            }
            Tab::Vms => {
                model.vm = model.shown.summary.vms.get(model.vms_selected).map(|vm| vm.vm);
                model.tab = Tab::Overview;
                scroll::clamp(model);
                None
            }
            Tab::Coverage | Tab::Lock => None,
        },
        Some(&Overlay::Range { vm, slot, first, npages, selected }) => {
            // The first row is the range itself: its first page.
            let gfn = match selected.checked_sub(1) {
                None => Some(first),
                Some(index) => rows::findings_in(model, vm, slot, first, npages)
                    .get(index)
                    .and_then(|finding| finding.gfn),
            };
            gfn.map(|gfn| follow(model, vm, gfn))
        }
        Some(Overlay::Finding { finding, .. }) => {
            let (vm, gfn) = (finding.vm, finding.gfn);
            gfn.map(|gfn| follow(model, vm, gfn))
        }
        Some(Overlay::Window { window, .. }) => {
            let (vm, gfn) = (window.vm, window.gfn);
            Some(follow(model, vm, gfn))
        }
        Some(
            Overlay::Harvest { .. }
            | Overlay::Rule { .. }
            | Overlay::Page { .. }
            | Overlay::Help { .. },
        ) => None,
    }
}

fn enter_list(model: &mut Model) -> Option<Effect> {
    let index = model.overview.selected;
    match model.overview.list {
        List::Findings => {
            let finding = Arc::clone(rows::findings(model).get(index)?);
            model.overlays.push(Overlay::Finding { finding, scroll: 0 });
            None
        }
        List::Windows => {
            let window = *rows::windows(model).get(index)?;
            model.overlays.push(Overlay::Window { window, scroll: 0 });
            Some(Effect::Ask(Request::Follow { vm: window.vm, gfn: window.gfn }))
        }
        List::Harvests => {
            let id = rows::harvests(model).get(index)?.id;
            model.overlays.push(Overlay::Harvest { id, scroll: 0 });
            None
        }
    }
}

fn enter_cell(model: &mut Model) {
    let slots = rows::slots(model);
    let Some(&(vm, id, slot)) = slots.get(model.memory.slot) else { return };
    if slot.heat.is_empty() {
        return;
    }
    let gfns = scroll::cell_gfns(slot, model.memory.cell);
    model.overlays.push(Overlay::Range {
        vm,
        slot: id,
        first: gfns.start,
        npages: gfns.end.0 - gfns.start.0,
        selected: 0,
    });
}

pub(super) fn follow(model: &mut Model, vm: VmId, gfn: Gfn) -> Effect {
    model.overlays.push(Overlay::Page { vm, gfn, scroll: usize::MAX });
    Effect::Ask(Request::Follow { vm, gfn })
}

fn sort(model: &mut Model) {
    match model.tab {
        Tab::Overview => {
            let index = (model.overview.sort as usize + 1) % Sort::ALL.len();
            model.overview.sort = Sort::ALL[index];
            model.overview.selected = 0;
        }
        Tab::Memory => {
            let index = (model.memory.shades as usize + 1) % Shades::ALL.len();
            model.memory.shades = Shades::ALL[index];
        }
        Tab::Coverage | Tab::Lock | Tab::Vms => {}
    }
}

/// In a replay, travels to the next hazard; else selects it in the list, opening the list if need be.
fn hazard(model: &mut Model, way: Sideways) -> Option<Effect> {
    if model.is_replay() {
        let kind = crate::feed::MarkKind::Hazard;
        return Some(match way {
            Sideways::Left => seek(Seek::Previous(kind)),
            Sideways::Right => seek(Seek::Next(kind)),
        });
    }
    let rows = rows::findings(model);
    if rows.is_empty() {
        model.notice = Some(String::from("no hazard and no exposure so far"));
        return None;
    }
    let is_open = matches!(model.overlays.last(), Some(Overlay::Finding { .. }));
    let is_listed = model.tab == Tab::Overview && model.overview.list == List::Findings;
    let index = if is_listed || is_open {
        way.turn(model.overview.selected.min(rows.len() - 1), rows.len())
    } else {
        0
    };
    let finding = Arc::clone(rows[index]);
    model.tab = Tab::Overview;
    model.overview.list = List::Findings;
    model.overview.selected = index;
    if is_open {
        model.overlays.pop();
        model.overlays.push(Overlay::Finding { finding, scroll: 0 });
    }
    None
}

/// The finding a key acts on: the open one, else the selected one.
fn current(model: &Model) -> Option<Arc<Finding>> {
    match model.overlays.last() {
        Some(Overlay::Finding { finding, .. }) => Some(Arc::clone(finding)),
        Some(Overlay::Range { vm, slot, first, npages, selected }) => {
            rows::findings_in(model, *vm, *slot, *first, *npages)
                .get(selected.checked_sub(1)?)
                .map(|finding| Arc::clone(finding))
        }
        Some(_) => None,
        None => match (model.tab, model.overview.list) {
            (Tab::Overview, List::Findings) => rows::findings(model)
                .get(model.overview.selected)
                .map(|finding| Arc::clone(finding)),
            (Tab::Overview, List::Windows | List::Harvests)
            | (Tab::Memory | Tab::Coverage | Tab::Lock | Tab::Vms, _) => None,
        },
    }
}

fn explain(model: &mut Model) {
    match current(model) {
        Some(finding) => model.overlays.push(Overlay::Rule { rule: finding.rule, scroll: 0 }),
        None => model.notice = Some(String::from("select a finding first")),
    }
}

fn export(model: &mut Model, format: ExportFormat) -> Option<Effect> {
    match current(model) {
        Some(finding) => Some(Effect::Export(finding, format)),
        None => {
            model.notice = Some(String::from("select a finding first"));
            None
        }
    }
}

fn copy(model: &mut Model) -> Option<Effect> {
    let text = crate::tui::view::plain_selection(model);
    if text.is_none() {
        model.notice = Some(String::from("nothing is selected"));
    }
    text.map(Effect::Copy)
}

fn toggle_play(model: &Model) -> Option<Effect> {
    let playback = model.shown.playback.as_ref()?;
    Some(Effect::Ask(if playback.is_playing { Request::Pause } else { Request::Play }))
}

fn speed(model: &Model, change: impl Fn(u32) -> u32) -> Option<Effect> {
    let playback = model.shown.playback.as_ref()?;
    let percent =
        change(playback.speed_percent).clamp(*SPEED_PERCENT.start(), *SPEED_PERCENT.end());
    Some(Effect::Ask(Request::Speed(percent)))
}
