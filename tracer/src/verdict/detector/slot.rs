//! Slots and VMs as the detector keeps them.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Gfn, Nanos, RawEvent, SlotId, Span, Tid, VcpuId, VmId};
use crate::order::Ordinal;
use crate::verdict::page::{Page, PageTable, Protection, Report};
use crate::verdict::tally::HeatCell;

use super::chain::Misfit;
use super::hasty::LostPage;
pub(crate) use super::opening::Opening;
use super::popped::LeftOpen;
pub(crate) use super::recent::Recent;
use super::tlb::OpenTlb;

/// One VM.
#[derive(Clone, Debug)]
pub(crate) struct Vm {
    pub id: VmId,
    pub tgid: u32,
    /// `manual_dirty_log_protect`: bit 0 manual protect, bit 1 initially set.
    pub manual_protect: u32,
    pub ring_bytes: u32,
    /// Seen from its creation on: what was never mapped is known to be unmapped.
    pub is_created: bool,
    pub is_gone: bool,
    pub slots: Vec<Slot>,
    /// Index of the slot found last.
    pub last_slot: usize,
    /// The record that described the VM, for witnesses.
    pub origin: Option<RawEvent>,
    /// End of the last harvest word of the VM.
    pub last_word: Nanos,
    /// Some slot is not settled yet ([`Slot::unsettled`]).
    pub has_unsettled: bool,
    /// End of the last record that opened a page.
    pub last_open: Nanos,
    /// The last flushes, any thread, newest last.
    pub flushes: Recent<FlushSeen, 16>,
    /// TLB windows whose flush was not seen yet.
    pub open_tlbs: Vec<OpenTlb>,
    /// The last pages that faults opened, newest last.
    pub openings: Recent<Opening, 32>,
    /// The last marks, newest last.
    pub marks: Recent<MarkSeen, 64>,
    /// The last harvest words, newest last.
    pub words: Recent<WordSeen, 64>,
    /// GET, CLEAR and RESET ioctls that have begun and not returned.
    pub open_harvests: u32,
    /// SET_MEMORY ioctls that have begun and not returned: their helpers close pages word by word.
    pub open_enables: u32,
    /// Zaps that name no page: the ordinal of the last one.
    pub last_zap: Ordinal,
    /// The last flush outside of any ioctl: somebody has closed SPTEs, in the shadow MMU without a record.
    pub last_stray_flush: Ordinal,
    pub rings: Vec<Ring>,
    /// When each vCPU was last seen outside KVM_RUN (rings only).
    pub outside: BTreeMap<VcpuId, Outside>,
    /// Popped pages read back writable that a lockless fault in progress could still explain.
    pub left_open: Vec<LeftOpen>,
    /// The last pages that were called lost, newest last.
    pub lost: Recent<LostPage, 32>,
    pub misfits: Vec<Misfit>,
    /// Slots were deleted or moved: old page tables are still being zapped beside new ones.
    pub has_other_roots: bool,
    /// The last stretch in which a fault of the shadow MMU held `mmu_lock`, and its thread and record.
    pub last_hold: (Span, Tid, Ordinal),
    /// Faults beside words of a harvest that has not returned.
    pub pairs: Vec<(Opening, WordSeen)>,
}

/// One memslot.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub id: SlotId,
    pub base: Gfn,
    /// 0: the slot's extent was never seen.
    pub npages: u64,
    pub is_logging: bool,
    pub logging_since: Option<Nanos>,
    /// The record that last showed whether the slot logs.
    pub logging_shown: Ordinal,
    /// A slot record, not just a mark, has shown that it logs.
    pub is_enabled: bool,
    /// The last slot record that showed that it does not.
    pub stopped: Option<Nanos>,
    /// Up to here an ioctl that had begun before the attach may have closed pages without a record.
    pub unsettled: Option<Nanos>,
    /// Up to here a helper of the shadow MMU may have: it locks out all but lockless faults.
    pub helper_ended: Option<Nanos>,
    /// Logging was turned on before our eyes, by this commit or ioctl's return: no reader of the old object is left.
    pub committed: Option<Nanos>,
    pub is_deleted: bool,
    pub pages: PageTable,
    pub harvests: u64,
    pub pages_harvested: u64,
    /// Pages marked and not taken.
    pub marked: u64,
    /// Pages read back writable whose explanation may still come.
    pub suspects: u64,
    /// Ordinal of the return of the last harvest.
    pub last_harvest: Ordinal,
    pub heat: Vec<HeatCell>,
    /// Third-case windows that closed and wait for a harvest.
    pub windows_waiting: u64,
    /// The last harvests of the slot with their ranges of pages (empty: all), newest last.
    pub recent: Recent<(Span, (u64, u64)), 8>,
    /// The last GET.
    pub last_get: Option<Span>,
    /// Ordinal of its begin, if that was seen.
    pub get_begun: Option<Ordinal>,
    /// Of `marked`, pages marked before the open harvest began and not taken yet.
    pub overdue: u64,
    /// Ordinal of the open harvest's begin.
    pub harvest_begun: Ordinal,
    /// The record that showed the slot last, for witnesses.
    pub origin: Option<RawEvent>,
    /// And the first, since the slot was made or moved.
    pub shown_first: Option<RawEvent>,
    /// Has changed since it was last published.
    pub is_changed: bool,
}

/// A flush that was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FlushSeen {
    pub span: Span,
    pub first: Gfn,
    /// 0: the whole VM.
    pub npages: u64,
    pub ordinal: Ordinal,
}

impl FlushSeen {
    /// The flush reaches every page of `first .. first + npages`.
    pub const fn covers(&self, first: Gfn, npages: u64) -> bool {
        let end = self.first.0.saturating_add(self.npages);
        self.npages == 0 || self.first.0 <= first.0 && first.0.saturating_add(npages) <= end
    }
}

/// A mark that was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MarkSeen {
    pub slot: usize,
    pub gfn: Gfn,
    pub hi: Nanos,
    pub ordinal: Ordinal,
}

/// A harvest word that was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WordSeen {
    pub first: Gfn,
    pub mask: u64,
    pub protected: u64,
    /// The xchg lies in here.
    pub xchg: Span,
    /// The visits of its SPTEs lie in here.
    pub visit: Span,
    pub ordinal: Ordinal,
    pub slot: usize,
    /// One hold of `mmu_lock` covers `visit`.
    pub is_one_hold: bool,
    /// Its SPTEs were read back at the return (tracepoint plan): of each page the one set last.
    pub is_read_back: bool,
}

/// A dirty ring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring {
    pub vcpu: VcpuId,
    /// `reset_index` of the oldest entry in `entries`.
    pub first: u32,
    /// Slot index and gfn per entry.
    pub entries: std::collections::VecDeque<(usize, Gfn)>,
    /// `reset_index` after the last reset, and the ordinal of its ioctl.
    pub popped: Option<(u32, Ordinal)>,
}

impl Ring {
    /// The ioctl that popped the entry of this index: a mark's record, written at its exit, may come after it.
    pub fn popped_by(&self, index: u32) -> Option<Ordinal> {
        let (after, ioctl) = self.popped?;
        ((index.wrapping_sub(after) as i32) < 0).then_some(ioctl)
    }
}

/// A vCPU seen at an end of KVM_RUN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outside {
    pub seen: Nanos,
    /// The record that showed it.
    pub record: Ordinal,
    /// It has entered KVM_RUN since, or nothing was seen of it.
    pub is_inside: bool,
}

impl Outside {
    /// Nothing was seen of the vCPU.
    pub const UNSEEN: Self = Self { seen: Nanos(0), record: 0, is_inside: true };

    /// It was in no fault at some moment since.
    pub const fn is_since(&self, then: Nanos, epsilon_ns: u64) -> bool {
        !self.is_inside || then.0.saturating_add(epsilon_ns) < self.seen.0
    }
}

impl Vm {
    pub fn new(id: VmId) -> Self {
        Self {
            id,
            tgid: 0,
            manual_protect: 0,
            ring_bytes: 0,
            is_created: false,
            is_gone: false,
            slots: Vec::new(),
            last_slot: 0,
            origin: None,
            last_word: Nanos(0),
            has_unsettled: false,
            last_open: Nanos(0),
            flushes: Recent::default(),
            open_tlbs: Vec::new(),
            openings: Recent::default(),
            marks: Recent::default(),
            words: Recent::default(),
            open_harvests: 0,
            open_enables: 0,
            last_zap: 0,
            last_stray_flush: 0,
            rings: Vec::new(),
            outside: BTreeMap::new(),
            left_open: Vec::new(),
            lost: Recent::default(),
            misfits: Vec::new(),
            has_other_roots: false,
            last_hold: Default::default(),
            pairs: Vec::new(),
        }
    }

    /// GET reads only; CLEAR takes.
    pub const fn is_manual(&self) -> bool {
        self.manual_protect & 1 != 0
    }

    /// All bits are set when logging is turned on.
    pub const fn is_initially_set(&self) -> bool {
        self.manual_protect & 2 != 0
    }

    /// The entries that are in the rings, as far as they were seen.
    pub fn pushed(&self) -> BTreeSet<(usize, Gfn)> {
        self.rings.iter().flat_map(|ring| ring.entries.iter().copied()).collect()
    }

    /// The slot of that id, made if it was never shown and there is `room`: then `near` is a page of it.
    #[inline]
    pub fn slot(&mut self, id: SlotId, near: Gfn, room: &mut u32) -> Option<usize> {
        if let Some(slot) = self.slots.get(self.last_slot)
            && slot.id == id
        {
            return Some(self.last_slot);
        }
        self.other_slot(id, near, room)
    }

    #[cold]
    #[inline(never)]
    fn other_slot(&mut self, id: SlotId, near: Gfn, room: &mut u32) -> Option<usize> {
        self.last_slot = match self.slots.iter().position(|slot| slot.id == id) {
            Some(index) => index,
            None => {
                *room = room.checked_sub(1)?;
                self.slots.push(Slot::new(id, near));
                self.slots.len() - 1
            }
        };
        Some(self.last_slot)
    }

    /// The slot of that id, if it was ever seen.
    pub fn known_slot(&self, id: SlotId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.id == id)
    }

    /// The slot that holds `gfn`. `as_id` unknown: of address space 0, unless there are others.
    pub fn slot_of(&mut self, gfn: Gfn, as_id: Option<u8>) -> Option<usize> {
        match as_id {
            Some(as_id) => self.slot_in(as_id, gfn),
            None => self.search_slot_of(gfn, None),
        }
    }

    /// The slot of that address space that holds `gfn`.
    #[inline]
    pub fn slot_in(&mut self, as_id: u8, gfn: Gfn) -> Option<usize> {
        match self.slots.get(self.last_slot) {
            Some(slot) if slot.id.as_id == u16::from(as_id) && slot.holds(gfn) => {
                Some(self.last_slot)
            }
            Some(_) | None => self.search_slot_of(gfn, Some(as_id)),
        }
    }

    #[inline(never)]
    fn search_slot_of(&mut self, gfn: Gfn, as_id: Option<u8>) -> Option<usize> {
        let holds = |slot: &Slot| {
            as_id.is_none_or(|as_id| slot.id.as_id == u16::from(as_id)) && slot.holds(gfn)
        };
        let mut found = self.slots.iter().enumerate().filter(|(_, slot)| holds(slot));
        let (index, _) = found.next()?;
        // Where several address spaces map the gfn, the record does not tell which SPTE changed.
        if found.next().is_some() {
            return None;
        }
        self.last_slot = index;
        Some(index)
    }
}

impl Slot {
    fn new(id: SlotId, near: Gfn) -> Self {
        let base = Gfn(near.0 & !511);
        Self {
            id,
            base,
            npages: 0,
            is_logging: false,
            logging_since: None,
            logging_shown: 0,
            is_enabled: false,
            stopped: None,
            unsettled: None,
            helper_ended: None,
            committed: None,
            is_deleted: false,
            pages: PageTable::new(base, Page::default()),
            harvests: 0,
            pages_harvested: 0,
            marked: 0,
            suspects: 0,
            last_harvest: 0,
            heat: Vec::new(),
            windows_waiting: 0,
            recent: Recent::default(),
            last_get: None,
            get_begun: None,
            overdue: 0,
            harvest_begun: 0,
            origin: None,
            shown_first: None,
            is_changed: true,
        }
    }

    /// The gfn lies in the slot, as far as its extent is known.
    pub fn holds(&self, gfn: Gfn) -> bool {
        if self.is_deleted {
            false
        } else if self.npages == 0 {
            gfn.0.wrapping_sub(self.base.0) < 512
        } else {
            gfn.0.wrapping_sub(self.base.0) < self.npages
        }
    }

    /// The bit of `gfn` in a bitmap word, if the slot's base is known.
    pub const fn bit(&self, gfn: Gfn, word: u64) -> Option<bool> {
        if self.npages == 0 {
            return None;
        }
        Some(word >> (gfn.0.wrapping_sub(self.base.0) & 63) & 1 != 0)
    }

    /// Notes a mark: whether it is the first since the bit was taken. `is_known`: no record is missing since then.
    pub fn mark(page: &mut Page, marked: &mut u64, at: Ordinal, is_known: bool) {
        use crate::order::spool::Stamp;
        use crate::verdict::page::page_flag::{FIRST_UNSURE, MARKED_AGAIN};
        if page.report == Report::Marked {
            page.set(MARKED_AGAIN, true);
            return;
        }
        *marked += 1;
        page.set(FIRST_UNSURE, page.report != Report::Clean || !is_known);
        page.report = Report::Marked;
        page.mark = Stamp::of(at);
        page.set(MARKED_AGAIN, false);
    }

    /// A page known to be unmapped and unmarked.
    pub fn fresh_page(at: Ordinal) -> Page {
        let mut page = Page { report: Report::Clean, ..Page::default() };
        page.change(Protection::Closed, at);
        page
    }
}
