//! Follows one page: picks its events out of the batches that pass, for live traces and recordings alike.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Journey, Request};
use crate::event::{
    Batch, Event, EventKind, Gfn, IoctlOp, Kind, Nanos, PageRef, RawEvent, SlotId, VmId, decode,
};

/// Follows one page.
#[derive(Clone, Debug)]
pub struct Follower {
    /// First gfn and pages of the slots seen, also while no page is followed: a slot is told of once.
    slots: BTreeMap<(VmId, SlotId), (Gfn, u64)>,
    journey: Option<Arc<Journey>>,
    events_max: usize,
    watermark: Nanos,
}

impl Default for Follower {
    fn default() -> Self {
        Self::keeping(Journey::EVENTS_MAX)
    }
}

impl Follower {
    /// Follows nobody yet; of the page followed later, the newest `events_max` events are kept.
    #[must_use]
    pub fn keeping(events_max: usize) -> Self {
        Self { slots: BTreeMap::new(), journey: None, events_max, watermark: Nanos(0) }
    }

    /// Heeds requests to follow; all others are not for it.
    pub fn ask(&mut self, request: Request) {
        match request {
            Request::Follow { vm, gfn } => {
                let journey = Journey { vm, gfn, since: self.watermark, ..Journey::default() };
                self.journey = Some(Arc::new(journey));
            }
            Request::Unfollow => self.journey = None,
            Request::Look(_)
            | Request::LookAway
            | Request::PlayOrPause
            | Request::Faster
            | Request::Slower
            | Request::Seek(_) => {}
        }
    }

    /// The page followed and its events so far.
    #[must_use]
    pub fn journey(&self) -> Option<Arc<Journey>> {
        self.journey.clone()
    }

    /// A page is followed.
    #[must_use]
    pub const fn is_following(&self) -> bool {
        self.journey.is_some()
    }

    /// Picks what concerns the page out of a batch.
    pub fn take(&mut self, batch: &Batch) {
        self.watermark = self.watermark.max(batch.watermark);
        let mut found = self.find(batch.records.iter());
        // Lanes come one after the other; batches follow each other in time, so sorting within one is enough.
        found.sort_by_key(|(key, _)| *key);
        self.add(found);
    }

    /// Notes the slots of a batch: they are told of once, whoever is followed later.
    pub fn take_slots(&mut self, batch: &Batch) {
        let is_slot = |record: &&RawEvent| record.kind == Kind::SlotState as u8;
        for event in batch.records.iter().filter(is_slot).filter_map(|record| decode(record).ok()) {
            self.take_slot(&event);
        }
    }

    /// Picks what concerns the page out of records in merge order.
    pub fn pick<'a>(&mut self, records: impl Iterator<Item = &'a RawEvent>) {
        let found = self.find(records);
        self.add(found);
    }

    fn find<'a>(&mut self, records: impl Iterator<Item = &'a RawEvent>) -> Vec<(SortKey, Event)> {
        let mut found = Vec::new();
        for record in records {
            // Most records are of pages nobody follows: only what may matter is decoded.
            if !self.is_following() && record.kind != Kind::SlotState as u8 {
                continue;
            }
            let Ok(event) = decode(record) else { continue };
            self.take_slot(&event);
            if let Some(journey) = &self.journey
                && (event.vm == journey.vm || event.vm == VmId::UNKNOWN)
                && self.concerns(&event, journey.gfn)
            {
                found.push((sort_key(record), event));
            }
        }
        found
    }

    fn add(&mut self, found: Vec<(SortKey, Event)>) {
        if let Some(journey) = self.journey.as_mut().filter(|_| !found.is_empty()) {
            let journey = Arc::make_mut(journey);
            journey.total += found.len() as u64;
            journey.events.extend(found.into_iter().map(|(_, event)| event));
            let excess = journey.events.len().saturating_sub(self.events_max);
            journey.events.drain(..excess);
        }
    }

    /// What came before this time was not looked at.
    pub fn begin_at(&mut self, since: Nanos) {
        if let Some(journey) = &mut self.journey {
            Arc::make_mut(journey).since = since;
        }
    }

    fn take_slot(&mut self, event: &Event) {
        if let EventKind::SlotState { slot, base, npages, .. } = event.kind {
            self.slots.insert((event.vm, slot.id), (base, npages));
        }
    }

    fn concerns(&self, event: &Event, gfn: Gfn) -> bool {
        let is_in_slot = |slot: SlotId| {
            let found = self.slots.get(&(event.vm, slot));
            found.is_some_and(|&(base, npages)| is_in(gfn, base, npages))
        };
        match event.kind {
            EventKind::Mark { gfn: marked, .. } | EventKind::RmapAdd { gfn: marked, .. } => {
                marked == gfn
            }
            EventKind::SpteChange { page, .. }
            | EventKind::FastFault { page, .. }
            | EventKind::SpteSet { page, .. }
            | EventKind::Split { page, .. }
            | EventKind::Zap { page } => is_mapped_by(gfn, page),
            EventKind::HarvestWord { first, mask, protected, .. } => {
                has_bit(gfn, first, mask | protected)
            }
            EventKind::UserWord { first, mask, protected, writable } => {
                has_bit(gfn, first, mask | protected | writable)
            }
            EventKind::HostWrite { gpa, bytes, .. } => {
                let last = gpa.saturating_add(bytes.saturating_sub(1));
                gpa >> 12 <= gfn.0 && gfn.0 <= last >> 12
            }
            EventKind::RingPush { offset, slot, .. } => self
                .slots
                .get(&(event.vm, slot))
                .is_some_and(|&(base, _)| base.0.checked_add(offset) == Some(gfn.0)),
            EventKind::SlotState { base, npages, .. } => is_in(gfn, base, npages),
            EventKind::SlotProtect { slot, .. } => is_in_slot(slot.id),
            EventKind::Flush { first, npages, .. } => 0 < npages && is_in(gfn, first, npages),
            EventKind::IoctlBegin { op, .. } | EventKind::IoctlEnd { op, .. } => match op.op {
                IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog | IoctlOp::SetMemory => {
                    is_in_slot(op.slot)
                }
                IoctlOp::ResetDirtyRings => true,
                IoctlOp::EnableCap => false,
            },
            // These name no page: a whole VM, a host address, a guest address of unknown kind.
            EventKind::VmSeen { .. }
            | EventKind::VmGone
            | EventKind::RingReset { .. }
            | EventKind::Invalidate { .. }
            | EventKind::LockWait { .. }
            | EventKind::Fault { .. }
            | EventKind::RunBegin { .. }
            | EventKind::RunEnd { .. } => false,
        }
    }
}

impl Journey {
    /// The journey up to a time, its newest events.
    #[must_use]
    pub fn until(&self, time: Nanos) -> Self {
        let events: VecDeque<_> =
            self.events.iter().filter(|event| event.span.hi <= time).copied().collect();
        let later = (self.events.len() - events.len()) as u64;
        Self { events, total: self.total - later, ..*self }
    }
}

/// Time, CPU, number on the lane.
type SortKey = (u64, u16, u32);

fn sort_key(record: &RawEvent) -> SortKey {
    (record.ts_ns, record.cpu, record.seq)
}

fn is_in(gfn: Gfn, first: Gfn, npages: u64) -> bool {
    first <= gfn && gfn.0 - first.0 < npages
}

fn is_mapped_by(gfn: Gfn, page: PageRef) -> bool {
    // Each level maps 512 times as many pages as the one below.
    let shift = 9 * u32::from(page.level.clamp(1, 5) - 1);
    gfn.0 >> shift == page.gfn.0 >> shift
}

fn has_bit(gfn: Gfn, first: Gfn, mask: u64) -> bool {
    let bit = gfn.0.checked_sub(first.0);
    bit.is_some_and(|bit| bit < 64 && mask >> bit & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Class, CpuId, IoctlRef, Lane, MarkWord, SlotRef, Span, Tid, encode};

    const VM: VmId = VmId(0x1000);

    fn event(at: u64, kind: EventKind) -> RawEvent {
        encode(&Event {
            span: Span::at(Nanos(at)),
            vm: VM,
            tid: Tid(7),
            lane: Lane { class: Class::Page, cpu: CpuId(0) },
            seq: at as u32,
            kind,
        })
    }

    fn slot() -> SlotRef {
        SlotRef { id: SlotId { as_id: 0, id: 2 }, logging: true, has_bitmap: true }
    }

    fn mark(at: u64, gfn: u64) -> RawEvent {
        event(
            at,
            EventKind::Mark {
                gfn: Gfn(gfn),
                slot: slot(),
                word: MarkWord::Unread,
                spte: None,
                has_vcpu: true,
                in_fast: false,
            },
        )
    }

    fn check(records: Vec<RawEvent>, expected: &[u64]) {
        let mut follower = Follower::default();
        let state = EventKind::SlotState {
            slot: slot(),
            base: Gfn(0x100),
            npages: 64,
            bitmap: 0,
            commit: true,
        };
        let first =
            Batch { records: vec![event(1, state)], watermark: Nanos(1), ..Batch::default() };
        follower.take(&first);
        follower.ask(Request::Follow { vm: VM, gfn: Gfn(0x107) });
        follower.take(&Batch { records, watermark: Nanos(100), ..Batch::default() });
        let journey = follower.journey().expect("a page is followed");
        let times: Vec<_> = journey.events.iter().map(|event| event.span.hi.0).collect();
        assert_eq!(times, expected);
        assert_eq!(journey.since, Nanos(1));
    }

    #[test]
    fn only_the_page_itself_is_picked_and_in_time_order() {
        check(vec![mark(30, 0x107), mark(20, 0x108), mark(10, 0x107)], &[10, 30]);
    }

    #[test]
    fn words_count_by_their_bits() {
        let word =
            |mask| EventKind::HarvestWord { first: Gfn(0x100), mask, protected: 0, slot: slot() };
        check(vec![event(10, word(1 << 7)), event(20, word(1 << 8))], &[10]);
    }

    #[test]
    fn ring_entries_are_resolved_through_their_slot() {
        let push = |offset| EventKind::RingPush {
            offset,
            slot: slot().id,
            index: 1,
            vcpu: crate::event::VcpuId(0),
        };
        check(vec![event(10, push(7)), event(20, push(8))], &[10]);
    }

    #[test]
    fn huge_mappings_and_harvests_of_its_slot_concern_a_page() {
        let zap =
            |gfn, level| EventKind::Zap { page: PageRef { gfn: Gfn(gfn), level, as_id: None } };
        let op =
            |id| IoctlRef { op: IoctlOp::GetDirtyLog, slot: SlotId { as_id: 0, id }, mem_flags: 0 };
        let begin = |id| EventKind::IoctlBegin { op: op(id), first: 0, count: 0, flushes: 0 };
        let records = vec![
            event(10, zap(0, 2)),
            event(20, zap(0x106, 1)),
            event(30, begin(2)),
            event(40, begin(3)),
        ];
        check(records, &[10, 30]);
    }

    #[test]
    fn a_page_chosen_late_still_has_the_past_that_was_kept() {
        let mut follower = Follower::default();
        let records = vec![mark(30, 7), mark(10, 8), mark(20, 7)];
        let batch = Batch { records, watermark: Nanos(30), ..Batch::default() };
        follower.take_slots(&batch);
        follower.ask(Request::Follow { vm: VM, gfn: Gfn(7) });
        follower.begin_at(Nanos(10));
        let kept = [mark(10, 8), mark(20, 7), mark(30, 7)];
        follower.pick(kept.iter());
        let journey = follower.journey().expect("followed");
        let times: Vec<_> = journey.events.iter().map(|event| event.span.hi.0).collect();
        assert_eq!((times, journey.since), (vec![20, 30], Nanos(10)));
    }

    #[test]
    fn a_journey_can_be_cut_at_a_time() {
        let mut follower = Follower::default();
        follower.ask(Request::Follow { vm: VM, gfn: Gfn(7) });
        let records = vec![mark(10, 7), mark(20, 7), mark(30, 7)];
        follower.take(&Batch { records, watermark: Nanos(30), ..Batch::default() });
        let cut = follower.journey().expect("followed").until(Nanos(20));
        assert_eq!((cut.events.len(), cut.total), (2, 2));
        follower.ask(Request::Unfollow);
        assert!(follower.journey().is_none());
    }
}
