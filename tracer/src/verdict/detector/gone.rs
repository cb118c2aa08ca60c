//! VMs that are no more: what is still open of them is judged, and what refers to them forgotten.
//!
//! A VM is destroyed, or its address is seen again as that of a new one (the tracepoint plan does not see the end).

use crate::event::VmId;
use crate::verdict::UnknownCause;
use crate::verdict::page::{Page, PageTable};

use super::due::Due;
use super::{At, Detector, Vm};

impl Detector {
    /// The VM is destroyed: it is forgotten once nothing can come of it that the clocks may have misplaced.
    pub(super) fn on_vm_gone(&mut self, at: At<'_>) {
        let vm = self.vm(at.event.vm);
        self.vms[vm].is_gone = true;
        self.wait(at.event.span.hi, Due::Gone(vm));
    }

    /// Judges what is left of the VM as at the end of a trace and gives the memory of its pages back. What else is
    /// known of it can still be shown.
    pub(super) fn retire_vm(&mut self, vm: usize) {
        self.forget_brackets(vm);
        self.judge_vm_residue(vm);
        self.vms[vm].rings.clear();
        for slot in &mut self.vms[vm].slots {
            self.budget += slot.pages.detailed_pages();
            slot.pages = PageTable::new(slot.base, Page::default());
            (slot.marked, slot.overdue, slot.suspects) = (0, 0, 0);
        }
    }

    /// Another VM takes the place of this one. What waits for records of the old one waits for nothing now.
    pub(super) fn replace_vm(&mut self, vm: usize, id: VmId) {
        let waiting = self.due.iter().filter(|(_, what)| what.vm() == vm);
        let judgements = waiting.filter(|(_, what)| !matches!(what, Due::Gone(_))).count();
        self.ledger.unknown(UnknownCause::WithinEpsilon, judgements as u64);
        self.due.retain(|(_, what)| what.vm() != vm);
        self.retire_vm(vm);
        self.slots_left += self.vms[vm].slots.len() as u32;
        self.vms[vm] = Vm::new(id);
    }

    /// No thread refers to a page or an ioctl of the VM any more.
    fn forget_brackets(&mut self, vm: usize) {
        let mut taken = 0;
        for thread in self.threads.iter_mut() {
            taken += thread.forget_vm(vm).map_or(0, |ioctl| ioctl.pages.taken);
        }
        self.ledger.unknown(UnknownCause::TraceEnd, taken);
    }
}
