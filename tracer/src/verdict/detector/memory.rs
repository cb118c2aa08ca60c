//! VMs and memslots: what exists, what logs, and since when.

use crate::event::{EventKind, Gfn, Nanos, RawEvent, encode};
use crate::order::Ordinal;
use crate::verdict::page::{Page, Protection, Report, page_flag};
use crate::verdict::tally::{HEAT_CELLS, HeatCell};

use super::slot::Slot;
use super::thread::OpenIoctl;
use super::{At, Detector};

/// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`.
const CAP_MANUAL_PROTECT2: u64 = 168;
/// `KVM_CAP_DIRTY_LOG_RING` and its weakly ordered sibling.
const CAP_DIRTY_RING: [u64; 2] = [192, 223];
/// `KVM_MEM_LOG_DIRTY_PAGES`.
const LOG_DIRTY_PAGES: u32 = 1;

impl Detector {
    pub(super) fn on_vm_seen(&mut self, at: At<'_>) {
        let EventKind::VmSeen { tgid, manual_protect, ring_bytes, created, .. } = at.event.kind
        else {
            return;
        };
        let vm = self.vm(at.event.vm);
        let vm = &mut self.vms[vm];
        if vm.is_gone {
            // The kernel reuses addresses: this is another VM.
            let budget = vm.slots.iter().map(|slot| slot.pages.detailed_pages()).sum::<u64>();
            *vm = super::Vm::new(at.event.vm);
            self.budget += budget;
        }
        vm.tgid = tgid;
        vm.manual_protect = manual_protect;
        vm.ring_bytes = ring_bytes;
        vm.is_described = true;
        vm.is_created |= created;
        vm.origin = Some(encode(at.event));
    }

    pub(super) fn enable_cap(&mut self, vm: usize, (cap, value): (u64, u64)) {
        if cap == CAP_MANUAL_PROTECT2 {
            self.vms[vm].manual_protect = value as u32;
        } else if CAP_DIRTY_RING.contains(&cap) {
            self.vms[vm].ring_bytes = value as u32;
        }
    }

    pub(super) fn on_slot_state(&mut self, at: At<'_>) {
        let EventKind::SlotState { slot, base, npages, bitmap, commit } = at.event.kind else {
            return;
        };
        let _ = bitmap;
        let vm = self.vm(at.event.vm);
        let is_new = self.vms[vm].known_slot(slot.id).is_none();
        let index = self.vms[vm].slot(slot.id, base);
        let is_created = self.vms[vm].is_created;
        let known = &self.vms[vm].slots[index];
        let was_logging = known.is_logging && !is_new;
        let is_moved = known.npages != 0 && (known.base != base || known.npages != npages);
        let is_first = known.npages == 0 && !known.is_deleted;
        let was_deleted = known.is_deleted;
        if was_logging && (npages == 0 || !slot.logging) {
            self.judge_log_dropped(at, vm, index);
        }
        if npages == 0 || is_moved || was_deleted {
            self.start_slot(vm, index, base, Slot::fresh_page(at.ordinal));
        } else if is_first && is_new {
            // Of a slot that is made before our eyes nothing is mapped yet.
            let page =
                if commit && is_created { Slot::fresh_page(at.ordinal) } else { Page::default() };
            self.start_slot(vm, index, base, page);
        }
        let found = &mut self.vms[vm].slots[index];
        found.is_changed = true;
        found.is_deleted = npages == 0;
        if npages != 0 {
            found.base = base;
            found.npages = npages;
        }
        found.origin = Some(encode(at.event));
        found.logging_shown = at.ordinal;
        found.heat.resize(HEAT_CELLS, HeatCell::default());
        if slot.logging && npages != 0 {
            if !found.is_logging {
                self.start_logging(at.ordinal, vm, index, at.event.span.hi, commit);
            }
        } else {
            found.is_logging = false;
            found.logging_since = None;
        }
    }

    fn start_slot(&mut self, vm: usize, index: usize, base: Gfn, page: Page) {
        let slot = &mut self.vms[vm].slots[index];
        slot.pages.reset(base, page, &mut self.budget);
        slot.marked = 0;
    }

    /// Logging is on from here: of a commit it is known that the bitmap is new.
    fn start_logging(
        &mut self,
        ordinal: Ordinal,
        vm: usize,
        index: usize,
        since: Nanos,
        is_commit: bool,
    ) {
        let is_set = self.vms[vm].is_initially_set();
        let slot = &mut self.vms[vm].slots[index];
        slot.is_logging = true;
        slot.logging_since = Some(since);
        slot.logging_shown = ordinal;
        if !is_commit {
            return;
        }
        slot.marked = 0;
        slot.pages.change_all(|page| {
            page.report = Report::Clean;
            page.taken = crate::order::spool::Stamp::of(ordinal);
            page.set(page_flag::INITIALLY_SET, is_set);
        });
    }

    pub(super) fn on_slot_protect(&mut self, _at: At<'_>) {}

    /// SET_MEMORY has returned: faults that begin from here on use the new slot object.
    pub(super) fn finish_set_memory(&mut self, at: At<'_>, vm: usize, ioctl: OpenIoctl) {
        let EventKind::IoctlEnd { ret, .. } = at.event.kind else { return };
        let Some(index) = self.vms[vm].known_slot(ioctl.op.slot) else { return };
        if ret != 0 || ioctl.op.mem_flags & LOG_DIRTY_PAGES == 0 {
            return;
        }
        let slot = &mut self.vms[vm].slots[index];
        let begin = ioctl.begin.unwrap_or(at.event.span.lo);
        if slot.is_logging && slot.logging_since.is_some_and(|since| begin <= since) {
            slot.logging_since = Some(at.event.span.hi);
            slot.is_changed = true;
            self.judge_enable(at, vm, index, &ioctl);
        }
    }

    /// K15 and K05 at enable.
    fn judge_enable(&mut self, _at: At<'_>, _vm: usize, _slot: usize, _ioctl: &OpenIoctl) {
        let _ = Protection::Open;
    }

    fn judge_log_dropped(&mut self, _at: At<'_>, _vm: usize, _slot: usize) {
        let _: Option<RawEvent> = None;
    }
}
