//! Flushes, zaps and splits: what changes protection without naming each page.

use crate::event::{Gfn, PageRef};
use crate::verdict::LookAlike;
use crate::verdict::page::page_flag;

use super::slot::FlushSeen;
use super::{At, Detector};

impl Detector {
    pub(super) fn on_flush(&mut self, at: At<'_>, first: Gfn, npages: u64) {
        let vm = self.vm(at.event.vm);
        let place = self.threads.place(at.event.tid);
        self.threads.get_mut(place).flush = at.event.span;
        let flush = FlushSeen { span: at.event.span, first, npages, ordinal: at.ordinal };
        self.vms[vm].flushes.push(flush);
    }

    /// Host addresses were unmapped: shadow SPTEs of some pages are gone, and the record does not say which.
    pub(super) fn on_invalidate(&mut self, at: At<'_>) {
        if at.event.vm == crate::event::VmId::UNKNOWN {
            self.vms.iter_mut().for_each(|vm| vm.last_zap = at.ordinal);
        } else {
            let vm = self.vm(at.event.vm);
            self.vms[vm].last_zap = at.ordinal;
        }
    }

    pub(super) fn on_zap(&mut self, at: At<'_>) {
        let vm = self.vm(at.event.vm);
        self.vms[vm].last_zap = at.ordinal;
    }

    /// The children inherit the huge SPTE's state; the holds of `mmu_lock` around it may be cut.
    pub(super) fn on_split(&mut self, at: At<'_>, page: PageRef, errno: i64) {
        let vm = self.vm(at.event.vm);
        let place = self.threads.place(at.event.tid);
        self.threads.get_mut(place).cut = at.event.span.hi;
        if errno != 0 {
            return;
        }
        self.benign(LookAlike::SplitChildren);
        let Some(slot) = self.slot_of(vm, page) else { return };
        self.set_protection(vm, slot, page, |state| state.set(page_flag::HUGE, false));
    }
}
