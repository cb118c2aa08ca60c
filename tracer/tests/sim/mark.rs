//! `mark_page_dirty_in_slot`, and the writes of the host that end in it.

use kvmdirty_common::kind::writer;
use kvmdirty_trace::event::{EventKind, Gfn, MarkWord, SlotId, SlotRef, Spte, VcpuId};

use super::config::{Kernel, Mmu};
use super::fault::Fault;
use super::huge::{HUGE, region};
use super::machine::{Machine, Thread};
use super::world::SlotView;

/// Who writes guest memory: with data that the probe can compare, and without.
const WRITERS: [u8; 4] = [writer::GUEST_PAGE, writer::CACHED, writer::STEAL_TIME, writer::PVCLOCK];

/// From where a mark is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkFrom {
    /// A lockless fault: the probe reads `*sptep` at the mark's entry.
    FastFault,
    /// Anything else.
    Elsewhere,
}

impl Machine {
    pub async fn mark(&self, t: &Thread, view: SlotView, gfn: u64, from: MarkFrom) {
        let since = self.clock(t);
        let gfn = self.marked_gfn(gfn);
        // Only the TDP MMU's walk tells the probe where the SPTE is.
        let in_fast = from == MarkFrom::FastFault && self.config.mmu == Mmu::Tdp;
        let spte = in_fast.then(|| Spte(self.world.borrow_mut().page(gfn).spte));
        self.step().await;
        let has_vcpu = t.vcpu.is_some();
        self.note_old_slot(view, gfn);
        let is_dropped = !has_vcpu
            && (self.config.kernel == Kernel::V6_1 || self.trips(Fault::MarkDropped, [gfn]));
        let mut pushed = None;
        if view.is_logging && !is_dropped {
            match (self.config.has_ring(), t.vcpu) {
                (true, Some(vcpu)) => pushed = Some(self.push(t, vcpu, gfn)),
                // No ring: `mark_page_dirty_in_slot` drops it.
                (true, None) => self.note_dropped(gfn),
                (false, _) => self.world.borrow_mut().set_bit(gfn),
            }
        }
        self.step().await;
        let word = match pushed {
            Some(index) => MarkWord::Ring(index),
            None if view.has_bitmap => {
                let word = self.world.borrow().word(gfn);
                word.map_or(MarkWord::Unread, |(word, _)| MarkWord::Bitmap(word))
            }
            None => MarkWord::Unread,
        };
        let slot = self.world.borrow().slot_ref(view);
        let kind = EventKind::Mark { gfn: Gfn(gfn), slot, word, spte, has_vcpu, in_fast };
        self.emit_since(t, since, kind);
    }

    fn note_dropped(&self, gfn: u64) {
        if self.is_broken_by(Fault::MarkDropped) {
            self.world.borrow_mut().truth.fired.insert(gfn);
        }
    }

    /// The gfn that gets marked: that of the page, unless the kernel confuses it.
    fn marked_gfn(&self, gfn: u64) -> u64 {
        let world = self.world.borrow();
        let slot = &world.slots[world.slot_of(gfn)];
        let neighbour = if gfn + 1 < slot.base + slot.npages { gfn + 1 } else { gfn - 1 };
        drop(world);
        if self.trips(Fault::WrongGfn, [gfn, neighbour]) { neighbour } else { gfn }
    }

    /// Without the SRCU grace period, a write may still use the slot object of before the enable.
    pub fn note_old_slot(&self, view: SlotView, gfn: u64) {
        let mut world = self.world.borrow_mut();
        let is_logging = world.slots[view.index].is_logging;
        if is_logging && !view.is_logging && self.is_broken_by(Fault::EnableNoSrcu) {
            let pages =
                if self.config.huge { region(gfn)..region(gfn) + HUGE } else { gfn..gfn + 1 };
            world.truth.fired.extend(pages);
        }
    }

    fn push(&self, t: &Thread, vcpu: usize, gfn: u64) -> u32 {
        let mut world = self.world.borrow_mut();
        let slot = world.slot_of(gfn);
        let (id, offset) = (world.slots[slot].id, gfn - world.slots[slot].base);
        let ring = &mut world.vcpus[vcpu].ring;
        ring.entries.insert(ring.dirty_index, (id, offset));
        ring.dirty_index += 1;
        let index = ring.dirty_index;
        drop(world);
        let slot = SlotId { as_id: 0, id };
        let vcpu = VcpuId(vcpu as u32);
        self.emit(t, EventKind::RingPush { offset, slot, index, vcpu });
        index
    }

    /// The host writes guest memory; the caller holds SRCU.
    pub async fn host_write(&self, t: &Thread, gfn: u64) {
        let since = self.clock(t);
        let view = self.world.borrow().view(gfn);
        self.step().await;
        if self.is_broken_by(Fault::EnableNoSrcu) && !view.is_logging {
            self.long_step().await;
        }
        let mut writer = *self.rng.pick(if t.vcpu.is_some() { &WRITERS } else { &WRITERS[..2] });
        // The bytes may have been the same before: then they cannot tell. Of some writers the probe knows no bytes.
        let is_placed = WRITERS[..2].contains(&writer);
        let mut data_at_mark = (!self.rng.chance(8) && is_placed).then_some(true);
        if self.trips(Fault::HostMarkFirst, [gfn]) {
            self.mark(t, view, gfn, MarkFrom::Elsewhere).await;
            data_at_mark = is_placed.then_some(false);
            self.long_step().await;
            self.store_from_host(gfn);
        } else {
            self.store_from_host(gfn);
            self.step().await;
            let is_cmpxchg = t.vcpu.is_some() && self.rng.chance(30);
            if is_cmpxchg {
                writer = writer::CMPXCHG;
            }
            if is_cmpxchg && self.trips(Fault::HostNoMark, [gfn]) {
                data_at_mark = None;
            } else {
                self.mark(t, view, gfn, MarkFrom::Elsewhere).await;
            }
        }
        self.step().await;
        self.emit_host_write(t, since, view, (gfn, writer), data_at_mark);
    }

    fn emit_host_write(
        &self,
        t: &Thread,
        since: u64,
        view: SlotView,
        (gfn, writer): (u64, u8),
        data_at_mark: Option<bool>,
    ) {
        // 5.10's function does not name the VM; the probe asks the vCPU loaded on the thread.
        let is_nameless = self.config.kernel == Kernel::V5_10 && writer != writer::CACHED;
        if is_nameless && t.vcpu.is_none() {
            return;
        }
        let within = self.rng.below(500) << 3;
        let (gpa, bytes, slot, data_at_mark) = if WRITERS[..2].contains(&writer) {
            (gfn << 12 | within, 8, self.world.borrow().slot_ref(view), data_at_mark)
        } else {
            // Its mark names the page.
            let none = SlotRef { id: SlotId::default(), logging: false, has_bitmap: false };
            (gfn << 12, if writer == writer::CMPXCHG { 8 } else { 0 }, none, None)
        };
        let kind = EventKind::HostWrite { gpa, bytes, slot, writer, failed: false, data_at_mark };
        self.emit_since(t, since, kind);
    }

    fn store_from_host(&self, gfn: u64) {
        let mut world = self.world.borrow_mut();
        let slot = world.slot_of(gfn);
        let is_logging = world.slots[slot].is_logging;
        world.page(gfn).version += 1;
        if is_logging {
            world.truth.written.insert(gfn);
        }
    }
}
