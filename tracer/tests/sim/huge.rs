//! Huge pages of the TDP MMU: mapped while nothing logs, split or write-protected when logging begins.

use kvmdirty_trace::event::{EventKind, Gfn, PageRef, Spte};

use super::config::{Config, MMU_WRITABLE, PRESENT, WRITABLE};
use super::fault::Fault;
use super::machine::{Machine, Thread};
use super::mark::MarkFrom;
use super::pagefault::bare_ref;
use super::world::{SlotView, World};

/// Pages of a 2 MiB mapping.
pub const HUGE: u64 = 512;

/// The SPTE maps a huge page.
const LARGE: u64 = 1 << 7;

/// A page-table entry that points to a table: always writable, and no mapping.
const TABLE: u64 = PRESENT | MMU_WRITABLE | WRITABLE | 0x7000_0000;

/// First gfn of the huge page around `gfn`.
pub fn region(gfn: u64) -> u64 {
    gfn & !(HUGE - 1)
}

fn huge_ref(gfn: u64) -> PageRef {
    PageRef { gfn: Gfn(region(gfn)), level: 2, as_id: Some(0) }
}

/// Address of the huge SPTE.
fn huge_sptep(gfn: u64) -> u64 {
    0xffff_8883_0000_0000 + region(gfn) / HUGE * 8
}

impl World {
    /// Nothing in the region is mapped.
    fn is_empty(&self, gfn: u64) -> bool {
        let region = region(gfn);
        self.pages.range(region..region + HUGE).all(|(_, page)| page.spte == 0)
    }
}

impl Machine {
    /// Regions of the slot that are mapped huge.
    pub fn huge_of(&self, slot: usize) -> Vec<u64> {
        let world = self.world.borrow();
        let slot = &world.slots[slot];
        world.huge.range(slot.base..slot.base + slot.npages).map(|(first, _)| *first).collect()
    }

    /// Handles a fault on a huge mapping, or makes one. `None`: the ordinary paths go on.
    pub async fn huge_fault(
        &self,
        t: &Thread,
        view: SlotView,
        gfn: u64,
        since: u64,
    ) -> Option<i64> {
        let Config { huge, .. } = self.config;
        if !huge {
            return None;
        }
        let mapped = self.world.borrow().huge.get(&region(gfn)).copied();
        let fixed = self.config.ret_fixed();
        match mapped {
            Some(spte) if spte & WRITABLE != 0 => Some(fixed + 1),
            Some(_) if !view.is_logging => Some(self.map_huge(t, view, gfn, since).await),
            Some(old) if self.trips_in_region(Fault::HugeOneMark, gfn) => {
                Some(self.fast_fix_huge(t, view, gfn, old, since).await)
            }
            Some(_) => {
                self.mmu_lock.read(self).await;
                self.step().await;
                self.split(t, gfn, since);
                self.step().await;
                self.mmu_lock.unlock_read();
                None
            }
            None if view.is_logging || !self.world.borrow().is_empty(gfn) => None,
            None => Some(self.map_huge(t, view, gfn, since).await),
        }
    }

    fn trips_in_region(&self, fault: Fault, gfn: u64) -> bool {
        self.trips(fault, region(gfn)..region(gfn) + HUGE)
    }

    async fn map_huge(&self, t: &Thread, view: SlotView, gfn: u64, since: u64) -> i64 {
        self.mmu_lock.read(self).await;
        self.step().await;
        let new = self.config.open_spte() | LARGE;
        let is_free = {
            let world = self.world.borrow();
            world.huge.contains_key(&region(gfn)) || world.is_empty(gfn)
        };
        let ret = if is_free {
            let old = self.world.borrow_mut().huge.insert(region(gfn), new).unwrap_or_default();
            self.note_old_slot(view, gfn);
            if old != new {
                self.emit_huge(t, since, gfn, (old, new));
            }
            let set = (huge_ref(gfn), Spte(new), huge_sptep(gfn));
            self.emit_set(t, since, set, (None, view.is_logging));
            self.config.ret_fixed() + i64::from(old == new)
        } else {
            0
        };
        self.step().await;
        self.mmu_lock.unlock_read();
        ret
    }

    /// What c126d94f2c90 had to undo: the lockless path opens a huge SPTE and marks one of its pages.
    async fn fast_fix_huge(
        &self,
        t: &Thread,
        view: SlotView,
        gfn: u64,
        old: u64,
        since: u64,
    ) -> i64 {
        let fixed = self.config.ret_fixed();
        self.step().await;
        {
            let mut world = self.world.borrow_mut();
            if world.huge.get(&region(gfn)) != Some(&old) {
                return 0;
            }
            world.huge.insert(region(gfn), old | WRITABLE);
        }
        self.step().await;
        self.mark(t, view, gfn, MarkFrom::Elsewhere).await;
        // The tracepoint tells the page of the fault, not the first of the mapping.
        let page = PageRef { level: 2, ..bare_ref(gfn) };
        let sptep = huge_sptep(gfn);
        let kind = EventKind::FastFault { page, old: Spte(old), ret: fixed, sptep, fixed: true };
        self.emit_since(t, since, kind);
        fixed
    }

    /// `tdp_mmu_split_huge_page`: the children inherit what the huge SPTE allowed, without a record of their own.
    pub fn split(&self, t: &Thread, gfn: u64, since: u64) {
        let mut world = self.world.borrow_mut();
        let Some(old) = world.huge.remove(&region(gfn)) else { return };
        for (_, page) in world.pages.range_mut(region(gfn)..region(gfn) + HUGE) {
            page.spte = old & !LARGE;
        }
        drop(world);
        self.emit_huge(t, since, gfn, (old, TABLE));
        let (page, old, errno) = (PageRef { as_id: None, ..huge_ref(gfn) }, Spte(old), 0);
        self.emit(t, EventKind::Split { page, old, errno });
    }

    /// Write-protects a huge SPTE as a whole.
    pub fn protect_huge(&self, t: &Thread, gfn: u64, since: u64) {
        let old = self.world.borrow().huge[&region(gfn)];
        if old & WRITABLE == 0 {
            return;
        }
        self.world.borrow_mut().huge.insert(region(gfn), old & !WRITABLE);
        self.emit_huge(t, since, gfn, (old, old & !WRITABLE));
    }

    /// A notifier zaps the huge mapping; what it was, 0 if there was none.
    pub fn zap_huge(&self, t: &Thread, gfn: u64) -> u64 {
        let old = self.world.borrow_mut().huge.remove(&region(gfn)).unwrap_or_default();
        if old != 0 {
            self.emit_huge(t, self.clock(t), gfn, (old, 0));
        }
        old
    }

    fn emit_huge(&self, t: &Thread, since: u64, gfn: u64, (old, new): (u64, u64)) {
        let kind = EventKind::SpteChange {
            page: huge_ref(gfn),
            old: Some(Spte(old)),
            new: Spte(new),
            sptep: 0,
            shadow: false,
        };
        self.emit_since(t, since, kind);
    }
}
