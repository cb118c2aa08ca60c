//! Columns: a list of numbers as bytes that compress well and decode fast.
//!
//! ```text
//! 0                                    every value is 0
//! 1 width planes                       every value has `width` bytes (1, 2, 4, 8)
//! 2 codes planes(1) planes(2) ...      one code per value: 0 = value 0, 1..=4 = width 1, 2, 4, 8
//! ```
//!
//! A plane holds the n-th byte of every value of one width, so that the noise of low bytes and the zeros of high bytes
//! do not spoil each other's statistics. The number of values is known to both sides.

/// Bytes of a value by its code.
const WIDTH: [usize; 5] = [0, 1, 2, 4, 8];

/// The bytes end before the column does, or a code is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The plain bytes of a frame, and where the statistics change, so that the compressor can start afresh there.
#[derive(Debug, Default)]
pub(super) struct Plain {
    pub bytes: Vec<u8>,
    pub cuts: Vec<usize>,
    /// The values of a column by their code.
    of_code: [Vec<u64>; 5],
}

/// Sections smaller than this share one block of the compressor.
const SECTION_BYTES_MIN: usize = 2048;

impl Plain {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.cuts.clear();
    }

    /// A section ends here.
    pub fn cut(&mut self) {
        cut(&self.bytes, &mut self.cuts);
    }

    pub fn put_varint(&mut self, mut value: u64) {
        while 0x80 <= value {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Appends one column.
    pub fn put_column(&mut self, values: &[u64]) {
        let mut counts = [0usize; 5];
        for &value in values {
            counts[usize::from(code(value))] += 1;
        }
        if counts[0] == values.len() {
            self.bytes.push(0);
            return;
        }
        // A code that half of the values share is given to the shorter ones as well: a zero in the next plane costs
        // less than a second code.
        let floor = (1..5).rev().find(|&code| values.len() <= counts[code] * 2).unwrap_or(0);
        let top = (0..5).rev().find(|&code| counts[code] != 0).unwrap_or(0);
        if top == floor {
            self.bytes.extend_from_slice(&[1, WIDTH[top] as u8]);
            put_planes(values, WIDTH[top], &mut self.bytes, &mut self.cuts);
            return;
        }
        self.bytes.push(2);
        for list in &mut self.of_code {
            list.clear();
        }
        for &value in values {
            let code = code(value).max(floor as u8);
            self.bytes.push(code);
            self.of_code[usize::from(code)].push(value);
        }
        self.cut();
        for (list, width) in self.of_code.iter().zip(WIDTH).skip(1) {
            put_planes(list, width, &mut self.bytes, &mut self.cuts);
        }
    }
}

fn put_planes(values: &[u64], width: usize, bytes: &mut Vec<u8>, cuts: &mut Vec<usize>) {
    for plane in 0..width {
        bytes.extend(values.iter().map(|&value| (value >> (8 * plane)) as u8));
        cut(bytes, cuts);
    }
}

fn cut(bytes: &[u8], cuts: &mut Vec<usize>) {
    if cuts.last().copied().unwrap_or(0) + SECTION_BYTES_MIN <= bytes.len() {
        cuts.push(bytes.len());
    }
}

const fn code(value: u64) -> u8 {
    // The number of significant bytes, rounded up to a width that exists.
    const CODES: [u8; 9] = [0, 1, 2, 3, 3, 4, 4, 4, 4];
    CODES[(71 - value.leading_zeros() as usize) / 8]
}

/// Reads what [`Plain`] wrote, trusting nothing.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|taken| taken[0])
    }

    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Passes the next column if every value in it is 0.
    pub fn skip_zeros(&mut self) -> bool {
        let Some((0, rest)) = self.rest.split_first() else {
            return false;
        };
        self.rest = rest;
        true
    }

    /// Reads the next column over `values`, whose length is the number of its values.
    pub fn column(&mut self, values: &mut [u64], scratch: &mut Vec<u64>) -> Result<(), Malformed> {
        match self.byte()? {
            0 => values.fill(0),
            1 => {
                let width = usize::from(self.byte()?);
                if !WIDTH[1..].contains(&width) {
                    return Err(Malformed);
                }
                self.planes(values, width)?;
            }
            2 => self.mixed(values, scratch)?,
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn mixed(&mut self, values: &mut [u64], scratch: &mut Vec<u64>) -> Result<(), Malformed> {
        let codes = self.take(values.len())?;
        let mut counts = [0usize; 5];
        for &code in codes {
            *counts.get_mut(usize::from(code)).ok_or(Malformed)? += 1;
        }
        // One list per width, one after the other; slot 0 stands for all zeros.
        scratch.clear();
        scratch.resize(1 + values.len(), 0);
        let mut next = [0usize; 5];
        let mut begin = 1;
        for (code, width) in WIDTH.into_iter().enumerate().skip(1) {
            next[code] = begin;
            let end = begin + counts[code];
            self.planes(&mut scratch[begin..end], width)?;
            begin = end;
        }
        const STEP: [usize; 5] = [0, 1, 1, 1, 1];
        for (value, &code) in values.iter_mut().zip(codes) {
            let code = usize::from(code);
            *value = scratch[next[code]];
            next[code] += STEP[code];
        }
        Ok(())
    }

    fn planes(&mut self, values: &mut [u64], width: usize) -> Result<(), Malformed> {
        let n = values.len();
        let planes = self.take(n * width)?;
        let plane = |index: usize| &planes[n * index..n * (index + 1)];
        match width {
            1 => {
                for (value, &low) in values.iter_mut().zip(plane(0)) {
                    *value = u64::from(low);
                }
            }
            2 => {
                for ((value, &low), &high) in values.iter_mut().zip(plane(0)).zip(plane(1)) {
                    *value = u64::from(low) | u64::from(high) << 8;
                }
            }
            _ => {
                values.fill(0);
                for index in 0..width {
                    for (value, &byte) in values.iter_mut().zip(plane(index)) {
                        *value |= u64::from(byte) << (8 * index);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Small numbers of either sign as small numbers.
pub(super) const fn zigzag(value: u64) -> u64 {
    (value << 1) ^ ((value as i64 >> 63) as u64)
}

/// The inverse of [`zigzag`].
pub(super) const fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value = prop_oneof![Just(0), 0..300u64, 0..70_000u64, any::<u64>()];
        proptest::collection::vec(value, 0..200)
    }

    proptest! {
        #[test]
        fn columns_survive(first in values(), second in values(), number in any::<u64>()) {
            let mut plain = Plain::default();
            plain.put_column(&first);
            plain.put_varint(number);
            plain.put_column(&second);
            let mut cursor = Cursor::new(&plain.bytes);
            let mut read = vec![7; first.len()];
            cursor.column(&mut read, &mut Vec::new()).unwrap();
            prop_assert_eq!(read, first);
            prop_assert_eq!(cursor.varint(), Ok(number));
            let mut read = vec![7; second.len()];
            cursor.column(&mut read, &mut Vec::new()).unwrap();
            prop_assert_eq!(read, second);
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn zigzag_survives(value in any::<u64>()) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }
}
