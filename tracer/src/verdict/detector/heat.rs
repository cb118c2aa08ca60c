//! A slot's heat map: where in its range things happen.

use super::slot::Slot;
use crate::event::Gfn;
use crate::verdict::tally::{HEAT_CELLS, HeatCell};

impl Slot {
    /// The heat cell of a page.
    pub fn heat(&mut self, gfn: Gfn) -> Option<&mut HeatCell> {
        self.is_changed = true;
        let offset = gfn.0.wrapping_sub(self.base.0);
        if self.npages <= offset {
            return None;
        }
        let cell = match offset.checked_mul(HEAT_CELLS as u64) {
            Some(scaled) => scaled / self.npages,
            None => (u128::from(offset) * HEAT_CELLS as u128 / u128::from(self.npages)) as u64,
        };
        self.heat.get_mut(cell as usize)
    }

    /// Counts the pages that a harvest took from a word. Cells of a small slot are narrower than a word.
    pub fn heat_taken(&mut self, first: Gfn, mask: u64) {
        if 64 * HEAT_CELLS as u64 <= self.npages {
            if let Some(cell) = self.heat(first) {
                cell.harvested += u64::from(mask.count_ones());
            }
            return;
        }
        for bit in (0..64).filter(|bit| mask >> bit & 1 != 0) {
            if let Some(cell) = self.heat(Gfn(first.0.wrapping_add(bit))) {
                cell.harvested += 1;
            }
        }
    }
}
