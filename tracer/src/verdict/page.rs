//! State per page: 16 bytes, allocated on demand in chunks of 512 pages.
//!
//! A chunk whose pages are all alike (never seen, or mapped by one huge SPTE) costs 24 bytes in all.

use crate::event::Gfn;
use crate::order::Ordinal;
use crate::order::spool::Stamp;

/// What is known of the SPTEs of a page. *Open*: a write would not be logged (W set; under PML also D).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protection {
    /// Nothing is known.
    #[default]
    Unknown,
    /// No SPTE lets a write through.
    Closed,
    /// An SPTE lets writes through.
    Open,
}

/// What is known of the page's bit or ring entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Report {
    /// Nothing is known.
    #[default]
    Unknown,
    /// Not reported: taken, or never marked since logging began.
    Clean,
    /// Marked and not taken since.
    Marked,
    /// A mark and a harvest were concurrent and no value tells which came first.
    Maybe,
}

/// One page.
///
/// Times are stamps of ordinals: the record itself is looked up in the spool when a decision needs its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// The first mark since the bit was last taken; of a clean page the first mark of the round before.
    pub mark: Stamp,
    /// The last change of `protection`.
    pub changed: Stamp,
    /// The harvest word that took the bit last.
    pub taken: Stamp,
    pub protection: Protection,
    pub report: Report,
    pub flags: u8,
    /// Low bits of the address of the SPTE seen last, 0 if none was named, [`SEVERAL_SPTES`] if several were.
    pub sptep: u8,
}

/// Flags of a page.
pub(crate) mod page_flag {
    /// More than one mark since the bit was last taken.
    pub const MARKED_AGAIN: u8 = 1;
    /// Mapped by a huge SPTE when last seen.
    pub const HUGE: u8 = 2;
    /// The page may have been marked before `mark` already: whether an earlier mark was taken is not known.
    pub const FIRST_UNSURE: u8 = 4;
    /// Opened by a fault that used a slot object without logging.
    pub const UNLOGGED: u8 = 8;
    /// Opened through the shadow MMU, whose zaps are seen only as a whole.
    pub const SHADOW: u8 = 16;
    /// The bit is set since logging began.
    pub const INITIALLY_SET: u8 = 32;
    /// Ring: read back writable at the return of the RESET that popped its entry, and not pushed since.
    pub const LEFT_OPEN: u8 = 64;
    /// Bitmap: all its marks since the bit was last taken say that the host wrote steal time.
    pub const STEAL_TIME: u8 = 64;
    /// Read back writable at a harvest's return; a fault's record may still explain it.
    pub const SUSPECT: u8 = 128;
}

const _: () = assert!(size_of::<Page>() == 16);

/// Seen under several SPTE addresses: one folded bit does not speak for all of them. No address has this tag.
pub(crate) const SEVERAL_SPTES: u8 = 2;

impl Page {
    /// Mapped by a huge SPTE or by several: one folded bit does not tell enough.
    pub const fn is_shared(&self) -> bool {
        self.has(page_flag::HUGE) || self.sptep == SEVERAL_SPTES
    }

    /// Whether the flag is set.
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Sets or clears a flag.
    pub const fn set(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// Changes the protection.
    pub const fn change(&mut self, protection: Protection, at: Ordinal) {
        self.protection = protection;
        self.changed = Stamp::of(at);
    }
}

/// Pages of a chunk.
pub(crate) const CHUNK: u64 = 512;

#[derive(Clone, Debug)]
enum Chunk {
    Uniform(Page),
    Detailed(Box<[Page; CHUNK as usize]>),
}

/// The pages of one slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageTable {
    /// First gfn of chunk 0.
    origin: u64,
    chunks: Vec<Chunk>,
    /// State of pages in no chunk yet.
    default: Page,
    detailed: u64,
    /// Detailed chunks kept for reuse when the table is cleared.
    spare: Vec<Box<[Page; CHUNK as usize]>>,
}

/// It reaches no further: a slot has less than 2^31 pages (`KVM_MEM_MAX_NR_PAGES`, include/linux/kvm_host.h).
const CHUNKS_MAX: u64 = 1 << 22;

impl PageTable {
    /// An empty table for pages from `base`.
    pub fn new(base: Gfn, default: Page) -> Self {
        Self { origin: base.0, default, ..Self::default() }
    }

    /// Bytes of state per detailed page, for reports and tests.
    #[cfg(test)]
    pub const fn page_bytes() -> usize {
        size_of::<Page>()
    }

    /// Pages with state of their own.
    pub const fn detailed_pages(&self) -> u64 {
        self.detailed * CHUNK
    }

    /// The page, by value.
    pub fn get(&self, gfn: Gfn) -> Page {
        let offset = gfn.0.wrapping_sub(self.origin);
        match self.chunks.get((offset / CHUNK) as usize) {
            Some(Chunk::Uniform(page)) => *page,
            Some(Chunk::Detailed(pages)) => pages[(offset % CHUNK) as usize],
            None => self.default,
        }
    }

    /// The page, to change it. `None`: `budget` has no chunk left, or the gfn is beyond any slot.
    #[inline]
    pub fn get_mut(&mut self, gfn: Gfn, budget: &mut u64) -> Option<&mut Page> {
        let offset = gfn.0.wrapping_sub(self.origin);
        let index = (offset / CHUNK) as usize;
        if !matches!(self.chunks.get(index), Some(Chunk::Detailed(_))) {
            return self.get_mut_new(gfn, budget);
        }
        match &mut self.chunks[index] {
            Chunk::Detailed(pages) => Some(&mut pages[(offset % CHUNK) as usize]),
            Chunk::Uniform(_) => None,
        }
    }

    #[cold]
    fn get_mut_new(&mut self, gfn: Gfn, budget: &mut u64) -> Option<&mut Page> {
        let index = self.reach(gfn)?;
        if let Chunk::Uniform(page) = self.chunks[index] {
            *budget = budget.checked_sub(CHUNK)?;
            let pages = match self.spare.pop() {
                Some(mut pages) => {
                    pages.fill(page);
                    pages
                }
                None => Box::new([page; CHUNK as usize]),
            };
            self.chunks[index] = Chunk::Detailed(pages);
            self.detailed += 1;
        }
        match &mut self.chunks[index] {
            Chunk::Detailed(pages) => Some(&mut pages[((gfn.0 - self.origin) % CHUNK) as usize]),
            Chunk::Uniform(_) => None,
        }
    }

    /// Index of the chunk of `gfn`, which then exists.
    fn reach(&mut self, gfn: Gfn) -> Option<usize> {
        if gfn.0 < self.origin {
            let ahead = (self.origin - gfn.0).div_ceil(CHUNK);
            if CHUNKS_MAX < ahead + self.chunks.len() as u64 || self.origin < ahead * CHUNK {
                return None;
            }
            let front = (0..ahead).map(|_| Chunk::Uniform(self.default));
            self.chunks.splice(0..0, front);
            self.origin -= ahead * CHUNK;
        }
        let index = (gfn.0 - self.origin) / CHUNK;
        if CHUNKS_MAX <= index {
            return None;
        }
        if self.chunks.len() as u64 <= index {
            let default = self.default;
            self.chunks.resize_with(index as usize + 1, || Chunk::Uniform(default));
        }
        Some(index as usize)
    }

    /// Applies `change` to every page of `first .. first + npages`: whole chunks that are uniform stay so.
    pub fn change_range(
        &mut self,
        first: Gfn,
        npages: u64,
        budget: &mut u64,
        mut change: impl FnMut(&mut Page),
    ) {
        let end = first.0.saturating_add(npages);
        let mut gfn = first.0;
        while gfn < end {
            let Some(index) = self.reach(Gfn(gfn)) else { return };
            let chunk_end = self.origin + (index as u64 + 1) * CHUNK;
            let is_whole = (gfn - self.origin).is_multiple_of(CHUNK) && chunk_end <= end;
            match &mut self.chunks[index] {
                Chunk::Uniform(page) if is_whole => change(page),
                Chunk::Uniform(_) | Chunk::Detailed(_) => {
                    for gfn in gfn..chunk_end.min(end) {
                        let Some(page) = self.get_mut(Gfn(gfn), budget) else { break };
                        change(page);
                    }
                }
            }
            gfn = chunk_end;
        }
    }

    /// Applies `change` to every state there is, and to the default.
    pub fn change_all(&mut self, mut change: impl FnMut(&mut Page)) {
        change(&mut self.default);
        for chunk in &mut self.chunks {
            match chunk {
                Chunk::Uniform(page) => change(page),
                Chunk::Detailed(pages) => pages.iter_mut().for_each(&mut change),
            }
        }
    }

    /// Every page with state of its own, and of uniform chunks the first, by gfn.
    pub fn iter(&self) -> impl Iterator<Item = (Gfn, &Page)> {
        self.chunks.iter().enumerate().flat_map(move |(index, chunk)| {
            let first = self.origin + index as u64 * CHUNK;
            let pages: &[Page] = match chunk {
                Chunk::Uniform(page) => std::slice::from_ref(page),
                Chunk::Detailed(pages) => pages.as_slice(),
            };
            pages.iter().enumerate().map(move |(n, page)| (Gfn(first + n as u64), page))
        })
    }

    /// Forgets everything, gives the budget back and starts over from `base`.
    pub fn reset(&mut self, base: Gfn, default: Page, budget: &mut u64) {
        *budget += self.detailed * CHUNK;
        self.detailed = 0;
        for chunk in self.chunks.drain(..) {
            if let Chunk::Detailed(pages) = chunk
                && self.spare.len() < 64
            {
                self.spare.push(pages);
            }
        }
        self.origin = base.0;
        self.default = default;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_takes_sixteen_bytes_and_untouched_chunks_none() {
        assert_eq!(PageTable::page_bytes(), 16);
        let mut budget = 1024;
        let mut table = PageTable::new(Gfn(0x1000), Page::default());
        table.get_mut(Gfn(0x1000 + 700), &mut budget).unwrap().flags = 1;
        assert_eq!(table.detailed_pages(), 512);
        assert_eq!(budget, 512);
        assert_eq!(table.get(Gfn(0x1000 + 700)).flags, 1);
        assert_eq!(table.get(Gfn(0x1000 + 701)).flags, 0);
    }

    #[test]
    fn a_spent_budget_refuses_new_chunks_and_keeps_old_ones() {
        let mut budget = 512;
        let mut table = PageTable::new(Gfn(0), Page::default());
        assert!(table.get_mut(Gfn(1), &mut budget).is_some());
        assert!(table.get_mut(Gfn(600), &mut budget).is_none());
        assert!(table.get_mut(Gfn(2), &mut budget).is_some());
        table.reset(Gfn(0), Page::default(), &mut budget);
        assert_eq!(budget, 512);
        assert!(table.get_mut(Gfn(600), &mut budget).is_some());
    }

    #[test]
    fn a_huge_mapping_keeps_its_chunk_uniform() {
        let mut budget = 1 << 20;
        let mut table = PageTable::new(Gfn(0), Page::default());
        table.change_range(Gfn(512), 1024, &mut budget, |page| page.flags = 2);
        assert_eq!(table.detailed_pages(), 0);
        assert_eq!(table.get(Gfn(1535)).flags, 2);
        table.change_range(Gfn(510), 4, &mut budget, |page| page.flags = 3);
        assert_eq!(table.detailed_pages(), 1024);
        assert_eq!([511, 512, 514, 1536].map(|gfn| table.get(Gfn(gfn)).flags), [3, 3, 2, 0]);
    }

    #[test]
    fn a_page_below_the_first_one_seen_gets_a_place() {
        let mut budget = 1 << 20;
        let mut table = PageTable::new(Gfn(4096), Page::default());
        table.get_mut(Gfn(5000), &mut budget).unwrap().flags = 7;
        table.get_mut(Gfn(100), &mut budget).unwrap().flags = 9;
        assert_eq!(table.get(Gfn(5000)).flags, 7);
        assert_eq!(table.get(Gfn(100)).flags, 9);
    }
}
