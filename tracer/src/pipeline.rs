//! The pipeline: records in, a [`Summary`] out; the same for live rings and for recordings.
//!
//! ```text
//! push(batch) -> merge (order) -> decode (event) -> detector (verdict) -> summary
//! ```

use crate::event::{
    Anomaly, Batch, Event, EventKind, Gap, GapCause, Nanos, RawEvent, Setup,
    decode::{Taker, decode_for},
};
use crate::order::{Item, Merge, Note};
use crate::summary::{SlotSummary, Summary, VmSummary};
use crate::verdict::detector::Detector;
use crate::verdict::{PageRange, PageState, Window};

/// Records to judgements. Fails never, waits never.
#[derive(Clone, Debug)]
pub struct Pipeline {
    setup: Setup,
    merge: Merge,
    detector: Detector,
    summary: Summary,
}

/// Witnesses made minimal per batch, so that a burst of findings does not hold up the drain; the end does the rest.
const WITNESSES_PER_BATCH: usize = 16;

impl Pipeline {
    /// A pipeline for one trace.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let detector = Detector::new(&setup);
        let summary = Summary { rules_off: detector.rules().off(), ..Summary::default() };
        Self { setup, merge: Merge::default(), detector, summary }
    }

    /// Takes the next batch. How records are cut into batches changes nothing.
    pub fn push(&mut self, batch: &Batch) {
        let Self { merge, detector, summary, .. } = self;
        merge.push(batch, |item| take(detector, summary, item));
        self.publish();
    }

    /// The trace has ended: everything still held back is judged.
    pub fn finish(&mut self) {
        let Self { merge, detector, summary, .. } = self;
        merge.finish(|item| take(detector, summary, item));
        detector.finish();
        detector.settle_witnesses(usize::MAX);
        self.publish();
    }

    /// Keeps every window that closes until [`Self::take_windows`] asks for it; the summary keeps only the longest.
    pub fn follow_windows(&mut self) {
        self.detector.follow_windows();
    }

    /// The windows that closed since the last call, and after [`Self::finish`] those left open.
    pub fn take_windows(&mut self) -> Vec<Window> {
        self.detector.take_windows()
    }

    /// The newest records, oldest first, each with its number; only those with a number above `after`. Some 2^18 are
    /// kept.
    pub fn recent(&self, after: u64) -> impl Iterator<Item = (u64, &RawEvent)> {
        self.detector.recent(after)
    }

    /// The state of each cell of a range of pages.
    #[must_use]
    pub fn page_states(&self, range: &PageRange) -> Vec<PageState> {
        self.detector.page_states(range)
    }

    /// What is known now.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// What the pipeline was told.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Brings the read model up to date with the detector.
    fn publish(&mut self) {
        let Self { detector, summary, merge, .. } = self;
        detector.settle_witnesses(WITNESSES_PER_BATCH);
        summary.now = summary.now.max(merge.watermark());
        summary.verdicts = detector.counts();
        summary.unknown_causes = detector.causes().collect();
        summary.benign = detector.look_alikes().collect();
        summary.findings_total = detector.findings_total();
        summary.integrity_total = detector.integrity_total();
        if let Some(findings) = detector.take_findings() {
            summary.findings = findings;
        }
        let is_changed = detector.take_harvests_changed();
        if is_changed || summary.harvests_total != detector.harvests_total() {
            summary.harvests_total = detector.harvests_total();
            summary.harvests.clone_from(detector.harvests());
        }
        summary.windows.clone_from(detector.windows());
        publish_vms(detector, summary);
    }
}

/// One step of the merge into the detector and the summary.
// Where the item is made, its kind is known.
#[inline(always)]
fn take(detector: &mut Detector, summary: &mut Summary, item: Item<'_>) {
    match item {
        Item::Record(record) => take_record(detector, summary, record),
        Item::Note(note) => take_note(detector, summary, note),
        Item::Ahead(records) => detector.touch(records),
    }
}

#[cold]
fn take_note(detector: &mut Detector, summary: &mut Summary, note: Note) {
    match note {
        Note::Gap(gap) => {
            summary.add_gap(&gap);
            detector.gap(&gap);
        }
        Note::Found(n) => summary.dropped_events = summary.dropped_events.saturating_sub(n),
        Note::Late(anomaly) => {
            summary.add_anomaly(anomaly);
            // It was not judged, so it is as good as dropped.
            let from = anomaly.at;
            take_damage(detector, summary, anomaly.lane, from, summary.now.max(from));
        }
    }
}

fn take_record(detector: &mut Detector, summary: &mut Summary, record: &RawEvent) {
    summary.events += 1;
    let at = Nanos(record.ts_ns);
    summary.begin.get_or_insert(at);
    summary.now = at;
    decode_for(record, Step { detector, summary, record });
}

struct Step<'a> {
    detector: &'a mut Detector,
    summary: &'a mut Summary,
    record: &'a RawEvent,
}

impl Taker for Step<'_> {
    type Out = ();

    #[inline(always)]
    fn take(self, decoded: Result<&Event, &Anomaly>) {
        let Self { detector, summary, record } = self;
        match decoded {
            Ok(event) => {
                summary.observe(event);
                if matches!(event.kind, EventKind::VmGone | EventKind::VmSeen { created: true, .. })
                {
                    // The detector forgets the VM; what it came to is shown on, however the records were cut.
                    publish_vms(detector, summary);
                }
                detector.push(record, event);
            }
            Err(anomaly) => {
                summary.add_anomaly(*anomaly);
                take_damage(detector, summary, anomaly.lane, anomaly.at, anomaly.at);
            }
        }
    }
}

/// A record that could not be used.
fn take_damage(
    detector: &mut Detector,
    summary: &mut Summary,
    lane: crate::event::Lane,
    from: Nanos,
    to: Nanos,
) {
    let cause = GapCause::Damaged;
    let gap = Gap { lane: Some(lane), hook: None, cause, from, to, dropped: 1 };
    summary.add_gap(&gap);
    detector.gap(&gap);
}

fn publish_vms(detector: &mut Detector, summary: &mut Summary) {
    for (index, vm) in detector.vms_mut().iter_mut().enumerate() {
        if summary.vms.len() <= index {
            summary.vms.push(VmSummary::default());
        }
        let shown = &mut summary.vms[index];
        if shown.vm != vm.id {
            *shown = VmSummary::default();
        }
        shown.vm = vm.id;
        shown.tgid = vm.tgid;
        shown.manual_protect = vm.manual_protect;
        shown.ring_bytes = vm.ring_bytes;
        shown.is_gone = vm.is_gone;
        for slot in &mut vm.slots {
            if !std::mem::take(&mut slot.is_changed) {
                continue;
            }
            if slot.is_deleted {
                shown.slots.remove(&slot.id);
                continue;
            }
            let place: &mut SlotSummary = shown.slots.entry(slot.id).or_default();
            place.base = slot.base;
            place.npages = slot.npages;
            place.is_logging = slot.is_logging;
            place.logging_since = slot.logging_since;
            place.harvests = slot.harvests;
            place.pages_harvested = slot.pages_harvested;
            place.heat.clone_from(&slot.heat);
        }
    }
}
