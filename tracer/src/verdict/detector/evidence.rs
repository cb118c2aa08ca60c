//! What W at the entry of a lockless fault's mark proves: its cmpxchg came before, unless the W is another fault's.
//!
//! ```text
//! vcpu 0 (marks first)       vcpu 1                     harvester
//! fault begins, reads RO
//!                            cmpxchg RO to W
//! mark: reads W                                                                   <- of vcpu 1
//!                                                       takes the bit, clears W
//! cmpxchg RO to W                                                                 <- lost
//! ```

use crate::event::Span;

use super::Detector;
use super::slot::Opening;

impl Detector {
    /// The opening as it is proven: without the value its mark read, and the bound that rests on it, where another
    /// fault may have made the page writable between the fault's begin and its mark.
    pub(super) fn proven(&self, opening: &Opening) -> Opening {
        let mut proven = *opening;
        let has_seen_w = !opening.is_locked && opening.mark.was_open == Some(true);
        if has_seen_w && self.may_be_of_another(opening) {
            proven.mark.was_open = None;
            let fault = self.ctx.spool.event(opening.ordinal).map(|event| event.span.hi);
            proven.store.hi = fault.unwrap_or(self.ctx.now).max(opening.store.hi);
        }
        proven
    }

    fn may_be_of_another(&self, opening: &Opening) -> bool {
        let epsilon = self.ctx.epsilon_ns;
        let mark = &opening.mark;
        let seen = Span { lo: opening.store.lo, hi: mark.span.lo.max(opening.store.lo) };
        let is_inside =
            |store: Span| !store.is_before(seen, epsilon) && !seen.is_before(store, epsilon);
        let openings = &self.vms[mark.vm].openings;
        let ended = |other: &Opening| other.store.hi.max(other.mark.span.hi);
        let has_other = openings.iter().any(|other| {
            let is_other = other.mark.ordinal != mark.ordinal && other.mark.page() == mark.page();
            is_other && is_inside(Span { lo: other.store.lo, hi: ended(other) })
        });
        let may_be_forgotten = openings.has_forgotten()
            && openings.iter().all(|other| is_inside(Span { lo: seen.lo, hi: ended(other) }));
        // A lockless fault that has marked and whose record has not come.
        let is_under_way = || {
            self.threads.iter().flat_map(|thread| thread.marks.iter()).any(|other| {
                other.ordinal != mark.ordinal
                    && other.page() == mark.page()
                    && !other.is_claimed
                    && other.in_fast
                    && is_inside(Span { lo: other.span.lo, hi: self.ctx.now })
            })
        };
        has_other || may_be_forgotten || is_under_way()
    }
}
