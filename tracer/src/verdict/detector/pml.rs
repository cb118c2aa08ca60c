//! Marks under PML: the CPU sets D and logs the page, and KVM marks what was logged when the vCPU exits.
//!
//! ```text
//! vcpu                                   harvester
//! write gfn 7: D is set, logged
//!                                        clears D of gfn 7          (whose D? that of before, or this one)
//! exit: drain, mark gfn 7
//! ```

use crate::event::{Gfn, Span};
use crate::verdict::page::Protection;

use super::slot::WordSeen;
use super::thread::PendingMark;
use super::{At, Detector};

impl Detector {
    /// Under PML a mark may say that the CPU set D: since the exit before the last if it is a drained one, not at all
    /// if the host made it. Which one it is shows when the bracket ends.
    #[inline(never)]
    pub(super) fn note_pml(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) {
        let page = self.vms[vm].slots[slot].pages.get(gfn);
        if page.protection != Protection::Closed {
            return;
        }
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        let newest = self.ctx.spool.newest();
        let closed = self.ctx.spool.event(page.changed.ordinal(newest)).map(|event| event.span.hi);
        let is_later = closed
            .is_none_or(|closed| closed.0.saturating_add(self.ctx.epsilon_ns) < thread.last_exit.0);
        let drained = if is_later { Protection::Open } else { Protection::Unknown };
        thread.note_drained(at.ordinal, drained);
        self.with_page(vm, slot, gfn, |page, _| page.change(Protection::Unknown, at.ordinal));
    }

    /// PML: the page was marked beside that visit, perhaps because the CPU had set D again behind it.
    pub(super) fn is_drained_beside(&self, vm: usize, slot: usize, gfn: Gfn, visit: Span) -> bool {
        let epsilon = self.ctx.epsilon_ns;
        self.ctx.masks.pml
            && self.vms[vm]
                .marks
                .iter()
                .take_while(|mark| visit.lo.0 <= mark.hi.0.saturating_add(epsilon))
                .any(|mark| mark.slot == slot && mark.gfn == gfn)
    }

    /// The word has closed the page, or the CPU has set D again since.
    pub(super) fn doubt_if_drained(&mut self, vm: usize, word: &WordSeen, gfn: Gfn) {
        if self.is_drained_beside(vm, word.slot, gfn, word.visit) {
            self.with_page(vm, word.slot, gfn, |page, _| {
                page.change(Protection::Unknown, word.ordinal);
            });
        }
    }

    /// The bracket of marks has ended: unclaimed ones were drained from the PML buffer.
    #[inline]
    pub(super) fn settle_drained(&mut self, place: usize) {
        if !self.ctx.masks.pml {
            return;
        }
        let marks = self.threads.get_mut(place).marks;
        for mark in marks.iter().filter(|mark| !mark.is_claimed) {
            if let Some(drained) = mark.drained {
                self.settle_pml(mark, drained);
            }
        }
    }

    /// Sets the state that a mark had left open, unless it changed since.
    pub(super) fn settle_pml(&mut self, mark: &PendingMark, state: Protection) {
        let vm = mark.vm;
        let (newest, ordinal) = (self.ctx.spool.newest(), mark.ordinal);
        if state == Protection::Open {
            self.vms[vm].last_open = self.vms[vm].last_open.max(mark.span.hi);
        }
        self.with_page(vm, mark.slot, mark.gfn, |page, _| {
            if page.changed.ordinal(newest) == ordinal {
                page.change(state, ordinal);
            }
        });
    }
}
