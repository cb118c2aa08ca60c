//! Parquet: one file per table, for DuckDB, Polars, DataFusion and everything else that reads it.
//!
//! Every table begins with the columns `host` and `kernel`, so that the files of a fleet can be queried as one. Rows
//! are sorted by their first time column within a row group (events: over the whole file), and every column has
//! statistics per row group and page, so a scan over a range of time or pages reads only what it needs. Times and page
//! numbers are delta-packed; no column uses BYTE_STREAM_SPLIT, which not every reader knows for integers.

mod buffer;
mod layout;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use ::parquet::file::writer::SerializedFileWriter;

use self::buffer::Buffer;
use super::inventory::Inventory;
use super::row::{Cell, Row};
use super::table::{Table, with_row};
use super::{Export, ExportError, Item, Origin};

/// Writes tables as Parquet.
#[derive(Debug)]
pub struct Parquet<W: Write + Send> {
    outs: BTreeMap<Table, W>,
    tables: BTreeMap<Table, TableWriter<W>>,
    has_judgement: bool,
}

/// The file of one table, with the rows of its next row group.
#[derive(Debug)]
struct TableWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    buffer: Buffer,
}

/// Rows of a row group; with the columns an event fills this is some 20 MB held in memory.
const GROUP_ROWS: usize = 1 << 17;

impl Parquet<File> {
    /// Writes all tables into `folder`, which is made if it is not there: `events.parquet` and so on. Tables of another
    /// export are not overwritten.
    ///
    /// # Errors
    /// The folder or a file cannot be made.
    pub fn in_folder(folder: &Path) -> Result<Self, ExportError> {
        fs::create_dir_all(folder)?;
        let create = |&table: &Table| {
            let path = folder.join(table.name()).with_extension("parquet");
            Ok((table, File::create_new(path)?))
        };
        let outs: Result<_, ExportError> = Table::ALL.iter().map(create).collect();
        Ok(Self::to(outs?))
    }
}

impl<W: Write + Send> Parquet<W> {
    /// Writes one table.
    pub fn one(out: W, table: Table) -> Self {
        Self::to(BTreeMap::from([(table, out)]))
    }

    fn to(outs: BTreeMap<Table, W>) -> Self {
        let has_judgement = outs.keys().any(|table| !matches!(table, Table::Events | Table::Gaps));
        Self { outs, tables: BTreeMap::new(), has_judgement }
    }
}

impl<W: Write + Send> TableWriter<W> {
    fn push(&mut self, row: &impl Row) -> Result<(), ExportError> {
        self.buffer.begin_row();
        row.for_each_cell(&mut |cell: Option<Cell<'_>>| self.buffer.push(cell));
        if self.buffer.rows() == GROUP_ROWS { self.write_group() } else { Ok(()) }
    }

    fn write_group(&mut self) -> Result<(), ExportError> {
        if self.buffer.rows() == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        self.buffer.sort();
        let mut idx = 0;
        while let Some(mut column) = group.next_column()? {
            self.buffer.write(idx, column.untyped())?;
            column.close()?;
            idx += 1;
        }
        group.close()?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write + Send> Export for Parquet<W> {
    fn needs_judgement(&self) -> bool {
        self.has_judgement
    }

    fn begin(&mut self, origin: &Origin) -> Result<(), ExportError> {
        for (table, out) in std::mem::take(&mut self.outs) {
            let properties = layout::properties(table, origin)?;
            let schema = layout::schema(table)?;
            let file = SerializedFileWriter::new(out, schema, properties.into())?;
            let fixed = [&*origin.host, &*origin.setup.kernel];
            let buffer = Buffer::new(fixed, table.columns());
            self.tables.insert(table, TableWriter { file, buffer });
        }
        Ok(())
    }

    fn item(&mut self, item: &Item<'_>, inventory: &Inventory) -> Result<(), ExportError> {
        match self.tables.get_mut(&item.table()) {
            Some(table) => with_row!(item, inventory, |row| table.push(row)),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), ExportError> {
        for (_, mut table) in std::mem::take(&mut self.tables) {
            table.write_group()?;
            table.file.close()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Filter, sample};
    use super::*;
    use crate::event::{Gfn, Nanos, SlotId, Tid, VmId};
    use crate::verdict::{Window, WindowKind};
    use ::parquet::basic::Encoding;
    use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
    use ::parquet::record::Field;
    use bytes::Bytes;

    fn window(opened: u64, closed: Option<u64>) -> Window {
        Window {
            kind: WindowKind::FastFault,
            vm: VmId(0xffff_8880_0000_0000),
            slot: SlotId { as_id: 0, id: 1 },
            gfn: Gfn(7),
            tid: Tid(1),
            opened: Nanos(opened),
            closed: closed.map(Nanos),
            harvests_inside: 0,
        }
    }

    fn windows(windows: &[Window]) -> SerializedFileReader<Bytes> {
        let mut out = Vec::new();
        let mut parquet = Parquet::one(&mut out, Table::Windows);
        parquet.begin(&sample::origin()).unwrap();
        for window in windows {
            parquet.item(&Item::Window(window), &Inventory::default()).unwrap();
        }
        parquet.finish().unwrap();
        drop(parquet);
        SerializedFileReader::new(Bytes::from(out)).unwrap()
    }

    fn column(reader: &SerializedFileReader<Bytes>, name: &str) -> Vec<Field> {
        let rows = reader.get_row_iter(None).unwrap();
        rows.map(|row| row.unwrap().into_columns().into_iter().find(|(n, _)| n == name).unwrap().1)
            .collect()
    }

    #[test]
    fn rows_of_a_group_are_sorted_with_all_their_columns() {
        let reader = windows(&[window(30, Some(40)), window(10, None), window(20, Some(21))]);
        let times = [10, 20, 30].map(Field::ULong);
        assert_eq!(column(&reader, "opened_ns"), times);
        assert_eq!(
            column(&reader, "open_for_ns"),
            [Field::Null, Field::ULong(1), Field::ULong(10)]
        );
        let host = Field::Str(String::from("build, \"host\""));
        assert_eq!(column(&reader, "host"), [host.clone(), host.clone(), host]);
    }

    #[test]
    fn every_column_has_statistics_and_no_byte_stream_split() {
        let reader = windows(&[window(30, Some(40)), window(10, Some(11))]);
        let group = reader.metadata().row_group(0);
        for column in group.columns() {
            assert!(column.statistics().is_some(), "{}", column.column_path());
            assert!(column.encodings().all(|encoding| encoding != Encoding::BYTE_STREAM_SPLIT));
        }
        let sorted = group.sorting_columns().unwrap();
        let by = group.column(sorted[0].column_idx as usize);
        assert_eq!(by.column_path().string(), "opened_ns");
        assert!(by.encodings().any(|encoding| encoding == Encoding::DELTA_BINARY_PACKED));
    }

    #[test]
    fn a_folder_holds_every_table_even_if_it_is_empty() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/parquet-test");
        let totals = sample::export(Filter::default(), &mut Parquet::in_folder(&folder).unwrap());
        let mut rows = 0;
        for table in Table::ALL {
            let path = folder.join(table.name()).with_extension("parquet");
            let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
            rows += reader.metadata().file_metadata().num_rows() as u64;
        }
        assert_eq!(rows, totals.items);
        fs::remove_dir_all(folder).unwrap();
    }
}
