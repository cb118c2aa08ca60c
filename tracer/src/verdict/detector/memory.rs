//! VMs and memslots: what exists, what logs, and since when.

use crate::event::{EventKind, Gfn, IoctlOp, Nanos, encode};
use crate::order::Ordinal;
use crate::order::spool::Stamp;
use crate::verdict::page::{Page, Report, page_flag};
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

impl super::Vm {
    /// An ioctl is under way that closes pages and reports them word by word.
    pub(super) const fn is_protecting(&self) -> bool {
        self.open_harvests != 0 || self.open_enables != 0
    }

    /// The count of open ioctls of that kind, if they close pages.
    pub(super) const fn open_ioctls(&mut self, op: IoctlOp) -> Option<&mut u32> {
        match op {
            IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog | IoctlOp::ResetDirtyRings => {
                Some(&mut self.open_harvests)
            }
            IoctlOp::SetMemory => Some(&mut self.open_enables),
            IoctlOp::EnableCap => None,
        }
    }
}

impl Detector {
    // Out of line: a VM is large, and the frame of `dispatch` should not be.
    #[inline(never)]
    pub(super) fn on_vm_seen(&mut self, at: At<'_>) {
        let EventKind::VmSeen { tgid, manual_protect, ring_bytes, created, .. } = at.event.kind
        else {
            return;
        };
        let vm = self.vm(at.event.vm);
        // The tracepoint plan does not see the end of a VM, only that another one is made at its address.
        let is_another = self.vms[vm].is_gone || created && self.vms[vm].origin.is_some();
        if is_another {
            // The kernel reuses addresses.
            self.replace_vm(vm, at.event.vm);
        }
        let vm = &mut self.vms[vm];
        vm.tgid = tgid;
        vm.manual_protect = manual_protect;
        vm.ring_bytes = ring_bytes;
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
        let EventKind::SlotState { slot, base, npages, commit, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let is_new = self.vms[vm].known_slot(slot.id).is_none();
        let Some(index) = self.slot_made(vm, slot.id, base) else { return };
        let known = &self.vms[vm].slots[index];
        let is_moved = known.npages != 0 && (known.base != base || known.npages != npages);
        let (was_deleted, was_extended) = (known.is_deleted, known.npages != 0);
        let is_logging = slot.logging && npages != 0;
        if known.is_logging && !is_logging {
            self.judge_log_dropped(at, vm, index);
        }
        if npages == 0 || is_moved || was_deleted {
            self.start_slot(vm, index, base, Slot::fresh_page(at.ordinal));
        } else if is_new {
            // Of a slot that is made before our eyes nothing is mapped yet.
            let is_fresh = commit && self.vms[vm].is_created;
            let page = if is_fresh { Slot::fresh_page(at.ordinal) } else { Page::default() };
            self.start_slot(vm, index, base, page);
        } else if !was_extended {
            self.vms[vm].slots[index].base = base;
        }
        self.vms[vm].has_other_roots |= is_moved || was_deleted || npages == 0;
        let found = &mut self.vms[vm].slots[index];
        found.is_changed = true;
        found.is_deleted = npages == 0;
        if npages != 0 {
            found.base = base;
            found.npages = npages;
        }
        found.origin = Some(encode(at.event));
        if is_moved || was_deleted {
            found.shown_first = None;
        }
        found.shown_first = found.shown_first.or(found.origin);
        found.logging_shown = at.ordinal;
        found.heat.resize(HEAT_CELLS, HeatCell::default());
        if !is_logging {
            found.stopped = Some(at.event.span.hi);
            self.stop_logging(vm, index);
        } else if !found.is_enabled {
            self.start_logging(at.ordinal, vm, index, at.event.span.hi, commit);
            self.unsettle(at, vm, index, commit);
        }
    }

    fn start_slot(&mut self, vm: usize, index: usize, base: Gfn, page: Page) {
        let slot = &mut self.vms[vm].slots[index];
        slot.pages.reset(base, page, &mut self.budget);
        slot.base = base;
        slot.marked = 0;
        slot.overdue = 0;
        slot.suspects = 0;
    }

    /// Logging is on from here. Of a commit it is known that the bitmap is new; what was marked already was marked in
    /// it, by faults that used the new slot object before its record came.
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
        slot.is_enabled = true;
        slot.committed = is_commit.then_some(since);
        slot.last_get = None;
        slot.logging_since.get_or_insert(since);
        if !is_commit {
            return;
        }
        slot.pages.change_all(|page| {
            if page.report != Report::Marked {
                page.report = Report::Clean;
                page.taken = Stamp::of(ordinal);
            }
            page.set(page_flag::INITIALLY_SET, is_set);
        });
    }

    fn stop_logging(&mut self, vm: usize, index: usize) {
        let slot = &mut self.vms[vm].slots[index];
        if slot.is_logging || slot.is_enabled {
            slot.pages.change_all(|page| {
                page.report = Report::Clean;
                page.set(page_flag::INITIALLY_SET, false);
            });
        }
        slot.is_logging = false;
        slot.is_enabled = false;
        slot.committed = None;
        slot.unsettled = None;
        slot.logging_since = None;
        slot.marked = 0;
        slot.overdue = 0;
    }

    /// SET_MEMORY has returned: faults that begin from here on use the new slot object.
    pub(super) fn finish_set_memory(&mut self, at: At<'_>, place: usize, ioctl: OpenIoctl) {
        let EventKind::IoctlEnd { ret, .. } = at.event.kind else { return };
        let vm = ioctl.vm;
        let Some(index) = self.vms[vm].known_slot(ioctl.op.slot) else { return };
        if ret != 0 || ioctl.op.mem_flags & LOG_DIRTY_PAGES == 0 {
            return;
        }
        let slot = &mut self.vms[vm].slots[index];
        let begin = ioctl.begin.unwrap_or(at.event.span.lo);
        // A mark on the new slot object may be what showed first that it logs, by a clock that is behind.
        let epsilon = self.ctx.epsilon_ns;
        let is_own = |since: Nanos| begin.0 <= since.0.saturating_add(epsilon);
        if slot.is_logging && slot.logging_since.is_some_and(is_own) {
            slot.logging_since = Some(at.event.span.hi);
            slot.committed = slot.committed.max(slot.logging_since);
            slot.is_changed = true;
            self.judge_enable(at, place, index, &ioctl);
        }
    }
}
