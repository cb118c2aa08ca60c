//! What a screen may ask about single pages.

use super::Detector;
use crate::event::decode::page_ahead;
use crate::event::{Gfn, RawEvent};
use crate::order::Ordinal;
use crate::verdict::{PageRange, PageState};

/// Pages looked at per answer. A cell of more pages is judged by as many of them, evenly spaced.
const PAGES_MAX: u64 = 1 << 16;

/// The state of so many pages (256 KiB) stays in the second-level cache of any processor that traces are read on.
const NEAR_PAGES: u64 = 1 << 14;

impl Detector {
    /// The records come next: loads the state of their pages all at once. When each is loaded only as its record is
    /// judged, each is waited for.
    pub fn touch(&self, records: &[&RawEvent]) {
        let vm = self.vms.get(self.last_vm);
        let Some(slot) = vm.and_then(|vm| vm.slots.get(vm.last_slot)) else { return };
        if slot.pages.detailed_pages() < NEAR_PAGES {
            return;
        }
        let pages = records.iter().filter_map(|record| page_ahead(record));
        let touched = pages.fold(0, |touched, gfn| touched ^ slot.pages.get(gfn).flags);
        std::hint::black_box(touched);
    }

    /// See [`crate::order::Spool::after`].
    pub fn recent(&self, after: Ordinal) -> impl Iterator<Item = (Ordinal, &RawEvent)> {
        self.ctx.spool.after(after)
    }

    /// The state of each cell of a range: of its pages the one that one looks for first.
    #[must_use]
    pub fn page_states(&self, range: &PageRange) -> Vec<PageState> {
        let vm = self.vms.iter().find(|vm| vm.id == range.vm);
        let slot = vm.and_then(|vm| Some(&vm.slots[vm.known_slot(range.slot)?]));
        let Some(slot) = slot else { return vec![PageState::Unknown; range.cells() as usize] };
        let step = range.npages.div_ceil(PAGES_MAX).max(1);
        let of = |gfn: u64| PageState::of(&slot.pages.get(Gfn(gfn)));
        let cells = (0..range.cells()).map(|cell| range.cell(cell));
        cells
            .map(|cell| {
                let pages = cell.first.0..cell.first.0.saturating_add(cell.npages);
                pages.step_by(step as usize).map(of).max().unwrap_or_default()
            })
            .collect()
    }
}
