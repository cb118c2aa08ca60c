//! What Enter opens, on each screen.

use std::sync::Arc;

use crate::event::{Gfn, VmId};
use crate::feed::Request;
use crate::tui::model::{List, Model, Overlay, Tab};
use crate::tui::msg::Effect;
use crate::tui::{rows, scroll};
use crate::verdict::PageRange;

/// Opens what is selected.
pub fn enter(model: &mut Model) -> Option<Effect> {
    match model.overlays.last() {
        None => match model.tab {
            Tab::Overview => enter_list(model),
            Tab::Memory => enter_cell(model),
            Tab::Vms => {
                model.vm = model.shown.summary.vms.get(model.vms_selected).map(|vm| vm.vm);
                model.tab = Tab::Overview;
                scroll::clamp(model);
                None
            }
            Tab::Coverage | Tab::Lock => None,
        },
        Some(&Overlay::Range { range, selected }) => {
            let cell = range.cell(selected as u64);
            Some(if cell.npages <= 1 {
                follow(model, range.vm, cell.first)
            } else {
                look(model, cell)
            })
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
            | Overlay::Windows { .. }
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

fn enter_cell(model: &mut Model) -> Option<Effect> {
    let slots = rows::slots(model);
    let &(vm, id, slot) = slots.get(model.memory.slot)?;
    if slot.heat.is_empty() {
        return None;
    }
    let gfns = scroll::cell_gfns(slot, model.memory.cell);
    let npages = gfns.end.0 - gfns.start.0;
    // A small cell is shown among its neighbours: there is room for them.
    let before = match npages {
        0..PageRange::CELLS_MAX => (gfns.start.0 - slot.base.0) % PageRange::CELLS_MAX,
        _ => 0,
    };
    let first = Gfn(gfns.start.0 - before);
    let rest = slot.npages - (first.0 - slot.base.0);
    let npages = npages.max(PageRange::CELLS_MAX.min(rest));
    let effect = look(model, PageRange { vm, slot: id, first, npages });
    if let Some(Overlay::Range { selected, .. }) = model.overlays.last_mut() {
        *selected = usize::try_from(before).unwrap_or(0);
    }
    Some(effect)
}

/// Opens a range of pages and asks for their states.
fn look(model: &mut Model, range: PageRange) -> Effect {
    model.overlays.push(Overlay::Range { range, selected: 0 });
    Effect::Ask(Request::Look(range))
}

/// Opens the page of a gfn and asks for its events.
pub fn follow(model: &mut Model, vm: VmId, gfn: Gfn) -> Effect {
    model.overlays.push(Overlay::Page { vm, gfn, scroll: usize::MAX });
    Effect::Ask(Request::Follow { vm, gfn })
}
