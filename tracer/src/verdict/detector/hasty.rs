//! A page called lost while a mark of it was under way, which may have reported it by then.
//!
//! ```text
//! vcpu 0                     vcpu 1                harvester
//! mark gfn 7                                       takes bit 7
//!                            mark gfn 7 begins
//! SPTE becomes writable                            returns                <- lost, if the bit is not set again by now
//!                            mark gfn 7 returns                           <- it may have been: at risk
//! ```
//!
//! The record of a mark comes at its exit, so the verdict is given first and weakened when the record comes. A lockless
//! fault that has opened the page and not marked it yet, and a write of the host likewise, are under way as a whole.

use crate::event::{EventKind, Gfn, Nanos, Operation};
use crate::verdict::ledger::Key;
use crate::verdict::{RuleId, Step, UnknownCause, Verdict};

use super::case::{Case, PageAt};
use super::{At, Detector};

/// A page that was called lost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LostPage {
    pub slot: usize,
    pub gfn: Gfn,
    /// Lost from here on.
    pub at: Nanos,
    pub rule: Option<RuleId>,
}

impl Detector {
    /// Keeps the page in mind. What dropped bits and final harvests lose (K09, K11), no mark under way saves.
    pub(super) fn note_lost(&mut self, case: &Case) {
        let is_final = matches!(case.rule, RuleId::K09 | RuleId::K11);
        let (Some(slot), Some(gfn), Verdict::Lost, false) =
            (case.slot, case.gfn, case.verdict, is_final)
        else {
            return;
        };
        self.vms[case.vm].lost.push(LostPage { slot, gfn, at: case.at, rule: Some(case.rule) });
    }

    /// A mark, or a fault or write with one, was under way when its page was called lost. `is_reported`: no harvest
    /// has taken the mark at once.
    #[inline]
    pub(super) fn weaken_hasty(&mut self, at: At<'_>, page: PageAt, is_reported: bool) {
        if 0 < self.vms[page.0].lost.len() {
            self.weaken_lost(at, page, is_reported);
        }
    }

    #[cold]
    #[inline(never)]
    fn weaken_lost(&mut self, at: At<'_>, page: PageAt, is_reported: bool) {
        let (vm, slot, gfn) = page;
        let span = at.event.span;
        let epsilon = self.ctx.epsilon_ns;
        // The bracket of a mark that was dropped does not make up for it.
        let is_mark = matches!(at.event.kind, EventKind::Mark { .. });
        let may_save =
            |rule| (is_mark || rule != RuleId::K07) && (is_reported || rule == RuleId::K14);
        let mut rules = Vec::new();
        for lost in self.vms[vm].lost.iter_mut() {
            let is_under_way = span.lo.0 <= lost.at.0.saturating_add(epsilon) && lost.at <= span.hi;
            let is_its = is_under_way && (lost.slot, lost.gfn) == (slot, gfn);
            if let Some(rule) = lost.rule.take_if(|rule| is_its && may_save(*rule)) {
                rules.push(rule);
            }
        }
        let (vm_id, slot_id) = (self.vms[vm].id, self.vms[vm].slots[slot].id);
        let get = self.vms[vm].slots[slot].last_get;
        let is_read = get.is_some_and(|get| span.lo.0 <= get.hi.0.saturating_add(epsilon));
        for rule in rules {
            let key: Key = (rule, vm_id, slot_id, Some(gfn));
            if rule == RuleId::K14 && is_read {
                // The bit may be this mark's, and read.
                self.ledger.withdraw(key, UnknownCause::NotObserved(Operation::HarvestWord));
            } else if is_reported {
                let note = "was under way then, and may have reported the page";
                self.ledger.weaken(key, || Step { event: *at.event, note });
            }
        }
    }
}
