//! The records of all CPUs of a trace.dat, merged by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;

use super::ImportError;
use super::bytes::Bytes;
use super::dat::{CpuData, Dat, SECTION_BYTES_MAX, decompress, read_at};
use super::fact::{Args, Fact, Fields, Function, Known, Record};
use super::format::EventFormat;
use super::ring::{BadPage, Page};

/// Reads one trace.dat from begin to end.
#[derive(Debug)]
pub(super) struct Stream {
    file: File,
    reading: Reading,
    cpus: Vec<Cpu>,
    /// Per CPU that has a record: its time, and which CPU.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    newest: u64,
    /// CPUs whose data is damaged; told at the end.
    damaged: Vec<u16>,
    /// The first damage.
    damage: Option<ImportError>,
}

/// How records are understood.
#[derive(Debug)]
struct Reading {
    dat: Dat,
    /// By event id.
    meanings: Vec<Option<Meaning>>,
    fixed: Option<i64>,
}

#[derive(Debug)]
struct Meaning {
    format: usize,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Known(Known),
    /// A kprobe or kretprobe; the address says on which function, unless the name already does.
    Probe {
        is_return: bool,
        named: Option<Function>,
    },
}

/// The pages of one CPU.
#[derive(Debug)]
struct Cpu {
    data: CpuData,
    /// Bytes of the file read so far.
    read: u64,
    chunks_left: u32,
    /// Pages of the last chunk not yet begun.
    pages: Vec<u8>,
    pages_at: usize,
    page: Option<Page>,
    page_offset: u64,
    /// Merged in when its time has come.
    ready: Option<Record>,
    dropped: Option<u64>,
}

/// Bytes read at once of uncompressed data.
const READ_BYTES: u64 = 1 << 20;

impl Stream {
    /// Begins to read.
    pub(super) fn new(file: File, dat: Dat) -> Self {
        let cpus = dat.cpus.iter().map(|&data| Cpu::new(data)).collect();
        let mut stream = Self {
            file,
            reading: Reading::new(dat),
            cpus,
            next: BinaryHeap::new(),
            newest: 0,
            damaged: Vec::new(),
            damage: None,
        };
        for idx in 0..stream.cpus.len() {
            let cpu = &mut stream.cpus[idx];
            let has_chunks = stream.reading.dat.is_compressed && cpu.data.bytes != 0;
            match cpu.read_chunk_count(has_chunks, &mut stream.file, &stream.reading.dat) {
                Ok(()) => stream.fill(idx),
                Err(error) => stream.damaged(idx, error),
            }
        }
        stream
    }

    /// The next record of interest. A CPU whose data is damaged ends there, the others go on; the end tells which, and
    /// then what.
    pub(super) fn next(&mut self) -> Result<Option<Record>, ImportError> {
        let Some(Reverse((ts, idx))) = self.next.pop() else {
            if let Some(cpu) = self.damaged.pop() {
                return Ok(Some(Record { ts: self.newest, cpu, tid: 0, fact: Fact::Damaged }));
            }
            return self.damage.take().map_or(Ok(None), Err);
        };
        self.newest = self.newest.max(ts);
        let record = self.cpus[idx].ready.take();
        self.fill(idx);
        Ok(record)
    }

    /// Bytes of records read, and in all.
    pub(super) fn progress(&self) -> (u64, u64) {
        let sum = |of: fn(&Cpu) -> u64| self.cpus.iter().map(of).sum();
        (sum(|cpu| cpu.read), sum(|cpu| cpu.data.bytes))
    }

    fn fill(&mut self, idx: usize) {
        let cpu = &mut self.cpus[idx];
        match cpu.next(&mut self.file, &self.reading) {
            Ok(ready) => {
                self.next.extend(ready.as_ref().map(|record| Reverse((record.ts, idx))));
                cpu.ready = ready;
            }
            Err(error) => self.damaged(idx, error),
        }
    }

    fn damaged(&mut self, idx: usize, error: ImportError) {
        self.damaged.push(self.cpus[idx].data.cpu);
        self.damage.get_or_insert(error);
    }
}

impl Reading {
    fn new(dat: Dat) -> Self {
        let mut meanings = Vec::new();
        meanings.resize_with(1 << 16, || None);
        for (format_idx, format) in dat.formats.iter().enumerate() {
            let what = match format.system.as_str() {
                "kvm" | "kvmmmu" | "raw_syscalls" => {
                    Known::from_name(&format.name).map(What::Known)
                }
                _ => probe(format),
            };
            if let Some(what) = what {
                meanings[usize::from(format.id)] = Some(Meaning { format: format_idx, what });
            }
        }
        let fast = dat.formats.iter().find(|format| format.name == "fast_page_fault");
        let fixed = fast.and_then(|format| fixed_value(&format.print));
        Self { dat, meanings, fixed }
    }

    /// What a record says; `None` if it is of no interest.
    fn fact(&self, data: &[u8]) -> Option<(u32, Fact)> {
        let big = self.dat.layout.is_big_endian;
        let id = super::bytes::integer(data.get(..2)?, big);
        let Meaning { format, what } = self.meanings.get(id as usize)?.as_ref()?;
        let view = View { format: &self.dat.formats[*format], data, big };
        let tid = view.get("common_pid")? as u32;
        let fact = match *what {
            What::Known(known) => known.fact(&view, self.fixed)?,
            What::Probe { is_return, named } => {
                let place = if is_return { "__probe_func" } else { "__probe_ip" };
                let function = named.or_else(|| self.function_at(view.get(place)?))?;
                Fact::Probe { function, is_return, args: view.args() }
            }
        };
        Some((tid, fact))
    }

    fn function_at(&self, address: u64) -> Option<Function> {
        let symbols = &self.dat.symbols;
        let idx = symbols.partition_point(|(begin, _)| *begin <= address).checked_sub(1)?;
        let (begin, name) = &symbols[idx];
        // A kprobe on a function's entry may sit behind an endbr64 or the call of ftrace.
        (address - begin <= 9).then(|| Function::from_symbol(name)).flatten()
    }
}

/// An event of `kprobe_events`, told by its fields.
fn probe(format: &EventFormat) -> Option<What> {
    let has = |name: &str| format.fields.iter().any(|field| field.name == name);
    let is_return = has("__probe_ret_ip");
    if !is_return && !has("__probe_ip") {
        return None;
    }
    Some(What::Probe { is_return, named: Function::from_probe_name(&format.name) })
}

/// `RET_PF_FIXED` differs by kernel; the format says `REC->ret == 5` where it prints `fixed`.
fn fixed_value(print: &str) -> Option<i64> {
    let (_, last) = print.rsplit_once("REC->ret ==")?;
    let digits = last.trim_start();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

struct View<'a> {
    format: &'a EventFormat,
    data: &'a [u8],
    big: bool,
}

impl View<'_> {
    fn args(&self) -> Args {
        let mut args = Args::default();
        for field in &self.format.fields {
            if let Some(value) = self.get(&field.name) {
                args.set(&field.name, value);
            }
        }
        args
    }
}

impl Fields for View<'_> {
    fn get(&self, name: &str) -> Option<u64> {
        self.element(name, 0)
    }

    fn element(&self, name: &str, idx: usize) -> Option<u64> {
        self.format.value(self.data, name, idx, self.big)
    }
}

impl Cpu {
    const fn new(data: CpuData) -> Self {
        Self {
            data,
            read: 0,
            chunks_left: 0,
            pages: Vec::new(),
            pages_at: 0,
            page: None,
            page_offset: 0,
            ready: None,
            dropped: None,
        }
    }

    fn read_chunk_count(
        &mut self,
        has_chunks: bool,
        file: &mut File,
        dat: &Dat,
    ) -> Result<(), ImportError> {
        if !has_chunks {
            return Ok(());
        }
        let bytes = read_at(file, self.data.offset, 4)?;
        let mut bytes = Bytes::new(&bytes, self.data.offset, dat.layout.is_big_endian);
        self.chunks_left = bytes.u32("the number of chunks")?;
        self.read = 4;
        Ok(())
    }

    fn next(&mut self, file: &mut File, reading: &Reading) -> Result<Option<Record>, ImportError> {
        let cpu = self.data.cpu;
        loop {
            if let Some(page) = &mut self.page {
                if let Some(dropped) = self.dropped.take() {
                    let fact = Fact::Dropped(dropped);
                    return Ok(Some(Record { ts: page.begin(), cpu, tid: 0, fact }));
                }
                let offset = self.page_offset;
                let malformed = |BadPage { at, what }| {
                    let what = format!("page of CPU {cpu}, byte {at}: {what}");
                    ImportError::Malformed { offset, what }
                };
                while let Some(record) = page.next().map_err(malformed)? {
                    if let Some((tid, fact)) = reading.fact(record.data) {
                        return Ok(Some(Record { ts: record.ts, cpu, tid, fact }));
                    }
                }
                self.page = None;
            }
            if !self.next_page(file, reading)? {
                return Ok(None);
            }
        }
    }

    /// Begins the next page; `false` if there is none.
    fn next_page(&mut self, file: &mut File, reading: &Reading) -> Result<bool, ImportError> {
        let layout = reading.dat.layout;
        if self.pages.len() <= self.pages_at {
            self.page_offset = self.data.offset + self.read;
            self.pages = self.read_pages(file, reading)?;
            self.pages_at = 0;
            if self.pages.is_empty() {
                return Ok(false);
            }
        } else if !reading.dat.is_compressed {
            self.page_offset += layout.page_bytes as u64;
        }
        let end = self.pages.len().min(self.pages_at + layout.page_bytes);
        let bytes = self.pages[self.pages_at..end].to_vec();
        self.pages_at = end;
        let page = Page::new(layout, bytes).map_err(|BadPage { at: _, what }| {
            ImportError::Malformed { offset: self.page_offset, what: what.to_owned() }
        })?;
        self.dropped = page.missed;
        self.page = Some(page);
        Ok(true)
    }

    /// The next pages of the file, empty at the end.
    fn read_pages(&mut self, file: &mut File, reading: &Reading) -> Result<Vec<u8>, ImportError> {
        const CHUNK_HEAD_BYTES: u64 = 8;
        let offset = self.data.offset + self.read;
        let left = self.data.bytes.saturating_sub(self.read);
        if !reading.dat.is_compressed {
            let len = left.min(READ_BYTES);
            self.read += len;
            return read_at(file, offset, len);
        }
        let Some(chunks_left) = self.chunks_left.checked_sub(1) else { return Ok(Vec::new()) };
        self.chunks_left = chunks_left;
        let big = reading.dat.layout.is_big_endian;
        let head = read_at(file, offset, CHUNK_HEAD_BYTES)?;
        let packed = Bytes::new(&head, offset, big).u32("the size of a chunk")?;
        let len = CHUNK_HEAD_BYTES + u64::from(packed).min(SECTION_BYTES_MAX);
        let chunk = read_at(file, offset, len)?;
        self.read += len;
        decompress(&mut Bytes::new(&chunk, offset, big))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_says_which_value_of_ret_means_fixed() {
        let print = "\"vcpu %d spurious %d fixed %d\", REC->vcpu_id, REC->ret == 6, REC->ret == 5";
        assert_eq!(fixed_value(print), Some(5));
        assert_eq!(fixed_value("\"no such\""), None);
    }
}
