//! The *tlb* window: from the first write-protect of a harvest to the end of the flush that reaches the page.
//!
//! It is legal while the ioctl has not returned (K05 says when not), so it is measured, not judged.

use crate::event::{Nanos, Span};
use crate::verdict::{Window, WindowKind};

use super::slot::FlushSeen;
use super::thread::OpenIoctl;
use super::{At, Detector};

/// A window whose flush was not seen yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenTlb {
    pub window: Window,
    pub slot: usize,
    /// The flush that closes it begins at or after this.
    pub protected: Nanos,
}

/// Windows kept open per VM; beyond, they are counted as open at once.
const OPEN_MAX: usize = 1024;

impl Detector {
    /// The harvest has returned; `flush` is its own.
    pub(super) fn note_tlb_window(&mut self, at: At<'_>, ioctl: &OpenIoctl, flush: Option<Span>) {
        let Some(open) = self.open_tlb(at.event.tid, ioctl) else { return };
        if let Some(flush) = flush {
            self.close_tlb(ioctl.vm, open, flush.hi);
            return;
        }
        if !self.ctx.rules.sees_flushes() {
            return;
        }
        let reaches = |seen: &&FlushSeen| self.reaches(open, seen);
        let flushes = self.vms[ioctl.vm].flushes.iter();
        match flushes.filter(reaches).map(|seen| seen.span.hi).min() {
            Some(flushed) => self.close_tlb(ioctl.vm, open, flushed),
            None if self.vms[ioctl.vm].open_tlbs.len() < OPEN_MAX => {
                self.vms[ioctl.vm].open_tlbs.push(open);
            }
            None => self.window(open.window),
        }
    }

    /// The window of an ioctl that has protected something.
    fn open_tlb(&self, tid: crate::event::Tid, ioctl: &OpenIoctl) -> Option<OpenTlb> {
        let (slot, gfn, opened) = ioctl.first_protected?;
        let window = Window {
            kind: WindowKind::Tlb,
            vm: self.vms[ioctl.vm].id,
            slot: self.vms[ioctl.vm].slots[slot].id,
            gfn,
            tid,
            opened,
            closed: None,
            harvests_inside: 0,
        };
        Some(OpenTlb { window, slot, protected: ioctl.last_visit })
    }

    fn reaches(&self, open: OpenTlb, flush: &FlushSeen) -> bool {
        let flusher = self.ctx.spool.event(flush.ordinal).map(|event| event.tid);
        let epsilon = if flusher == Some(open.window.tid) { 0 } else { self.ctx.epsilon_ns };
        flush.covers(open.window.gfn, 1)
            && open.protected.0.saturating_add(epsilon) <= flush.span.lo.0
    }

    /// A flush closes the windows that began before it.
    pub(super) fn close_tlbs(&mut self, vm: usize, flush: &FlushSeen) {
        if self.vms[vm].open_tlbs.is_empty() {
            return;
        }
        let mut open = std::mem::take(&mut self.vms[vm].open_tlbs);
        open.retain(|open| {
            let is_closed = self.reaches(*open, flush);
            if is_closed {
                self.close_tlb(vm, *open, flush.span.hi);
            }
            !is_closed
        });
        self.vms[vm].open_tlbs = open;
    }

    fn close_tlb(&mut self, vm: usize, open: OpenTlb, flushed: Nanos) {
        let span = Span::between(open.window.opened, flushed);
        let own = u32::from(
            self.vms[vm].slots[open.slot]
                .recent
                .iter()
                .any(|(harvest, _)| harvest.contains(Span::at(open.window.opened))),
        );
        let harvests_inside = self.harvests_in(vm, open.slot, span).saturating_sub(own);
        self.window(Window { closed: Some(flushed), harvests_inside, ..open.window });
    }

    /// The trace has ended: what no flush has closed stays open.
    pub(super) fn leave_tlbs_open(&mut self, vm: usize) {
        for open in std::mem::take(&mut self.vms[vm].open_tlbs) {
            self.window(open.window);
        }
    }

    /// The trace has ended inside a harvest.
    pub(super) fn leave_harvest_open(&mut self, tid: crate::event::Tid, ioctl: &OpenIoctl) {
        let place = self.threads.place(tid);
        let flush = self.threads.get_mut(place).flush;
        let Some(open) = self.open_tlb(tid, ioctl) else { return };
        if open.protected <= flush.lo {
            self.close_tlb(ioctl.vm, open, flush.hi);
        } else if self.ctx.rules.sees_flushes() {
            self.window(open.window);
        }
    }
}
