//! A cursor over foreign bytes: every read is bounded, and every failure knows its offset in the file.

use super::ImportError;

/// Bytes with a place in the file and a byte order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
    /// Offset in the file of the first byte of `rest`; of compressed sections: of the section.
    offset: u64,
    is_compressed: bool,
    is_big_endian: bool,
}

impl<'a> Bytes<'a> {
    pub(super) const fn new(rest: &'a [u8], offset: u64, is_big_endian: bool) -> Self {
        Self { rest, offset, is_compressed: false, is_big_endian }
    }

    /// Bytes out of a compressed section: its offset stands for all of them.
    pub(super) const fn of_section(rest: &'a [u8], offset: u64, is_big_endian: bool) -> Self {
        Self { rest, offset, is_compressed: true, is_big_endian }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) const fn len(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn malformed(&self, what: impl Into<String>) -> ImportError {
        ImportError::Malformed { offset: self.offset, what: what.into() }
    }

    pub(super) fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], ImportError> {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        let Some((taken, rest)) = self.rest.split_at_checked(n) else {
            let left = self.rest.len();
            return Err(self.malformed(format!("{what} needs {n} bytes, {left} are left")));
        };
        self.rest = rest;
        if !self.is_compressed {
            self.offset += n as u64;
        }
        Ok(taken)
    }

    /// An integer of 1, 2, 4 or 8 bytes.
    pub(super) fn integer(&mut self, size: u64, what: &str) -> Result<u64, ImportError> {
        let bytes = self.take(size, what)?;
        Ok(integer(bytes, self.is_big_endian))
    }

    pub(super) fn u16(&mut self, what: &str) -> Result<u16, ImportError> {
        self.integer(2, what).map(|value| value as u16)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ImportError> {
        self.integer(4, what).map(|value| value as u32)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ImportError> {
        self.integer(8, what)
    }

    /// Text up to a zero byte.
    pub(super) fn string(&mut self, what: &str) -> Result<String, ImportError> {
        let Some(len) = self.rest.iter().position(|&byte| byte == 0) else {
            return Err(self.malformed(format!("{what} does not end")));
        };
        let text = String::from_utf8_lossy(&self.rest[..len]).into_owned();
        self.take(len as u64 + 1, what)?;
        Ok(text)
    }

    /// Exactly these bytes.
    pub(super) fn expect(&mut self, expected: &[u8]) -> Result<(), ImportError> {
        let before = *self;
        let text = String::from_utf8_lossy(expected).replace('\0', "");
        if self.take(expected.len() as u64, &text)? == expected {
            Ok(())
        } else {
            Err(before.malformed(format!("`{}` is missing", text.trim())))
        }
    }

    /// A length of `size` bytes, then that much text.
    pub(super) fn counted_text(&mut self, size: u64, what: &str) -> Result<&'a [u8], ImportError> {
        let len = self.integer(size, what)?;
        self.take(len, what)
    }
}

/// An integer of up to 8 bytes.
pub(super) fn integer(bytes: &[u8], is_big_endian: bool) -> u64 {
    let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if is_big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
}
