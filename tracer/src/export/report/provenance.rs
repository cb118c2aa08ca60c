//! Where a judged trace comes from, and how its file held up.

use serde::Serialize;

use crate::event::Setup;
use crate::summary::Summary;

/// A judged trace on its way into a report.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// What it came to.
    pub summary: &'a Summary,
    /// What the pipeline was told.
    pub setup: &'a Setup,
    /// The file it was read from; `None`: it was judged live.
    pub provenance: Option<&'a Provenance>,
}

impl<'a> Judged<'a> {
    /// A trace that was judged while it ran.
    #[must_use]
    pub const fn live(summary: &'a Summary, setup: &'a Setup) -> Self {
        Self { summary, setup, provenance: None }
    }
}

/// What a file says of itself, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// The file.
    pub file: String,
    /// Who wrote the records: live, demo, simulator, import, litmus.
    pub origin: &'static str,
    /// Version of the tool that wrote it.
    pub tool: String,
    /// Name of the host, empty if it is not in the file.
    pub host: String,
    /// The VMM's command line, empty if it is not in the file.
    pub vmm: String,
    /// When it began, in seconds since 1970 UTC; 0 if it is not in the file.
    pub started_s: u64,
    /// Where the last whole frame ends, if the file was never completed.
    pub cut_at: Option<u64>,
    /// Damaged places, the first of them.
    pub damages: Vec<DamageRow>,
    /// Damaged places in all.
    pub damages_total: u64,
}

/// One damaged place of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamageRow {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Bytes that were skipped.
    pub bytes: u64,
    /// What was found there.
    pub what: &'static str,
    /// Records missing for that, if this place tells.
    pub records: Option<u64>,
}

impl Provenance {
    /// What is wrong with the file, one sentence each; the gaps of the trace tell what is missing for it.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints: Vec<String> = self.damages.iter().map(DamageRow::sentence).collect();
        let unlisted = self.damages_total - self.damages.len() as u64;
        if 0 < unlisted {
            complaints.push(format!("{unlisted} damaged places more"));
        }
        if let Some(offset) = self.cut_at {
            complaints.push(format!(
                "ends at byte {offset} without an index: its writer was killed, met an error or still writes; \
                 what came after is not in it"
            ));
        }
        complaints
    }
}

impl DamageRow {
    fn sentence(&self) -> String {
        let Self { offset, bytes, what, records } = self;
        let records =
            records.map_or(String::new(), |records| format!(", {records} records missing"));
        format!("byte {offset}: {what} ({bytes} bytes skipped{records})")
    }
}
