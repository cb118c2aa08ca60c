//! Exports: what a trace says, in the forms other tools read.
//!
//! ```text
//! batches --> Exporter (sort by time, filter, judge) --> items --> jsonl | csv | parquet | perfetto | std
//! ```
//!
//! An export computes nothing that changes a verdict; it repeats events, and what [`crate::pipeline`] made of them, one
//! item at a time. Memory is bounded: no sink keeps more than one row group, one bracket per thread or one window.

pub mod row;

pub mod table;

pub mod inventory;

pub mod event_row;

pub mod filter;

pub mod exporter;

pub mod schema;

pub mod jsonl;

pub mod csv;

pub mod report;

pub mod diff;

pub mod perfetto;

pub mod std_form;

#[cfg(feature = "parquet")]
pub mod parquet;

#[cfg(test)]
mod sample;

use std::io;

use crate::event::{Anomaly, Event, Gap, Setup, SlotId, VmId};
use crate::summary::{Harvest, SlotSummary, VmSummary};
use crate::verdict::{Finding, Window};
use inventory::Inventory;

pub use exporter::{Exporter, Totals};
pub use filter::Filter;
pub use table::Table;

/// Version of the names, types and meanings of all exported columns; stored in every export that has a place for it.
pub const SCHEMA_VERSION: u32 = 1;

/// Where a trace comes from: what its exports carry beside the records, so that a fleet's files can lie side by side.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The host's name, empty if it was not recorded.
    pub host: String,
    /// What the pipeline was told: kernel, plan, clock.
    pub setup: Setup,
}

/// One thing to export. Events come by time; what is said about them comes when it is known.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// An operation of the kernel.
    Event(&'a Event),
    /// Records that are missing.
    Gap(&'a Gap),
    /// A record that made no sense.
    Anomaly(&'a Anomaly),
    /// A window, closed or left open by the end of the trace.
    Window(&'a Window),
    /// A harvest that returned.
    Harvest(&'a Harvest),
    /// A finding, at the end of the trace.
    Finding(&'a Finding),
    /// A memslot, at the end of the trace.
    Slot {
        /// Its VM.
        vm: &'a VmSummary,
        /// Which.
        id: SlotId,
        /// What is known of it.
        slot: &'a SlotSummary,
    },
}

/// A form a trace can be exported in: `begin` once, `item` for each item, `finish` once.
///
/// Cut off anywhere, what was written must still be readable by the form's usual readers where the form allows it
/// (parquet does not: its footer comes last).
pub trait Export {
    /// Windows, harvests, findings and slots are wanted, so the trace has to be judged.
    fn needs_judgement(&self) -> bool;

    /// The trace begins.
    ///
    /// # Errors
    /// The output cannot be written.
    fn begin(&mut self, origin: &Origin) -> Result<(), ExportError>;

    /// The next item. `inventory` is what events up to this one said about VMs, slots and threads.
    ///
    /// # Errors
    /// The output cannot be written.
    fn item(&mut self, item: &Item<'_>, inventory: &Inventory) -> Result<(), ExportError>;

    /// The trace has ended.
    ///
    /// # Errors
    /// The output cannot be written.
    fn finish(&mut self) -> Result<(), ExportError>;
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The output cannot be written.
    #[error("write the export")]
    Write(#[from] io::Error),
    /// A record cannot be put into JSON.
    #[error("encode a record as json")]
    Json(#[from] serde_json::Error),
    /// A Parquet file cannot be written.
    #[cfg(feature = "parquet")]
    #[error("write parquet")]
    Parquet(#[from] ::parquet::errors::ParquetError),
}

impl Item<'_> {
    /// The table this item is a row of.
    #[must_use]
    pub const fn table(&self) -> Table {
        match self {
            Self::Event(_) => Table::Events,
            Self::Gap(_) | Self::Anomaly(_) => Table::Gaps,
            Self::Window(_) => Table::Windows,
            Self::Harvest(_) => Table::Harvests,
            Self::Finding(_) => Table::Verdicts,
            Self::Slot { .. } => Table::Slots,
        }
    }

    /// The VM it belongs to; [`VmId::UNKNOWN`] for gaps and anomalies.
    #[must_use]
    pub const fn vm(&self) -> VmId {
        match self {
            Self::Event(event) => event.vm,
            Self::Gap(_) | Self::Anomaly(_) => VmId::UNKNOWN,
            Self::Window(window) => window.vm,
            Self::Harvest(harvest) => harvest.vm,
            Self::Finding(finding) => finding.vm,
            Self::Slot { vm, .. } => vm.vm,
        }
    }
}
