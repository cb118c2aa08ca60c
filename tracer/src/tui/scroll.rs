//! Moving through what is on screen: which index or first line a step changes, and how far it may go.

use std::ops::Range;

use crate::event::Gfn;
use crate::summary::SlotSummary;
use crate::tui::model::{Model, Overlay, Tab};
use crate::tui::msg::Step;
use crate::tui::rows;
use crate::tui::view;

/// One step of a key.
pub fn step(model: &mut Model, step: Step) {
    let page = i64::from(model.size.1.saturating_sub(8).max(1));
    match step {
        Step::Up => by(model, -1),
        Step::Down => by(model, 1),
        Step::PageUp => by(model, -page),
        Step::PageDown => by(model, page),
        Step::Top => by(model, i64::MIN / 2),
        Step::Bottom => by(model, i64::MAX / 2),
    }
}

/// Moves by rows, down if positive.
pub fn by(model: &mut Model, rows: i64) {
    if model.overlays.is_empty() && model.tab == Tab::Memory {
        by_map_rows(model, rows);
        return;
    }
    let limit = limit(model);
    let rows = match model.overlays.last() {
        // Up and down are rows of pages there.
        Some(Overlay::Range { .. }) => rows.saturating_mul(view::closeup::COLUMNS as i64),
        Some(_) | None => rows,
    };
    let index = index(model);
    let moved = i64::try_from((*index).min(limit)).unwrap_or(0).saturating_add(rows);
    *index = usize::try_from(moved.max(0)).unwrap_or(0).min(limit);
}

/// In the map a step down is one row of cells, over the edge the next slot.
fn by_map_rows(model: &mut Model, steps: i64) {
    let cells: Vec<_> = rows::slots(model).iter().map(|(_, _, slot)| slot.heat.len()).collect();
    let rows_of = |cells: usize| cells.div_ceil(view::memory::COLUMNS).max(1);
    let column = model.memory.cell % view::memory::COLUMNS;
    let before: usize = cells.iter().take(model.memory.slot).map(|&cells| rows_of(cells)).sum();
    let row = before + model.memory.cell / view::memory::COLUMNS;
    let last = cells.iter().map(|&cells| rows_of(cells)).sum::<usize>().saturating_sub(1);
    let target = i64::try_from(row).unwrap_or(0).saturating_add(steps).max(0);
    let mut target = usize::try_from(target).unwrap_or(0).min(last);
    for (slot, &cells) in cells.iter().enumerate() {
        if target < rows_of(cells) {
            let cell = target * view::memory::COLUMNS + column;
            model.memory.slot = slot;
            model.memory.cell = cell.min(cells.saturating_sub(1));
            return;
        }
        target -= rows_of(cells);
    }
}

/// Brings every index back into its list.
pub fn clamp(model: &mut Model) {
    let len = rows::list_len(model);
    model.overview.selected = model.overview.selected.min(len.saturating_sub(1));
    let slots = rows::slots(model);
    let last = slots.len().saturating_sub(1);
    let slot = model.memory.slot.min(last);
    let cells = slots.get(slot).map_or(0, |(_, _, slot)| slot.heat.len());
    model.memory.slot = slot;
    model.memory.cell = model.memory.cell.min(cells.saturating_sub(1));
    let vms = model.shown.summary.vms.len();
    model.vms_selected = model.vms_selected.min(vms.saturating_sub(1));
}

/// The first row to draw so that `selected` of `len` rows is in sight among `height`.
#[must_use]
pub fn first_row(selected: usize, len: usize, height: usize) -> usize {
    selected.saturating_sub(height / 2).min(len.saturating_sub(height))
}

/// The gfns of one cell of a slot's heat map.
#[must_use]
pub fn cell_gfns(slot: &SlotSummary, cell: usize) -> Range<Gfn> {
    let cells = slot.heat.len().max(1) as u128;
    let bound = |cell: usize| {
        let offset = u128::from(slot.npages) * cell as u128 / cells;
        Gfn(slot.base.0 + u64::try_from(offset).unwrap_or(slot.npages))
    };
    bound(cell)..bound(cell + 1)
}

/// What a step changes.
fn index(model: &mut Model) -> &mut usize {
    match model.overlays.last_mut() {
        Some(
            Overlay::Finding { scroll, .. }
            | Overlay::Window { scroll, .. }
            | Overlay::Harvest { scroll, .. }
            | Overlay::Rule { scroll, .. }
            | Overlay::Page { scroll, .. }
            | Overlay::Windows { scroll }
            | Overlay::Help { scroll },
        ) => scroll,
        Some(Overlay::Range { selected, .. }) => selected,
        None => match model.tab {
            Tab::Overview => &mut model.overview.selected,
            Tab::Memory => &mut model.memory.cell,
            Tab::Coverage => &mut model.coverage_scroll,
            Tab::Lock => &mut model.lock_scroll,
            Tab::Vms => &mut model.vms_selected,
        },
    }
}

/// The largest value it may take.
fn limit(model: &Model) -> usize {
    let last = |len: usize| len.saturating_sub(1);
    match model.overlays.last() {
        Some(Overlay::Range { range, .. }) => last(range.cells() as usize),
        Some(
            Overlay::Finding { .. }
            | Overlay::Window { .. }
            | Overlay::Harvest { .. }
            | Overlay::Rule { .. }
            | Overlay::Page { .. }
            | Overlay::Windows { .. }
            | Overlay::Help { .. },
        ) => view::scroll_limit(model),
        None => match model.tab {
            Tab::Overview => last(rows::list_len(model)),
            Tab::Memory => {
                let slots = rows::slots(model);
                last(slots.get(model.memory.slot).map_or(0, |(_, _, slot)| slot.heat.len()))
            }
            Tab::Coverage | Tab::Lock => view::scroll_limit(model),
            Tab::Vms => last(model.shown.summary.vms.len()),
        },
    }
}
