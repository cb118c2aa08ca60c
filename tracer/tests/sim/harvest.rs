//! GET, CLEAR and RESET as the kernel performs them.

use std::collections::BTreeSet;

use kvmdirty_trace::event::{EventKind, Gfn, IoctlOp, IoctlRef, SlotId, VcpuId};

use super::config::{Mmu, PRESENT, ProbePlan, WRITABLE};
use super::fault::Fault;
use super::huge::region;
use super::machine::{Machine, Thread};
use super::world::{RING_SIZE, SlotView};

/// An ioctl under way.
pub struct Ioctl {
    op: IoctlRef,
    pub since: u64,
}

/// The gfns of a mask.
pub fn gfns(first: u64, mask: u64) -> impl Iterator<Item = u64> + Clone {
    (0..64).filter(move |bit| mask >> bit & 1 != 0).map(move |bit| first + bit)
}

impl Machine {
    pub fn begin(
        &self,
        t: &Thread,
        op: IoctlOp,
        slot: usize,
        (first, count): (u64, u64),
        mem_flags: u32,
    ) -> Ioctl {
        let since = self.clock(t);
        let flushes = self.world.borrow().flushes;
        let slot = SlotId { as_id: 0, id: slot as u16 };
        let op = IoctlRef { op, slot, mem_flags };
        self.emit(t, EventKind::IoctlBegin { op, first, count, flushes });
        Ioctl { op, since }
    }

    pub fn end(&self, t: &Thread, ioctl: &Ioctl, ret: i64, words: u64) {
        let flushes = self.world.borrow().flushes;
        let kind = EventKind::IoctlEnd { op: ioctl.op, ret, flushes, words, words_cut: false };
        self.emit_since(t, ioctl.since, kind);
    }

    /// `kvm_arch_mmu_enable_log_dirty_pt_masked`: protects the pages of a mask; the mask of those it changed.
    async fn protect(&self, t: &Thread, view: SlotView, first: u64, mask: u64) -> u64 {
        let since = self.clock(t);
        let skips_all = self.trips(Fault::HarvestNoProtect, gfns(first, mask))
            || (self.config.has_ring() && self.trips(Fault::RingNoProtect, gfns(first, mask)));
        let mut protected = 0;
        for gfn in gfns(first, mask) {
            if self.rng.chance(30) {
                self.step().await;
            }
            if skips_all || self.trips(Fault::HarvestSkipsPage, [gfn]) {
                continue;
            }
            // INITIALLY_SET leaves huge pages writable until CLEAR touches one of their pages.
            self.split(t, gfn, self.clock(t));
            let mut world = self.world.borrow_mut();
            let page = world.page(gfn);
            let is_found = self.config.mmu == Mmu::Tdp || page.is_in_rmap;
            if is_found && page.spte & PRESENT != 0 && page.spte & self.config.protect_bits() != 0 {
                page.spte &= !self.config.protect_bits();
                protected |= 1 << (gfn - first);
            }
        }
        self.step().await;
        let slot = self.world.borrow().slot_ref(view);
        self.emit_since(
            t,
            since,
            EventKind::HarvestWord { first: Gfn(first), mask, protected, slot },
        );
        protected
    }

    /// One pass of GET or CLEAR over the bitmap under mmu_lock, and its flush. `asked` is what may be taken, by word;
    /// the result is what was taken, by word.
    pub async fn take_words(&self, t: &Thread, slot: usize, asked: &[(usize, u64)]) -> Vec<u64> {
        let is_locked = !self.is_broken_by(Fault::HarvestUnlocked);
        if is_locked {
            self.mmu_lock.write(self).await;
        }
        self.step().await;
        let (base, words) = {
            let world = self.world.borrow();
            let slot = &world.slots[slot];
            (slot.base, slot.bitmap.as_ref().map_or(0, Vec::len))
        };
        let view = self.world.borrow().view(base);
        let mut taken = vec![0; words];
        let mut changed = 0;
        let last = self.last_word(slot, asked);
        let flush_early =
            last.is_some() && self.trips(Fault::HarvestFlushEarly, self.asked_gfns(slot, asked));
        for &(index, wanted) in asked {
            let first = base + 64 * index as u64;
            if flush_early && last == Some(index) {
                self.flush(t).await;
            }
            let (mask, by_protect) = self.take_word(t, view, (index, first), wanted).await;
            taken[index] = mask;
            changed |= by_protect;
        }
        if is_locked {
            self.mmu_lock.unlock_write();
        }
        self.step().await;
        let all: Vec<u64> =
            (0..words).flat_map(|index| gfns(base + 64 * index as u64, taken[index])).collect();
        if flush_early {
            self.world.borrow_mut().truth.fired.extend(&all);
        }
        if !all.is_empty() && !flush_early {
            self.flush_harvest(t, &all, changed).await;
        }
        taken
    }

    /// The xchg (or andnot) of one word and what follows it.
    async fn take_word(
        &self,
        t: &Thread,
        view: SlotView,
        (index, first): (usize, u64),
        wanted: u64,
    ) -> (u64, u64) {
        let read = |machine: &Self| {
            let world = machine.world.borrow();
            world.slots[view.index].bitmap.as_ref().map_or(0, |bitmap| bitmap[index]) & wanted
        };
        let seen = read(self);
        if seen == 0 {
            return (0, 0);
        }
        if self.trips(Fault::ProtectBeforeXchg, gfns(first, seen)) {
            let changed = self.protect(t, view, first, seen).await;
            self.long_step().await;
            let mask = self.xchg(view, (index, first), wanted);
            self.world.borrow_mut().truth.fired.extend(gfns(first, mask));
            return (mask, changed);
        }
        if self.is_broken_by(Fault::HarvestUnlocked) {
            self.trips(Fault::HarvestUnlocked, gfns(first, u64::MAX));
        }
        let mask = self.xchg(view, (index, first), wanted);
        self.step().await;
        (mask, self.protect(t, view, first, mask).await)
    }

    fn xchg(&self, view: SlotView, (index, first): (usize, u64), wanted: u64) -> u64 {
        let mut world = self.world.borrow_mut();
        let Some(bitmap) = &mut world.slots[view.index].bitmap else { return 0 };
        let mask = bitmap[index] & wanted;
        bitmap[index] &= !wanted;
        for gfn in gfns(first, mask) {
            world.page(gfn).harvesting += 1;
        }
        mask
    }

    fn last_word(&self, slot: usize, asked: &[(usize, u64)]) -> Option<usize> {
        let world = self.world.borrow();
        let bitmap = world.slots[slot].bitmap.as_ref()?;
        asked.iter().rev().find(|(index, wanted)| bitmap[*index] & wanted != 0).map(|(i, _)| *i)
    }

    /// What of `asked` is set now.
    fn asked_gfns(&self, slot: usize, asked: &[(usize, u64)]) -> Vec<u64> {
        let world = self.world.borrow();
        let slot = &world.slots[slot];
        let Some(bitmap) = &slot.bitmap else { return Vec::new() };
        asked
            .iter()
            .flat_map(|(index, wanted)| {
                gfns(slot.base + 64 * *index as u64, bitmap[*index] & wanted)
            })
            .collect()
    }

    /// The flush of a harvest that took pages.
    async fn flush_harvest(&self, t: &Thread, taken: &[u64], changed: u64) {
        if self.trips(Fault::HarvestNoFlush, taken.iter().copied()) {
            return;
        }
        if self.trips(Fault::HarvestFlushLate, taken.iter().copied()) {
            self.world.borrow_mut().late_flush = true;
            return;
        }
        if self.is_broken_by(Fault::FlushAssumed) && changed == 0 {
            self.world.borrow_mut().truth.fired.extend(taken);
            return;
        }
        self.flush(t).await;
    }

    /// The harvest has returned: from now on its pages must be protected.
    pub fn release(&self, taken: &[u64]) {
        let mut world = self.world.borrow_mut();
        for gfn in taken {
            world.page(*gfn).harvesting -= 1;
        }
    }

    /// KVM_GET_DIRTY_LOG; the gfns reported. In manual mode nothing is taken.
    pub async fn get_dirty_log(&self, t: &Thread, slot: usize) -> Vec<u64> {
        let ioctl = self.begin(t, IoctlOp::GetDirtyLog, slot, (0, 0), 0);
        self.step().await;
        self.slots_lock.write(self).await;
        if self.config.pml {
            self.kick_all();
        }
        self.step().await;
        let base = self.world.borrow().slots[slot].base;
        let all: Vec<(usize, u64)> = (0..self.words(slot)).map(|index| (index, u64::MAX)).collect();
        let reported: Vec<u64> = if self.config.is_manual() {
            let mut reported = Vec::new();
            for (index, _) in all {
                self.step().await;
                let world = self.world.borrow();
                let word = world.slots[slot].bitmap.as_ref().map_or(0, |bitmap| bitmap[index]);
                reported.extend(gfns(base + 64 * index as u64, word));
            }
            reported
        } else {
            let taken = self.take_words(t, slot, &all).await;
            (0..taken.len())
                .flat_map(|index| gfns(base + 64 * index as u64, taken[index]))
                .collect()
        };
        self.step().await;
        self.slots_lock.unlock_write();
        let words = self.emit_user_words(t, slot, &reported);
        if !self.config.is_manual() {
            self.release(&reported);
        }
        self.end(t, &ioctl, 0, words);
        reported
    }

    pub fn words(&self, slot: usize) -> usize {
        self.world.borrow().slots[slot].bitmap.as_ref().map_or(0, Vec::len)
    }

    fn kick_all(&self) {
        for vcpu in &mut self.world.borrow_mut().vcpus {
            vcpu.is_kicked = true;
        }
    }

    /// The bitmap in user space at the ioctl's return, with SPTEs read back (tracepoint plan); words emitted.
    fn emit_user_words(&self, t: &Thread, slot: usize, reported: &[u64]) -> u64 {
        let base = self.world.borrow().slots[slot].base;
        let word_of = |gfn: u64| base + ((gfn - base) & !63);
        let words: BTreeSet<u64> = reported.iter().copied().map(word_of).collect();
        let mut emitted = 0;
        for first in words {
            let inside = reported.iter().copied().filter(|gfn| word_of(*gfn) == first);
            emitted += self.emit_user_word(t, first, inside);
        }
        emitted
    }

    /// The entries a RESET popped, in their order, neighbours gathered into words (tracepoint plan); words emitted.
    fn emit_popped(&self, t: &Thread, popped: &[u64]) -> u64 {
        let word_of = |gfn: u64| {
            let world = self.world.borrow();
            let base = world.slots[world.slot_of(gfn)].base;
            base + ((gfn - base) & !63)
        };
        let batches = popped.chunk_by(|one, next| word_of(*one) == word_of(*next));
        batches.map(|batch| self.emit_user_word(t, word_of(batch[0]), batch.iter().copied())).sum()
    }

    fn emit_user_word(&self, t: &Thread, first: u64, gfns: impl Iterator<Item = u64>) -> u64 {
        if self.config.plan == ProbePlan::Kprobe {
            return 0;
        }
        let (mut mask, mut protected, mut writable) = (0, 0, 0);
        for gfn in gfns {
            let bit = 1 << (gfn - first);
            mask |= bit;
            match self.read_back(gfn) {
                Some(true) => writable |= bit,
                Some(false) => protected |= bit,
                None => {}
            }
        }
        let first = Gfn(first);
        self.emit(t, EventKind::UserWord { first, mask, protected, writable });
        1
    }

    /// The SPTE that was seen to be set last for the page: whether it lets writes through unlogged. A page table that
    /// took its place maps no such frame.
    fn read_back(&self, gfn: u64) -> Option<bool> {
        let is_huge = *self.probe.borrow().set.get(&gfn)?;
        let open = WRITABLE | self.config.protect_bits();
        let mut world = self.world.borrow_mut();
        let mapped = world.huge.get(&region(gfn)).copied();
        let spte = world.page(gfn).spte;
        match (is_huge, mapped) {
            (true, Some(huge)) => Some(huge & open == open),
            (true, None) if spte & PRESENT != 0 => None,
            (true, None) => Some(false),
            (false, _) => Some(spte & open == open),
        }
    }

    /// KVM_CLEAR_DIRTY_LOG of the words in `asked`.
    pub async fn clear_dirty_log(&self, t: &Thread, slot: usize, asked: &[(usize, u64)]) {
        let first = asked.first().map_or(0, |(index, _)| 64 * *index as u64);
        let last = asked.last().map_or(0, |(index, _)| 64 * (*index as u64 + 1));
        let npages = self.world.borrow().slots[slot].npages;
        let count = last.min(npages) - first;
        let ioctl = self.begin(t, IoctlOp::ClearDirtyLog, slot, (first, count), 0);
        self.step().await;
        self.slots_lock.write(self).await;
        self.step().await;
        let base = self.world.borrow().slots[slot].base;
        let taken = self.take_words(t, slot, asked).await;
        let all: Vec<u64> = (0..taken.len())
            .flat_map(|index| gfns(base + 64 * index as u64, taken[index]))
            .collect();
        self.slots_lock.unlock_write();
        // What user space asked for, whether or not it was set.
        let asked: Vec<u64> = asked
            .iter()
            .flat_map(|(index, wanted)| gfns(base + 64 * *index as u64, *wanted))
            .filter(|gfn| *gfn < base + npages)
            .collect();
        let words = self.emit_user_words(t, slot, &asked);
        self.release(&all);
        self.end(t, &ioctl, 0, words);
    }

    /// KVM_RESET_DIRTY_RINGS; the number of entries reset.
    pub async fn reset_dirty_rings(&self, t: &Thread) -> u32 {
        let ioctl = self.begin(t, IoctlOp::ResetDirtyRings, 0, (0, 0), 0);
        self.step().await;
        self.slots_lock.write(self).await;
        let mut taken = Vec::new();
        let mut cleared = 0;
        for vcpu in 0..self.config.vcpus as usize {
            let (entries, is_interrupted) = self.reset_ring(t, vcpu, &mut taken).await;
            cleared += entries;
            if is_interrupted {
                break;
            }
        }
        self.slots_lock.unlock_write();
        self.step().await;
        if cleared != 0 {
            self.flush(t).await;
        }
        let words = self.emit_popped(t, &taken);
        self.release(&taken);
        self.end(t, &ioctl, i64::from(cleared), words);
        cleared
    }

    /// `kvm_dirty_ring_reset` of one ring: entries popped, and whether a signal interrupted it.
    async fn reset_ring(&self, t: &Thread, vcpu: usize, taken: &mut Vec<u64>) -> (u32, bool) {
        let since = self.clock(t);
        let before = self.world.borrow().vcpus[vcpu].ring.reset_index;
        let mut batch: Option<Batch> = None;
        let mut is_interrupted = false;
        loop {
            let signal = batch.as_ref().map(|batch| batch.gfns(self)).unwrap_or_default();
            if self.rng.chance(30) && self.trips(Fault::RingEintr, signal) {
                is_interrupted = true;
                break;
            }
            let entry = self.pop(vcpu, taken);
            self.step().await;
            let Some((slot, offset)) = entry else { break };
            if let Some(batch) = &mut batch
                && batch.takes(slot, offset)
            {
                continue;
            }
            if let Some(batch) = batch.take() {
                self.reset_batch(t, batch).await;
            }
            batch = Some(Batch { slot, offset, mask: 1 });
        }
        if let Some(batch) = batch.filter(|_| !is_interrupted) {
            self.reset_batch(t, batch).await;
        }
        let (after, dirty_index) = {
            let world = self.world.borrow();
            (world.vcpus[vcpu].ring.reset_index, world.vcpus[vcpu].ring.dirty_index)
        };
        let is_bracketed = self.config.plan == ProbePlan::Kprobe;
        let kind = EventKind::RingReset {
            vcpu: VcpuId(vcpu as u32),
            before,
            after,
            ret: if is_interrupted { -4 } else { i64::from(after - before) },
            dirty_index,
            size: RING_SIZE,
            bracketed: is_bracketed,
        };
        self.emit_since(t, if is_bracketed { since } else { self.clock(t) }, kind);
        (after - before, is_interrupted)
    }

    /// Takes the next entry that user space has collected.
    fn pop(&self, vcpu: usize, taken: &mut Vec<u64>) -> Option<(u16, u64)> {
        let mut world = self.world.borrow_mut();
        let ring = &mut world.vcpus[vcpu].ring;
        if ring.reset_index == ring.fetch_index {
            return None;
        }
        let entry = ring.entries.remove(&ring.reset_index).expect("an entry");
        ring.reset_index += 1;
        let gfn = world.slots[usize::from(entry.0)].base + entry.1;
        world.page(gfn).harvesting += 1;
        taken.push(gfn);
        Some(entry)
    }

    /// `kvm_reset_dirty_gfn`.
    async fn reset_batch(&self, t: &Thread, batch: Batch) {
        self.mmu_lock.write(self).await;
        self.step().await;
        let first = self.world.borrow().slots[usize::from(batch.slot)].base + batch.offset;
        let view = self.world.borrow().view(first);
        self.protect(t, view, first, batch.mask).await;
        self.mmu_lock.unlock_write();
    }
}

/// Ring entries that are reset together.
struct Batch {
    slot: u16,
    offset: u64,
    mask: u64,
}

impl Batch {
    /// Takes one more entry in, as `kvm_dirty_ring_reset` does: up to 63 pages ahead, or behind if nothing is shifted
    /// out.
    fn takes(&mut self, slot: u16, offset: u64) -> bool {
        if slot != self.slot {
            return false;
        }
        if self.offset <= offset && offset - self.offset < 64 {
            self.mask |= 1 << (offset - self.offset);
            return true;
        }
        let back = self.offset.saturating_sub(offset);
        if (1..64).contains(&back) && (self.mask << back) >> back == self.mask {
            self.mask = self.mask << back | 1;
            self.offset = offset;
            return true;
        }
        false
    }

    fn gfns(&self, machine: &Machine) -> Vec<u64> {
        let base = machine.world.borrow().slots[usize::from(self.slot)].base;
        gfns(base + self.offset, self.mask).collect()
    }
}
