//! The state of single pages, for those who look at one range of gfns closely.

use super::page::{Page, Protection, Report};
use crate::event::{Gfn, SlotId, VmId};

/// What is known of a page now, in the words of the rule (DESIGN.md, section 1). Ordered by what one looks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageState {
    /// Nothing was seen of it.
    #[default]
    Unknown,
    /// No SPTE lets a write through unlogged, and its bit is not set.
    Protected,
    /// Its bit is set, or an entry of it waits in a ring; writes are logged.
    Reported,
    /// Writes go through, and its bit is set: a page the guest is writing to.
    Open,
    /// Writes go through, and its bit is not known to be set: legal only inside a window or a harvest.
    Unreported,
}

impl PageState {
    /// All states, in their order.
    pub const ALL: [Self; 5] =
        [Self::Unknown, Self::Protected, Self::Reported, Self::Open, Self::Unreported];

    /// The state in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "not known",
            Self::Protected => "protected",
            Self::Reported => "reported",
            Self::Open => "writable and reported",
            Self::Unreported => "writable, not reported",
        }
    }

    pub(crate) const fn of(page: &Page) -> Self {
        match (page.protection, page.report) {
            (Protection::Open, Report::Marked) => Self::Open,
            (Protection::Open, Report::Clean | Report::Maybe | Report::Unknown) => Self::Unreported,
            (Protection::Closed | Protection::Unknown, Report::Marked) => Self::Reported,
            (Protection::Closed, Report::Clean | Report::Maybe | Report::Unknown) => {
                Self::Protected
            }
            (Protection::Unknown, Report::Clean | Report::Maybe | Report::Unknown) => Self::Unknown,
        }
    }
}

/// A range of gfns of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRange {
    /// The VM.
    pub vm: VmId,
    /// The slot.
    pub slot: SlotId,
    /// First page.
    pub first: Gfn,
    /// Pages.
    pub npages: u64,
}

impl PageRange {
    /// Cells a range is cut into at most.
    pub const CELLS_MAX: u64 = 1024;

    /// Cells the range is cut into: one per page while there are not too many.
    #[must_use]
    pub const fn cells(&self) -> u64 {
        if self.npages < Self::CELLS_MAX { self.npages } else { Self::CELLS_MAX }
    }

    /// The range of one cell.
    #[must_use]
    pub fn cell(&self, cell: u64) -> Self {
        let bound = |cell: u64| {
            let offset =
                u128::from(self.npages) * u128::from(cell) / u128::from(self.cells().max(1));
            u64::try_from(offset).unwrap_or(self.npages)
        };
        let (begin, end) = (bound(cell), bound(cell + 1));
        Self { first: Gfn(self.first.0.saturating_add(begin)), npages: end - begin, ..*self }
    }

    /// The page lies in the range.
    #[must_use]
    pub const fn holds(&self, gfn: Gfn) -> bool {
        self.first.0 <= gfn.0 && gfn.0 - self.first.0 < self.npages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cover_the_range_without_overlap() {
        for npages in [1, 7, 1024, 1025, 1 << 24] {
            let range = PageRange { first: Gfn(0x100), npages, ..PageRange::default() };
            let mut next = range.first;
            for cell in (0..range.cells()).map(|cell| range.cell(cell)) {
                assert_eq!(cell.first, next);
                assert!(0 < cell.npages);
                next.0 += cell.npages;
            }
            assert_eq!(next.0, 0x100 + npages);
        }
    }
}
