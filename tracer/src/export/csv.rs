//! CSV (RFC 4180): one table, its column names in the first line.

use std::io::{self, Write};

use super::inventory::Inventory;
use super::row::{Row, set_text};
use super::table::{Table, with_row};
use super::{Export, ExportError, Item, Origin};

/// Writes one table as CSV.
#[derive(Debug)]
pub struct Csv<W> {
    out: W,
    table: Table,
    text: String,
}

impl<W: Write> Csv<W> {
    /// Writes `table` to `out`, which should be buffered.
    pub const fn new(out: W, table: Table) -> Self {
        Self { out, table, text: String::new() }
    }

    fn row(&mut self, row: &impl Row) -> Result<(), ExportError> {
        let Self { out, text, .. } = self;
        let mut result = Ok(());
        let mut is_first = true;
        row.for_each_cell(&mut |cell| {
            if result.is_ok() {
                set_text(text, cell);
                result = write_field(out, text, std::mem::take(&mut is_first));
            }
        });
        result?;
        self.out.write_all(b"\r\n")?;
        Ok(())
    }
}

fn write_field(out: &mut impl Write, text: &str, is_first: bool) -> io::Result<()> {
    if !is_first {
        out.write_all(b",")?;
    }
    if text.contains(['"', ',', '\r', '\n']) {
        write!(out, "\"{}\"", text.replace('"', "\"\""))
    } else {
        out.write_all(text.as_bytes())
    }
}

impl<W: Write> Export for Csv<W> {
    fn needs_judgement(&self) -> bool {
        !matches!(self.table, Table::Events | Table::Gaps)
    }

    fn begin(&mut self, _: &Origin) -> Result<(), ExportError> {
        for (idx, column) in self.table.columns().iter().enumerate() {
            write_field(&mut self.out, column.name, idx == 0)?;
        }
        self.out.write_all(b"\r\n")?;
        Ok(())
    }

    fn item(&mut self, item: &Item<'_>, inventory: &Inventory) -> Result<(), ExportError> {
        if item.table() != self.table {
            return Ok(());
        }
        with_row!(item, inventory, |row| self.row(row))
    }

    fn finish(&mut self) -> Result<(), ExportError> {
        self.out.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::filter::Filter;
    use super::super::sample;
    use super::*;

    fn text(table: Table) -> String {
        let mut out = Vec::new();
        sample::export(Filter::default(), &mut Csv::new(&mut out, table));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_line_has_every_column() {
        let text = text(Table::Events);
        let n = Table::Events.columns().len();
        assert!(text.lines().count() > 20);
        assert!(text.lines().all(|line| line.split(',').count() == n));
    }

    #[test]
    fn gaps_are_a_table_of_their_own() {
        insta::assert_snapshot!(text(Table::Gaps).replace('\r', ""), @r"
        from_ns,to_ns,cause,dropped,lane,cpu,hook
        5000,6000,probe-missed,3,,,flush
        ");
    }

    #[test]
    fn fields_with_commas_and_quotes_are_quoted() {
        let mut out = Vec::new();
        write_field(&mut out, "a \"b\", c", true).unwrap();
        assert_eq!(out, br#""a ""b"", c""#);
    }
}
