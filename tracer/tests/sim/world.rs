//! The state of the model: guest pages, SPTEs, bitmap, rings, TLBs, user space's copy, and the truth.

use std::collections::{BTreeMap, BTreeSet};

use kvmdirty_trace::event::{SlotId, SlotRef};

use super::config::{ACCESSED, Config, DIRTY, PRESENT, WRITABLE};
use super::huge::region;

/// A guest page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub spte: u64,
    pub is_in_rmap: bool,
    /// Counts the writes to the page.
    pub version: u64,
    /// The version user space copied last.
    pub copied: u64,
    /// A lockless fault made it writable and has not marked it yet.
    pub windows: u32,
    /// Harvests that took it and have not returned.
    pub harvesting: u32,
}

/// A memslot as the kernel holds it now.
#[derive(Clone, Debug)]
pub struct Slot {
    pub id: u16,
    pub base: u64,
    pub npages: u64,
    pub is_logging: bool,
    pub bitmap: Option<Vec<u64>>,
    /// An enable ioctl is under way.
    pub is_enabling: bool,
}

/// What a reader of the memslots got hold of: it stays as it was, whatever is installed later.
#[derive(Clone, Copy, Debug)]
pub struct SlotView {
    pub index: usize,
    pub is_logging: bool,
    pub has_bitmap: bool,
}

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuMode {
    Outside,
    InGuest,
    /// READING_SHADOW_PAGE_TABLES: a flush waits for it as for a vCPU in the guest.
    ReadingShadow,
}

/// A vCPU.
#[derive(Debug)]
pub struct Vcpu {
    pub mode: VcpuMode,
    /// Counts the times it became [`VcpuMode::Outside`].
    pub exits: u64,
    pub flush_requested: bool,
    pub is_kicked: bool,
    /// Pages the TLB holds writable (under PML: with D).
    pub tlb: BTreeSet<u64>,
    pub pml: Vec<u64>,
    pub ring: Ring,
    pub is_running: bool,
}

/// A dirty ring; entries are kept by absolute index.
#[derive(Debug, Default)]
pub struct Ring {
    pub dirty_index: u32,
    pub reset_index: u32,
    /// How far user space has collected.
    pub fetch_index: u32,
    /// `(slot, offset)` by index.
    pub entries: BTreeMap<u32, (u16, u64)>,
}

/// What only the model knows.
#[derive(Debug, Default)]
pub struct Truth {
    /// Pages at which the fault struck.
    pub fired: BTreeSet<u64>,
    /// Pages written while nothing would ever report them, with the time of the first such write.
    pub unlogged: BTreeMap<u64, u64>,
    /// Pages whose last copy is not their contents, at the end.
    pub lost: BTreeSet<u64>,
    /// Every page that was written while logging was on.
    pub written: BTreeSet<u64>,
}

/// Everything.
pub struct World {
    pub pages: BTreeMap<u64, Page>,
    /// Huge SPTEs by first gfn; their pages have none of their own.
    pub huge: BTreeMap<u64, u64>,
    pub slots: Vec<Slot>,
    pub vcpus: Vec<Vcpu>,
    pub flushes: u64,
    /// The VMM wants everything to stop.
    pub is_stopping: bool,
    /// The migration is over.
    pub is_over: bool,
    /// Host writes under way outside vCPU threads.
    pub writers: u32,
    /// A harvest has left its flush for later.
    pub late_flush: bool,
    pub truth: Truth,
}

pub const RING_SIZE: u32 = 64;

/// Entries a ring may hold before its vCPU must leave to user space.
pub const RING_SOFT: u32 = 48;

pub const PML_SIZE: usize = 6;

impl World {
    pub fn new(config: &Config) -> Self {
        let slots: Vec<Slot> = (0..config.slots as u16)
            .map(|id| Slot {
                id,
                base: config.first_gfn() + u64::from(id) * 0x400,
                npages: config.pages,
                is_logging: false,
                bitmap: None,
                is_enabling: false,
            })
            .collect();
        let pages = slots
            .iter()
            .flat_map(|slot| slot.base..slot.base + slot.npages)
            .map(|gfn| (gfn, Page::default()))
            .collect();
        let vcpus = (0..config.vcpus)
            .map(|_| Vcpu {
                mode: VcpuMode::Outside,
                exits: 0,
                flush_requested: false,
                is_kicked: false,
                tlb: BTreeSet::new(),
                pml: Vec::new(),
                ring: Ring::default(),
                is_running: false,
            })
            .collect();
        Self {
            pages,
            huge: BTreeMap::new(),
            slots,
            vcpus,
            flushes: 0,
            is_stopping: false,
            is_over: false,
            writers: 0,
            late_flush: false,
            truth: Truth::default(),
        }
    }

    pub fn page(&mut self, gfn: u64) -> &mut Page {
        self.pages.get_mut(&gfn).expect("a page of a slot")
    }

    /// The slot that holds `gfn`, as a reader of the memslots sees it now.
    pub fn view(&self, gfn: u64) -> SlotView {
        let index = self.slot_of(gfn);
        let Slot { is_logging, bitmap, .. } = &self.slots[index];
        SlotView { index, is_logging: *is_logging, has_bitmap: bitmap.is_some() }
    }

    pub fn slot_of(&self, gfn: u64) -> usize {
        let holds = |slot: &Slot| (slot.base..slot.base + slot.npages).contains(&gfn);
        self.slots.iter().position(holds).expect("a gfn of a slot")
    }

    pub fn slot_ref(&self, view: SlotView) -> SlotRef {
        SlotRef {
            id: SlotId { as_id: 0, id: self.slots[view.index].id },
            logging: view.is_logging,
            has_bitmap: view.has_bitmap,
        }
    }

    /// Word of the bitmap that holds `gfn`, and the gfn of its first bit.
    pub fn word(&self, gfn: u64) -> Option<(u64, u64)> {
        let slot = &self.slots[self.slot_of(gfn)];
        let index = (gfn - slot.base) / 64;
        let word = *slot.bitmap.as_ref()?.get(index as usize)?;
        Some((word, slot.base + index * 64))
    }

    pub fn bit(&self, gfn: u64) -> bool {
        self.word(gfn).is_some_and(|(word, first)| word >> (gfn - first) & 1 != 0)
    }

    pub fn set_bit(&mut self, gfn: u64) {
        let index = self.slot_of(gfn);
        let slot = &mut self.slots[index];
        let offset = gfn - slot.base;
        if let Some(bitmap) = &mut slot.bitmap {
            bitmap[(offset / 64) as usize] |= 1 << (offset % 64);
        }
    }

    /// An entry for the page is in a ring and not reset.
    fn is_in_ring(&self, gfn: u64) -> bool {
        let slot = &self.slots[self.slot_of(gfn)];
        let entry = (slot.id, gfn - slot.base);
        self.vcpus.iter().any(|vcpu| {
            let Ring { dirty_index, reset_index, entries, .. } = &vcpu.ring;
            (*reset_index..*dirty_index).any(|index| entries.get(&index) == Some(&entry))
        })
    }

    /// The guest writes the page through some translation: contents change, and the model notes whether the write will
    /// be reported.
    pub fn guest_write(&mut self, gfn: u64, now: u64) {
        let is_in_pml = self.vcpus.iter().any(|vcpu| vcpu.pml.contains(&gfn));
        let slot = &self.slots[self.slot_of(gfn)];
        let (is_logging, is_enabling) = (slot.is_logging, slot.is_enabling);
        let is_reported = self.bit(gfn) || self.is_in_ring(gfn) || is_in_pml;
        let page = self.page(gfn);
        page.version += 1;
        let is_covered = page.windows > 0 || page.harvesting > 0 || is_reported;
        if is_logging {
            self.truth.written.insert(gfn);
            if !is_covered && !is_enabling {
                self.truth.unlogged.entry(gfn).or_insert(now);
            }
        }
    }

    /// A hardware walk for a write: the translation may be used, or the CPU faults. Under PML, a clear D is set and
    /// logged by the CPU.
    pub fn walk(&mut self, vcpu: usize, gfn: u64, is_pml: bool) -> Walk {
        if let Some(spte) = self.huge.get(&region(gfn)) {
            if spte & WRITABLE == 0 {
                return Walk::Fault;
            }
            self.vcpus[vcpu].tlb.insert(gfn);
            return Walk::Done;
        }
        let page = self.pages.get_mut(&gfn).expect("a page");
        if page.spte & PRESENT == 0 || page.spte & WRITABLE == 0 {
            return Walk::Fault;
        }
        page.spte |= ACCESSED;
        if is_pml && page.spte & DIRTY == 0 {
            if PML_SIZE <= self.vcpus[vcpu].pml.len() {
                return Walk::PmlFull;
            }
            page.spte |= DIRTY;
            self.vcpus[vcpu].pml.push(gfn);
        }
        self.vcpus[vcpu].tlb.insert(gfn);
        Walk::Done
    }

    pub fn copy_page(&mut self, gfn: u64) {
        let page = self.page(gfn);
        page.copied = page.version;
    }

    /// The end of the migration: what differs is lost.
    pub fn compare(&mut self) {
        let differs = |(gfn, page): (&u64, &Page)| (page.copied != page.version).then_some(*gfn);
        let lost: Vec<u64> = self.pages.iter().filter_map(differs).collect();
        self.truth.lost.extend(lost);
    }
}

/// How a hardware walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    Done,
    Fault,
    PmlFull,
}
