//! JSON lines: one record per line, its `type` first; described by [`super::schema`].

use std::io::Write;

use super::inventory::Inventory;
use super::row::Row;
use super::table::{HeaderRow, with_row};
use super::{Export, ExportError, Item, Origin};
use serde::Serialize;

/// Writes JSON lines.
#[derive(Debug)]
pub struct Jsonl<W> {
    out: W,
}

#[derive(Serialize)]
struct Line<'a, R> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    row: &'a R,
}

impl<W: Write> Jsonl<W> {
    /// Writes to `out`, which should be buffered.
    pub const fn new(out: W) -> Self {
        Self { out }
    }

    fn line<R: Row>(&mut self, kind: &'static str, row: &R) -> Result<(), ExportError> {
        self.write(&Line { kind, row })
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), ExportError> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")?;
        Ok(())
    }
}

impl<W: Write> Export for Jsonl<W> {
    fn needs_judgement(&self) -> bool {
        true
    }

    fn begin(&mut self, origin: &Origin) -> Result<(), ExportError> {
        self.write(&Line { kind: "header", row: &HeaderRow::new(origin) })
    }

    fn item(&mut self, item: &Item<'_>, inventory: &Inventory) -> Result<(), ExportError> {
        with_row!(item, inventory, |row| self.line(item.table().row_name(), row))
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
    use crate::event::Kind;
    use std::collections::BTreeSet;

    fn lines(filter: Filter) -> Vec<serde_json::Value> {
        let mut out = Vec::new();
        sample::export(filter, &mut Jsonl::new(&mut out));
        let text = String::from_utf8(out).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_kind_has_a_line_and_lines_are_sorted_by_time() {
        let lines = lines(Filter::default());
        assert_eq!(lines[0]["type"], "header");
        let events: Vec<_> = lines.iter().filter(|line| line["type"] == "event").collect();
        let kinds: BTreeSet<_> = events.iter().map(|line| line["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, Kind::ALL.iter().map(|kind| kind.name()).collect());
        assert!(events.is_sorted_by_key(|line| line["ts_ns"].as_u64()));
        assert_eq!(lines.iter().filter(|line| line["type"] == "gap").count(), 1);
    }

    #[test]
    fn a_mark_reads_as_documented() {
        let mut filter = Filter::default();
        filter.kinds.push("mark".parse().unwrap());
        let mut out = Vec::new();
        sample::export(filter, &mut Jsonl::new(&mut out));
        let text = String::from_utf8(out).unwrap();
        insta::assert_snapshot!(text.lines().nth(1).unwrap(), @r#"{"type":"event","ts_ns":2110,"begin_ns":2100,"kind":"mark","vm":"0xffff888010000000","tid":11,"vcpu":0,"cpu":1,"lane":"page","seq":1,"slot":"0:1","gfn":1027,"npages":1,"flags":["logging","bitmap","in-fast"],"old_spte":"0x800","word":"0x8"}"#);
    }

    #[test]
    fn what_a_record_leaves_out_comes_from_the_trace_before_it() {
        let lines = lines(Filter::default());
        let find = |kind: &str| lines.iter().find(|line| line["kind"] == kind).unwrap();
        assert_eq!(find("user-word")["slot"], "0:1");
        assert_eq!(find("ring-push")["gfn"], 0x403);
        assert_eq!(find("spte-change")["slot"], "0:1");
        assert_eq!(find("fast-fault")["vcpu"], 0);
        assert_eq!(find("host-write")["npages"], 2);
    }
}
