//! What else the host does: flushes, MMU notifiers, a device that writes guest memory.

use kvmdirty_trace::event::{EventKind, Gfn, Spte, VmId};

use super::config::{ACCESSED, Mmu, PRESENT, ProbePlan, WRITABLE};
use super::fault::Fault;
use super::huge::{HUGE, region};
use super::machine::{Machine, Thread};
use super::pagefault::page_ref;
use super::probe::VM;
use super::world::VcpuMode;

/// HVA of gfn 0.
const HVA: u64 = 0x7f00_0000_0000;

impl Machine {
    /// `kvm_flush_remote_tlbs`: request, interrupt whoever may hold old translations, wait.
    pub async fn flush(&self, t: &Thread) {
        let since = self.clock(t);
        let before = self.world.borrow().flushes;
        self.world.borrow_mut().flushes += 1;
        self.step().await;
        let mut waiting = Vec::new();
        for index in 0..self.config.vcpus as usize {
            {
                let mut world = self.world.borrow_mut();
                let vcpu = &mut world.vcpus[index];
                vcpu.flush_requested = true;
                if vcpu.mode != VcpuMode::Outside {
                    vcpu.is_kicked = true;
                    waiting.push((index, vcpu.exits));
                }
            }
            self.step().await;
        }
        while !waiting.is_empty() {
            {
                let world = self.world.borrow();
                waiting.retain(|(index, exits)| world.vcpus[*index].exits == *exits);
            }
            self.wait(self.rng.between(1, 10)).await;
        }
        let after = self.world.borrow().flushes;
        self.emit_since(t, since, EventKind::Flush { before, after, first: Gfn(0), npages: 0 });
    }

    /// The VMM's memory changes under the guest: notifier invalidations, write-protection, aging.
    pub async fn zapper_thread(&self, t: &Thread) {
        loop {
            let is_busy = self.is_broken_by(Fault::FlushAssumed);
            let pause = if is_busy { 20 } else { 400 };
            self.wait(self.config.step_ns * self.rng.between(pause / 20, pause)).await;
            if self.world.borrow().is_over {
                return;
            }
            if self.world.borrow().is_stopping {
                continue;
            }
            let gfn = self.next_gfn();
            match self.rng.below(3) {
                0 | 1 if self.is_broken_by(Fault::ClobberedSpte) => self.age(t, gfn).await,
                _ if self.is_broken_by(Fault::FlushAssumed) => self.write_protect(t, gfn).await,
                0 => self.write_protect(t, gfn).await,
                1 => self.age(t, gfn).await,
                _ => self.invalidate(t, gfn).await,
            }
        }
    }

    /// An MMU notifier zaps a page and flushes before it releases mmu_lock.
    async fn invalidate(&self, t: &Thread, gfn: u64) {
        let since = self.clock(t);
        let flushes_before = self.world.borrow().flushes;
        let (start, end) = (HVA + (gfn << 12), HVA + ((gfn + 1) << 12));
        if self.config.plan == ProbePlan::Tracepoint {
            let (flushes_before, flushes_after) = (0, 0);
            let kind = EventKind::Invalidate { start, end, flushes_before, flushes_after };
            self.emit_for(t, VmId::UNKNOWN, kind);
        }
        self.mmu_lock.write(self).await;
        self.step().await;
        let old_huge = self.zap_huge(t, gfn);
        let seen = self.world.borrow_mut().page(gfn).spte;
        if self.is_broken_by(Fault::ClobberedSpte) {
            self.long_step().await;
        }
        let old = {
            let mut world = self.world.borrow_mut();
            let page = world.page(gfn);
            page.is_in_rmap = false;
            std::mem::take(&mut page.spte)
        };
        let is_clobbered = self.is_broken_by(Fault::ClobberedSpte) && (old ^ seen) & WRITABLE != 0;
        let old = if is_clobbered {
            self.world.borrow_mut().truth.fired.insert(gfn);
            seen
        } else {
            old
        };
        if old & PRESENT != 0 {
            self.emit_spte(t, VM, gfn, (old, 0));
        }
        let old = old | old_huge;
        if old & PRESENT != 0 {
            self.step().await;
            let struck = if old_huge != 0 { region(gfn)..region(gfn) + HUGE } else { gfn..gfn + 1 };
            let is_unflushed = old & WRITABLE != 0 && self.trips(Fault::ZapNoFlush, struck);
            if !is_unflushed {
                self.flush(t).await;
            }
        }
        self.mmu_lock.unlock_write();
        self.step().await;
        let flushes_after = self.world.borrow().flushes;
        if self.config.plan == ProbePlan::Kprobe {
            let kind = EventKind::Invalidate { start, end, flushes_before, flushes_after };
            self.emit_since(t, since, kind);
        }
    }

    /// Somebody write-protects a page for reasons of their own (`kvm_mmu_slot_gfn_write_protect`) and flushes before
    /// releasing mmu_lock; with the fault, after it.
    async fn write_protect(&self, t: &Thread, gfn: u64) {
        if self.config.pml {
            return;
        }
        self.mmu_lock.write(self).await;
        self.step().await;
        let old = {
            let mut world = self.world.borrow_mut();
            let page = world.page(gfn);
            let old = page.spte;
            page.spte &= !WRITABLE;
            old
        };
        if old & WRITABLE != 0 {
            self.emit_spte(t, VmId::UNKNOWN, gfn, (old, old & !WRITABLE));
        }
        self.step().await;
        let flushes_late = self.is_broken_by(Fault::FlushAssumed);
        if old & WRITABLE != 0 && !flushes_late {
            self.flush(t).await;
        }
        self.mmu_lock.unlock_write();
        if old & WRITABLE != 0 && flushes_late {
            self.world.borrow_mut().truth.fired.insert(gfn);
            self.long_step().await;
            self.flush(t).await;
        }
    }

    /// Aging clears the accessed bit; atomically, unless the fault strikes.
    async fn age(&self, t: &Thread, gfn: u64) {
        self.mmu_lock.write(self).await;
        self.step().await;
        let seen = self.world.borrow_mut().page(gfn).spte;
        if seen & PRESENT != 0 && seen & ACCESSED != 0 {
            let old = if self.is_broken_by(Fault::ClobberedSpte) {
                self.long_step().await;
                seen
            } else {
                self.world.borrow_mut().page(gfn).spte
            };
            let mut world = self.world.borrow_mut();
            let page = world.page(gfn);
            let is_clobbered = page.spte & WRITABLE != old & WRITABLE;
            page.spte = old & !ACCESSED;
            if is_clobbered {
                world.truth.fired.insert(gfn);
            }
            drop(world);
            self.emit_spte(t, VmId::UNKNOWN, gfn, (old, old & !ACCESSED));
        }
        self.step().await;
        self.mmu_lock.unlock_write();
    }

    /// A change outside of faults. The TDP MMU's tracepoint shows it, with the VM only inside a bracket that tells it;
    /// the shadow MMU shows nothing.
    fn emit_spte(&self, t: &Thread, vm: VmId, gfn: u64, (old, new): (u64, u64)) {
        if self.config.mmu == Mmu::Tdp {
            let (page, old, new) = (page_ref(gfn), Some(Spte(old)), Spte(new));
            self.emit_for(t, vm, EventKind::SpteChange { page, old, new, sptep: 0, shadow: false });
        }
    }

    /// A device model inside KVM writes guest memory from a thread that runs no vCPU.
    pub async fn device_thread(&self, t: &Thread) {
        loop {
            self.wait(self.config.step_ns * self.rng.between(20, 300)).await;
            if self.world.borrow().is_over {
                return;
            }
            if self.world.borrow().is_stopping {
                continue;
            }
            let gfn = self.next_gfn();
            let srcu = self.srcu.lock();
            self.world.borrow_mut().writers += 1;
            self.host_write(t, gfn).await;
            self.world.borrow_mut().writers -= 1;
            self.srcu.unlock(srcu);
        }
    }

    /// Flushes that a broken harvest has left for later.
    pub async fn late_flush_thread(&self, t: &Thread) {
        loop {
            self.long_step().await;
            if std::mem::take(&mut self.world.borrow_mut().late_flush) {
                self.long_step().await;
                self.flush(t).await;
            }
            if self.world.borrow().is_over {
                return;
            }
        }
    }
}
