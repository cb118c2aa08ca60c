//! Dirty rings: pushes report a page, resets take it back.

use crate::event::{EventKind, Gfn};

use super::{At, Detector};

impl Detector {
    pub(super) fn on_ring_push(&mut self, at: At<'_>) {
        let EventKind::RingPush { offset, slot, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let Some(index) = self.vms[vm].known_slot(slot) else { return };
        let base = self.vms[vm].slots[index].base;
        self.note_mark(at, vm, index, Gfn(base.0.saturating_add(offset)));
    }

    pub(super) fn on_ring_reset(&mut self, at: At<'_>) {
        let _ = self.vm(at.event.vm);
    }
}
