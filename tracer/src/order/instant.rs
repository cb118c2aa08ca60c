//! Hidden instants: what the kernel does not show, and the interval that is proven to contain it.
//!
//! | instant | not before | not after |
//! |---|---|---|
//! | `set_bit`, ring push | entry of the marking function | its exit |
//! | xchg of a bitmap word | the visit of the word before in this ioctl, else the ioctl's begin | the visit of its SPTEs |
//! | the same, words read back | the ioctl's begin | the reading at its return |
//! | cmpxchg of a fast fault | entry of `fast_page_fault` | its exit; entry of its mark if `*sptep` had W there, by nobody else |
//! | SPTE store | the mark of its fault whose record came before its own | its record |
//! | rmap insertion, flush | entry of the function | its exit |
//! | copy of a host write | entry of the writing function | its exit; entry of its mark if the bytes were there |
//!
//! Both bounds are readings of one clock by the thread that acted: program order, or a value read. None is the order a
//! rule tests: "the cmpxchg precedes the mark" holds only where the SPTE, read at the mark's entry, says so; that a
//! slow store follows its mark is read from the order of their two records, see [`Bound::LockedMark`].

use crate::event::{Event, EventKind, Gfn, MarkWord, Nanos, Span, SpteMasks};

/// A hidden instant and its interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// What happens.
    pub what: Hidden,
    /// It happens in here.
    pub within: Span,
    /// What proves `within.lo`.
    pub lo: Bound,
    /// What proves `within.hi`.
    pub hi: Bound,
}

/// What the kernel does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hidden {
    /// `set_bit` of a mark.
    SetBit,
    /// A dirty ring's entry and index are written.
    RingPush,
    /// A harvest takes a bitmap word.
    Xchg,
    /// A lockless fault sets W.
    Cmpxchg,
    /// An SPTE is stored.
    SpteStore,
    /// An SPTE enters the rmap.
    RmapInsertion,
    /// The host writes the guest's bytes.
    Copy,
    /// Every vCPU has dropped its translations.
    Flush,
}

/// What proves a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// Entry of the function that does it.
    Entry,
    /// Exit of that function.
    Exit,
    /// Begin of the ioctl.
    IoctlBegin,
    /// End of the visit of the word before.
    WordBefore,
    /// Begin of the visit of the word's SPTEs.
    Visit,
    /// The word, read back at the ioctl's return.
    ReadBack,
    /// Entry of the mark of the same fault, whose record came before that of the store. The store's tracepoint follows
    /// the store at once (`tdp_mmu_set_spte()` and `handle_changed_spte()`, arch/x86/kvm/mmu/tdp_mmu.c), so a store
    /// ahead of its mark would have its record there, as in 5.10. Where one hold of `mmu_lock` spans both, nothing is
    /// asked of this bound; it serves the faults whose hold was seen broken.
    LockedMark,
    /// The value found at the entry of the nested mark.
    ValueAtMark,
    /// The record itself, which follows.
    Record,
    /// Nothing that was seen.
    Nothing,
}

impl Hidden {
    /// The instant in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SetBit => "set_bit",
            Self::RingPush => "ring-push",
            Self::Xchg => "xchg",
            Self::Cmpxchg => "cmpxchg",
            Self::SpteStore => "spte-store",
            Self::RmapInsertion => "rmap-insertion",
            Self::Copy => "copy",
            Self::Flush => "flush",
        }
    }
}

impl Bound {
    /// The proof in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Exit => "exit",
            Self::IoctlBegin => "ioctl-begin",
            Self::WordBefore => "word-before",
            Self::Visit => "visit-of-its-sptes",
            Self::ReadBack => "read-back",
            Self::LockedMark => "mark-in-the-same-hold",
            Self::ValueAtMark => "value-at-mark",
            Self::Record => "record",
            Self::Nothing => "nothing",
        }
    }
}

/// The xchg of a word whose SPTEs were visited in `visit`; `floor` is the thread's last proven point before it.
#[must_use]
pub fn xchg(floor: (Nanos, Bound), visit: Span) -> Instant {
    let within = Span { lo: floor.0.min(visit.lo), hi: visit.lo };
    Instant { what: Hidden::Xchg, within, lo: floor.1, hi: Bound::Visit }
}

/// The xchg of a word that was read back at `read`, in an ioctl that began at `begin` if that was seen.
#[must_use]
pub fn xchg_read_back(begin: Option<Nanos>, read: Nanos) -> Instant {
    let (lo, bound) = begin.map_or((Nanos(0), Bound::Nothing), |at| (at, Bound::IoctlBegin));
    let within = Span { lo: lo.min(read), hi: read };
    Instant { what: Hidden::Xchg, within, lo: bound, hi: Bound::ReadBack }
}

/// The cmpxchg of a fast fault with a nested mark; `had_w` is what `*sptep` showed at the mark's entry, `None` where
/// another fault may have set it: somebody may have cleared that again before this one's cmpxchg.
///
/// Without W there the cmpxchg may have come before all the same: somebody may have protected the page again.
#[must_use]
pub fn cmpxchg(fault: Span, mark: Span, had_w: Option<bool>) -> Instant {
    let (hi, bound) = match had_w {
        Some(true) => (mark.lo.max(fault.lo), Bound::ValueAtMark),
        Some(false) | None => (fault.hi, Bound::Exit),
    };
    let within = Span { lo: fault.lo, hi };
    Instant { what: Hidden::Cmpxchg, within, lo: Bound::Entry, hi: bound }
}

/// The hidden instant of an event, given the events before it in merge order.
#[must_use]
pub fn of(event: &Event, before: &[Event], masks: &SpteMasks) -> Option<Instant> {
    let own = || before.iter().rev().filter(|other| other.tid == event.tid);
    let span = event.span;
    let bracket = |what| Instant { what, within: span, lo: Bound::Entry, hi: Bound::Exit };
    match event.kind {
        EventKind::Mark { word: MarkWord::Ring(_), .. } => Some(bracket(Hidden::RingPush)),
        EventKind::Mark { .. } => Some(bracket(Hidden::SetBit)),
        EventKind::RmapAdd { .. } => Some(bracket(Hidden::RmapInsertion)),
        EventKind::Flush { .. } => Some(bracket(Hidden::Flush)),
        EventKind::HarvestWord { mask: 1.., .. } => {
            let floor = own().find_map(|other| match other.kind {
                EventKind::IoctlBegin { .. } => Some((other.span.lo, Bound::IoctlBegin)),
                EventKind::HarvestWord { mask: 1.., .. } => {
                    Some((other.span.hi, Bound::WordBefore))
                }
                _ => None,
            });
            Some(xchg(floor.unwrap_or((Nanos(0), Bound::Nothing)), span))
        }
        EventKind::UserWord { .. } => {
            let is_begin = |other: &&Event| matches!(other.kind, EventKind::IoctlBegin { .. });
            Some(xchg_read_back(own().find(is_begin).map(|begin| begin.span.lo), span.hi))
        }
        EventKind::FastFault { page, fixed: true, .. } => {
            let mark = own().find_map(|other| mark_inside(other, page.gfn, span));
            let (at, spte) = mark.unwrap_or((span, None));
            let is_another = before.iter().any(|other| {
                let is_inside = span.lo <= other.span.hi && other.span.lo <= at.lo;
                other.tid != event.tid && is_inside && opens(other, page.gfn, masks)
            });
            let had_w = spte.map(|spte| masks.is_open(spte)).filter(|_| !is_another);
            Some(cmpxchg(span, at, had_w))
        }
        EventKind::SpteChange { page, .. } | EventKind::SpteSet { page, .. } => {
            let mark =
                own().find_map(|other| mark_inside(other, page.gfn, Span { lo: Nanos(0), ..span }));
            Some(store(span, mark.map(|(at, _)| at.lo)))
        }
        EventKind::HostWrite { gpa, data_at_mark, .. } => {
            let mark = own().find_map(|other| mark_inside(other, Gfn(gpa >> 12), span));
            let marked = mark.filter(|_| data_at_mark == Some(true)).map(|(at, _)| at.lo);
            let hi = marked.map_or((span.hi, Bound::Exit), |at| (at, Bound::ValueAtMark));
            let within = Span { lo: span.lo, hi: hi.0.max(span.lo) };
            Some(Instant { what: Hidden::Copy, within, lo: Bound::Entry, hi: hi.1 })
        }
        _ => None,
    }
}

/// Whether the event makes that page writable.
fn opens(event: &Event, gfn: Gfn, masks: &SpteMasks) -> bool {
    match event.kind {
        EventKind::FastFault { page, fixed, .. } => fixed && page.gfn == gfn,
        EventKind::SpteChange { page, new, .. } | EventKind::SpteSet { page, new, .. } => {
            page.gfn == gfn && masks.is_open(new)
        }
        _ => false,
    }
}

/// The store of an SPTE whose record ended at `record.hi`.
fn store(record: Span, mark: Option<Nanos>) -> Instant {
    let (lo, bound) = match mark {
        // A record without a length is one tracepoint, which only says that the store has happened.
        _ if record.lo < record.hi => (record.lo, Bound::Entry),
        Some(mark) => (mark.min(record.hi), Bound::LockedMark),
        None => (Nanos(0), Bound::Nothing),
    };
    let within = Span { lo, hi: record.hi };
    Instant { what: Hidden::SpteStore, within, lo: bound, hi: Bound::Record }
}

/// Where the event is a mark of that page which ended within `bracket`: its span, and the SPTE read at its entry.
fn mark_inside(
    event: &Event,
    page: Gfn,
    bracket: Span,
) -> Option<(Span, Option<crate::event::Spte>)> {
    match event.kind {
        EventKind::Mark { gfn, spte, .. } if gfn == page && bracket.contains(event.span) => {
            Some((event.span, spte))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(lo: u64, hi: u64) -> Span {
        Span { lo: Nanos(lo), hi: Nanos(hi) }
    }

    #[test]
    fn an_xchg_lies_between_the_word_before_and_its_own_visit() {
        let first = xchg((Nanos(10), Bound::IoctlBegin), span(30, 40));
        assert_eq!(
            (first.within, first.lo, first.hi),
            (span(10, 30), Bound::IoctlBegin, Bound::Visit)
        );
        let second = xchg((Nanos(40), Bound::WordBefore), span(45, 50));
        assert_eq!(second.within, span(40, 45));
        // Clocks that step back leave an interval, not an assertion.
        assert_eq!(xchg((Nanos(60), Bound::WordBefore), span(45, 50)).within, span(45, 45));
    }

    #[test]
    fn only_a_value_puts_the_cmpxchg_before_the_mark() {
        let (fault, mark) = (span(10, 100), span(40, 60));
        assert_eq!(cmpxchg(fault, mark, Some(true)).within, span(10, 40));
        for unproven in [Some(false), None] {
            let instant = cmpxchg(fault, mark, unproven);
            assert_eq!((instant.within, instant.hi), (fault, Bound::Exit));
        }
    }

    #[test]
    fn a_lone_tracepoint_bounds_its_store_only_from_above() {
        assert_eq!(store(span(70, 70), None).within, span(0, 70));
        assert_eq!(store(span(70, 70), Some(Nanos(50))).within, span(50, 70));
        assert_eq!(store(span(60, 70), Some(Nanos(50))).within, span(60, 70));
    }
}
