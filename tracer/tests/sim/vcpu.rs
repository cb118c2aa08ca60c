//! A vCPU thread: KVM_RUN, guest mode, exits.

use kvmdirty_trace::event::{EventKind, VcpuId};

use super::machine::{Machine, Thread};
use super::mark::MarkFrom;
use super::world::{RING_SOFT, VcpuMode, Walk};

/// Why the guest was left.
enum Exit {
    Fault(u64),
    /// An instruction that KVM emulates, which writes this page.
    Emulate(u64),
    PmlFull,
    Kick,
    ToUser,
}

/// KVM_EXIT_IO, KVM_EXIT_INTR, KVM_EXIT_DIRTY_RING_FULL.
const IO: u64 = 2;
const INTR: u64 = 10;
const RING_FULL: u64 = 31;

impl Machine {
    /// The vCPU thread of the VMM, until the migration stops it.
    pub async fn vcpu_thread(&self, t: &Thread) {
        let index = t.vcpu.expect("a vCPU thread");
        while !self.world.borrow().is_over {
            if self.world.borrow().is_stopping {
                self.wait(self.config.step_ns * 10).await;
                continue;
            }
            self.world.borrow_mut().vcpus[index].is_running = true;
            let exit_reason = self.vcpu_run(t, index).await;
            self.world.borrow_mut().vcpus[index].is_running = false;
            if exit_reason == RING_FULL {
                while self.is_ring_full(index) && !self.world.borrow().is_stopping {
                    self.wait(self.config.step_ns * 20).await;
                }
            }
            self.step().await;
        }
    }

    fn is_ring_full(&self, index: usize) -> bool {
        let world = self.world.borrow();
        let ring = &world.vcpus[index].ring;
        RING_SOFT <= ring.dirty_index - ring.reset_index
    }

    /// KVM_RUN.
    async fn vcpu_run(&self, t: &Thread, index: usize) -> u64 {
        let since = self.clock(t);
        let vcpu = VcpuId(index as u32);
        self.emit(t, EventKind::RunBegin { vcpu });
        let mut srcu = self.srcu.lock();
        let exit_reason = loop {
            if self.config.has_ring() && self.is_ring_full(index) {
                break RING_FULL;
            }
            if self.world.borrow().is_stopping {
                break INTR;
            }
            self.step().await;
            {
                let mut world = self.world.borrow_mut();
                let vcpu = &mut world.vcpus[index];
                if std::mem::take(&mut vcpu.flush_requested) {
                    vcpu.tlb.clear();
                }
                vcpu.is_kicked = false;
                vcpu.mode = VcpuMode::InGuest;
            }
            self.srcu.unlock(srcu);
            self.step().await;
            let exit = self.guest(index).await;
            {
                let mut world = self.world.borrow_mut();
                world.vcpus[index].mode = VcpuMode::Outside;
                world.vcpus[index].exits += 1;
            }
            srcu = self.srcu.lock();
            self.drain_pml(t, index).await;
            match exit {
                Exit::Fault(gfn) => self.page_fault(t, gfn).await,
                Exit::Emulate(gfn) => self.host_write(t, gfn).await,
                Exit::PmlFull | Exit::Kick => {}
                Exit::ToUser => break IO,
            }
        };
        self.srcu.unlock(srcu);
        self.step().await;
        let ret = Some(if exit_reason == INTR { -4 } else { 0 });
        self.emit_since(t, since, EventKind::RunEnd { vcpu, ret, exit_reason });
        exit_reason
    }

    /// The guest runs until something makes it exit. Requests are looked at once more before the first instruction.
    async fn guest(&self, index: usize) -> Exit {
        loop {
            {
                let world = self.world.borrow();
                let vcpu = &world.vcpus[index];
                if vcpu.flush_requested || vcpu.is_kicked || world.is_stopping {
                    return Exit::Kick;
                }
            }
            let gfn = self.next_gfn();
            match self.rng.below(100) {
                0..5 => return Exit::Emulate(gfn),
                5..7 => return Exit::ToUser,
                _ => {}
            }
            if !self.world.borrow().vcpus[index].tlb.contains(&gfn) {
                let walk = self.world.borrow_mut().walk(index, gfn, self.config.pml);
                match walk {
                    Walk::Done => self.step().await,
                    Walk::Fault => return Exit::Fault(gfn),
                    Walk::PmlFull => return Exit::PmlFull,
                }
            }
            self.world.borrow_mut().guest_write(gfn, self.now());
            self.step().await;
        }
    }

    /// The page the guest writes next: mostly one of a few hot ones.
    pub fn next_gfn(&self) -> u64 {
        let world = self.world.borrow();
        let slot = self.rng.pick(&world.slots);
        let hot = self.config.hot.min(slot.npages);
        let offset = if self.rng.chance(85) {
            // Spread over the words of the bitmap.
            self.rng.below(hot) * slot.npages / hot
        } else {
            self.rng.below(slot.npages)
        };
        slot.base + offset
    }

    /// `vmx_flush_pml_buffer`, on every exit.
    async fn drain_pml(&self, t: &Thread, index: usize) {
        loop {
            let gfn = self.world.borrow().vcpus[index].pml.first().copied();
            let Some(gfn) = gfn else { return };
            let view = self.world.borrow().view(gfn);
            self.mark(t, view, gfn, MarkFrom::Elsewhere).await;
            self.world.borrow_mut().vcpus[index].pml.remove(0);
        }
    }
}
