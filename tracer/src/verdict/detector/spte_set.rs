//! The shadow MMU at its tracepoint (tracepoint plan): the mark came before, and the bitmap word shows it.

use crate::event::{EventKind, Gfn};
use crate::verdict::ledger::Proof;
use crate::verdict::page::{Protection, page_flag};
use crate::verdict::{RuleId, Verdict, Window, WindowKind};

use super::case::Case;
use super::{At, Detector, note_sptep};

impl Detector {
    pub(super) fn on_spte_set(&mut self, at: At<'_>) {
        let EventKind::SpteSet { page, new, word, sptep, logging, ring } = at.event.kind else {
            return;
        };
        let vm = self.vm(at.event.vm);
        let Some(slot) = self.slot_by_mark(at, vm, page) else { return };
        let is_open = self.ctx.is_open(page.level, new);
        if is_open {
            self.vms[vm].last_open = self.vms[vm].last_open.max(at.event.span.hi);
            if let Some(cell) = self.vms[vm].slots[slot].heat(page.gfn) {
                cell.opened += 1;
            }
            self.resolve_suspect(at, vm, slot, page.gfn);
        }
        let protection = if is_open { Protection::Open } else { Protection::Closed };
        self.set_protection(vm, slot, page, |state| {
            state.change(protection, at.ordinal);
            state.set(page_flag::SHADOW, true);
            state.set(page_flag::HUGE, 1 < page.level);
            note_sptep(state, sptep);
        });
        if !is_open {
            return;
        }
        let is_set = word.and_then(|word| self.vms[vm].slots[slot].bit(page.gfn, word));
        match is_set {
            _ if ring || !logging => {}
            Some(true) => self.note_mark(at, vm, slot, page.gfn),
            // The tracepoint is inside `mmu_lock`, so no harvest can have taken the bit.
            Some(false) => self.report_unset(at, vm, slot, page.gfn),
            None => {}
        }
        if at.event.span.lo < at.event.span.hi {
            let harvests_inside = self.harvests_beside(vm, slot, at.event.span);
            let (vm_id, slot_id) = (self.vms[vm].id, self.vms[vm].slots[slot].id);
            self.window(Window {
                kind: WindowKind::SlowFault,
                vm: vm_id,
                slot: slot_id,
                gfn: page.gfn,
                tid: at.event.tid,
                opened: at.event.span.lo,
                closed: Some(at.event.span.hi),
                harvests_inside,
            });
        }
    }

    /// K01: W was set in a logging slot and the bit is clear, under the lock.
    fn report_unset(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) {
        if !self.ctx.rules.is_on(RuleId::K01) {
            return;
        }
        let case = Case {
            proof: Proof::Values,
            ..Case::on_page(RuleId::K01, Verdict::Lost, (vm, slot, gfn), at.event.span.hi)
        };
        let records = [(at.ordinal, "makes the page writable, its bit is clear")];
        self.report(case, &records, || {
            format!("gfn {gfn} became writable in a logging slot and its dirty bit was not set")
        });
    }
}
