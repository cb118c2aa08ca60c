//! An attach in the middle of the ioctl that turns logging on: what it closes from then on has no record.
//!
//! ```text
//! vmm (ioctl begun before the attach)    vcpu
//!                                        fault: mark gfn 7, store W      (both recorded)
//! protects the slot, gfn 7 with it       (its helper began before the attach: no record)
//! GET: takes bit 7, finds gfn 7 closed                                   <- protected, although nothing says so
//! ```
//!
//! SET_MEMORY and the harvests exclude each other by `slots_lock`, so the first of them that began after the attach
//! and has got on shows that no older one is under way.

use crate::event::{IoctlOp, Nanos};
use crate::order::Ordinal;
use crate::verdict::page::Protection;

use super::slot::Slot;
use super::thread::OpenIoctl;
use super::{At, Detector};

/// Still under way, for all that is known.
const STILL: Option<Nanos> = Some(Nanos(u64::MAX));

impl Detector {
    /// A slot was found logging: pages opened up to now may be closed already. One that is seen to be made so is
    /// protected after that, by helpers that are seen as well.
    pub(super) fn unsettle(&mut self, at: At<'_>, vm: usize, slot: usize, is_commit: bool) {
        let is_attached = self.vms[vm].origin.is_some() && !self.vms[vm].is_created;
        if !is_attached || is_commit {
            return;
        }
        self.vms[vm].has_unsettled = true;
        let (slot, ordinal): (_, Ordinal) = (&mut self.vms[vm].slots[slot], at.ordinal);
        slot.unsettled = STILL;
        slot.pages.change_all(|page| {
            if page.protection == Protection::Open {
                page.change(Protection::Unknown, ordinal);
            }
        });
    }

    /// An ioctl that began after the attach holds `slots_lock`, or held it.
    #[inline]
    pub(super) fn settle(&mut self, at: At<'_>, vm: usize, ioctl: &OpenIoctl) {
        if self.vms[vm].has_unsettled && ioctl.begin.is_some() && ioctl.op.op != IoctlOp::EnableCap
        {
            self.vms[vm].has_unsettled = false;
            for slot in self.vms[vm].slots.iter_mut().filter(|slot| slot.unsettled == STILL) {
                slot.unsettled = Some(at.event.span.hi);
            }
        }
    }

    /// What was opened at `since` or later may have been closed without a record.
    #[inline]
    pub(super) fn is_unsettled(&self, vm: usize, slot: usize, since: Nanos) -> bool {
        is_until(self.vms[vm].slots[slot].unsettled, since, self.ctx.epsilon_ns)
    }

    /// As [`Self::is_unsettled`], of a lockless fault that began at `since`.
    pub(super) fn is_fast_unsettled(&self, vm: usize, slot: usize, since: Nanos) -> bool {
        self.vms[vm].slots[slot].is_fast_unsettled(since, self.ctx.epsilon_ns)
    }

    /// As [`Self::is_unsettled`], of a store under `mmu_lock` whose hold began at `since`. What a helper closes in the
    /// rmap has no record, and of two holds that touch within the clock uncertainty either may have been the first.
    pub(super) fn is_store_unsettled(
        &self,
        vm: usize,
        slot: usize,
        since: Nanos,
        is_shadow: bool,
    ) -> bool {
        if is_shadow {
            self.is_fast_unsettled(vm, slot, since)
        } else {
            self.is_unsettled(vm, slot, since)
        }
    }
}

impl Slot {
    /// See [`Detector::is_fast_unsettled`].
    #[inline]
    pub(super) fn is_fast_unsettled(&self, since: Nanos, epsilon_ns: u64) -> bool {
        is_until(self.unsettled, since, epsilon_ns)
            || is_until(self.helper_ended, since, epsilon_ns)
    }
}

#[inline]
fn is_until(until: Option<Nanos>, since: Nanos, epsilon_ns: u64) -> bool {
    until.is_some_and(|until| since.0 <= until.0.saturating_add(epsilon_ns))
}
