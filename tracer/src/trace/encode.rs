//! Encoding: the records of one frame as columns, then zstd.
//!
//! ```text
//! heads: number, { cpu u16, kind u8, flags u8 }*      every combination that occurs, in order of appearance
//! whos:  number, { vm u64, tid u32 }*
//! gaps:  { class u8 | 255, cpu u16, hook u8 | 255, cause u8, from u64, to u64, dropped u64 }*
//! head column                                         index of each record's head
//! per kind, in order of appearance in the heads:
//!   span mode u8, four argument tags, columns: ts, seq, who, span, args 0..4
//! ```

use std::io;

use super::column::{Plain, zigzag};
use super::frame::LaneRange;
use super::layout::Chooser;
use super::limits::{FRAME_BYTES_MAX, FRAME_LANES_MAX};
use super::predict::{At, Context, LANES, Tags};
use crate::event::{Gap, GapCause};
use kvmdirty_common::RawEvent;
use kvmdirty_common::raw::CLASS_SHIFT;
use zstd::stream::raw::{Encoder as Zstd, InBuffer, Operation as _, OutBuffer};

/// Columns of a kind: ts, seq, who, span and the arguments.
pub(super) const COLUMNS: usize = 8;

/// Turns records into frames; keeps its buffers between frames.
pub(super) struct Encoder {
    heads: Dictionary,
    whos: Dictionary,
    lanes: Dictionary,
    places: Vec<(u16, u8)>,
    head_column: Vec<u64>,
    context: Context,
    chooser: Chooser,
    groups: Vec<Group>,
    columns: Vec<u64>,
    plain: Plain,
    zstd: Zstd<'static>,
}

/// The columns of one kind: the `n`th begins at `begin + n * records` of [`Encoder::columns`].
#[derive(Clone, Copy)]
struct Group {
    kind: u8,
    records: usize,
    begin: usize,
    next: usize,
}

/// The parts of a frame's header that the encoder knows.
pub(super) struct Encoded {
    pub plain_bytes: u32,
    pub lanes: Vec<LaneRange>,
}

impl Encoder {
    /// An encoder with zstd at that level.
    pub fn new(level: i32) -> io::Result<Self> {
        Ok(Self {
            heads: Dictionary::default(),
            whos: Dictionary::default(),
            lanes: Dictionary::default(),
            places: Vec::new(),
            head_column: Vec::new(),
            context: Context::new(),
            chooser: Chooser::default(),
            groups: Vec::new(),
            columns: Vec::new(),
            plain: Plain::default(),
            zstd: Zstd::new(level)?,
        })
    }

    /// Appends to `payload` the payload of a frame of these records and gaps. Returns how many records it holds: fewer
    /// than given if they are of too many lanes for one frame.
    pub fn encode(
        &mut self,
        records: &[RawEvent],
        gaps: &[Gap],
        payload: &mut Vec<u8>,
    ) -> io::Result<(usize, Encoded)> {
        let lanes = self.index(records);
        let records = &records[..self.places.len()];
        let kinds: Vec<u8> = self.groups.iter().map(|group| group.kind).collect();
        self.context.reset(records.len(), lanes.len(), kinds.len());
        let tags = self.chooser.choose(records, &self.places, &kinds, &mut self.context);
        self.context.reset(records.len(), lanes.len(), kinds.len());
        self.fill(records, &tags);
        self.lay_out(gaps, &tags);
        self.compress(payload)?;
        Ok((records.len(), Encoded { plain_bytes: self.plain.bytes.len() as u32, lanes }))
    }

    /// Finds the heads, lanes and kinds of a frame, and with them how many of the records it can hold.
    fn index(&mut self, records: &[RawEvent]) -> Vec<LaneRange> {
        let mut group_of_kind = [None; 256];
        let mut lanes: Vec<LaneRange> = Vec::new();
        let mut of_head: Vec<(u16, u8)> = Vec::new();
        self.heads.clear();
        self.lanes.clear();
        self.places.clear();
        self.head_column.clear();
        self.groups.clear();
        for record in records {
            let key = u64::from(record.cpu)
                | u64::from(record.kind) << 16
                | u64::from(record.flags) << 24;
            let head = self.heads.index_of((key, 0));
            if head == of_head.len() {
                let class_bits = record.flags >> CLASS_SHIFT;
                let lane_key = (u64::from(record.cpu), u32::from(class_bits));
                if lanes.len() == FRAME_LANES_MAX && self.lanes.get(lane_key).is_none() {
                    self.heads.pop();
                    break;
                }
                let lane = self.lanes.index_of(lane_key);
                if lane == lanes.len() {
                    let (cpu, seq) = (record.cpu, record.seq);
                    lanes.push(LaneRange {
                        cpu,
                        class_bits,
                        records: 0,
                        first_seq: seq,
                        last_seq: seq,
                    });
                }
                let group = *group_of_kind[usize::from(record.kind)].get_or_insert_with(|| {
                    let kind = record.kind;
                    self.groups.push(Group { kind, records: 0, begin: 0, next: 0 });
                    (self.groups.len() - 1) as u8
                });
                of_head.push((lane as u16, group));
            }
            let (lane, kind) = of_head[head];
            self.groups[usize::from(kind)].records += 1;
            let range = &mut lanes[usize::from(lane)];
            range.records += 1;
            range.last_seq = record.seq;
            self.places.push((lane % LANES as u16, kind));
            self.head_column.push(head as u64);
        }
        lanes
    }

    /// Fills the columns of every kind.
    fn fill(&mut self, records: &[RawEvent], tags: &[Tags]) {
        self.whos.clear();
        self.columns.clear();
        self.columns.resize(records.len() * COLUMNS, 0);
        let mut begin = 0;
        for group in &mut self.groups {
            group.begin = begin;
            begin += group.records * COLUMNS;
        }
        for (record, &(lane, kind)) in records.iter().zip(&self.places) {
            let (lane, kind) = (usize::from(lane), usize::from(kind));
            let group = &mut self.groups[kind];
            let n = group.records;
            let column = &mut self.columns[group.begin + group.next..group.begin + n * COLUMNS];
            group.next += 1;
            let state = &mut self.context.lanes[lane];
            let begin = record.ts_ns.wrapping_sub(u64::from(record.span_ns));
            column[0] = zigzag(record.ts_ns.wrapping_sub(state.ts));
            let seq_jump = record.seq.wrapping_sub(state.seq) as i32;
            column[n] = zigzag(i64::from(seq_jump) as u64);
            let who = (record.vm, record.tid);
            if state.who == 0 || self.whos.keys[state.who as usize - 1] != who {
                state.who = self.whos.index_of(who) as u32 + 1;
                column[2 * n] = u64::from(state.who);
            }
            column[3 * n] = if tags[kind].is_outer {
                zigzag(state.begin.wrapping_sub(begin))
            } else {
                u64::from(record.span_ns)
            };
            (state.ts, state.begin, state.seq) = (record.ts_ns, begin, record.seq.wrapping_add(1));
            let mut gfn = state.gfn;
            for (arg, tag) in tags[kind].args.iter().enumerate() {
                let value = record.args[arg];
                // Arguments that come later are never asked for.
                let at = At { lane, kind, vm: record.vm, gfn, args: &record.args };
                let prediction = self.context.predict(&at, arg, tag.source);
                column[(4 + arg) * n] = tag.residual(value, prediction);
                gfn = self.context.learn(gfn, record.vm, tag.role, value);
            }
            self.context.lanes[lane].gfn = gfn;
            *self.context.previous(lane, kind) = record.args;
        }
    }

    /// Writes dictionaries, gaps and columns as plain bytes.
    fn lay_out(&mut self, gaps: &[Gap], tags: &[Tags]) {
        let plain = &mut self.plain;
        plain.clear();
        plain.put_varint(self.heads.keys.len() as u64);
        for &(key, _) in &self.heads.keys {
            plain.bytes.extend_from_slice(&(key as u32).to_le_bytes());
        }
        plain.put_varint(self.whos.keys.len() as u64);
        for &(vm, tid) in &self.whos.keys {
            plain.bytes.extend_from_slice(&vm.to_le_bytes());
            plain.bytes.extend_from_slice(&tid.to_le_bytes());
        }
        for gap in gaps {
            put_gap(gap, plain);
        }
        plain.cut();
        plain.put_column(&self.head_column);
        for (tags, group) in tags.iter().zip(&self.groups) {
            tags.put(plain);
            let columns = &self.columns[group.begin..group.begin + group.records * COLUMNS];
            for column in columns.chunks_exact(group.records) {
                plain.put_column(column);
            }
        }
        assert!(
            plain.bytes.len() <= FRAME_BYTES_MAX as usize,
            "the limits on records, lanes and gaps bound a frame"
        );
    }

    /// One zstd frame, with a new block wherever the statistics change.
    fn compress(&mut self, payload: &mut Vec<u8>) -> io::Result<()> {
        let plain = &self.plain;
        payload.clear();
        payload.reserve(
            zstd::zstd_safe::compress_bound(plain.bytes.len()) + 16 * plain.cuts.len() + 64,
        );
        self.zstd.reinit()?;
        let mut output = OutBuffer::around(payload);
        let mut begin = 0;
        for end in plain.cuts.iter().copied().chain([plain.bytes.len()]) {
            let mut input = InBuffer::around(&plain.bytes[begin..end]);
            while input.pos() < input.src.len() {
                self.zstd.run(&mut input, &mut output)?;
            }
            while self.zstd.flush(&mut output)? != 0 {}
            begin = end;
        }
        while self.zstd.finish(&mut output, true)? != 0 {}
        Ok(())
    }
}

/// Written for "any lane" and "any hook".
pub(super) const ANY: u8 = u8::MAX;

/// Bytes of a gap.
pub(super) const GAP_BYTES: usize = 29;

fn put_gap(gap: &Gap, plain: &mut Plain) {
    let Gap { lane, hook, cause, from, to, dropped } = *gap;
    plain.bytes.push(lane.map_or(ANY, |lane| lane.class as u8));
    plain.bytes.extend_from_slice(&lane.map_or(0, |lane| lane.cpu.0).to_le_bytes());
    plain.bytes.push(hook.map_or(ANY, |hook| hook as u8));
    plain.bytes.push(cause_number(cause));
    for number in [from.0, to.0, dropped] {
        plain.bytes.extend_from_slice(&number.to_le_bytes());
    }
}

fn cause_number(cause: GapCause) -> u8 {
    GapCause::ALL.iter().position(|&other| other == cause).expect("`ALL` holds every cause") as u8
}

/// Numbers for keys, in order of appearance.
#[derive(Default)]
struct Dictionary {
    keys: Vec<(u64, u32)>,
    /// Open addressing; index of a key plus one, 0: free. At least twice as many slots as keys, a power of two.
    slots: Vec<u32>,
}

impl Dictionary {
    fn clear(&mut self) {
        self.keys.clear();
        self.slots.fill(0);
    }

    /// The number of `key`, a new one if it is new.
    fn index_of(&mut self, key: (u64, u32)) -> usize {
        if self.slots.len() <= self.keys.len() * 2 {
            self.grow();
        }
        let slot = self.slot(key);
        if self.slots[slot] == 0 {
            self.keys.push(key);
            self.slots[slot] = self.keys.len() as u32;
        }
        self.slots[slot] as usize - 1
    }

    /// The number of `key`, if it has one.
    fn get(&self, key: (u64, u32)) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        (self.slots[self.slot(key)] as usize).checked_sub(1)
    }

    /// Forgets the key added last.
    fn pop(&mut self) {
        if let Some(key) = self.keys.last() {
            let slot = self.slot(*key);
            self.slots[slot] = 0;
            self.keys.pop();
        }
    }

    /// The slot that holds `key` or would.
    fn slot(&self, key: (u64, u32)) -> usize {
        let mask = self.slots.len() - 1;
        let hash = (key.0 ^ u64::from(key.1).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut slot = (hash >> 40) as usize & mask;
        while self.slots[slot] != 0 && self.keys[self.slots[slot] as usize - 1] != key {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(64);
        self.slots.clear();
        self.slots.resize(slots, 0);
        for index in 0..self.keys.len() {
            let slot = self.slot(self.keys[index]);
            self.slots[slot] = index as u32 + 1;
        }
    }
}
