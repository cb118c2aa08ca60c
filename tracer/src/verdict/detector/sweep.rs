//! Old stamps: pages keep 32 bits of an ordinal, which would mean a recent record 2^32 records later.
//!
//! ```text
//! records      0 ...... floor ............ sweep ...................... next sweep
//! stamps kept            [ 2^30 ----------- ] <- 2^31 more records ->
//! ```
//!
//! Every 2^31 records all that is older than 2^30 records becomes [`Stamp::OLD`] or [`Stamp::FORGOTTEN`], so that no
//! stamp gets 2^32 records old.

use crate::order::Ordinal;
use crate::order::spool::{self, Stamp};
use crate::verdict::page::Page;

use super::Detector;

/// The bits of an ordinal that are alike at each sweep, and what they are then: the lowest that is given to records.
const PERIOD: Ordinal = (1 << 31) - 1;
const PHASE: Ordinal = 3;

/// How old a stamp may be at a sweep.
const KEPT: Ordinal = 1 << 30;

impl Detector {
    /// Stamps from before this have been aged.
    pub(super) const fn stamps_floor(&self) -> Ordinal {
        let newest = self.ctx.spool.newest();
        let swept = newest - (newest.saturating_sub(PHASE) & PERIOD);
        swept.saturating_sub(KEPT)
    }

    #[inline]
    pub(super) fn sweep_if_due(&mut self, ordinal: Ordinal) {
        if ordinal & PERIOD == PHASE {
            self.sweep(ordinal);
        }
    }

    #[cold]
    #[inline(never)]
    fn sweep(&mut self, newest: Ordinal) {
        let floor = newest.saturating_sub(KEPT);
        let known_since = self.ctx.known_since;
        let aged = |stamp: Stamp| stamp.aged(newest, floor, known_since);
        for slot in self.vms.iter_mut().flat_map(|vm| &mut vm.slots) {
            slot.logging_shown = spool::aged(slot.logging_shown, floor, known_since);
            slot.pages.change_all(|page| {
                let Page { mark, changed, taken, .. } = *page;
                (page.mark, page.changed) = (aged(mark), aged(changed));
                page.taken = aged(taken);
            });
        }
        // What is not forgotten was known before: as much as the oldest thing there is.
        self.ctx.known_since = spool::aged(known_since, floor, 0);
    }

    /// As if that many records of no consequence came.
    #[cfg(test)]
    pub(super) fn skip(&mut self, records: u64) {
        let (mut newest, end) = (self.ctx.spool.newest(), self.ctx.spool.newest() + records);
        loop {
            let is_past = PHASE <= newest & PERIOD;
            newest = (newest & !PERIOD) + if is_past { PERIOD + 1 } else { 0 } + PHASE;
            if end < newest {
                self.ctx.spool.skip_to(end);
                return;
            }
            self.sweep(newest);
        }
    }
}
