//! The VMM: a migration that enables logging, harvests, stops the guest, harvests once more, and compares.

use kvmdirty_trace::event::{EventKind, Gfn, IoctlOp, SlotId, SlotRef};

use super::config::{Kernel, Mmu, Mode, PRESENT, ProbePlan};
use super::fault::Fault;
use super::harvest::{Ioctl, gfns};
use super::machine::{Machine, Thread};
use super::world::SlotView;

impl Machine {
    pub async fn vmm_thread(&self, t: &Thread) {
        for round in 1..=self.config.migrations {
            self.world.borrow_mut().is_stopping = false;
            self.wait(self.config.step_ns * self.rng.between(20, 400)).await;
            self.migrate(t, self.config.is_cancelled() && round < self.config.migrations).await;
        }
        self.world.borrow_mut().is_over = true;
    }

    /// One migration or snapshot from enable to disable.
    async fn migrate(&self, t: &Thread, is_cancelled: bool) {
        for slot in 0..self.config.slots as usize {
            self.enable_logging(t, slot).await;
            if self.config.mode != Mode::ManualInitSet {
                self.copy_slot(slot).await;
            }
        }
        for _ in 0..self.config.iterations {
            self.wait(self.config.step_ns * self.rng.between(20, 500)).await;
            self.collect(t).await;
        }
        if is_cancelled {
            for slot in 0..self.config.slots as usize {
                self.disable_logging(t, slot).await;
            }
            return;
        }
        if self.is_broken_by(Fault::FinalTooEarly) {
            self.fire_everywhere();
            self.wait(self.config.step_ns * 200).await;
            self.stop().await;
        } else {
            self.stop().await;
            if self.is_broken_by(Fault::LogDropped) {
                self.fire_everywhere();
            } else {
                self.collect(t).await;
            }
        }
        self.world.borrow_mut().compare();
        for slot in 0..self.config.slots as usize {
            self.disable_logging(t, slot).await;
        }
    }

    fn fire_everywhere(&self) {
        let mut world = self.world.borrow_mut();
        let all: Vec<u64> = world.pages.keys().copied().collect();
        world.truth.fired.extend(all);
    }

    /// What the probe tells of the VM when it first meets it.
    pub fn announce_vm(&self, t: &Thread) {
        let manual_protect = match self.config.mode {
            Mode::Get | Mode::Ring => 0,
            Mode::Manual => 1,
            Mode::ManualInitSet => 3,
        };
        let ring_bytes = if self.config.has_ring() { super::world::RING_SIZE * 16 } else { 0 };
        self.emit(
            t,
            EventKind::VmSeen {
                tgid: t.tid.0,
                manual_protect,
                ring_bytes,
                generation: 2,
                created: self.config.attach_ns == 0,
                flushes: self.world.borrow().flushes,
            },
        );
    }

    /// The slots: as they are made, or as they are found.
    pub fn announce_slots(&self, t: &Thread) {
        for slot in 0..self.config.slots as usize {
            if self.config.attach_ns == 0 {
                self.create_slot(t, slot);
            } else {
                self.emit_slot(t, slot, self.clock(t), false);
            }
        }
    }

    /// KVM_SET_USER_MEMORY_REGION of a new slot, before any vCPU runs.
    fn create_slot(&self, t: &Thread, slot: usize) {
        let (base, npages) = {
            let world = self.world.borrow();
            (world.slots[slot].base, world.slots[slot].npages)
        };
        let ioctl = self.begin(t, IoctlOp::SetMemory, slot, (base, npages), 0);
        self.emit_slot(t, slot, self.clock(t), true);
        self.end(t, &ioctl, 0, 0);
    }

    fn emit_slot(&self, t: &Thread, slot: usize, since: u64, commit: bool) {
        let world = self.world.borrow();
        let own = &world.slots[slot];
        let bitmap =
            if own.bitmap.is_some() { 0xffff_c900_0000_0000 + ((slot as u64) << 16) } else { 0 };
        let kind = EventKind::SlotState {
            slot: SlotRef {
                id: SlotId { as_id: 0, id: own.id },
                logging: own.is_logging,
                has_bitmap: own.bitmap.is_some(),
            },
            base: Gfn(own.base),
            npages: own.npages,
            bitmap,
            commit,
        };
        drop(world);
        self.emit_since(t, since, kind);
    }

    /// The probe sees a commit when it begins; the tracepoint plan looks the slot up when the ioctl returns, and knows
    /// only that it was committed since the begin.
    fn emit_commit(&self, t: &Thread, slot: usize, ioctl: &Ioctl, by: ProbePlan) {
        if self.config.plan == by {
            let is_late = by == ProbePlan::Tracepoint;
            let since = if is_late { ioctl.since } else { self.clock(t) };
            self.emit_slot(t, slot, since, true);
        }
    }

    async fn copy_slot(&self, slot: usize) {
        let range = {
            let world = self.world.borrow();
            world.slots[slot].base..world.slots[slot].base + world.slots[slot].npages
        };
        for gfn in range {
            if self.rng.chance(20) {
                self.step().await;
            }
            self.world.borrow_mut().copy_page(gfn);
        }
    }

    async fn copy_pages(&self, pages: &[u64]) {
        for gfn in pages {
            self.step().await;
            self.world.borrow_mut().copy_page(*gfn);
        }
    }

    /// One round of harvesting everything and copying it.
    async fn collect(&self, t: &Thread) {
        match self.config.mode {
            Mode::Get => {
                for slot in 0..self.config.slots as usize {
                    let dirty = self.get_dirty_log(t, slot).await;
                    self.copy_pages(&dirty).await;
                }
            }
            Mode::Manual | Mode::ManualInitSet => {
                for slot in 0..self.config.slots as usize {
                    let dirty = self.get_dirty_log(t, slot).await;
                    self.clear_and_copy(t, slot, &dirty).await;
                }
            }
            Mode::Ring => self.reap(t).await,
        }
    }

    /// Clears what GET reported, chunk by chunk, and copies each chunk once it is protected.
    async fn clear_and_copy(&self, t: &Thread, slot: usize, dirty: &[u64]) {
        let base = self.world.borrow().slots[slot].base;
        let words = self.words(slot);
        let chunk = self.rng.between(1, words as u64) as usize;
        for start in (0..words).step_by(chunk) {
            let range = start..(start + chunk).min(words);
            let asked: Vec<(usize, u64)> =
                range.map(|index| (index, mask_of(dirty, base + 64 * index as u64))).collect();
            let inside =
                |gfn: &u64| asked.iter().any(|(index, _)| (*gfn - base) / 64 == *index as u64);
            let pages: Vec<u64> = dirty.iter().copied().filter(inside).collect();
            let asked = self.asked_by_vmm(slot, base, asked);
            if asked.iter().all(|(_, wanted)| *wanted == 0) && self.rng.chance(50) {
                continue;
            }
            self.step().await;
            self.clear_dirty_log(t, slot, &asked).await;
            self.copy_pages(&pages).await;
        }
    }

    /// What the VMM passes to CLEAR: what it has read, unless it is careless.
    fn asked_by_vmm(&self, slot: usize, base: u64, asked: Vec<(usize, u64)>) -> Vec<(usize, u64)> {
        let unread: Vec<u64> = asked
            .iter()
            .flat_map(|(index, wanted)| gfns(base + 64 * *index as u64, !wanted))
            .filter(|gfn| *gfn < base + self.world.borrow().slots[slot].npages)
            .collect();
        if self.trips(Fault::ClearUnread, unread) {
            asked.into_iter().map(|(index, _)| (index, u64::MAX)).collect()
        } else {
            asked
        }
    }

    /// Collects all rings, resets them, then copies: a copy before the reset could be older than the protection.
    async fn reap(&self, t: &Thread) {
        let mut pages = Vec::new();
        let mut collected = 0;
        for vcpu in 0..self.config.vcpus as usize {
            self.step().await;
            let mut world = self.world.borrow_mut();
            let ring = &mut world.vcpus[vcpu].ring;
            let range = ring.fetch_index..ring.dirty_index;
            ring.fetch_index = ring.dirty_index;
            collected += range.len() as u32;
            let entries: Vec<(u16, u64)> = range.map(|index| ring.entries[&index]).collect();
            for (slot, offset) in entries {
                pages.push(world.slots[usize::from(slot)].base + offset);
            }
        }
        let mut reset = 0;
        while reset < collected {
            reset += self.reset_dirty_rings(t).await;
        }
        self.copy_pages(&pages).await;
    }

    async fn stop(&self) {
        self.world.borrow_mut().is_stopping = true;
        loop {
            self.wait(self.config.step_ns * 5).await;
            let world = self.world.borrow();
            if world.writers == 0 && world.vcpus.iter().all(|vcpu| !vcpu.is_running) {
                return;
            }
        }
    }

    /// KVM_SET_USER_MEMORY_REGION with KVM_MEM_LOG_DIRTY_PAGES.
    async fn enable_logging(&self, t: &Thread, slot: usize) {
        let (base, npages) = {
            let world = self.world.borrow();
            (world.slots[slot].base, world.slots[slot].npages)
        };
        let ioctl = self.begin(t, IoctlOp::SetMemory, slot, (base, npages), 1);
        self.step().await;
        self.slots_lock.write(self).await;
        self.step().await;
        {
            let mut world = self.world.borrow_mut();
            let own = &mut world.slots[slot];
            own.is_logging = true;
            own.is_enabling = true;
            let words = npages.div_ceil(64) as usize;
            own.bitmap = match self.config.mode {
                Mode::Ring => None,
                Mode::Get | Mode::Manual => Some(vec![0; words]),
                Mode::ManualInitSet => Some((0..words).map(|i| full_word(npages, i)).collect()),
            };
        }
        if !self.is_broken_by(Fault::EnableNoSrcu) {
            self.srcu.synchronize(self).await;
        }
        self.emit_commit(t, slot, &ioctl, ProbePlan::Kprobe);
        self.step().await;
        if self.config.mode != Mode::ManualInitSet {
            self.protect_slot(t, slot).await;
        } else if self.config.kernel == Kernel::V5_10 {
            self.protect_huge_pages(t, base).await;
        }
        self.slots_lock.unlock_write();
        self.world.borrow_mut().slots[slot].is_enabling = false;
        self.emit_commit(t, slot, &ioctl, ProbePlan::Tracepoint);
        self.end(t, &ioctl, 0, 0);
    }

    /// `kvm_mmu_slot_apply_flags`.
    async fn protect_slot(&self, t: &Thread, slot: usize) {
        let gfns = {
            let world = self.world.borrow();
            world.slots[slot].base..world.slots[slot].base + world.slots[slot].npages
        };
        let open: Vec<u64> = gfns.clone().filter(|gfn| self.is_open(*gfn)).collect();
        if self.config.splits_eagerly {
            for first in self.huge_of(slot) {
                self.split(t, first, self.clock(t));
                self.step().await;
            }
        }
        let is_skipped = self.trips(Fault::EnableNoFlush, gfns.clone());
        if !self.trips(Fault::EnableNoProtect, open.iter().copied()) {
            self.remove_write_access(t, slot, gfns, is_skipped).await;
        }
        if self.config.kernel != Kernel::V5_10 && !is_skipped {
            self.flush(t).await;
        }
    }

    /// 5.10 write-protects huge pages although all bits are set; there are none in its runs.
    async fn protect_huge_pages(&self, t: &Thread, base: u64) {
        let since = self.clock(t);
        self.mmu_lock.write(self).await;
        self.step().await;
        self.mmu_lock.unlock_write();
        self.step().await;
        let slot = self.world.borrow().slot_ref(self.world.borrow().view(base));
        self.emit_since(t, since, EventKind::SlotProtect { slot, level: 2 });
    }

    fn is_open(&self, gfn: u64) -> bool {
        let spte = self.world.borrow_mut().page(gfn).spte;
        spte & PRESENT != 0 && spte & self.config.protect_bits() != 0
    }

    /// `kvm_mmu_slot_remove_write_access` or `kvm_mmu_slot_leaf_clear_dirty`; 5.10's flush before they return, if an
    /// SPTE changed.
    async fn remove_write_access(
        &self,
        t: &Thread,
        slot: usize,
        gfns: std::ops::Range<u64>,
        skips_flush: bool,
    ) {
        let since = self.clock(t);
        let view = self.world.borrow().view(gfns.start);
        let is_exclusive = self.config.mmu == Mmu::Shadow || self.config.kernel == Kernel::V5_10;
        self.lock_tdp(is_exclusive).await;
        let mut changed = 0;
        for first in self.huge_of(slot) {
            self.protect_huge(t, first, since);
            changed += 1;
        }
        let mut word = Protected::default();
        for gfn in gfns {
            if self.rng.chance(20) {
                self.step().await;
            }
            if !self.is_open(gfn) || self.trips(Fault::EnableSkipsPage, [gfn]) {
                continue;
            }
            let old = self.world.borrow_mut().page(gfn).spte;
            let new = old & !self.config.protect_bits();
            self.world.borrow_mut().page(gfn).spte = new;
            changed += 1;
            self.fold(t, &mut word, view, gfn);
        }
        self.emit_word(t, &word, view);
        self.unlock_tdp(is_exclusive);
        self.step().await;
        if self.config.kernel == Kernel::V5_10 && changed != 0 && !skips_flush {
            self.flush(t).await;
        }
        let slot_ref = self.world.borrow().slot_ref(view);
        assert_eq!(usize::from(slot_ref.id.id), slot);
        self.emit_since(t, since, EventKind::SlotProtect { slot: slot_ref, level: 1 });
    }

    /// The probe folds the pages a helper protects into words, which it emits without a mask.
    fn fold(&self, t: &Thread, word: &mut Protected, view: SlotView, gfn: u64) {
        if gfn & !63 != word.first {
            self.emit_word(t, word, view);
            *word = Protected { first: gfn & !63, mask: 0, since: self.clock(t) };
        }
        word.mask |= 1 << (gfn & 63);
    }

    fn emit_word(&self, t: &Thread, word: &Protected, view: SlotView) {
        let Protected { first, mask: protected, since } = *word;
        if protected != 0 && self.config.mmu == Mmu::Tdp {
            let slot = self.world.borrow().slot_ref(view);
            let kind = EventKind::HarvestWord { first: Gfn(first), mask: 0, protected, slot };
            self.emit_since(t, since, kind);
        }
    }

    async fn disable_logging(&self, t: &Thread, slot: usize) {
        let (base, npages) = {
            let world = self.world.borrow();
            (world.slots[slot].base, world.slots[slot].npages)
        };
        let ioctl = self.begin(t, IoctlOp::SetMemory, slot, (base, npages), 0);
        self.step().await;
        self.slots_lock.write(self).await;
        self.world.borrow_mut().slots[slot].is_logging = false;
        self.srcu.synchronize(self).await;
        self.world.borrow_mut().slots[slot].bitmap = None;
        self.emit_commit(t, slot, &ioctl, ProbePlan::Kprobe);
        self.step().await;
        self.slots_lock.unlock_write();
        self.emit_commit(t, slot, &ioctl, ProbePlan::Tracepoint);
        self.end(t, &ioctl, 0, 0);
    }
}

/// Pages of one word that a helper has protected so far.
#[derive(Default)]
struct Protected {
    first: u64,
    mask: u64,
    since: u64,
}

fn mask_of(pages: &[u64], first: u64) -> u64 {
    pages
        .iter()
        .filter_map(|gfn| gfn.checked_sub(first).filter(|bit| *bit < 64))
        .fold(0, |mask, bit| mask | 1 << bit)
}

/// Word `index` of a bitmap with all `npages` bits set.
fn full_word(npages: u64, index: usize) -> u64 {
    let left = npages - 64 * index as u64;
    if 64 <= left { u64::MAX } else { (1 << left) - 1 }
}
