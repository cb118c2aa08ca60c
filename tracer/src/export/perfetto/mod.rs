//! Perfetto: threads and vCPUs as tracks, brackets as slices, windows and harvests as slices of their own.
//!
//! ```text
//! VM 0x.. of process 4711
//!   vCPU 0            [KVM_RUN [fault [mark]] ]
//!   thread 4712            [KVM_GET_DIRTY_LOG [harvest-word][harvest-word] [flush] ]
//!   window fast-fault   [..]     [..]
//!   marks/s, faults/s, pages taken
//! dropped records               [ring-full: 12]
//! ```
//!
//! Clock: CLOCK_MONOTONIC. A prefix of the output that ends between two packets is a valid trace.

mod flow;
mod names;
mod nest;
pub mod proto;
mod rate;
mod shape;
mod track;

use std::collections::BTreeMap;
use std::io::Write;

use self::flow::Flows;
use self::nest::{Edge, Slice, nest};
use self::proto::{
    Clock, ClockSnapshot, SEQ_INCREMENTAL_STATE_CLEARED, SEQ_NEEDS_INCREMENTAL_STATE, SystemInfo,
    TracePacket, TracePacketDefaults, TrackEvent, TrackEventType, Utsname,
};
use self::rate::{PER_SECOND, Rate, Rates};
use self::shape::{Shape, shape};
use self::track::{ROOT, Tracks, Uuid};
use super::event_row::EventRow;
use super::inventory::Inventory;
use super::row::Row;
use super::table::{GapRow, HarvestRow, Table, VerdictRow, WindowRow};
use super::{Export, ExportError, Item, Origin};
use crate::event::{Event, Nanos, Tid};
use prost::Message as _;

/// Writes a Perfetto trace.
#[derive(Debug)]
pub struct Perfetto<W> {
    out: W,
    buffer: Vec<u8>,
    tracks: Tracks,
    flows: Flows,
    rates: Rates,
    threads: BTreeMap<Tid, Thread>,
    has_gaps: bool,
}

/// A thread's open brackets.
#[derive(Debug)]
struct Thread {
    track: Uuid,
    /// An ioctl is open.
    is_inside: bool,
    held: Vec<Slice<TrackEvent>>,
}

/// Slices of one thread held back at most; KVM_RUN can last for seconds.
const HELD_MAX: usize = 4096;

/// Sequence of everything but losses.
const EVENTS: u32 = 1;

/// Sequence of losses: `previous_packet_dropped` makes readers forget the interned names of its sequence.
const LOSSES: u32 = 2;

/// Columns every event has: shown by its place on the screen, so not as annotations.
const COMMON_COLUMNS: usize = 9;

impl<W: Write> Perfetto<W> {
    /// Writes to `out`, which should be buffered.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: Vec::new(),
            tracks: Tracks::default(),
            flows: Flows::default(),
            rates: Rates::default(),
            threads: BTreeMap::new(),
            has_gaps: false,
        }
    }

    fn packet(&mut self, packet: &TracePacket) -> Result<(), ExportError> {
        const PACKET_TAG: u8 = 1 << 3 | 2;
        self.buffer.clear();
        self.buffer.push(PACKET_TAG);
        packet.encode_length_delimited(&mut self.buffer).expect("a Vec takes every write");
        self.out.write_all(&self.buffer)?;
        Ok(())
    }

    fn describe(&mut self) -> Result<(), ExportError> {
        for track in self.tracks.take_new() {
            self.packet(&TracePacket {
                trusted_packet_sequence_id: Some(EVENTS),
                track_descriptor: Some(track),
                ..TracePacket::default()
            })?;
        }
        Ok(())
    }

    fn track_event(&mut self, at: Nanos, event: TrackEvent) -> Result<(), ExportError> {
        self.describe()?;
        self.packet(&TracePacket {
            timestamp: Some(at.0),
            trusted_packet_sequence_id: Some(EVENTS),
            sequence_flags: Some(SEQ_NEEDS_INCREMENTAL_STATE),
            track_event: Some(event),
            ..TracePacket::default()
        })
    }

    fn slice(&mut self, from: Nanos, to: Nanos, begin: TrackEvent) -> Result<(), ExportError> {
        let end = end_of(begin.track_uuid);
        self.track_event(from, begin)?;
        self.track_event(to, end)
    }

    fn event(&mut self, event: &Event, inventory: &Inventory) -> Result<(), ExportError> {
        for rate in self.rates.take(event) {
            self.rate(rate, inventory)?;
        }
        self.tracks.vm(event.vm, inventory);
        let track = self.tracks.thread(event.vm, event.tid, inventory);
        let name = names::name_of(&event.kind);
        let through = self.flows.take(event, inventory);
        let row = EventRow::new(event, inventory);
        let begin = TrackEvent {
            r#type: Some(TrackEventType::SliceBegin as i32),
            track_uuid: Some(track.0),
            name_iid: Some(name.iid),
            category_iids: vec![name.category],
            debug_annotations: names::annotations(Table::Events, &row, COMMON_COLUMNS),
            flow_ids: through.passing,
            terminating_flow_ids: through.ending,
            ..TrackEvent::default()
        };
        self.place(event, track, begin)
    }

    /// Writes an event's slice or instant, or holds it back until what is around it is known.
    fn place(&mut self, event: &Event, track: Uuid, begin: TrackEvent) -> Result<(), ExportError> {
        let thread = self.threads.entry(event.tid).or_insert(Thread {
            track,
            is_inside: false,
            held: Vec::new(),
        });
        let (from, to) = (event.span.lo, event.span.hi);
        match shape(event) {
            Shape::Open => {
                // An ioctl that is still open never told its end: ioctls of one thread do not nest.
                let was_inside = std::mem::replace(&mut thread.is_inside, true);
                self.release(event.tid)?;
                if was_inside {
                    self.track_event(to, end_of(Some(track.0)))?;
                }
                self.track_event(to, begin)
            }
            Shape::Close => {
                let was_inside = std::mem::replace(&mut thread.is_inside, false);
                if !was_inside {
                    // The trace begins inside this ioctl.
                    thread.held.push(Slice { from, to, content: begin });
                    return self.release(event.tid);
                }
                self.release(event.tid)?;
                let end = TrackEvent {
                    r#type: Some(TrackEventType::SliceEnd as i32),
                    name_iid: None,
                    ..begin
                };
                self.track_event(to, end)
            }
            Shape::Slice => {
                thread.held.push(Slice { from, to, content: begin });
                let is_due = thread.held.len() >= HELD_MAX;
                if is_due { self.release(event.tid) } else { Ok(()) }
            }
            Shape::Instant => {
                let instant = TrackEvent { r#type: Some(TrackEventType::Instant as i32), ..begin };
                self.track_event(to, instant)
            }
        }
    }

    /// Writes the slices held back for a thread.
    fn release(&mut self, tid: Tid) -> Result<(), ExportError> {
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(()) };
        let track = thread.track;
        for edge in nest(std::mem::take(&mut thread.held)) {
            match edge {
                Edge::Begin(at, begin) => self.track_event(at, begin)?,
                Edge::End(at) => self.track_event(at, end_of(Some(track.0)))?,
            }
        }
        Ok(())
    }

    fn rate(&mut self, rate: Rate, inventory: &Inventory) -> Result<(), ExportError> {
        let Rate { vm, at, counts } = rate;
        let parent = self.tracks.vm(vm, inventory);
        for (name, count) in [("marks/s", counts.marks), ("faults/s", counts.faults)] {
            let track = self.tracks.counter(parent, name, "1/s");
            self.count(at, track, count * PER_SECOND)?;
        }
        Ok(())
    }

    fn count(&mut self, at: Nanos, track: Uuid, value: u64) -> Result<(), ExportError> {
        let event = TrackEvent {
            r#type: Some(TrackEventType::Counter as i32),
            track_uuid: Some(track.0),
            counter_value: Some(i64::try_from(value).unwrap_or(i64::MAX)),
            ..TrackEvent::default()
        };
        self.track_event(at, event)
    }

    /// Losses travel on a sequence of their own: as a slice to be seen, and as the format's own mark of lost data.
    fn gap(&mut self, row: &GapRow) -> Result<(), ExportError> {
        let (from, to) = (Nanos(row.from_ns.0), Nanos(row.to_ns.0));
        let lane = self.tracks.lane(ROOT, "dropped records", from, to);
        self.describe()?;
        let is_first = !std::mem::replace(&mut self.has_gaps, true);
        let begin = TrackEvent {
            r#type: Some(TrackEventType::SliceBegin as i32),
            track_uuid: Some(lane.0),
            name: Some(format!("{}: {} dropped", row.cause, row.dropped)),
            debug_annotations: names::annotations(Table::Gaps, row, 0),
            ..TrackEvent::default()
        };
        let end = end_of(Some(lane.0));
        let head = TracePacket {
            timestamp: Some(from.0),
            interned_data: Some(names::interned()),
            sequence_flags: Some(SEQ_INCREMENTAL_STATE_CLEARED | SEQ_NEEDS_INCREMENTAL_STATE),
            first_packet_on_sequence: is_first.then_some(true),
            previous_packet_dropped: Some(1),
            track_event: Some(begin),
            ..clocked(LOSSES)
        };
        self.packet(&head)?;
        self.packet(&TracePacket {
            timestamp: Some(to.0),
            sequence_flags: Some(SEQ_NEEDS_INCREMENTAL_STATE),
            trusted_packet_sequence_id: Some(LOSSES),
            track_event: Some(end),
            ..TracePacket::default()
        })
    }

    /// A slice about a VM, beside its threads.
    fn judgement<R: Row>(
        &mut self,
        parent: Uuid,
        stretch: (Nanos, Nanos),
        name: &str,
        (table, row): (Table, &R),
    ) -> Result<(), ExportError> {
        let (from, to) = stretch;
        let lane = self.tracks.lane(parent, name, from, to);
        let begin = TrackEvent {
            r#type: Some(TrackEventType::SliceBegin as i32),
            track_uuid: Some(lane.0),
            name: Some(name.to_owned()),
            category_iids: vec![names::JUDGEMENT],
            debug_annotations: names::annotations(table, row, 0),
            ..TrackEvent::default()
        };
        self.slice(from, to, begin)
    }
}

fn end_of(track: Option<u64>) -> TrackEvent {
    TrackEvent {
        r#type: Some(TrackEventType::SliceEnd as i32),
        track_uuid: track,
        ..TrackEvent::default()
    }
}

/// A packet that sets the clock of its sequence.
fn clocked(sequence: u32) -> TracePacket {
    TracePacket {
        trusted_packet_sequence_id: Some(sequence),
        trace_packet_defaults: Some(TracePacketDefaults {
            timestamp_clock_id: Some(proto::CLOCK_MONOTONIC),
        }),
        ..TracePacket::default()
    }
}

impl<W: Write> Export for Perfetto<W> {
    fn needs_judgement(&self) -> bool {
        true
    }

    fn begin(&mut self, origin: &Origin) -> Result<(), ExportError> {
        self.rates = Rates::new(&origin.setup.plan);
        let monotonic = Clock { clock_id: Some(proto::CLOCK_MONOTONIC), timestamp: Some(0) };
        self.packet(&TracePacket {
            clock_snapshot: Some(ClockSnapshot {
                clocks: vec![monotonic],
                primary_trace_clock: Some(proto::CLOCK_MONOTONIC),
            }),
            trusted_packet_sequence_id: Some(EVENTS),
            ..TracePacket::default()
        })?;
        let utsname = Utsname {
            sysname: Some(String::from("Linux")),
            release: Some(origin.setup.kernel.clone()),
        };
        let machine_name = (!origin.host.is_empty()).then(|| origin.host.clone());
        self.packet(&TracePacket {
            interned_data: Some(names::interned()),
            sequence_flags: Some(SEQ_INCREMENTAL_STATE_CLEARED),
            first_packet_on_sequence: Some(true),
            system_info: Some(SystemInfo { utsname: Some(utsname), machine_name }),
            ..clocked(EVENTS)
        })
    }

    fn item(&mut self, item: &Item<'_>, inventory: &Inventory) -> Result<(), ExportError> {
        match item {
            Item::Event(event) => self.event(event, inventory),
            Item::Gap(gap) => self.gap(&GapRow::from(*gap)),
            Item::Anomaly(anomaly) => self.gap(&GapRow::from(*anomaly)),
            Item::Window(window) => {
                // A window still open is drawn as an instant at its opening.
                let stretch = (window.opened, window.closed.unwrap_or(window.opened));
                let parent = self.tracks.vm(window.vm, inventory);
                let name = format!("window {}", window.kind.name());
                let row = WindowRow::from(*window);
                self.judgement(parent, stretch, &name, (Table::Windows, &row))
            }
            Item::Harvest(harvest) => {
                let parent = self.tracks.vm(harvest.vm, inventory);
                let pages =
                    self.tracks.counter(parent, &format!("pages taken {}", harvest.slot), "pages");
                self.count(harvest.end, pages, harvest.pages)?;
                let row = HarvestRow::from(*harvest);
                let stretch = (harvest.begin, harvest.end);
                self.judgement(parent, stretch, "harvest", (Table::Harvests, &row))
            }
            Item::Finding(finding) => {
                let parent = self.tracks.vm(finding.vm, inventory);
                let name = format!("{} {}", finding.rule.name(), finding.verdict.name());
                let row = VerdictRow::from(*finding);
                let stretch = (finding.first, finding.last);
                self.judgement(parent, stretch, &name, (Table::Verdicts, &row))
            }
            Item::Slot { .. } => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), ExportError> {
        let tids: Vec<Tid> = self.threads.keys().copied().collect();
        tids.into_iter().try_for_each(|tid| self.release(tid))?;
        for rate in self.rates.end(u64::MAX) {
            self.rate(rate, &Inventory::default())?;
        }
        self.out.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Filter, sample};
    use super::proto::Trace;
    use super::*;
    use std::collections::BTreeSet;

    fn exported() -> Vec<u8> {
        let mut out = Vec::new();
        sample::export(Filter::default(), &mut Perfetto::new(&mut out));
        out
    }

    fn packets() -> Vec<TracePacket> {
        Trace::decode(exported().as_slice()).unwrap().packet
    }

    /// Per track, its slices and instants as text in order of time.
    fn drawn(track: u64) -> String {
        let mut events: Vec<(u64, TrackEvent)> = packets()
            .into_iter()
            .filter_map(|packet| Some((packet.timestamp?, packet.track_event?)))
            .filter(|(_, event)| event.track_uuid == Some(track))
            .collect();
        events.sort_by_key(|(at, _)| *at);
        let names = names::interned().event_names;
        let name = |event: &TrackEvent| {
            let interned = names.iter().find(|name| name.iid == event.name_iid);
            event.name.clone().or(interned.and_then(|name| name.name.clone())).unwrap_or_default()
        };
        let text = |(at, event): &(u64, TrackEvent)| match event.r#type() {
            TrackEventType::SliceBegin => format!("[{} {at}", name(event)),
            TrackEventType::SliceEnd => format!("{at}]"),
            TrackEventType::Instant => format!("{} {at}", name(event)),
            TrackEventType::Counter | TrackEventType::Unspecified => String::from("?"),
        };
        events.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    fn thread(tid: i64) -> u64 {
        packets()
            .into_iter()
            .filter_map(|packet| packet.track_descriptor)
            .find(|track| track.thread.as_ref().is_some_and(|thread| thread.tid == Some(tid)))
            .and_then(|track| track.uuid)
            .unwrap()
    }

    #[test]
    fn a_vcpu_thread_shows_its_fault_inside_kvm_run() {
        insta::assert_snapshot!(
            drawn(thread(11)),
            @"[KVM_RUN 2000 [fault 2050 [fast-fault 2090 [mark 2100 2110] spte-change 2120 2150] 2160] spte-set 2180 ring-push 2200 2300]"
        );
    }

    #[test]
    fn a_harvest_shows_its_word_and_flush_inside_the_ioctl() {
        insta::assert_snapshot!(
            drawn(thread(10)),
            @"vm-seen 1000 [KVM_SET_USER_MEMORY_REGION 1100 slot-state 1300 [slot-protect 1310 1320] 1400] [KVM_GET_DIRTY_LOG 3000 [harvest-word 3100 3200] [flush 3300 3400] user-word 3450 3500] ring-reset 3600 invalidate 3700 [lock-wait 3700 3750] [rmap-add 4000 4010] [host-write 4100 4200] split 4310 zap 4400 vm-gone 8000"
        );
    }

    #[test]
    fn every_track_is_described_before_its_first_event() {
        let mut described = BTreeSet::new();
        for packet in packets() {
            described.extend(packet.track_descriptor.and_then(|track| track.uuid));
            if let Some(event) = packet.track_event {
                assert!(described.contains(&event.track_uuid.unwrap()));
            }
        }
    }

    #[test]
    fn a_mark_flows_into_the_word_that_took_it_and_the_harvest_into_its_flush() {
        let events: Vec<_> =
            packets().into_iter().filter_map(|packet| packet.track_event).collect();
        let of = |kind: crate::event::Kind| {
            let begins = |event: &&TrackEvent| event.name_iid == Some(kind as u64);
            events.iter().find(begins).unwrap()
        };
        let mark = of(crate::event::Kind::Mark).flow_ids[0];
        assert_eq!(of(crate::event::Kind::HarvestWord).terminating_flow_ids, [mark]);
        let harvest = of(crate::event::Kind::HarvestWord).flow_ids[0];
        assert_eq!(of(crate::event::Kind::Flush).terminating_flow_ids, [harvest]);
    }

    #[test]
    fn a_gap_is_marked_as_lost_data_and_can_be_seen() {
        let lost: Vec<_> = packets()
            .into_iter()
            .filter(|packet| packet.previous_packet_dropped.is_some())
            .collect();
        assert_eq!(lost.len(), 1);
        let event = lost[0].track_event.as_ref().unwrap();
        assert_eq!(event.name.as_deref(), Some("probe-missed: 3 dropped"));
    }

    #[test]
    fn a_prefix_that_ends_between_packets_is_a_trace() {
        let bytes = exported();
        let whole = Trace::decode(bytes.as_slice()).unwrap().packet;
        let mut end = 0;
        for n in 0..=whole.len() {
            assert_eq!(Trace::decode(&bytes[..end]).unwrap().packet, whole[..n]);
            end += whole.get(n).map_or(0, |packet| {
                let len = packet.encoded_len();
                1 + prost::length_delimiter_len(len) + len
            });
        }
    }
}
