//! What real time proves about two operations.

use crate::event::Span;

/// How two operations lie to each other in real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The first ended before the second began, beyond clock uncertainty.
    Before,
    /// The second ended before the first began, beyond clock uncertainty.
    After,
    /// The intervals touch, clock uncertainty included: either order is possible.
    Concurrent,
}

/// Relates `a` to `b`; the thread of both being the same makes `epsilon_ns` 0.
#[must_use]
pub const fn relation(a: Span, b: Span, epsilon_ns: u64) -> Relation {
    if a.is_before(b, epsilon_ns) {
        Relation::Before
    } else if b.is_before(a, epsilon_ns) {
        Relation::After
    } else {
        Relation::Concurrent
    }
}

/// Nanoseconds for which both intervals certainly ran at once: 0 if they are apart, or touch within the uncertainty.
///
/// Two brackets of one exclusive lock must give 0; more is an integrity violation (DESIGN.md, section 3).
#[must_use]
pub fn overlap_ns(a: Span, b: Span, epsilon_ns: u64) -> u64 {
    let lo = a.lo.max(b.lo);
    let hi = a.hi.min(b.hi);
    hi.since(lo).saturating_sub(epsilon_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Nanos;

    fn span(lo: u64, hi: u64) -> Span {
        Span { lo: Nanos(lo), hi: Nanos(hi) }
    }

    #[test]
    fn exactly_one_relation_holds_and_it_mirrors() {
        for (a, b) in [(span(0, 4), span(5, 9)), (span(0, 5), span(5, 9)), (span(0, 9), span(3, 4))]
        {
            let mirrored = match relation(a, b, 0) {
                Relation::Before => Relation::After,
                Relation::After => Relation::Before,
                Relation::Concurrent => Relation::Concurrent,
            };
            assert_eq!(relation(b, a, 0), mirrored);
        }
    }

    #[test]
    fn an_overlap_within_the_uncertainty_counts_as_none() {
        assert_eq!(overlap_ns(span(0, 10), span(6, 20), 4), 0);
        assert_eq!(overlap_ns(span(0, 10), span(6, 20), 3), 1);
        assert_eq!(overlap_ns(span(0, 4), span(6, 20), 0), 0);
    }
}
