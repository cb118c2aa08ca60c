//! Decoding: a frame's payload back to its records; the inverse of [`super::encode`].
//!
//! Nothing in the payload is trusted: every index, length and number is checked, and memory is bounded by the limits
//! the frame's header was checked against.

use super::column::{Cursor, Malformed, unzigzag};
use super::encode::{ANY, COLUMNS, GAP_BYTES};
use super::frame::FrameHead;
use super::predict::{At, Context, LANES, Tags};
use crate::event::{Batch, Class, CpuId, Gap, GapCause, Lane, Nanos};
use kvmdirty_common::raw::CLASS_SHIFT;
use kvmdirty_common::{Hook, RawEvent};
use zstd::bulk::Decompressor;

/// Turns payloads into batches; keeps its buffers between frames.
pub(super) struct Decoder {
    zstd: Decompressor<'static>,
    plain: Vec<u8>,
    head_column: Vec<u64>,
    columns: Vec<u64>,
    scratch: Vec<u64>,
    heads: Vec<Head>,
    whos: Vec<(u64, u32)>,
    groups: Vec<Group>,
    context: Context,
}

/// What records of one head share.
#[derive(Clone, Copy)]
struct Head {
    cpu: u16,
    kind: u8,
    flags: u8,
    lane: u16,
    group: u16,
}

/// The columns of one kind within [`Decoder::columns`].
struct Group {
    tags: Tags,
    records: usize,
    columns: [Place; COLUMNS],
    next: usize,
}

/// Where a column stands; one that is all zeros takes a single place.
#[derive(Clone, Copy)]
struct Place {
    begin: usize,
    mask: usize,
}

impl Place {
    const ZEROS: Self = Self { begin: 0, mask: 0 };
}

impl Decoder {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            zstd: Decompressor::new()?,
            plain: Vec::new(),
            head_column: Vec::new(),
            columns: Vec::new(),
            scratch: Vec::new(),
            heads: Vec::new(),
            whos: Vec::new(),
            groups: Vec::new(),
            context: Context::new(),
        })
    }

    /// Decodes a payload whose header has been checked, into an empty batch.
    pub fn decode(
        &mut self,
        head: &FrameHead,
        payload: &[u8],
        batch: &mut Batch,
    ) -> Result<(), Malformed> {
        self.plain.clear();
        self.plain.reserve(head.plain_bytes as usize);
        self.zstd.decompress_to_buffer(payload, &mut self.plain).map_err(|_| Malformed)?;
        if self.plain.len() != head.plain_bytes as usize {
            return Err(Malformed);
        }
        let plain = std::mem::take(&mut self.plain);
        let result = self.decode_plain(head, &plain, batch);
        self.plain = plain;
        result
    }

    fn decode_plain(
        &mut self,
        head: &FrameHead,
        plain: &[u8],
        batch: &mut Batch,
    ) -> Result<(), Malformed> {
        let records = head.records as usize;
        let mut cursor = Cursor::new(plain);
        let lanes = self.read_heads(records, &mut cursor)?;
        self.read_whos(records, &mut cursor)?;
        for _ in 0..head.gaps {
            batch.gaps.push(read_gap(cursor.take(GAP_BYTES)?)?);
        }
        self.head_column.clear();
        self.head_column.resize(records, 0);
        cursor.column(&mut self.head_column, &mut self.scratch)?;
        for &head in &self.head_column {
            let head = self.heads.get(head as usize).ok_or(Malformed)?;
            self.groups[usize::from(head.group)].records += 1;
        }
        self.columns.clear();
        self.columns.push(0);
        for group in &mut self.groups {
            group.tags = Tags::read(&mut cursor)?;
            for place in &mut group.columns {
                if cursor.skip_zeros() {
                    *place = Place::ZEROS;
                    continue;
                }
                let begin = self.columns.len();
                *place = Place { begin, mask: usize::MAX };
                self.columns.resize(begin + group.records, 0);
                cursor.column(&mut self.columns[begin..], &mut self.scratch)?;
            }
        }
        if !cursor.is_empty() {
            return Err(Malformed);
        }
        self.context.reset(records, lanes, self.groups.len());
        batch.records.reserve(records);
        self.assemble(&mut batch.records)
    }

    /// Reads the heads; returns how many lanes they name.
    fn read_heads(&mut self, records: usize, cursor: &mut Cursor<'_>) -> Result<usize, Malformed> {
        let heads = cursor.varint()?;
        if (records as u64) < heads {
            return Err(Malformed);
        }
        self.heads.clear();
        self.groups.clear();
        let mut group_of_kind = [u16::MAX; 256];
        let mut lanes = std::collections::BTreeMap::new();
        for bytes in cursor.take(heads as usize * 4)?.chunks_exact(4) {
            let (cpu, kind, flags) = (u16::from_le_bytes([bytes[0], bytes[1]]), bytes[2], bytes[3]);
            let group = &mut group_of_kind[usize::from(kind)];
            if *group == u16::MAX {
                *group = self.groups.len() as u16;
                self.groups.push(Group {
                    tags: Tags::PLAIN,
                    records: 0,
                    columns: [Place::ZEROS; COLUMNS],
                    next: 0,
                });
            }
            let next_lane = lanes.len();
            let lane = *lanes.entry((cpu, flags >> CLASS_SHIFT)).or_insert(next_lane);
            self.heads.push(Head { cpu, kind, flags, lane: (lane % LANES) as u16, group: *group });
        }
        Ok(lanes.len())
    }

    fn read_whos(&mut self, records: usize, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        let whos = cursor.varint()?;
        if (records as u64) < whos {
            return Err(Malformed);
        }
        self.whos.clear();
        let bytes = cursor.take(whos as usize * 12)?;
        self.whos.extend(bytes.chunks_exact(12).map(|who| (double(who), word(&who[8..]))));
        Ok(())
    }

    fn assemble(&mut self, out: &mut Vec<RawEvent>) -> Result<(), Malformed> {
        for &head in &self.head_column {
            let Head { cpu, kind, flags, lane, group } = self.heads[head as usize];
            let (lane, kind_index) = (usize::from(lane), usize::from(group));
            let group = &mut self.groups[kind_index];
            let next = group.next;
            group.next += 1;
            let column = |index: usize| {
                let Place { begin, mask } = group.columns[index];
                self.columns[begin + (next & mask)]
            };
            let state = &mut self.context.lanes[lane];
            let ts_ns = state.ts.wrapping_add(unzigzag(column(0)));
            let seq = state.seq.wrapping_add(unzigzag(column(1)) as u32);
            let new_who = column(2);
            if new_who != 0 {
                state.who = u32::try_from(new_who).map_err(|_| Malformed)?;
            }
            let who = (state.who as usize).checked_sub(1).ok_or(Malformed)?;
            let &(vm, tid) = self.whos.get(who).ok_or(Malformed)?;
            let begin = if group.tags.is_outer {
                state.begin.wrapping_sub(unzigzag(column(3)))
            } else {
                ts_ns.wrapping_sub(column(3))
            };
            (state.ts, state.begin, state.seq) = (ts_ns, begin, seq.wrapping_add(1));
            let span_ns = ts_ns.wrapping_sub(begin) as u32;
            let mut gfn = state.gfn;
            let mut args = [0; 4];
            for (arg, tag) in group.tags.args.iter().enumerate() {
                let at = At { lane, kind: kind_index, vm, gfn, args: &args };
                let prediction = self.context.predict(&at, arg, tag.source);
                let value = tag.value(column(4 + arg), prediction);
                gfn = self.context.learn(gfn, vm, tag.role, value);
                args[arg] = value;
            }
            self.context.lanes[lane].gfn = gfn;
            *self.context.previous(lane, kind_index) = args;
            out.push(RawEvent { ts_ns, vm, tid, seq, span_ns, cpu, kind, flags, args });
        }
        Ok(())
    }
}

fn read_gap(bytes: &[u8]) -> Result<Gap, Malformed> {
    let cpu = CpuId(u16::from_le_bytes([bytes[1], bytes[2]]));
    let lane = match bytes[0] {
        ANY => None,
        class => Some(Lane { class: Class::from_u8(class).ok_or(Malformed)?, cpu }),
    };
    let hook = match bytes[3] {
        ANY => None,
        hook => Some(Hook::from_u8(hook).ok_or(Malformed)?),
    };
    Ok(Gap {
        lane,
        hook,
        cause: *GapCause::ALL.get(usize::from(bytes[4])).ok_or(Malformed)?,
        from: Nanos(double(&bytes[5..])),
        to: Nanos(double(&bytes[13..])),
        dropped: double(&bytes[21..]),
    })
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn double(bytes: &[u8]) -> u64 {
    u64::from(word(bytes)) | u64::from(word(&bytes[4..])) << 32
}
