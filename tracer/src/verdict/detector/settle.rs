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
        self.is_until(self.vms[vm].slots[slot].unsettled, since)
    }

    /// As [`Self::is_unsettled`], of a lockless fault that began at `since`.
    pub(super) fn is_fast_unsettled(&self, vm: usize, slot: usize, since: Nanos) -> bool {
        let slot = &self.vms[vm].slots[slot];
        self.is_until(slot.unsettled, since) || self.is_until(slot.helper_ended, since)
    }

    fn is_until(&self, until: Option<Nanos>, since: Nanos) -> bool {
        until.is_some_and(|until| since.0 <= until.0.saturating_add(self.ctx.epsilon_ns))
    }
}
