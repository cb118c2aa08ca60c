//! `trace.dat` of trace-cmd, versions 6 and 7: the head with its event formats, and where each CPU's pages are [1].
//!
//! ```text
//! v6: magic | header_page | formats | kallsyms | ... | options | flyrecord: offset, size per CPU | pages
//! v7: magic | compression | options -> section, section, ... | buffer option: offset, size per CPU | pages
//! ```
//!
//! [1]: https://www.trace-cmd.org/Documentation/trace-cmd/trace-cmd.dat.v7.5.html

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use super::ImportError;
use super::bytes::Bytes;
use super::format::EventFormat;
use super::ring::PageLayout;

/// What the head of a trace.dat says.
#[derive(Debug)]
pub(super) struct Dat {
    pub layout: PageLayout,
    pub formats: Vec<EventFormat>,
    pub symbols: Vec<(u64, String)>,
    /// The clock in use, `local` if the file does not say.
    pub clock: String,
    /// `uname` of the traced machine: system, host, release, ...
    pub uname: String,
    pub cpus: Vec<CpuData>,
    pub is_compressed: bool,
}

/// Where a CPU's pages are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CpuData {
    pub cpu: u16,
    pub offset: u64,
    pub bytes: u64,
}

/// Bytes of one decompressed section or chunk; kallsyms of a large kernel has some 15 MB.
pub(super) const SECTION_BYTES_MAX: u64 = 64 << 20;

/// CPUs of a file.
const CPUS_MAX: u64 = 8192;

/// Event formats of a file; a large kernel has some 3000.
const FORMATS_MAX: usize = 65_536;

const MAGIC: &[u8] = b"\x17\x08\x44tracing";

/// The parts of the head as they are found.
#[derive(Debug, Default)]
struct Parts {
    layout: Option<PageLayout>,
    formats: Vec<EventFormat>,
    symbols: Vec<(u64, String)>,
    clock: String,
    uname: String,
    cpus: Vec<CpuData>,
}

/// The file's first bytes say that it is a trace.dat.
pub(super) fn is_dat(begin: &[u8]) -> bool {
    begin.starts_with(MAGIC)
}

/// Reads the head.
pub(super) fn read_head(file: &mut File) -> Result<Dat, ImportError> {
    let bytes = read_at(file, 0, 4096.min(file_len(file)?))?;
    let mut head = Bytes::new(&bytes, 0, false);
    head.expect(MAGIC)?;
    let version = head.string("the version")?;
    let is_big_endian = head.integer(1, "the byte order")? == 1;
    let rest = head.take(head.len() as u64, "the head")?;
    let mut head = Bytes::new(rest, (MAGIC.len() + version.len() + 2) as u64, is_big_endian);
    head.take(1, "the size of a long")?;
    let page_bytes = head.u32("the page size")? as usize;
    if !page_bytes.is_power_of_two() || !(1 << 10..=1 << 20).contains(&page_bytes) {
        return Err(head.malformed(format!("a page of {page_bytes} bytes")));
    }
    let frame = Frame { page_bytes, is_big_endian };
    match version.as_str() {
        "6" => read_v6(file, head.offset(), frame),
        "7" => read_v7(file, head, frame),
        _ => Err(ImportError::Version { version }),
    }
}

/// What holds for the whole file.
#[derive(Clone, Copy, Debug)]
struct Frame {
    page_bytes: usize,
    is_big_endian: bool,
}

impl Parts {
    fn into_dat(self, is_compressed: bool) -> Result<Dat, ImportError> {
        let Some(layout) = self.layout else {
            return Err(ImportError::Malformed {
                offset: 0,
                what: String::from("the layout of its pages is missing"),
            });
        };
        let clock = if self.clock.is_empty() { String::from("local") } else { self.clock };
        let Self { formats, symbols, uname, cpus, .. } = self;
        Ok(Dat { layout, formats, symbols, clock, uname, cpus, is_compressed })
    }

    fn header_info(&mut self, bytes: &mut Bytes<'_>, frame: Frame) -> Result<(), ImportError> {
        bytes.expect(b"header_page\0")?;
        let page = String::from_utf8_lossy(bytes.counted_text(8, "header_page")?).into_owned();
        self.layout = PageLayout::parse(&page, frame.page_bytes, frame.is_big_endian);
        bytes.expect(b"header_event\0")?;
        bytes.counted_text(8, "header_event")?;
        Ok(())
    }

    fn ftrace_formats(&mut self, bytes: &mut Bytes<'_>) -> Result<(), ImportError> {
        for _ in 0..bytes.u32("the number of ftrace formats")? {
            bytes.counted_text(8, "an ftrace format")?;
        }
        Ok(())
    }

    fn event_formats(&mut self, bytes: &mut Bytes<'_>) -> Result<(), ImportError> {
        for _ in 0..bytes.u32("the number of event systems")? {
            let system = bytes.string("the name of an event system")?;
            for _ in 0..bytes.u32("the number of events")? {
                let text = bytes.counted_text(8, "an event format")?;
                if FORMATS_MAX <= self.formats.len() {
                    return Err(bytes.malformed("too many event formats"));
                }
                self.formats.extend(EventFormat::parse(&system, &String::from_utf8_lossy(text)));
            }
        }
        Ok(())
    }

    /// Symbols of KVM's functions, by address.
    fn kallsyms(&mut self, bytes: &mut Bytes<'_>) -> Result<(), ImportError> {
        let text = String::from_utf8_lossy(bytes.counted_text(4, "kallsyms")?).into_owned();
        self.symbols = text.lines().filter_map(symbol).collect();
        self.symbols.sort();
        Ok(())
    }

    /// An option both versions share.
    fn option(&mut self, id: u16, data: &[u8]) {
        const TRACECLOCK: u16 = 4;
        const UNAME: u16 = 5;
        let text = || String::from_utf8_lossy(data).trim_end_matches('\0').trim().to_owned();
        match id {
            // The clock in use stands in brackets: `[local] global mono`.
            TRACECLOCK => {
                let text = text();
                let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
                self.clock = chosen.map_or(text.clone(), |(clock, _)| clock.to_owned());
            }
            UNAME => self.uname = text(),
            _ => {}
        }
    }
}

/// `ffffffffc0a01234 t name [module]`, if the name is one that is probed.
fn symbol(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok().filter(|&address| address != 0)?;
    let name = words.nth(1)?;
    super::fact::Function::from_symbol(name).map(|_| (address, name.to_owned()))
}

fn read_v6(file: &mut File, begin: u64, frame: Frame) -> Result<Dat, ImportError> {
    // The head is not compressed and has no length of its own; pages come after it.
    let all = read_at(file, begin, SECTION_BYTES_MAX.min(file_len(file)? - begin))?;
    let mut bytes = Bytes::new(&all, begin, frame.is_big_endian);
    let mut parts = Parts::default();
    parts.header_info(&mut bytes, frame)?;
    parts.ftrace_formats(&mut bytes)?;
    parts.event_formats(&mut bytes)?;
    parts.kallsyms(&mut bytes)?;
    bytes.counted_text(4, "printk formats")?;
    bytes.counted_text(8, "command lines")?;
    let n_cpus = u64::from(bytes.u32("the number of CPUs")?);
    if CPUS_MAX < n_cpus {
        return Err(bytes.malformed(format!("{n_cpus} CPUs")));
    }
    let mut kind = bytes.take(10, "the kind of data")?;
    if kind == b"options  \0" {
        loop {
            let id = bytes.u16("an option")?;
            if id == 0 {
                break;
            }
            let data = bytes.counted_text(4, "an option")?;
            parts.option(id, data);
        }
        kind = bytes.take(10, "the kind of data")?;
    }
    if kind != b"flyrecord\0" {
        return Err(bytes.malformed("latency traces hold no records that can be judged"));
    }
    for cpu in 0..n_cpus {
        let offset = bytes.u64("the place of a CPU's data")?;
        let len = bytes.u64("the size of a CPU's data")?;
        parts.cpus.push(CpuData { cpu: cpu as u16, offset, bytes: len });
    }
    parts.into_dat(false)
}

fn read_v7(file: &mut File, mut head: Bytes<'_>, frame: Frame) -> Result<Dat, ImportError> {
    let algorithm = head.string("the compression")?;
    head.string("the version of the compression")?;
    if !matches!(algorithm.as_str(), "none" | "zstd") {
        return Err(ImportError::Compression { algorithm });
    }
    let mut parts = Parts::default();
    let mut next = head.u64("the place of the options")?;
    let mut seen = Vec::new();
    while next != 0 {
        // A chain that leads back would never end.
        if seen.contains(&next) {
            return Err(ImportError::Malformed {
                offset: next,
                what: String::from("options in a circle"),
            });
        }
        seen.push(next);
        let section = read_section(file, next, frame)?;
        let mut options = Bytes::of_section(&section, next, frame.is_big_endian);
        next = read_options(file, &mut options, &mut parts, frame)?;
    }
    parts.into_dat(algorithm != "none")
}

/// Takes over every option of a section; the place of the next one, 0 if there is none.
fn read_options(
    file: &mut File,
    options: &mut Bytes<'_>,
    parts: &mut Parts,
    frame: Frame,
) -> Result<u64, ImportError> {
    const DONE: u16 = 0;
    const BUFFER: u16 = 3;
    const HEADER_INFO: u16 = 16;
    const EVENT_FORMATS: u16 = 18;
    const KALLSYMS: u16 = 19;
    while 0 < options.len() {
        let offset = options.offset();
        let id = options.u16("an option")?;
        let data = options.counted_text(4, "an option")?;
        let mut bytes = Bytes::of_section(data, offset, frame.is_big_endian);
        match id {
            DONE => return bytes.u64("the place of the next options"),
            BUFFER => read_buffer(&mut bytes, parts)?,
            HEADER_INFO | EVENT_FORMATS | KALLSYMS => {
                let at = bytes.u64("the place of a section")?;
                let section = read_section(file, at, frame)?;
                let mut section = Bytes::of_section(&section, at, frame.is_big_endian);
                match id {
                    HEADER_INFO => parts.header_info(&mut section, frame)?,
                    EVENT_FORMATS => parts.event_formats(&mut section)?,
                    _ => parts.kallsyms(&mut section)?,
                }
            }
            _ => parts.option(id, data),
        }
    }
    Ok(0)
}

/// The CPUs of the top buffer; buffers of other instances are left out.
fn read_buffer(bytes: &mut Bytes<'_>, parts: &mut Parts) -> Result<(), ImportError> {
    bytes.u64("the place of the buffer")?;
    let name = bytes.string("the name of the buffer")?;
    let clock = bytes.string("the clock of the buffer")?;
    bytes.u32("the page size of the buffer")?;
    let n_cpus = u64::from(bytes.u32("the number of CPUs")?);
    if CPUS_MAX < n_cpus {
        return Err(bytes.malformed(format!("{n_cpus} CPUs")));
    }
    if !name.is_empty() && !parts.cpus.is_empty() {
        return Ok(());
    }
    parts.cpus.clear();
    parts.clock = clock;
    for _ in 0..n_cpus {
        let cpu = bytes.u32("the number of a CPU")? as u16;
        let offset = bytes.u64("the place of a CPU's data")?;
        let len = bytes.u64("the size of a CPU's data")?;
        parts.cpus.push(CpuData { cpu, offset, bytes: len });
    }
    Ok(())
}

/// The contents of the section at `offset`.
fn read_section(file: &mut File, offset: u64, frame: Frame) -> Result<Vec<u8>, ImportError> {
    const HEAD_BYTES: u64 = 16;
    const COMPRESSED: u16 = 1;
    let head = read_at(file, offset, HEAD_BYTES)?;
    let mut head = Bytes::new(&head, offset, frame.is_big_endian);
    head.u16("the id of a section")?;
    let flags = head.u16("the flags of a section")?;
    head.u32("the description of a section")?;
    let size = head.u64("the size of a section")?;
    let data = read_at(file, offset + HEAD_BYTES, size)?;
    if flags & COMPRESSED == 0 {
        return Ok(data);
    }
    let mut data = Bytes::new(&data, offset + HEAD_BYTES, frame.is_big_endian);
    decompress(&mut data)
}

/// Sizes, then compressed data.
pub(super) fn decompress(bytes: &mut Bytes<'_>) -> Result<Vec<u8>, ImportError> {
    let packed = u64::from(bytes.u32("a compressed size")?);
    let size = u64::from(bytes.u32("an uncompressed size")?);
    if SECTION_BYTES_MAX < size {
        return Err(bytes.malformed(format!("{size} bytes in one piece")));
    }
    let before = *bytes;
    let data = bytes.take(packed, "compressed data")?;
    zstd::bulk::decompress(data, size as usize)
        .map_err(|error| before.malformed(format!("compressed data: {error}")))
}

/// Bytes at a place of the file.
pub(super) fn read_at(file: &mut File, offset: u64, len: u64) -> Result<Vec<u8>, ImportError> {
    let at = |source| ImportError::Read { offset, source };
    let has = file_len(file)?.saturating_sub(offset);
    if has < len || SECTION_BYTES_MAX < len {
        let what = format!("{len} bytes are claimed here, {has} are there");
        return Err(ImportError::Malformed { offset, what });
    }
    file.seek(SeekFrom::Start(offset)).map_err(at)?;
    let mut bytes = vec![0; len as usize];
    file.read_exact(&mut bytes).map_err(at)?;
    Ok(bytes)
}

fn file_len(file: &File) -> Result<u64, ImportError> {
    file.metadata().map(|data| data.len()).map_err(|source| ImportError::Read { offset: 0, source })
}
