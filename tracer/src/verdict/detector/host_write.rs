//! Host writes into guest memory: written first, marked second, with nothing to protect the page in between.

use crate::event::{EventKind, Gfn, Nanos};
use crate::verdict::{LookAlike, Window, WindowKind};

use super::{At, Detector};

impl Detector {
    pub(super) fn on_host_write(&mut self, at: At<'_>) {
        let EventKind::HostWrite { gpa, bytes, slot, failed, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let first = gpa >> 12;
        let last = gpa.saturating_add(bytes.max(1) - 1) >> 12;
        let index = self.slot_by_ref(vm, at, slot, Gfn(first));
        let place = self.threads.place(at.event.tid);
        for gfn in (first..=last).take(2) {
            let thread = self.threads.get_mut(place);
            let mark = thread.find_mark(index, Gfn(gfn), at.event.span.lo);
            match mark {
                Some(mark) => {
                    thread.claim(mark.ordinal);
                    if mark.is_logged {
                        self.close_host_write(at, vm, index, Gfn(gfn), mark.span.hi);
                    }
                }
                None if failed || !slot.logging => {}
                None => self.judge_unmarked_write(at, vm, index, Gfn(gfn)),
            }
        }
    }

    fn close_host_write(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn, marked: Nanos) {
        let window = Window {
            kind: WindowKind::HostWrite,
            vm: self.vms[vm].id,
            slot: self.vms[vm].slots[slot].id,
            gfn,
            tid: at.event.tid,
            opened: at.event.span.lo,
            closed: Some(marked.max(at.event.span.lo)),
            harvests_inside: 0,
        };
        self.close_third_case(vm, slot, window);
    }

    /// K08.
    fn judge_unmarked_write(&mut self, _at: At<'_>, _vm: usize, _slot: usize, _gfn: Gfn) {
        let _ = LookAlike::StealTime;
    }
}
