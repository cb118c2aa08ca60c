//! A synthetic load: the records a kernel with fast faults, host writes and bitmap harvests would give.
//!
//! Not a simulator: nothing in it obeys KVM's rules beyond the shape, the times and the values of the records. It
//! exists so that recording and reading can be measured without a guest, and so that tests have plausible records.

use kvmdirty_common::kind::flag;
use kvmdirty_trace::event::{Batch, Class, Gap, GapCause, IoctlOp, Kind, Nanos, RawEvent};

/// A seeded stream of records.
pub struct Load {
    random: u64,
    now: u64,
    cpus: Vec<Cpu>,
    boundary_seq: Vec<u32>,
    page_shift: u64,
    pages: u64,
    words: Vec<u64>,
    pfns: Vec<u64>,
    harvests: u64,
}

struct Cpu {
    seq: u32,
    next: u64,
}

const VM: u64 = 0xffff_8881_0a3c_0000;
const W: u64 = 1 << 1;
/// The slot 0:0, which logs into a bitmap.
const SLOT: u64 = 1 << 63 | 1 << 32;

impl Load {
    /// A load of `cpus` vCPUs that write `pages` pages, in order or at random.
    pub fn new(seed: u64, cpus: u16, pages: u64) -> Self {
        let mut load = Self {
            random: seed | 1,
            now: 1_000_000_000_000,
            cpus: (0..cpus)
                .map(|cpu| Cpu { seq: 0, next: pages / u64::from(cpus) * u64::from(cpu) })
                .collect(),
            boundary_seq: vec![0; usize::from(cpus)],
            page_shift: 0x100,
            pages,
            words: vec![0; pages.div_ceil(64) as usize],
            pfns: Vec::new(),
            harvests: 0,
        };
        load.pfns = (0..pages).map(|_| load.draw(1 << 22)).collect();
        load
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below.max(1)
    }

    /// A duration with a typical value and a tail.
    fn duration(&mut self, typical: u64) -> u64 {
        let noise = (self.draw(typical) + self.draw(typical) + self.draw(typical)) / 3;
        let tail = if self.draw(200) == 0 { self.draw(20 * typical) } else { 0 };
        typical / 2 + noise + tail
    }

    /// The next drain: a few thousand records, now and then with a harvest.
    pub fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        if self.harvests == 0 {
            self.inventory(&mut batch.records);
        }
        let begin = self.now;
        for cpu in 0..self.cpus.len() {
            let mut now = begin;
            for _ in 0..400 + self.draw(400) {
                now += self.duration(2_000);
                if self.draw(40) == 0 {
                    self.host_write(cpu, &mut now, &mut batch.records);
                } else {
                    self.fault(cpu, &mut now, &mut batch.records);
                }
            }
            self.now = self.now.max(now);
        }
        self.harvests += 1;
        if self.harvests.is_multiple_of(8) {
            self.harvest(&mut batch.records);
        }
        batch.watermark = Nanos(self.now);
        if self.draw(100) == 0 {
            batch.gaps.push(Gap {
                lane: None,
                hook: None,
                cause: GapCause::ProbeMissed,
                from: Nanos(begin),
                to: Nanos(self.now),
                dropped: 1,
            });
        }
        batch
    }

    /// What the probe finds when it attaches: the VM and its one slot, which logs.
    fn inventory(&mut self, records: &mut Vec<RawEvent>) {
        let at = (self.now, self.now);
        records.push(self.emit(Class::Boundary, 0, Kind::VmSeen, 0, at, [4_000, 0, 1, 0]));
        let bitmap = 0xffff_c900_0000_0000;
        let slot = [SLOT, self.page_shift, self.pages, bitmap];
        records.push(self.emit(Class::Boundary, 0, Kind::SlotState, 0, at, slot));
    }

    fn page(&mut self, cpu: usize) -> u64 {
        if self.draw(4) == 0 {
            return self.draw(self.pages);
        }
        let next = &mut self.cpus[cpu].next;
        *next = (*next + 1) % self.pages;
        *next
    }

    fn emit(
        &mut self,
        class: Class,
        cpu: usize,
        kind: Kind,
        flags: u8,
        times: (u64, u64),
        args: [u64; 4],
    ) -> RawEvent {
        let seq = match class {
            Class::Page => &mut self.cpus[cpu].seq,
            Class::Boundary | Class::Syscall => &mut self.boundary_seq[cpu],
        };
        let record = RawEvent {
            ts_ns: times.1,
            vm: VM,
            tid: 4_000 + cpu as u32,
            seq: *seq,
            span_ns: (times.1 - times.0) as u32,
            cpu: cpu as u16,
            kind: kind as u8,
            flags: flags | (class as u8) << 6,
            args,
        };
        *seq += 1;
        record
    }

    fn fault(&mut self, cpu: usize, now: &mut u64, records: &mut Vec<RawEvent>) {
        let page = self.page(cpu);
        let gfn = page + self.page_shift;
        let begin = *now;
        let fast_begin = begin + self.duration(300);
        let mark_begin = fast_begin + self.duration(250);
        let mark_end = mark_begin + self.duration(400);
        let fast_end = mark_end + self.duration(150);
        let end = fast_end + self.duration(200);
        self.words[(page / 64) as usize] |= 1 << (gfn % 64);
        let word = self.words[(page / 64) as usize];
        let old = self.pfns[page as usize] << 12 | 0x0600_0000_0000_0f75;
        let sptep = 0xffff_8880_0000_0000 + (gfn / 512) * 0x3000 + 8 * (gfn % 512);
        let page_ref = gfn | 1 << 48 | 1 << 60;
        records.push(self.emit(
            Class::Page,
            cpu,
            Kind::Mark,
            1 | 4 | 16,
            (mark_begin, mark_end),
            [gfn, SLOT, word, old | W],
        ));
        records.push(self.emit(
            Class::Page,
            cpu,
            Kind::FastFault,
            1,
            (fast_begin, fast_end),
            [page_ref, old, 3, sptep],
        ));
        let offset = self.draw(512) * 8;
        records.push(self.emit(
            Class::Page,
            cpu,
            Kind::Fault,
            0,
            (begin, end),
            [gfn << 12 | offset, 0x10_0000_0007, 1, cpu as u64],
        ));
        *now = end;
    }

    fn host_write(&mut self, cpu: usize, now: &mut u64, records: &mut Vec<RawEvent>) {
        let page = self.draw(64);
        let gfn = page + self.page_shift;
        let begin = *now;
        let mark_begin = begin + self.duration(300);
        let mark_end = mark_begin + self.duration(300);
        let end = mark_end + self.duration(200);
        self.words[(page / 64) as usize] |= 1 << (gfn % 64);
        let word = self.words[(page / 64) as usize];
        records.push(self.emit(
            Class::Page,
            cpu,
            Kind::Mark,
            1,
            (mark_begin, mark_end),
            [gfn, SLOT, word, 0],
        ));
        records.push(self.emit(
            Class::Page,
            cpu,
            Kind::HostWrite,
            flag::HOST_DATA_AT_MARK,
            (begin, end),
            [gfn << 12 | 0x40, 64, SLOT, 2],
        ));
        *now = end;
    }

    fn harvest(&mut self, records: &mut Vec<RawEvent>) {
        let begin = self.now;
        let mut now = begin + self.duration(2_000);
        let op = IoctlOp::GetDirtyLog as u64;
        records.push(self.emit(
            Class::Boundary,
            0,
            Kind::IoctlBegin,
            0,
            (now, now),
            [op, 0, self.pages, self.harvests],
        ));
        let mut taken = 0;
        for word in 0..self.words.len() {
            let mask = std::mem::take(&mut self.words[word]);
            if mask == 0 {
                continue;
            }
            taken += 1;
            let word_begin = now + self.duration(100);
            now = word_begin + self.duration(3_000);
            let first = word as u64 * 64 + self.page_shift;
            records.push(self.emit(
                Class::Page,
                0,
                Kind::HarvestWord,
                0,
                (word_begin, now),
                [first, mask, mask, SLOT],
            ));
        }
        let flush = now;
        now += self.duration(20_000);
        records.push(self.emit(
            Class::Boundary,
            0,
            Kind::Flush,
            0,
            (flush, now),
            [self.harvests, self.harvests + 1, 0, 0],
        ));
        records.push(self.emit(
            Class::Boundary,
            0,
            Kind::IoctlEnd,
            0,
            (begin, now),
            [op, 0, self.harvests + 1, taken],
        ));
        self.now = now;
    }
}
