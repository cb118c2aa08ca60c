//! Pages that faults opened.

use crate::event::Span;
use crate::order::Ordinal;

use super::case::PageAt;
use super::pending::PendingMark;

/// A page that a fault opened, with the mark of the same fault.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opening {
    /// Of the same page.
    pub mark: PendingMark,
    /// The store (or cmpxchg) lies in here.
    pub store: Span,
    /// The record that showed it.
    pub ordinal: Ordinal,
    /// `mmu_lock` was held from the mark to the store: `hold` lies inside one hold.
    pub is_locked: bool,
    pub hold: Span,
    /// Another thread closed the SPTE meanwhile: whether it is open now is not known.
    pub is_doubtful: bool,
}

impl Opening {
    /// The page that was opened.
    pub const fn page(&self) -> PageAt {
        self.mark.page()
    }
}
