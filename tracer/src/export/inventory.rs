//! What the events up to now said about VMs, slots and threads, so that an export can name what a record leaves out.

use std::collections::BTreeMap;

use crate::event::{Event, EventKind, Gfn, IoctlRef, SlotId, Tid, VcpuId, VmId};

/// VMs, memslots, vCPU threads and open ioctls as of the last event taken.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    vms: BTreeMap<VmId, Vm>,
    vcpus: BTreeMap<Tid, VcpuId>,
    ioctls: BTreeMap<Tid, IoctlRef>,
}

#[derive(Clone, Debug, Default)]
struct Vm {
    tgid: u32,
    slots: BTreeMap<SlotId, Range>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    base: Gfn,
    npages: u64,
}

/// Threads remembered; those beyond have no vCPU column and no enclosing ioctl.
const THREADS_MAX: usize = 65_536;

impl Inventory {
    /// Takes the next event.
    pub fn take(&mut self, event: &Event) {
        match event.kind {
            EventKind::VmSeen { tgid, .. } => {
                self.vms.entry(event.vm).or_default().tgid = tgid;
            }
            EventKind::SlotState { slot, base, npages, .. } => {
                let slots = &mut self.vms.entry(event.vm).or_default().slots;
                if npages == 0 {
                    slots.remove(&slot.id);
                } else {
                    slots.insert(slot.id, Range { base, npages });
                }
            }
            EventKind::IoctlBegin { op, .. } => {
                if self.ioctls.len() < THREADS_MAX {
                    self.ioctls.insert(event.tid, op);
                }
            }
            EventKind::IoctlEnd { .. } => {
                self.ioctls.remove(&event.tid);
            }
            EventKind::RunBegin { vcpu }
            | EventKind::RunEnd { vcpu, .. }
            | EventKind::Fault { vcpu, .. } => {
                if self.vcpus.len() < THREADS_MAX {
                    self.vcpus.insert(event.tid, vcpu);
                }
            }
            // What a VM that is gone said stays true of the records before.
            EventKind::VmGone
            | EventKind::Flush { .. }
            | EventKind::RingReset { .. }
            | EventKind::SlotProtect { .. }
            | EventKind::Invalidate { .. }
            | EventKind::LockWait { .. }
            | EventKind::Mark { .. }
            | EventKind::SpteChange { .. }
            | EventKind::FastFault { .. }
            | EventKind::HarvestWord { .. }
            | EventKind::UserWord { .. }
            | EventKind::RmapAdd { .. }
            | EventKind::HostWrite { .. }
            | EventKind::RingPush { .. }
            | EventKind::SpteSet { .. }
            | EventKind::Split { .. }
            | EventKind::Zap { .. } => {}
        }
    }

    /// The process that created the VM, if it was recorded.
    #[must_use]
    pub fn tgid(&self, vm: VmId) -> Option<u32> {
        self.vms.get(&vm).map(|vm| vm.tgid).filter(|&tgid| tgid != 0)
    }

    /// The vCPU a thread runs.
    #[must_use]
    pub fn vcpu(&self, tid: Tid) -> Option<VcpuId> {
        self.vcpus.get(&tid).copied()
    }

    /// The ioctl a thread is in.
    #[must_use]
    pub fn ioctl(&self, tid: Tid) -> Option<IoctlRef> {
        self.ioctls.get(&tid).copied()
    }

    /// The slot that holds a page, in address space 0 unless told otherwise.
    #[must_use]
    pub fn slot_of(&self, vm: VmId, as_id: Option<u8>, gfn: Gfn) -> Option<SlotId> {
        let as_id = u16::from(as_id.unwrap_or(0));
        self.vms.get(&vm)?.slots.iter().find_map(|(&id, range)| {
            let is_inside = range.base <= gfn && gfn.0 - range.base.0 < range.npages;
            (id.as_id == as_id && is_inside).then_some(id)
        })
    }

    /// The page at an offset of a slot.
    #[must_use]
    pub fn gfn_at(&self, vm: VmId, slot: SlotId, offset: u64) -> Option<Gfn> {
        let range = self.vms.get(&vm)?.slots.get(&slot)?;
        (offset < range.npages).then(|| Gfn(range.base.0.saturating_add(offset)))
    }
}
