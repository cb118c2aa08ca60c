//! The rows of one row group, by column.

use std::collections::BTreeMap;

use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;

use super::layout::{FIXED, sorted_by};
use crate::export::row::{Cell, Column, ColumnType, set_text};

/// Rows on their way into a row group.
#[derive(Debug)]
pub(super) struct Buffer {
    columns: Vec<ColumnBuffer>,
    fixed: [ByteArray; FIXED.len()],
    sorted_by: Option<usize>,
    rows: usize,
    next_column: usize,
    text: String,
}

#[derive(Debug)]
struct ColumnBuffer {
    nullable: bool,
    /// Per row, 1 if it has a value.
    levels: Vec<i16>,
    values: Values,
    /// Texts seen, so that equal ones share their bytes.
    known: BTreeMap<String, ByteArray>,
}

#[derive(Debug)]
enum Values {
    Integers(Vec<i64>),
    Booleans(Vec<bool>),
    Texts(Vec<ByteArray>),
}

/// Texts remembered per column; slots, kinds and flags are far fewer.
const KNOWN_MAX: usize = 256;

impl Buffer {
    pub(super) fn new(fixed: [&str; FIXED.len()], columns: &[Column]) -> Self {
        let of_fixed = FIXED.iter().map(|_| ColumnBuffer::new(ColumnType::Text, false));
        let own = columns.iter().map(|column| ColumnBuffer::new(column.ty, column.nullable));
        Self {
            columns: of_fixed.chain(own).collect(),
            fixed: fixed.map(|text| ByteArray::from(text.as_bytes())),
            sorted_by: sorted_by(columns).map(|idx| FIXED.len() + idx),
            rows: 0,
            next_column: 0,
            text: String::new(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Begins a row with what is the same in all of them; its cells follow in order.
    pub(super) fn begin_row(&mut self) {
        for (column, fixed) in self.columns.iter_mut().zip(&self.fixed) {
            column.levels.push(1);
            if let Values::Texts(texts) = &mut column.values {
                texts.push(fixed.clone());
            }
        }
        self.rows += 1;
        self.next_column = FIXED.len();
    }

    /// Takes the row's next cell.
    pub(super) fn push(&mut self, cell: Option<Cell<'_>>) {
        self.columns[self.next_column].push(cell, &mut self.text);
        self.next_column += 1;
    }

    /// Sorts the rows by time.
    pub(super) fn sort(&mut self) {
        let Some(Values::Integers(times)) = self.sorted_by.map(|idx| &self.columns[idx].values)
        else {
            return;
        };
        // Nanoseconds of a monotonic clock: far below 2^63, so signed and unsigned order agree.
        if times.is_sorted() {
            return;
        }
        let mut order: Vec<usize> = (0..self.rows).collect();
        order.sort_by_key(|&row| times[row]);
        for column in &mut self.columns {
            column.reorder(&order);
        }
    }

    /// Writes a column.
    pub(super) fn write(
        &self,
        idx: usize,
        writer: &mut ColumnWriter<'_>,
    ) -> Result<(), ParquetError> {
        let ColumnBuffer { nullable, levels, values, known: _ } = &self.columns[idx];
        let levels = nullable.then_some(levels.as_slice());
        match (values, writer) {
            (Values::Integers(values), ColumnWriter::Int64ColumnWriter(writer)) => {
                writer.write_batch(values, levels, None)
            }
            (Values::Booleans(values), ColumnWriter::BoolColumnWriter(writer)) => {
                writer.write_batch(values, levels, None)
            }
            (Values::Texts(values), ColumnWriter::ByteArrayColumnWriter(writer)) => {
                writer.write_batch(values, levels, None)
            }
            _ => unreachable!("schema and buffer are made from the same columns"),
        }
        .map(|_| ())
    }

    /// Forgets the rows.
    pub(super) fn clear(&mut self) {
        self.rows = 0;
        for column in &mut self.columns {
            column.levels.clear();
            match &mut column.values {
                Values::Integers(values) => values.clear(),
                Values::Booleans(values) => values.clear(),
                Values::Texts(values) => values.clear(),
            }
        }
    }
}

impl ColumnBuffer {
    fn new(ty: ColumnType, nullable: bool) -> Self {
        let values = match ty {
            ColumnType::Unsigned | ColumnType::Time | ColumnType::Signed | ColumnType::Bits => {
                Values::Integers(Vec::new())
            }
            ColumnType::Bool => Values::Booleans(Vec::new()),
            ColumnType::Text | ColumnType::Json => Values::Texts(Vec::new()),
        };
        Self { nullable, levels: Vec::new(), values, known: BTreeMap::new() }
    }

    fn push(&mut self, cell: Option<Cell<'_>>, text: &mut String) {
        assert!(cell.is_some() || self.nullable, "a column that cannot be absent is absent");
        self.levels.push(i16::from(cell.is_some()));
        match (&mut self.values, cell) {
            (_, None) => {}
            // Parquet keeps unsigned integers in signed ones of the same bits.
            (Values::Integers(values), Some(Cell::Unsigned(value) | Cell::Bits(value))) => {
                values.push(value as i64);
            }
            (Values::Integers(values), Some(Cell::Signed(value))) => values.push(value),
            (Values::Booleans(values), Some(Cell::Bool(value))) => values.push(value),
            (Values::Texts(values), Some(Cell::Text(_) | Cell::Slot(_) | Cell::Json(_))) => {
                set_text(text, cell);
                let known = self.known.get(text.as_str()).cloned();
                values.push(known.unwrap_or_else(|| {
                    let bytes = ByteArray::from(text.as_bytes());
                    if self.known.len() < KNOWN_MAX {
                        self.known.insert(text.clone(), bytes.clone());
                    }
                    bytes
                }));
            }
            (values, cell) => unreachable!("a {cell:?} in a column of {values:?}"),
        }
    }

    fn reorder(&mut self, order: &[usize]) {
        // Where the row's value is among the values, which hold no place for absent ones.
        let mut places = Vec::with_capacity(self.levels.len());
        let mut n_values = 0;
        for &level in &self.levels {
            places.push(n_values);
            n_values += usize::from(level == 1);
        }
        let present = order.iter().filter(|&&row| self.levels[row] == 1).map(|&row| places[row]);
        match &mut self.values {
            Values::Integers(values) => *values = present.map(|idx| values[idx]).collect(),
            Values::Booleans(values) => *values = present.map(|idx| values[idx]).collect(),
            Values::Texts(values) => *values = present.map(|idx| values[idx].clone()).collect(),
        }
        self.levels = order.iter().map(|&row| self.levels[row]).collect();
    }
}
