//! Harvests: GET, CLEAR and RESET, and the pages they take; `returned` judges them.
//!
//! ```text
//! begin .. [ xchg word .. visit its SPTEs ]* .. flush .. return
//!                                                        ^ every page taken must be protected and flushed here
//! ```

use crate::event::{EventKind, Gfn, IoctlOp, IoctlRef, Nanos, Operation, SlotId};
use crate::order::Ordinal;
use crate::order::instant::{self, Bound};
use crate::order::spool::Stamp;
use crate::verdict::page::{Page, Protection, Report, page_flag};
use crate::verdict::{LookAlike, UnknownCause, Verdict};

use super::slot::WordSeen;
use super::thread::{OpenIoctl, PageTally, Suspect, TakenWord, WORDS_MAX};
use super::{At, Detector};

/// What a harvest word showed of one page.
enum Taken {
    Protected,
    Closed,
    Suspect,
    Unknown(UnknownCause),
}

impl Detector {
    pub(super) fn on_ioctl_begin(&mut self, at: At<'_>, op: IoctlRef, flushes: u64) {
        let EventKind::IoctlBegin { first, count, .. } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        self.abandon_ioctl(at);
        let ioctl = OpenIoctl {
            begin: Some(at.event.span.lo),
            args: (first, count),
            flushes,
            word_floor: (at.event.span.lo, Bound::IoctlBegin),
            ..self.open_ioctl(at, vm, op)
        };
        if let Some(open) = self.vms[vm].open_ioctls(op.op) {
            *open += 1;
        }
        if let (IoctlOp::GetDirtyLog, true, Some(slot)) = (op.op, ioctl.is_taker, ioctl.slot) {
            let slot = &mut self.vms[vm].slots[slot];
            slot.overdue = slot.marked;
            slot.harvest_begun = at.ordinal;
        }
        let place = self.threads.place(at.event.tid);
        self.threads.get_mut(place).ioctl = Some(ioctl);
    }

    pub(super) fn open_ioctl(&self, at: At<'_>, vm: usize, op: IoctlRef) -> OpenIoctl {
        let is_taker = match op.op {
            IoctlOp::GetDirtyLog => !self.vms[vm].is_manual(),
            IoctlOp::ClearDirtyLog | IoctlOp::ResetDirtyRings => true,
            IoctlOp::SetMemory | IoctlOp::EnableCap => false,
        };
        let slot = match op.op {
            IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog => self.vms[vm].known_slot(op.slot),
            IoctlOp::ResetDirtyRings | IoctlOp::SetMemory | IoctlOp::EnableCap => None,
        };
        OpenIoctl {
            op,
            vm,
            slot,
            begin: None,
            ordinal: at.ordinal,
            args: (0, 0),
            flushes: 0,
            is_taker,
            word_floor: (Nanos(0), Bound::Nothing),
            first_visit: None,
            last_visit: Nanos(0),
            protects: 0,
            first_protected: None,
            words: 0,
            pages: PageTally::default(),
            is_over: false,
            popped: None,
        }
    }

    /// The thread's open ioctl never ended in this trace.
    pub(super) fn abandon_ioctl(&mut self, at: At<'_>) {
        let place = self.threads.place(at.event.tid);
        let thread = self.threads.get_mut(place);
        if let Some(ioctl) = thread.ioctl.take() {
            thread.leave_ioctl();
            self.close_harvest(&ioctl);
            self.ledger.unknown(UnknownCause::Dropped, ioctl.pages.taken);
            self.abandon_pairs(ioctl.vm, UnknownCause::Dropped);
        }
    }

    /// The ioctl is no longer open.
    pub(super) fn close_harvest(&mut self, ioctl: &OpenIoctl) {
        if ioctl.begin.is_some()
            && let Some(open) = self.vms[ioctl.vm].open_ioctls(ioctl.op.op)
        {
            *open = open.saturating_sub(1);
        }
    }

    pub(super) fn on_harvest_word(&mut self, at: At<'_>) {
        let EventKind::HarvestWord { first, mask, protected, slot } = at.event.kind else { return };
        let vm = self.vm(at.event.vm);
        let Some(slot_index) = self.slot_by_ref(vm, at, slot, first) else { return };
        if mask == 0 {
            if protected == 0 {
                self.benign(LookAlike::EmptyBatch);
            } else {
                self.on_protect_word(at, vm, slot_index);
            }
            return;
        }
        let mut ioctl = self.taking_ioctl(at, vm, slot.id);
        let visit = at.event.span;
        let xchg = instant::xchg(ioctl.word_floor, visit).within;
        let place = self.threads.place(at.event.tid);
        // Under KVM_DIRTY_LOG_INITIALLY_SET the word may split huge pages, and yields the lock without a record.
        let is_one_hold =
            self.threads.get_mut(place).cut < visit.lo && !self.vms[vm].is_initially_set();
        ioctl.slot.get_or_insert(slot_index);
        let word = WordSeen {
            first,
            mask,
            protected,
            xchg,
            visit,
            ordinal: at.ordinal,
            slot: slot_index,
            is_one_hold,
            is_read_back: false,
        };
        self.ctx.ioctl = ioctl.ordinal;
        self.settle(at, vm, &ioctl);
        self.judge_unread(at, &word, &ioctl);
        self.judge_words_at_once(at, vm, &word);
        self.take_word(&word, &mut ioctl, place, |bit| {
            if protected & bit != 0 { Some(Protection::Closed) } else { None }
        });
        ioctl.word_floor = (visit.hi, Bound::WordBefore);
        self.explain_chain(vm, &word);
        self.vms[vm].words.push(word);
        self.vms[vm].last_word = self.vms[vm].last_word.max(visit.hi);
        self.threads.get_mut(place).ioctl = Some(ioctl);
        self.judge_beside_openings(at, vm, &word);
    }

    pub(super) fn on_user_word(&mut self, at: At<'_>) {
        let EventKind::UserWord { first, mask, protected, writable } = at.event.kind else {
            return;
        };
        let vm = self.vm(at.event.vm);
        let place = self.threads.place(at.event.tid);
        let Some(mut ioctl) = self.threads.get_mut(place).ioctl_on(vm).copied() else {
            self.ledger.unknown(UnknownCause::Dropped, u64::from(mask.count_ones()));
            return;
        };
        let slot = match self.slot_of_user_word(vm, &mut ioctl, first) {
            Ok(slot) => slot,
            Err(cause) => {
                ioctl.words += 1;
                self.threads.get_mut(place).ioctl = Some(ioctl);
                self.ledger.unknown(cause, u64::from(mask.count_ones()));
                return;
            }
        };
        if !ioctl.is_taker {
            ioctl.words += 1;
            ioctl.pages.taken += u64::from(mask.count_ones());
            self.threads.get_mut(place).ioctl = Some(ioctl);
            return;
        }
        // The word is read when all is done: xchg and visit lie anywhere since the ioctl's begin.
        let since = instant::xchg_read_back(ioctl.begin, at.event.span.hi).within;
        let word = WordSeen {
            first,
            mask,
            protected,
            xchg: since,
            visit: since,
            ordinal: at.ordinal,
            slot,
            is_one_hold: false,
            is_read_back: true,
        };
        let begin = ioctl.ordinal;
        self.take_word(&word, &mut ioctl, place, |bit| {
            if protected & bit != 0 {
                Some(Protection::Closed)
            } else if writable & bit != 0 {
                Some(Protection::Open)
            } else {
                None
            }
        });
        let is_reset = ioctl.op.op == IoctlOp::ResetDirtyRings;
        self.keep_reopened(&word, begin, is_reset);
        self.vms[vm].words.push(word);
        self.vms[vm].last_word = at.event.span.hi;
        self.threads.get_mut(place).ioctl = Some(ioctl);
    }

    /// Pages that a fault opened since the ioctl began were marked again, perhaps after the xchg. A ring has an entry
    /// for each push, of which the reset may not have popped the last.
    fn keep_reopened(&mut self, word: &WordSeen, begin: Ordinal, is_reset: bool) {
        let newest = self.ctx.spool.newest();
        let vm = self.last_vm;
        let mut reopened = 0;
        for bit in bits(word.mask) {
            let gfn = Gfn(word.first.0.wrapping_add(bit));
            let slot = &mut self.vms[vm].slots[word.slot];
            let Some(page) = slot.pages.get_mut(gfn, &mut self.budget) else { continue };
            let is_again = is_reset && page.has(page_flag::MARKED_AGAIN);
            if (is_again || begin < page.mark.ordinal(newest)) && page.report == Report::Clean {
                page.report = Report::Maybe;
                reopened += 1;
            }
        }
        self.ledger.benign(LookAlike::ReopenedInHarvest, reopened);
    }

    /// The thread's open harvest, made up if its begin was not seen.
    fn taking_ioctl(&mut self, at: At<'_>, vm: usize, slot: SlotId) -> OpenIoctl {
        let place = self.threads.place(at.event.tid);
        if let Some(ioctl) = self.threads.get_mut(place).ioctl
            && ioctl.vm == vm
        {
            return OpenIoctl { is_taker: true, ..ioctl };
        }
        self.abandon_ioctl(at);
        let op = IoctlRef { op: IoctlOp::GetDirtyLog, slot, mem_flags: 0 };
        OpenIoctl { is_taker: true, ..self.open_ioctl(at, vm, op) }
    }

    /// Takes every page of the word; `shown` says what the record shows of a page's SPTE.
    fn take_word(
        &mut self,
        word: &WordSeen,
        ioctl: &mut OpenIoctl,
        place: usize,
        shown: impl Fn(u64) -> Option<Protection>,
    ) {
        let vm = ioctl.vm;
        ioctl.words += 1;
        ioctl.first_visit.get_or_insert(word.visit.lo);
        ioctl.last_visit = word.visit.hi;
        let taken = u64::from(word.mask.count_ones());
        let slot = &mut self.vms[vm].slots[word.slot];
        slot.pages_harvested += taken;
        slot.heat_taken(word.first, word.mask);
        ioctl.pages.taken += taken;
        for bit in bits(word.mask) {
            let gfn = Gfn(word.first.0.wrapping_add(bit));
            match self.take_page(vm, word, gfn, shown(1 << bit)) {
                Taken::Protected => {
                    self.doubt_if_drained(vm, word, gfn);
                    ioctl.pages.protected += 1;
                    ioctl.first_protected.get_or_insert((word.slot, gfn, word.visit.lo));
                }
                Taken::Closed => ioctl.pages.closed += 1,
                Taken::Suspect => {
                    let suspects = &mut self.threads.get_mut(place).suspects;
                    if suspects.len() < WORDS_MAX {
                        suspects.push(Suspect {
                            slot: word.slot,
                            gfn,
                            word: word.ordinal,
                            since: word.ordinal,
                            is_popped: false,
                            is_read_back: word.is_read_back,
                        });
                    } else {
                        ioctl.pages.limit += 1;
                    }
                }
                Taken::Unknown(cause) => {
                    ioctl.pages.count_unknown(cause);
                    self.note_verdict(vm, word.slot, gfn, Verdict::Unknown);
                }
            }
        }
        let words = &mut self.threads.get_mut(place).words;
        let WordSeen { first, mask, protected, ordinal, slot, .. } = *word;
        if words.len() < WORDS_MAX {
            words.push(TakenWord { slot, first, mask, protected, ordinal });
        } else {
            ioctl.is_over = true;
        }
    }

    fn take_page(
        &mut self,
        vm: usize,
        word: &WordSeen,
        gfn: Gfn,
        shown: Option<Protection>,
    ) -> Taken {
        let has_concurrent =
            word.visit.lo.0 <= self.vms[vm].last_open.0.saturating_add(self.ctx.epsilon_ns);
        let (left, last) = self.report_after_take(vm, word, gfn);
        let Self { vms, ctx, budget, ledger, .. } = self;
        let slot = &mut vms[vm].slots[word.slot];
        let Some(page) = slot.pages.get_mut(gfn, budget) else {
            self.limit_reached = Some(ctx.now);
            return Taken::Unknown(UnknownCause::Limit);
        };
        if page.report == Report::Marked {
            slot.marked = slot.marked.saturating_sub(1);
            if page.mark.ordinal(ctx.spool.newest()) < slot.harvest_begun {
                slot.overdue = slot.overdue.saturating_sub(1);
            }
        } else if page.has(page_flag::INITIALLY_SET) {
            ledger.benign(LookAlike::InitiallySet, 1);
        } else if page.report == Report::Clean {
            ledger.benign(LookAlike::UnexplainedBit, 1);
        }
        page.report = left;
        if left == Report::Marked {
            slot.marked += 1;
            page.mark = Stamp::of(last);
        }
        page.taken = Stamp::of(word.ordinal);
        page.set(page_flag::INITIALLY_SET, false);
        page.set(page_flag::UNLOGGED, false);
        let opened_inside = has_concurrent && {
            let changed = page.changed.ordinal(ctx.spool.newest());
            page.protection == Protection::Open
                && ctx.spool.event(changed).is_some_and(|event| {
                    word.visit.lo.0 <= event.span.hi.0.saturating_add(ctx.epsilon_ns)
                })
        };
        Self::visit_page(ctx, page, word, shown, opened_inside)
    }

    /// What the visit of a taken page did to its SPTE.
    fn visit_page(
        ctx: &super::Ctx,
        page: &mut Page,
        word: &WordSeen,
        shown: Option<Protection>,
        opened_inside: bool,
    ) -> Taken {
        let state = ctx.protection(page);
        match shown {
            Some(Protection::Closed) if word.is_read_back && page.is_shared() => {
                // The one set last does not speak for the others.
                page.change(Protection::Unknown, word.ordinal);
                Taken::Unknown(UnknownCause::NotObserved(Operation::SpteChange))
            }
            Some(Protection::Closed) if opened_inside => {
                // Closed by the visit, or opened again after it: the next value seen will tell.
                page.change(Protection::Unknown, word.ordinal);
                page.report = Report::Maybe;
                Taken::Protected
            }
            Some(Protection::Closed) => {
                page.change(Protection::Closed, word.ordinal);
                Taken::Protected
            }
            Some(Protection::Open | Protection::Unknown) if opened_inside => {
                page.report = Report::Maybe;
                Taken::Protected
            }
            Some(Protection::Open | Protection::Unknown) => Taken::Suspect,
            // It was not open when visited: opened after the visit, by a fault whose mark may have been taken (K02).
            None if opened_inside => {
                page.report = Report::Maybe;
                Taken::Closed
            }
            None => match state {
                _ if !ctx.rules.has_write_protect() => {
                    Taken::Unknown(UnknownCause::NotObserved(Operation::WriteProtect))
                }
                Ok(Protection::Closed) => Taken::Closed,
                Ok(Protection::Open) if page.is_shared() => {
                    Taken::Unknown(UnknownCause::NotObserved(Operation::SpteChange))
                }
                Ok(Protection::Open) => Taken::Suspect,
                Ok(Protection::Unknown) => Taken::Unknown(UnknownCause::BeforeAttach),
                Err(cause) => Taken::Unknown(cause),
            },
        }
    }
}

/// The set bits of a word, lowest first.
pub(super) fn bits(mut word: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = u64::from(word.trailing_zeros());
        word &= word - 1;
        Some(bit)
    })
}
