//! Bits that CLEAR takes and no GET has read (K14).

use crate::event::{Gfn, IoctlOp, Nanos, Operation, Span};
use crate::order::Ordinal;
use crate::verdict::page::{Report, page_flag};
use crate::verdict::{RuleId, UnknownCause, Verdict};

use super::case::Case;
use super::harvest::bits;
use super::slot::WordSeen;
use super::thread::OpenIoctl;
use super::{At, Detector};

impl Detector {
    /// K14: CLEAR takes bits that no GET has read.
    pub(super) fn judge_unread(&mut self, at: At<'_>, word: &WordSeen, ioctl: &OpenIoctl) {
        let vm = ioctl.vm;
        let slot = &self.vms[vm].slots[word.slot];
        let is_judged = ioctl.op.op == IoctlOp::ClearDirtyLog
            && self.ctx.rules.is_on(RuleId::K14)
            && (slot.last_get.is_some() || slot.committed.is_some());
        if !is_judged {
            return;
        }
        let slot_get = slot.last_get;
        let returned = slot_get.map_or(0, |get| get.hi.0);
        let returned = Nanos(returned.saturating_add(self.ctx.epsilon_ns));
        let newest = self.ctx.spool.newest();
        for bit in bits(word.mask) {
            let gfn = Gfn(word.first.0.wrapping_add(bit));
            let page = self.vms[vm].slots[word.slot].pages.get(gfn);
            let mark = page.mark.ordinal(newest);
            let may_be_earlier = page.has(page_flag::INITIALLY_SET | page_flag::FIRST_UNSURE);
            if page.report != Report::Marked || may_be_earlier {
                continue;
            }
            let Some(event) = self.ctx.spool.event(mark) else {
                // It may have begun before the GET returned; only one that had ended before is certainly read.
                if self.is_before_get(vm, word.slot, mark) != Some(true) {
                    self.unknown_page((vm, word.slot, gfn), UnknownCause::Limit);
                }
                continue;
            };
            let early = if event.span.lo <= returned {
                Some(event.span)
            } else if page.has(page_flag::MARKED_AGAIN) {
                self.earlier_mark(vm, (word.slot, gfn), mark, returned)
            } else {
                None
            };
            if let Some(marked) = early {
                let begun = slot_get.map_or(0, |get| get.lo.0);
                if begun <= marked.hi.0.saturating_add(self.ctx.epsilon_ns) {
                    // Whether the GET that ran meanwhile has read the bit, no record of this plan shows.
                    let cause = UnknownCause::NotObserved(Operation::HarvestWord);
                    self.unknown_page((vm, word.slot, gfn), cause);
                }
                continue;
            }
            if self.ctx.has_gap_since(event.span.lo) || mark < self.ctx.known_since {
                self.ledger.unknown(UnknownCause::Dropped, 1);
                continue;
            }
            self.report_unread(at, vm, word.slot, gfn, mark);
        }
    }

    /// Of the marks that came after the record of the first one, one that may have begun before the GET returned.
    ///
    /// ```text
    /// vcpu0   mark gfn 7 begins .. sets the bit ..................... returns
    /// vmm                              GET reads the bit
    /// vcpu1                                               mark gfn 7        (its record comes first)
    /// ```
    fn earlier_mark(
        &self,
        vm: usize,
        (slot, gfn): (usize, Gfn),
        first: Ordinal,
        returned: Nanos,
    ) -> Option<Span> {
        let marks = &self.vms[vm].marks;
        let later = marks.iter().take_while(|mark| first < mark.ordinal);
        let own = later.filter(|mark| mark.slot == slot && mark.gfn == gfn);
        // What is no longer kept may have been as early as can be.
        let any = Span { lo: Nanos(0), hi: Nanos(u64::MAX) };
        let spans = own.map(|mark| self.ctx.spool.event(mark.ordinal).map_or(any, |e| e.span));
        let found = spans.filter(|span| span.lo <= returned).last();
        let is_forgotten = marks.has_forgotten() && marks.iter().all(|mark| first < mark.ordinal);
        found.or_else(|| is_forgotten.then_some(any))
    }

    fn report_unread(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn, mark: Ordinal) {
        let verdict = if self.ctx.is_final { Verdict::Lost } else { Verdict::Exposed };
        let case = Case::on_page(RuleId::K14, verdict, (vm, slot, gfn), at.event.span.hi);
        let records = [(mark, "marks the page after the last GET"), (at.ordinal, "clears the bit")];
        self.report(case, &records, || {
            format!("CLEAR took the bit of gfn {gfn}, which was set only after the last GET had returned")
        });
    }
}
