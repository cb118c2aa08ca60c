//! The exporter: batches in, items out in order of time, whatever the form.

use std::collections::BTreeMap;

use super::inventory::Inventory;
use super::{Export, ExportError, Filter, Item, Origin};
use crate::event::{Batch, Event, Nanos, RawEvent, decode};
use crate::pipeline::Pipeline;
use crate::summary::{HARVESTS_MAX, Harvest};

/// Feeds one sink.
#[derive(Debug)]
pub struct Exporter<'a, E: ?Sized> {
    sink: &'a mut E,
    filter: Filter,
    inventory: Inventory,
    judge: Option<Pipeline>,
    pending: Vec<RawEvent>,
    /// Harvests whose verdict can still change, by number.
    harvests: BTreeMap<u64, Harvest>,
    harvests_seen: u64,
    begin: Option<Nanos>,
    totals: Totals,
}

/// What was read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records read.
    pub records: u64,
    /// Items the filter kept.
    pub items: u64,
}

/// Records held back for sorting, at most; a source whose watermark stands still is cut here.
const PENDING_MAX: usize = 1 << 20;

/// Harvests held back until their verdict is settled; far fewer than the summary keeps, so that none is missed.
const HARVESTS_HELD: usize = HARVESTS_MAX / 4;

impl<'a, E: Export + ?Sized> Exporter<'a, E> {
    /// Begins an export.
    ///
    /// # Errors
    /// The sink cannot write.
    pub fn begin(origin: &Origin, filter: Filter, sink: &'a mut E) -> Result<Self, ExportError> {
        sink.begin(origin)?;
        let judge = sink.needs_judgement().then(|| {
            let mut pipeline = Pipeline::new(origin.setup.clone());
            pipeline.follow_windows();
            pipeline
        });
        Ok(Self {
            sink,
            filter,
            inventory: Inventory::default(),
            judge,
            pending: Vec::new(),
            harvests: BTreeMap::new(),
            harvests_seen: 0,
            begin: None,
            totals: Totals::default(),
        })
    }

    /// Takes the next batch.
    ///
    /// # Errors
    /// The sink cannot write.
    pub fn push(&mut self, batch: &Batch) -> Result<(), ExportError> {
        self.totals.records += batch.records.len() as u64;
        self.pending.extend_from_slice(&batch.records);
        self.begin = self.begin.or_else(|| batch.records.iter().map(|raw| Nanos(raw.ts_ns)).min());
        self.release(batch.watermark)?;
        for gap in &batch.gaps {
            self.emit(&Item::Gap(gap))?;
        }
        if let Some(judge) = &mut self.judge {
            judge.push(batch);
        }
        self.emit_windows()?;
        self.emit_harvests(HARVESTS_HELD)
    }

    /// The trace has ended.
    ///
    /// # Errors
    /// The sink cannot write.
    pub fn finish(mut self) -> Result<Totals, ExportError> {
        self.release(Nanos(u64::MAX))?;
        if let Some(judge) = &mut self.judge {
            judge.finish();
        }
        self.emit_windows()?;
        self.emit_harvests(0)?;
        if let Some(judge) = self.judge.take() {
            let summary = judge.summary();
            for finding in &summary.findings {
                self.emit(&Item::Finding(finding))?;
            }
            for vm in &summary.vms {
                for (&id, slot) in &vm.slots {
                    self.emit(&Item::Slot { vm, id, slot })?;
                }
            }
        }
        self.sink.finish()?;
        Ok(self.totals)
    }

    /// What was read and written so far.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Emits the held-back records that no later batch can precede.
    fn release(&mut self, watermark: Nanos) -> Result<(), ExportError> {
        // Stable: records of one lane that share a time keep their order.
        self.pending.sort_by_key(|raw| (raw.ts_ns, raw.cpu));
        let due = self.pending.partition_point(|raw| raw.ts_ns <= watermark.0);
        let due = due.max(self.pending.len().saturating_sub(PENDING_MAX));
        let pending = std::mem::take(&mut self.pending);
        for raw in &pending[..due] {
            match decode(raw) {
                Ok(event) => self.emit_event(&event)?,
                Err(anomaly) => self.emit(&Item::Anomaly(&anomaly))?,
            }
        }
        self.pending = pending;
        self.pending.drain(..due);
        Ok(())
    }

    fn emit_event(&mut self, event: &Event) -> Result<(), ExportError> {
        self.inventory.take(event);
        self.emit(&Item::Event(event))
    }

    fn emit_windows(&mut self) -> Result<(), ExportError> {
        let windows = self.judge.as_mut().map(Pipeline::take_windows).unwrap_or_default();
        windows.iter().try_for_each(|window| self.emit(&Item::Window(window)))
    }

    /// Emits harvests, oldest first, until `held` are left.
    fn emit_harvests(&mut self, held: usize) -> Result<(), ExportError> {
        if let Some(judge) = &self.judge {
            let known = &judge.summary().harvests;
            for harvest in known.iter().rev() {
                let is_held = self.harvests.contains_key(&harvest.id);
                if !is_held && harvest.id <= self.harvests_seen {
                    break;
                }
                self.harvests.insert(harvest.id, *harvest);
            }
            self.harvests_seen = known.back().map_or(self.harvests_seen, |harvest| harvest.id);
        }
        while self.harvests.len() > held {
            if let Some((_, harvest)) = self.harvests.pop_first() {
                self.emit(&Item::Harvest(&harvest))?;
            }
        }
        Ok(())
    }

    fn emit(&mut self, item: &Item<'_>) -> Result<(), ExportError> {
        if self.filter.keeps(item, &self.inventory, self.begin.unwrap_or_default()) {
            self.totals.items += 1;
            self.sink.item(item, &self.inventory)?;
        }
        Ok(())
    }
}
