//! Guest write faults: lockless, TDP MMU, shadow MMU.

use kvmdirty_trace::event::{EventKind, Gfn, PageRef, SlotRef, Spte, VcpuId};

use super::config::{Kernel, MMU_WRITABLE, Mmu, PRESENT, WRITABLE};
use super::fault::Fault;
use super::huge::region;
use super::machine::{Machine, Thread};
use super::mark::MarkFrom;
use super::world::{SlotView, VcpuMode};

/// RET_PF_RETRY, and RET_PF_INVALID in fast faults.
const RETRY: i64 = 0;

/// PFERR_WRITE_MASK.
const WRITE: u64 = 1 << 1;

/// How the lockless path ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fast {
    Handled,
    NotPossible,
}

pub fn page_ref(gfn: u64) -> PageRef {
    PageRef { gfn: Gfn(gfn), level: 1, as_id: Some(0) }
}

/// The page as probes see it that are told no address space.
pub fn bare_ref(gfn: u64) -> PageRef {
    PageRef { as_id: None, ..page_ref(gfn) }
}

/// Address of the page's SPTE.
pub fn sptep(gfn: u64) -> u64 {
    0xffff_8882_0000_0000 + gfn * 8
}

impl Machine {
    /// Handles one write fault of the vCPU; it holds SRCU.
    pub async fn page_fault(&self, t: &Thread, gfn: u64) {
        let since = self.clock(t);
        let error_code = self.error_code(gfn, since);
        self.step().await;
        if error_code & WRITE == 0 && self.is_mapped(gfn) {
            // Another vCPU was faster; the probe leaves out reads that touched nothing.
            return;
        }
        let view = self.world.borrow().view(gfn);
        if self.is_broken_by(Fault::EnableNoSrcu) && !view.is_logging {
            self.long_step().await;
        }
        let huge = self.huge_fault(t, view, gfn, since).await;
        let is_done = huge.is_none()
            && self.config.has_fast_faults()
            && self.fast_fault(t, view, gfn).await == Fast::Handled;
        let ret = match self.config.mmu {
            _ if huge.is_some() => huge.unwrap_or_default(),
            _ if is_done => self.config.ret_fixed(),
            Mmu::Tdp => self.tdp_map(t, view, gfn, since).await,
            Mmu::Shadow => self.shadow_map(t, view, gfn).await,
        };
        let is_touched = ret == self.config.ret_fixed() || self.marks_slowly(view);
        if error_code & WRITE == 0 && !is_touched {
            return;
        }
        let vcpu = VcpuId(t.vcpu.unwrap_or_default() as u32);
        let addr = gfn << 12;
        self.emit_since(t, since, EventKind::Fault { addr, error_code, ret, vcpu });
    }

    /// Of a page that is not mapped the guest may read first; KVM maps what the host may write writable at once.
    fn error_code(&self, gfn: u64, since: u64) -> u64 {
        if self.is_mapped(gfn) || since.is_multiple_of(3) { 0x5 | WRITE } else { 0x5 }
    }

    fn is_mapped(&self, gfn: u64) -> bool {
        let is_huge = self.world.borrow().huge.contains_key(&region(gfn));
        is_huge || self.world.borrow_mut().page(gfn).spte & PRESENT != 0
    }

    /// `fast_page_fault`: the 2013 order, SPTE first and mark second, without a lock.
    async fn fast_fault(&self, t: &Thread, view: SlotView, gfn: u64) -> Fast {
        let since = self.clock(t);
        if self.world.borrow_mut().page(gfn).spte & PRESENT == 0 {
            return Fast::NotPossible;
        }
        let (page, fixed) = (bare_ref(gfn), self.config.ret_fixed());
        // On shadow paging, interrupts are off: a flush waits until the mark is made.
        self.set_reading(t, VcpuMode::ReadingShadow);
        let mut done = Fast::NotPossible;
        for _ in 0..4 {
            self.step().await;
            let old = self.world.borrow_mut().page(gfn).spte;
            let kind = |ret, is_fixed| EventKind::FastFault {
                page,
                old: Spte(old),
                ret,
                sptep: sptep(gfn),
                fixed: is_fixed,
            };
            if old & PRESENT == 0 || old & MMU_WRITABLE == 0 {
                self.emit_since(t, since, kind(RETRY, false));
                break;
            }
            done = Fast::Handled;
            if old & WRITABLE != 0 {
                self.emit_since(t, since, kind(fixed + 1, false));
                break;
            }
            if self.fast_fix(t, view, gfn, old).await {
                self.emit_since(t, since, kind(fixed, true));
                break;
            }
        }
        self.set_reading(t, VcpuMode::Outside);
        done
    }

    /// `fast_pf_fix_direct_spte`.
    async fn fast_fix(&self, t: &Thread, view: SlotView, gfn: u64, old: u64) -> bool {
        let marks_first = self.trips(Fault::FastMarkFirst, [gfn]);
        if marks_first {
            self.mark(t, view, gfn, MarkFrom::FastFault).await;
            self.long_step().await;
        }
        self.step().await;
        let has_no_mark = self.trips(Fault::FastNoMark, [gfn]);
        {
            let mut world = self.world.borrow_mut();
            let page = world.page(gfn);
            if page.spte != old {
                return false;
            }
            page.spte = old | WRITABLE;
            if !marks_first && !has_no_mark {
                page.windows += 1;
            }
        }
        self.note_old_slot(view, gfn);
        self.step().await;
        if !marks_first && !has_no_mark {
            self.mark(t, view, gfn, MarkFrom::FastFault).await;
            self.world.borrow_mut().page(gfn).windows -= 1;
        }
        true
    }

    fn set_reading(&self, t: &Thread, mode: VcpuMode) {
        if self.config.mmu == Mmu::Shadow
            && let Some(vcpu) = t.vcpu
        {
            let mut world = self.world.borrow_mut();
            let vcpu = &mut world.vcpus[vcpu];
            vcpu.mode = mode;
            vcpu.exits += u64::from(mode == VcpuMode::Outside);
        }
    }

    /// `kvm_tdp_mmu_map`.
    async fn tdp_map(&self, t: &Thread, view: SlotView, gfn: u64, since: u64) -> i64 {
        let is_exclusive = self.config.kernel == Kernel::V5_10;
        self.lock_tdp(is_exclusive).await;
        let requested = self.clock(t);
        self.step().await;
        let old = self.world.borrow_mut().page(gfn).spte;
        let new = self.config.open_spte();
        let marks = self.marks_slowly(view) && !self.trips(Fault::SlowNoMark, [gfn]);
        if marks && !is_exclusive {
            self.mark(t, view, gfn, MarkFrom::Elsewhere).await;
            self.drop_lock_before_store(gfn, is_exclusive).await;
        }
        self.step().await;
        let ret = self.tdp_store(t, gfn, (old, new), since);
        if ret == self.config.ret_fixed() {
            self.note_old_slot(view, gfn);
            if marks && is_exclusive {
                // 5.10 marks second: a window inside mmu_lock, which no harvest can fall into.
                self.world.borrow_mut().page(gfn).windows += 1;
                self.drop_lock_before_store(gfn, is_exclusive).await;
                self.step().await;
                self.mark(t, view, gfn, MarkFrom::Elsewhere).await;
                self.world.borrow_mut().page(gfn).windows -= 1;
            }
        }
        if ret != RETRY {
            let slot = self.world.borrow().slot_ref(view);
            self.emit_spte_set(t, requested, gfn, slot);
        }
        self.unlock_tdp(is_exclusive);
        ret
    }

    /// The cmpxchg of the TDP MMU and its tracepoint.
    fn tdp_store(&self, t: &Thread, gfn: u64, (old, new): (u64, u64), since: u64) -> i64 {
        let mut world = self.world.borrow_mut();
        let page = world.page(gfn);
        if page.spte == new {
            return self.config.ret_fixed() + 1;
        }
        if page.spte != old {
            return RETRY;
        }
        page.spte = new;
        drop(world);
        let (old, new) = (Some(Spte(old)), Spte(new));
        let page = page_ref(gfn);
        self.emit_since(
            t,
            since,
            EventKind::SpteChange { page, old, new, sptep: 0, shadow: false },
        );
        self.config.ret_fixed()
    }

    /// 5.10 marks whatever it makes writable and leaves it to the mark to find that the slot does not log; `make_spte()`
    /// asks first.
    fn marks_slowly(&self, view: SlotView) -> bool {
        view.is_logging || self.config.kernel == Kernel::V5_10
    }

    pub async fn lock_tdp(&self, is_exclusive: bool) {
        if is_exclusive { self.mmu_lock.write(self).await } else { self.mmu_lock.read(self).await }
    }

    pub fn unlock_tdp(&self, is_exclusive: bool) {
        if is_exclusive { self.mmu_lock.unlock_write() } else { self.mmu_lock.unlock_read() }
    }

    async fn drop_lock_before_store(&self, gfn: u64, is_exclusive: bool) {
        if self.trips(Fault::SlowUnlocked, [gfn]) {
            self.unlock_tdp(is_exclusive);
            self.long_step().await;
            self.lock_tdp(is_exclusive).await;
        }
        if self.is_broken_by(Fault::HarvestUnlocked) {
            self.long_step().await;
        }
    }

    /// `mmu_set_spte` of the shadow MMU: mark, store, tracepoint, rmap.
    async fn shadow_map(&self, t: &Thread, view: SlotView, gfn: u64) -> i64 {
        self.mmu_lock.write(self).await;
        let requested = self.clock(t);
        self.step().await;
        if self.marks_slowly(view) && !self.trips(Fault::SlowNoMark, [gfn]) {
            self.mark(t, view, gfn, MarkFrom::Elsewhere).await;
            self.drop_lock_before_store(gfn, true).await;
        }
        self.step().await;
        let new = self.config.open_spte();
        let (old, is_in_rmap) = {
            let mut world = self.world.borrow_mut();
            let page = world.page(gfn);
            (std::mem::replace(&mut page.spte, new), page.is_in_rmap)
        };
        self.note_old_slot(view, gfn);
        self.step().await;
        let (page, sptep, slot) = (bare_ref(gfn), sptep(gfn), self.world.borrow().slot_ref(view));
        // From the entry of `mmu_set_spte`, which contains the mark.
        let (old, new) = (Some(Spte(old)), Spte(new));
        // `mmu_set_spte()` finds that nothing changes, and tells nothing; 5.10 does not ask.
        if old != Some(new) || self.config.kernel == Kernel::V5_10 {
            let kind = EventKind::SpteChange { page, old, new, sptep, shadow: true };
            self.emit_since(t, requested, kind);
            self.emit_spte_set(t, requested, gfn, slot);
        }
        let is_spurious = old == Some(new);
        if !is_in_rmap {
            let is_late = view.is_logging && self.trips(Fault::RmapLate, [gfn]);
            if is_late {
                self.mmu_lock.unlock_write();
                self.long_step().await;
            }
            let since = self.clock(t);
            self.step().await;
            self.world.borrow_mut().page(gfn).is_in_rmap = true;
            self.emit_since(t, since, EventKind::RmapAdd { gfn: Gfn(gfn), sptep, slot });
            if is_late {
                return self.config.ret_fixed();
            }
        }
        self.step().await;
        self.mmu_lock.unlock_write();
        self.config.ret_fixed() + i64::from(is_spurious)
    }

    /// `kvm_mmu_set_spte`, of both MMUs. 5.10 has no `kvm_mmu_spte_requested`, from which the slot is known.
    fn emit_spte_set(&self, t: &Thread, since: u64, gfn: u64, slot: SlotRef) {
        let new = Spte(self.world.borrow_mut().page(gfn).spte);
        let word = self.world.borrow().word(gfn).filter(|_| slot.has_bitmap).map(|(word, _)| word);
        self.emit_set(t, since, (page_ref(gfn), new, sptep(gfn)), (word, slot.logging));
    }

    pub fn emit_set(
        &self,
        t: &Thread,
        since: u64,
        (page, new, sptep): (PageRef, Spte, u64),
        (word, logging): (Option<u64>, bool),
    ) {
        let ring = self.config.has_ring();
        if self.config.kernel == Kernel::V5_10 {
            let page = PageRef { as_id: None, ..page };
            let kind = EventKind::SpteSet { page, new, word: None, sptep, logging: false, ring };
            self.emit(t, kind);
            return;
        }
        self.emit_since(t, since, EventKind::SpteSet { page, new, word, sptep, logging, ring });
    }
}
