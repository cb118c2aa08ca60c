//! SPTE value chains of the TDP MMU: two changes of one SPTE, each of which found it as it was before the other (K03).
//!
//! ```text
//! vcpu, lockless fault                 notifier, under mmu_lock
//!                                      reads *sptep: RO
//! cmpxchg RO to W
//! mark
//!                                      stores none, not atomically       <- its record says RO to none
//! ```
//!
//! In either order one of them would have found another value (ba3a6120a4e7). A, D and the direction closed to open
//! are left out: the CPU and lockless faults in progress change them without a record. Whatever else is seen of the
//! page within the time that either change can have taken explains the values, and so does whatever hides changes:
//! dropped records, splits, changes that name no VM, several roots.

use crate::event::{Event, EventKind, Gfn, IoctlOp, Nanos, Span, Spte, VmId};
use crate::order::Ordinal;
use crate::verdict::RuleId;
use crate::verdict::page::{Page, Protection, page_flag};

use super::case::PageAt;
use super::slot::WordSeen;
use super::{At, Detector};

/// Two changes whose values do not fit, until everything that may explain them has been seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Misfit {
    slot: usize,
    gfn: Gfn,
    /// The change that left the SPTE writable.
    opened: Ordinal,
    /// The one that found it read-only.
    found: Ordinal,
    until: Nanos,
}

/// Operations that were under way at a change have left their record so much later.
const GRACE_NS: u64 = 200_000_000;

/// Misfits kept per VM; a healthy kernel has few at a time, beside harvest words that have not ended.
const MISFITS_MAX: usize = 64;

impl Detector {
    /// A change found `old` in the SPTE of a page that was `before`.
    #[inline]
    pub(super) fn note_chain(&mut self, at: At<'_>, page: PageAt, before: &Page, old: Spte) {
        if before.protection == Protection::Open {
            self.note_found(at, page, before, old);
        }
    }

    /// As [`Self::note_chain`], of a page that was left open.
    #[inline(never)]
    fn note_found(&mut self, at: At<'_>, (vm, slot, gfn): PageAt, page: &Page, old: Spte) {
        let masks = &self.ctx.masks;
        // Without A in hardware, aging takes W away.
        if masks.pml || masks.accessed == 0 || self.vms[vm].has_other_roots {
            return;
        }
        let is_misfit = masks.is_present(old)
            && !masks.is_open(old)
            && !page.is_shared()
            && !page.has(page_flag::SHADOW);
        let opened = page.changed.ordinal(self.ctx.spool.newest());
        if is_misfit && self.ctx.known_since <= opened && self.vms[vm].misfits.len() < MISFITS_MAX {
            let until = Nanos(at.event.span.hi.0.saturating_add(GRACE_NS));
            let misfit = Misfit { slot, gfn, opened, found: at.ordinal, until };
            self.vms[vm].misfits.push(misfit);
        }
    }

    /// A harvest word explains why a page it covers was found read-only before its record came.
    #[inline]
    pub(super) fn explain_chain(&mut self, vm: usize, word: &WordSeen) {
        if !self.vms[vm].misfits.is_empty() {
            let since = word.visit.lo.0.saturating_sub(self.ctx.epsilon_ns);
            let covers = |misfit: &Misfit| {
                let bit = misfit.gfn.bit_in(word.first);
                misfit.slot == word.slot && bit.is_some_and(|bit| word.mask & bit != 0)
            };
            let found = |misfit: &Misfit| misfit.until.0 - GRACE_NS;
            self.vms[vm].misfits.retain(|misfit| !covers(misfit) || found(misfit) < since);
        }
    }

    /// Judges the misfits for which nothing more can come.
    pub(super) fn settle_chains(&mut self, vm: usize) {
        while let Some(misfit) = self.vms[vm].misfits.first().copied() {
            if self.ctx.now <= misfit.until {
                return;
            }
            self.vms[vm].misfits.remove(0);
            self.judge_misfit(vm, misfit);
        }
    }

    fn judge_misfit(&mut self, vm: usize, misfit: Misfit) {
        let Misfit { slot, gfn, opened, found, until } = misfit;
        let spool = &self.ctx.spool;
        let (Some(one), Some(other)) = (spool.event(opened), spool.event(found)) else { return };
        let Some((since, bracket)) = self.bracket_of(&other, found) else { return };
        if self.vms[vm].has_other_roots {
            return;
        }
        let epsilon = self.ctx.epsilon_ns;
        let is_ordered = one.span.hi.0.saturating_add(epsilon) < since.0;
        let fits = !is_ordered && self.fits(&other, &one);
        // The record of a store may come long after it: what closed the page again is looked for since its begin.
        let Some((begun, _)) = self.bracket_of(&one, opened) else { return };
        let since = since.min(begun);
        let around = Span { lo: since, hi: until };
        if fits || self.ctx.has_gap_in(around) || self.is_explained(vm, misfit, since) {
            return;
        }
        if !self.ctx.rules.is_on(RuleId::K03) {
            return;
        }
        let case = self.violation((vm, slot, gfn), until);
        let records = [
            (opened, "makes the page writable"),
            (found, "finds it read-only"),
            (bracket, "ends the bracket of that change"),
            (self.ctx.spool.newest(), "shows that nothing else was under way"),
        ];
        self.report(case, &records, || {
            format!("the SPTE of gfn {gfn} was left writable and found read-only, and no order explains it")
        });
    }

    /// Since when the change can have happened, and the record that says so: its own begin, or that of the bracket
    /// around it.
    fn bracket_of(&self, change: &Event, ordinal: Ordinal) -> Option<(Nanos, Ordinal)> {
        if change.span.lo < change.span.hi {
            return Some((change.span.lo, ordinal));
        }
        let later = self.ctx.spool.after(ordinal).map(|(ordinal, _)| ordinal);
        let own = later.filter_map(|ordinal| Some((ordinal, self.ctx.spool.event(ordinal)?)));
        let mut own = own.filter(|(_, event)| event.tid == change.tid);
        own.find_map(|(ordinal, event)| {
            let is_bracket = match event.kind {
                EventKind::Invalidate { .. } | EventKind::Fault { .. } => true,
                EventKind::IoctlEnd { op, .. } => op.op != IoctlOp::SetMemory,
                _ => false,
            };
            is_bracket.then_some((event.span, ordinal))
        })
        .filter(|(span, _)| span.contains(change.span))
        .map(|(span, ordinal)| (span.lo, ordinal))
    }

    /// The second change may have come first: the other then found what it left.
    fn fits(&self, first: &Event, second: &Event) -> bool {
        let masks = &self.ctx.masks;
        let (Some(left), Some(expected)) = (left_by(first, masks.writable), found_by(second))
        else {
            return true;
        };
        let is_present = masks.is_present(left);
        is_present == masks.is_present(expected)
            && (!is_present || masks.is_open(left) == masks.is_open(expected))
    }

    /// Something else touched the page, or may have, since the earlier of both can have begun.
    fn is_explained(&self, vm: usize, misfit: Misfit, since: Nanos) -> bool {
        let Misfit { gfn, opened, found, until, .. } = misfit;
        let id = self.vms[vm].id;
        let spool = &self.ctx.spool;
        let end = |n: Ordinal| spool.record(n).map_or(Nanos(0), |record| Nanos(record.ts_ns));
        let found_at = end(found);
        let epsilon = self.ctx.epsilon_ns;
        let back = (spool.oldest()..found).rev();
        let back = back.take_while(|&n| since.0 <= end(n).0.saturating_add(epsilon));
        let ahead = spool.after(found).map(|(ordinal, _)| ordinal);
        let ahead = ahead.take_while(|&n| end(n) <= until);
        let mut others = back.chain(ahead).filter(|&n| n != opened && n != found);
        others.any(|n| {
            spool.event(n).is_some_and(|event| {
                let is_own = event.vm == id || event.vm == VmId::UNKNOWN;
                let begun = || self.bracket_of(&event, n).map(|(begun, _)| begun);
                let is_later = |begun: Nanos| found_at.0.saturating_add(epsilon) < begun.0;
                is_own && concerns(&event, gfn) && !begun().is_some_and(is_later)
            })
        })
    }
}

/// The value that a change found.
const fn found_by(event: &Event) -> Option<Spte> {
    match event.kind {
        EventKind::SpteChange { old, .. } => old,
        EventKind::FastFault { old, .. } => Some(old),
        _ => None,
    }
}

/// The value that a change left.
const fn left_by(event: &Event, writable: u64) -> Option<Spte> {
    match event.kind {
        EventKind::SpteChange { new, .. } => Some(new),
        EventKind::FastFault { old, .. } => Some(Spte(old.0 | writable)),
        _ => None,
    }
}

/// The event shows, or may hide, a change of the page's SPTE.
fn concerns(event: &Event, gfn: Gfn) -> bool {
    match event.kind {
        EventKind::SpteChange { page, .. } | EventKind::Split { page, .. } => {
            let npages = super::fault::pages_of_level(page.level);
            3 < page.level || page.gfn.0 & !(npages - 1) == gfn.0 & !(npages - 1)
        }
        EventKind::FastFault { page, fixed, .. } => fixed && page.gfn == gfn,
        EventKind::HarvestWord { first, mask, protected, .. } => {
            gfn.bit_in(first).is_some_and(|bit| (mask | protected) & bit != 0)
        }
        EventKind::SlotProtect { .. } | EventKind::Zap { .. } => true,
        _ => false,
    }
}
