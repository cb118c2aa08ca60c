//! The kernel's trace ring buffer as it lies in the file: pages of compressed event headers [1].
//!
//! [1]: https://www.kernel.org/doc/html/v6.12/trace/ring-buffer-design.html

use super::bytes::integer;
use super::format::Field;

/// The layout of a page, from the file's `header_page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageLayout {
    pub page_bytes: usize,
    pub commit_offset: usize,
    /// Bytes of a kernel `long`.
    pub commit_bytes: usize,
    pub data_offset: usize,
    pub is_big_endian: bool,
}

/// One record of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingRecord<'a> {
    pub ts: u64,
    pub data: &'a [u8],
}

/// A page being read.
#[derive(Clone, Debug)]
pub(super) struct Page {
    layout: PageLayout,
    bytes: Vec<u8>,
    at: usize,
    end: usize,
    ts: u64,
    /// Events dropped between the page before and this one; `Some(0)`: some, the kernel does not know how many.
    pub missed: Option<u64>,
}

/// The page makes no sense at this byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadPage {
    pub at: usize,
    pub what: &'static str,
}

/// `RB_MISSED_EVENTS`: events before this page were dropped.
const MISSED_EVENTS: u64 = 1 << 31;

/// `RB_MISSED_STORED`: their number follows the data.
const MISSED_STORED: u64 = 1 << 30;

const COMMIT: u64 = (1 << 27) - 1;

impl PageLayout {
    /// Parses `header_page`; `None` if a field is missing.
    pub(super) fn parse(text: &str, page_bytes: usize, is_big_endian: bool) -> Option<Self> {
        let fields: Vec<Field> = text
            .lines()
            .filter_map(|line| Field::parse(line.trim().strip_prefix("field:")?.trim()))
            .collect();
        let find = |name: &str| fields.iter().find(|field| field.name == name);
        let commit = find("commit")?;
        let layout = Self {
            page_bytes,
            commit_offset: commit.offset,
            commit_bytes: commit.size,
            data_offset: find("data")?.offset,
            is_big_endian,
        };
        let is_sound = matches!(commit.size, 4 | 8)
            && commit.offset == 8
            && commit.offset + commit.size <= layout.data_offset
            && layout.data_offset < page_bytes;
        is_sound.then_some(layout)
    }
}

impl Page {
    /// Begins a page.
    pub(super) fn new(layout: PageLayout, bytes: Vec<u8>) -> Result<Self, BadPage> {
        let PageLayout { commit_offset, commit_bytes, data_offset, is_big_endian, .. } = layout;
        let bad = |what| BadPage { at: 0, what };
        if bytes.len() != layout.page_bytes {
            return Err(bad("the page is cut off"));
        }
        let ts = integer(&bytes[..8], is_big_endian);
        let commit = integer(&bytes[commit_offset..commit_offset + commit_bytes], is_big_endian);
        let end = data_offset + (commit & COMMIT) as usize;
        if bytes.len() < end {
            return Err(bad("the page claims more data than it has"));
        }
        let stored = bytes.get(end..end + commit_bytes);
        let missed = match (commit & MISSED_EVENTS != 0, commit & MISSED_STORED != 0, stored) {
            (false, _, _) => None,
            (true, true, Some(stored)) => Some(integer(stored, is_big_endian)),
            (true, _, _) => Some(0),
        };
        Ok(Self { layout, bytes, at: data_offset, end, ts, missed })
    }

    /// Time at which the page begins.
    pub(super) const fn begin(&self) -> u64 {
        self.ts
    }

    /// The next record, `None` at the end of the page.
    pub(super) fn next(&mut self) -> Result<Option<RingRecord<'_>>, BadPage> {
        const PADDING: u64 = 29;
        const TIME_EXTEND: u64 = 30;
        const TIME_STAMP: u64 = 31;
        const DELTA_BITS: u32 = 27;
        while self.at < self.end {
            let begin = self.at;
            let head = self.word(begin)?;
            let (kind, delta) = if self.layout.is_big_endian {
                (head >> DELTA_BITS, head & COMMIT)
            } else {
                (head & 31, head >> 5)
            };
            self.at += 4;
            match kind {
                PADDING if delta == 0 => break,
                PADDING => {
                    let len = self.word(self.at)?;
                    self.ts = self.ts.wrapping_add(delta);
                    self.skip(begin, len)?;
                }
                TIME_EXTEND => {
                    let high = self.word(self.at)?;
                    self.at += 4;
                    self.ts = self.ts.wrapping_add(high << DELTA_BITS | delta);
                }
                TIME_STAMP => {
                    const ABSOLUTE: u64 = (1 << 59) - 1;
                    let high = self.word(self.at)?;
                    self.at += 4;
                    self.ts = self.ts & !ABSOLUTE | (high << DELTA_BITS | delta) & ABSOLUTE;
                }
                _ => {
                    self.ts = self.ts.wrapping_add(delta);
                    let len = if kind == 0 {
                        // The length counts its own four bytes.
                        let len = self.word(self.at)?;
                        self.at += 4;
                        len.checked_sub(4).ok_or(BadPage {
                            at: begin,
                            what: "a record is shorter than its head",
                        })?
                    } else {
                        kind * 4
                    };
                    let data = self.at;
                    self.skip(begin, len)?;
                    let data = &self.bytes[data..data + len as usize];
                    return Ok(Some(RingRecord { ts: self.ts, data }));
                }
            }
        }
        Ok(None)
    }

    fn word(&self, at: usize) -> Result<u64, BadPage> {
        let word = self.bytes[..self.end].get(at..at + 4);
        word.map(|word| integer(word, self.layout.is_big_endian))
            .ok_or(BadPage { at, what: "the page ends inside a record" })
    }

    fn skip(&mut self, begin: usize, len: u64) -> Result<(), BadPage> {
        let aligned = (len as usize).checked_next_multiple_of(4).unwrap_or(usize::MAX);
        let next = self.at.saturating_add(aligned);
        if self.end < next {
            return Err(BadPage { at: begin, what: "a record is longer than its page" });
        }
        self.at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: PageLayout = PageLayout {
        page_bytes: 64,
        commit_offset: 8,
        commit_bytes: 8,
        data_offset: 16,
        is_big_endian: false,
    };

    fn page(commit: u64, words: &[u32]) -> Result<Page, BadPage> {
        let mut bytes = Vec::new();
        bytes.extend(1_000u64.to_le_bytes());
        bytes.extend(commit.to_le_bytes());
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.resize(64, 0);
        Page::new(LAYOUT, bytes)
    }

    #[test]
    fn header_page_gives_the_layout() {
        let text = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
                    \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
                    \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
                    \tfield: char data;\toffset:16;\tsize:48;\tsigned:0;\n";
        assert_eq!(PageLayout::parse(text, 64, false), Some(LAYOUT));
        assert_eq!(PageLayout::parse("", 64, false), None);
    }

    #[test]
    fn deltas_add_up_and_time_extends() {
        let words = [5 << 5 | 1, 0xaa, 7 << 5 | 30, 1, 2 << 5 | 2, 1, 2];
        let mut page = page(28, &words).unwrap();
        assert_eq!(page.next().unwrap().unwrap(), RingRecord { ts: 1_005, data: &[0xaa, 0, 0, 0] });
        let second = page.next().unwrap().unwrap();
        assert_eq!((second.ts, second.data.len()), (1_005 + (1 << 27) + 7 + 2, 8));
        assert_eq!(page.next(), Ok(None));
    }

    #[test]
    fn missed_events_are_counted_where_the_kernel_stored_their_number() {
        assert_eq!(page(8 | 1 << 31 | 1 << 30, &[1, 0, 42, 0]).unwrap().missed, Some(42));
        assert_eq!(page(8 | 1 << 31, &[1, 0]).unwrap().missed, Some(0));
        assert_eq!(page(8, &[1, 0]).unwrap().missed, None);
    }

    #[test]
    fn lengths_beyond_the_page_are_errors() {
        assert!(page(4096, &[]).is_err());
        assert!(page(8, &[28, 0]).unwrap().next().is_err());
        assert!(page(8, &[0, 2]).unwrap().next().is_err());
        assert!(page(4, &[30]).unwrap().next().is_err());
        assert!(page(8, &[0, u32::MAX]).unwrap().next().is_err());
    }
}
