//! Marks and stores of a bracket that has not ended.

use crate::event::{Gfn, MarkWord, Span, VcpuId};
use crate::order::Ordinal;
use crate::verdict::page::Protection;

use super::case::PageAt;

/// A mark inside a bracket that has not ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingMark {
    pub vm: usize,
    pub slot: usize,
    pub gfn: Gfn,
    pub ordinal: Ordinal,
    pub span: Span,
    /// `*sptep`, read at the mark's entry, let writes through.
    pub was_open: Option<bool>,
    pub word: MarkWord,
    /// The vCPU that its thread ran.
    pub vcpu: Option<VcpuId>,
    /// The slot object it used was logging.
    pub is_logged: bool,
    pub in_fast: bool,
    pub is_claimed: bool,
    /// Under PML: the page was known closed, and is this if the mark turns out to be a drained one.
    pub drained: Option<Protection>,
    /// Bitmap: all marks of the page before this one were of steal time.
    pub after_steal_time: bool,
}

/// An SPTE that became open inside a bracket that has not ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingStore {
    pub vm: usize,
    pub slot: usize,
    pub gfn: Gfn,
    pub ordinal: Ordinal,
    pub span: Span,
    /// By a fast fault, whose mark is nested in it.
    pub is_fast: bool,
}

impl PendingStore {
    pub fn is_for(&self, mark: &PendingMark) -> bool {
        !self.is_fast && (self.vm, self.slot, self.gfn) == (mark.vm, mark.slot, mark.gfn)
    }
}

impl PendingMark {
    /// The page it marked.
    pub const fn page(&self) -> PageAt {
        (self.vm, self.slot, self.gfn)
    }

    /// It is none of any VM any more, and stays in its place.
    pub fn forget(&mut self) {
        let Self { ordinal, span, .. } = *self;
        *self = Self { ordinal, span, ..Self::default() };
    }
}

impl Default for PendingMark {
    fn default() -> Self {
        Self {
            vm: usize::MAX,
            slot: 0,
            gfn: Gfn(0),
            ordinal: 0,
            span: Span::default(),
            was_open: None,
            word: MarkWord::Unread,
            vcpu: None,
            is_logged: false,
            in_fast: false,
            is_claimed: true,
            drained: None,
            after_steal_time: false,
        }
    }
}
