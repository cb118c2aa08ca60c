//! Dirty marks: what they report, and whether they recorded anything (K07).

use crate::event::{EventKind, Gfn, IoctlOp, MarkWord, Nanos, Operation, Span};
use crate::order::Ordinal;
use crate::verdict::page::{Page, Report, page_flag};
use crate::verdict::{LookAlike, RuleId, UnknownCause, Verdict};

use super::case::Case;
use super::due::{Due, DueMark};
use super::pending::PendingMark;
use super::slot::{MarkSeen, Slot, WordSeen};
use super::{At, Detector, Release};

/// From 2efd61a608b0 (5.17) to 6.1, marks of threads that run no vCPU are dropped (`mark_page_dirty_in_slot`,
/// virt/kvm/kvm_main.c); 86bdf3ebcfe1 (6.2) keeps them in the bitmap.
const MARK_WITHOUT_VCPU: &str = "5.17 to 6.1 drop marks without a running vCPU";

fn drops_marks_without_vcpu(release: Release) -> bool {
    let first = Release { major: 5, minor: 17 };
    (first..=Release { major: 6, minor: 1 }).contains(&release)
}

impl Detector {
    pub(super) fn on_mark(&mut self, at: At<'_>) {
        let EventKind::Mark { gfn, slot, word, spte, has_vcpu, in_fast } = at.event.kind else {
            return;
        };
        let vm = self.vm(at.event.vm);
        let Some(slot_index) = self.slot_by_ref(vm, at, slot, gfn) else { return };
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        let known = &self.vms[vm];
        let found = &known.slots[slot_index];
        thread.marks.push(PendingMark {
            vm,
            slot: slot_index,
            gfn,
            ordinal: at.ordinal,
            span: at.event.span,
            was_open: spte.map(|spte| self.ctx.masks.is_open(spte)),
            word,
            vcpu: thread.vcpu,
            is_logged: slot.logging,
            in_fast,
            is_claimed: false,
            drained: None,
            after_steal_time: known.ring_bytes == 0
                && found.pages.get(gfn).has(page_flag::STEAL_TIME),
        });
        let is_set = matches!(word, MarkWord::Bitmap(bits) if found.bit(gfn, bits) == Some(true));
        if !thread.stores.is_empty() {
            self.claim_awaited(at, vm, place);
        }
        if !slot.logging {
            self.note_old_slot(at, vm, slot_index);
            return;
        }
        if let MarkWord::Ring(index) = word
            && self.push_ring(at, vm, slot_index, gfn, index)
        {
            self.benign(LookAlike::MarkTakenAtOnce);
            return;
        }
        let known = &self.vms[vm];
        if known.ring_bytes == 0 && !known.slots[slot_index].is_logging {
            // Its bitmap is on its way out.
            self.benign(LookAlike::OldSlotMark);
            return;
        }
        if is_set && has_vcpu || !self.is_mark_dropped(at, vm, slot_index) {
            self.note_mark(at, vm, slot_index, gfn);
            if self.ctx.masks.pml {
                self.note_pml(at, vm, slot_index, gfn);
            }
        }
    }

    /// The page is reported, unless a harvest that ran at the same time took the mark at once.
    #[inline]
    pub(super) fn note_mark(&mut self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) {
        let is_racing = self.is_beside_word(vm, at.event.span.lo);
        let report = if is_racing { self.report_after_race(at, vm, slot, gfn) } else { None };
        let Self { vms, ctx, budget, .. } = self;
        let known = &mut vms[vm];
        let found = &mut known.slots[slot];
        known.marks.push(MarkSeen { slot, gfn, hi: at.event.span.hi, ordinal: at.ordinal });
        if let Some(page) = found.pages.get_mut(gfn, budget) {
            if known.ring_bytes == 0 {
                page.set(page_flag::STEAL_TIME, false);
            }
            match report {
                None => {
                    let is_known = ctx.known_since <= page.taken.ordinal(ctx.spool.newest());
                    Slot::mark(page, &mut found.marked, at.ordinal, is_known);
                }
                Some(_) if page.report == Report::Marked => {}
                Some(report) => page.report = report,
            }
        } else {
            self.limit_reached = Some(ctx.now);
            self.ledger.unknown(UnknownCause::Limit, 1);
        }
        if report == Some(Report::Clean) {
            self.benign(LookAlike::MarkTakenAtOnce);
        }
        self.weaken_hasty(at, (vm, slot, gfn), report != Some(Report::Clean));
    }

    /// What a page is once the word has taken its bit: reported still if a later mark outlived the xchg, which is
    /// then named.
    ///
    /// One mark alone of a page known to be clean was taken, as the mask shows; of several, the last may have come
    /// after the xchg although its record came before the word's.
    pub(super) fn report_after_take(
        &self,
        vm: usize,
        word: &WordSeen,
        gfn: Gfn,
    ) -> (Report, Ordinal) {
        let page = self.vms[vm].slots[word.slot].pages.get(gfn);
        let several = page_flag::MARKED_AGAIN | page_flag::FIRST_UNSURE | page_flag::INITIALLY_SET;
        let is_one = !page.has(several);
        if page.report != Report::Marked || is_one {
            return (Report::Clean, 0);
        }
        let (marks, epsilon) = (&self.vms[vm].marks, self.ctx.epsilon_ns);
        let may_follow = |mark: &&MarkSeen| word.xchg.lo.0 <= mark.hi.0.saturating_add(epsilon);
        let mut recent = marks.iter().take_while(may_follow);
        let Some(last) = recent.find(|mark| mark.gfn == gfn && mark.slot == word.slot) else {
            let is_forgotten = marks.has_forgotten() && marks.iter().all(|mark| may_follow(&mark));
            return (if is_forgotten { Report::Maybe } else { Report::Clean }, 0);
        };
        (self.mark_against_xchg(vm, word, last), last.ordinal)
    }

    /// A mark that may have come after the xchg of a word that took its page.
    fn mark_against_xchg(&self, vm: usize, word: &WordSeen, mark: &MarkSeen) -> Report {
        let Some(event) = self.ctx.spool.event(mark.ordinal) else { return Report::Maybe };
        let re_read = match event.kind {
            EventKind::Mark { word: MarkWord::Bitmap(bits), .. } => {
                self.vms[vm].slots[word.slot].bit(mark.gfn, bits)
            }
            _ => None,
        };
        let outlived = word.xchg.hi.0.saturating_add(self.ctx.epsilon_ns);
        match re_read {
            _ if outlived < event.span.lo.0 => Report::Marked,
            // The bit outlived the xchg.
            Some(true) if outlived < event.span.hi.0 => Report::Marked,
            // The xchg came between `set_bit` and the re-read.
            Some(false) => Report::Clean,
            Some(true) | None => Report::Maybe,
        }
    }

    /// `None`: the mark certainly follows the harvest word that took the page last.
    #[inline(never)]
    fn report_after_race(&self, at: At<'_>, vm: usize, slot: usize, gfn: Gfn) -> Option<Report> {
        let slot = &self.vms[vm].slots[slot];
        let taken = slot.pages.get(gfn).taken.ordinal(self.ctx.spool.newest());
        // A word that has left the spool is long past.
        let word = self.ctx.spool.event(taken)?;
        let xchg_hi = match word.kind {
            EventKind::UserWord { .. } => word.span.hi,
            _ => word.span.lo,
        };
        let epsilon = self.ctx.epsilon_ns;
        if xchg_hi.0.saturating_add(epsilon) < at.event.span.lo.0 {
            return None;
        }
        let word = match at.event.kind {
            EventKind::Mark { word: MarkWord::Bitmap(word), .. } => slot.bit(gfn, word),
            _ => None,
        };
        match word {
            // The bit outlived the xchg.
            Some(true) if xchg_hi.0.saturating_add(epsilon) < at.event.span.hi.0 => None,
            // The xchg came between `set_bit` and the re-read.
            Some(false) => Some(Report::Clean),
            Some(true) | None => Some(Report::Maybe),
        }
    }

    /// K07: the mark recorded nothing.
    #[inline(never)]
    fn is_mark_dropped(&mut self, at: At<'_>, vm: usize, slot: usize) -> bool {
        let EventKind::Mark { gfn, slot: object, word, has_vcpu, .. } = at.event.kind else {
            return false;
        };
        let bit = match word {
            MarkWord::Ring(_) => return false,
            MarkWord::Bitmap(word) => self.vms[vm].slots[slot].bit(gfn, word),
            MarkWord::Unread => None,
        };
        let is_ring = self.vms[vm].ring_bytes != 0;
        match bit {
            Some(true) => {
                if !has_vcpu {
                    self.benign(LookAlike::MarkWithoutVcpu);
                }
                return false;
            }
            Some(false) if self.may_be_harvested(vm, slot, at.event.span, gfn) => {
                if self.ctx.has_gap_in(at.event.span) {
                    // The harvest that took the bit is among the dropped, or there was none.
                    self.unknown_page((vm, slot, gfn), UnknownCause::Dropped);
                }
                return false;
            }
            None if is_ring => {
                let place = self.threads.place(at.event.tid);
                if self.threads.get_mut(place).has_pushed((vm, slot, gfn), at.event.span.lo) {
                    return false;
                }
            }
            Some(false) => {}
            // `mark_page_dirty_in_slot()` does nothing where there is neither ring nor bitmap.
            None if object.logging && !object.has_bitmap && self.vms[vm].origin.is_some() => {}
            None => {
                if !has_vcpu && drops_marks_without_vcpu(self.ctx.release) {
                    let cause = UnknownCause::NotObserved(Operation::Mark);
                    self.ledger.unknown(cause, 1);
                }
                return false;
            }
        }
        if !self.ctx.rules.is_on(RuleId::K07) {
            return false;
        }
        let (span, ordinal) = (at.event.span, at.ordinal);
        self.wait(span.hi, Due::Mark(DueMark { vm, slot, gfn, span, ordinal, has_vcpu }));
        true
    }

    #[inline(never)]
    pub(super) fn report_dropped_mark(&mut self, mark: DueMark) {
        let DueMark { vm, slot, gfn, span, ordinal, has_vcpu } = mark;
        let is_known =
            !has_vcpu && self.vms[vm].ring_bytes == 0 && drops_marks_without_vcpu(self.ctx.release);
        let case = Case {
            known: is_known.then_some(MARK_WITHOUT_VCPU),
            ..Case::on_page(RuleId::K07, Verdict::Lost, (vm, slot, gfn), span.hi)
        };
        let records = [(ordinal, "marks the page; nothing is recorded")];
        self.report(case, &records, || {
            let vcpu = if has_vcpu { "" } else { ", no vCPU ran on the thread" };
            format!("the mark of gfn {gfn} recorded nothing{vcpu}")
        });
    }

    /// A harvest may have taken the bit of the page within `span`.
    pub(super) fn may_be_harvested(&self, vm: usize, slot: usize, span: Span, gfn: Gfn) -> bool {
        let found = &self.vms[vm].slots[slot];
        let offset = gfn.0.wrapping_sub(found.base.0);
        let is_known = found.npages != 0;
        let takes = |(first, count): (u64, u64)| {
            !is_known || count == 0 || offset.wrapping_sub(first) < count
        };
        // Of harvests that are kept no more, the page's last word would tell.
        let is_blind = found.recent.has_forgotten() && !self.ctx.rules.is_whole(RuleId::K07);
        0 < self.harvests_over(vm, slot, span, takes)
            || self.ctx.has_gap_in(span)
            || self.is_taken_since(vm, slot, span, gfn)
            || is_blind
    }

    /// [`Self::harvests_in`] for the many spans that no harvest was near.
    pub(super) fn harvests_beside(&self, vm: usize, slot: usize, span: Span) -> u32 {
        let newest = self.vms[vm].slots[slot].recent.iter().next();
        let is_near =
            newest.is_some_and(|(harvest, _)| !harvest.is_before(span, self.ctx.epsilon_ns));
        let is_open = self.vms[vm].open_harvests != 0;
        if is_near || is_open { self.harvests_in(vm, slot, span) } else { 0 }
    }

    /// Harvests of the slot that can have run inside `span`.
    pub(super) fn harvests_in(&self, vm: usize, slot: usize, span: Span) -> u32 {
        self.harvests_over(vm, slot, span, |_| true)
    }

    /// As [`Self::harvests_in`], of those whose range of pages (CLEAR; empty: all) is asked for.
    fn harvests_over(
        &self,
        vm: usize,
        slot: usize,
        span: Span,
        takes: impl Fn((u64, u64)) -> bool,
    ) -> u32 {
        let epsilon = self.ctx.epsilon_ns;
        let done = self.vms[vm].slots[slot].recent.iter();
        let done = done.filter(|(harvest, range)| {
            !harvest.is_before(span, epsilon) && !span.is_before(*harvest, epsilon) && takes(*range)
        });
        let done = done.count() as u32;
        if self.vms[vm].open_harvests == 0 {
            return done;
        }
        let open = self.threads.iter().filter_map(|thread| thread.ioctl.as_ref()).filter(|ioctl| {
            ioctl.vm == vm
                && matches!(
                    ioctl.op.op,
                    IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog | IoctlOp::ResetDirtyRings
                )
                && (ioctl.slot.is_none() || ioctl.slot == Some(slot))
                && ioctl.begin.is_none_or(|begin| begin.0 <= span.hi.0.saturating_add(epsilon))
                && takes(ioctl.range())
        });
        done + open.count() as u32
    }

    /// K07 from the other side: pages marked before the harvest began, none of whose words took them.
    pub(super) fn judge_overdue(&mut self, at: At<'_>, vm: usize, slot: usize, begin: Nanos) {
        let found = &self.vms[vm].slots[slot];
        // The harvest found nothing only where it would have shown what it found.
        if found.overdue == 0 || !self.ctx.rules.is_whole(RuleId::K07) {
            return;
        }
        let newest = self.ctx.spool.newest();
        let epsilon = self.ctx.epsilon_ns;
        let is_overdue = |page: &Page| {
            let mark = page.mark.ordinal(newest);
            page.report == Report::Marked
                && self.ctx.known_since <= mark
                && mark < found.harvest_begun
                && self.ctx.spool.ended_by(mark).0.saturating_add(epsilon) < begin.0
        };
        let overdue: Vec<_> = found
            .pages
            .iter()
            .filter(|(_, page)| is_overdue(page))
            .map(|(gfn, page)| (gfn, page.mark.ordinal(newest)))
            .collect();
        let begun = found.harvest_begun;
        for (gfn, mark) in overdue {
            let case = Case::on_page(RuleId::K07, Verdict::Lost, (vm, slot, gfn), at.event.span.hi);
            let records = [
                (mark, "marks the page"),
                (begun, "begins to harvest the slot"),
                (at.ordinal, "returns without the page"),
            ];
            self.report(case, &records, || {
                format!(
                    "gfn {gfn} was marked before the harvest, and the harvest did not find the bit"
                )
            });
            self.with_page(vm, slot, gfn, |page, marked| {
                page.report = Report::Clean;
                *marked = marked.saturating_sub(1);
            });
        }
    }
}
