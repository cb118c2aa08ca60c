//! The tables: events, and what the analysis says about them.

use super::row::{Bits, Column, Flags, Row, Slot, Time, rows};
use super::{Origin, SCHEMA_VERSION};
use crate::event::{Anomaly, AnomalyKind, Gap, SlotId};
use crate::summary::{Harvest, SlotSummary, VmSummary};
use crate::verdict::{Finding, Window};
use serde::Serialize;

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident => $plural:literal, $singular:literal, $row:ty;)+) => {
        /// A table of the export.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Table { $($(#[$doc])* $name),+ }

        impl Table {
            /// All tables, in reading order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The table's name: its Parquet file, and `--table`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $plural),+ }
            }

            /// What one row is: `type` in JSON lines, and `--kind`.
            #[must_use]
            pub const fn row_name(self) -> &'static str {
                match self { $(Self::$name => $singular),+ }
            }

            /// Its columns.
            #[must_use]
            pub const fn columns(self) -> &'static [Column] {
                match self { $(Self::$name => <$row as Row>::COLUMNS),+ }
            }
        }
    };
}

tables! {
    /// One row per operation of the kernel.
    Events => "events", "event", super::event_row::EventRow;
    /// One row per window.
    Windows => "windows", "window", WindowRow;
    /// One row per GET, CLEAR or RESET.
    Harvests => "harvests", "harvest", HarvestRow;
    /// One row per finding: a page and rule with a verdict other than safe.
    Verdicts => "verdicts", "verdict", VerdictRow;
    /// One row per stretch in which records are missing.
    Gaps => "gaps", "gap", GapRow;
    /// One row per memslot.
    Slots => "slots", "slot", SlotRow;
}

impl Table {
    /// The table of that name, plural or singular.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|table| table.name() == name || table.row_name() == name)
    }
}

rows! {
    /// A row of [`Table::Windows`].
    WindowRow {
        kind: &'static str = "fast-fault, host-write, slow-fault or tlb.",
        opened_ns: Time = "Earliest time it can have opened.",
        closed_ns: Option<Time> = "Latest time it can have closed; absent: open at the end of the trace.",
        open_for_ns: Option<u64> = "closed_ns - opened_ns: an upper bound of the duration.",
        vm: Bits = "Address of the VM's struct kvm.",
        slot: Slot = "Memslot, as_id:id.",
        gfn: u64 = "The page; tlb windows: the first page protected.",
        tid: u32 = "Thread that opened it.",
        harvests_inside: u32 = "Harvests of the slot that can have fallen inside.",
    }

    /// A row of [`Table::Harvests`].
    HarvestRow {
        harvest: u64 = "Number of the harvest in this trace, from 1.",
        begin_ns: Time = "Entry of the ioctl.",
        end_ns: Time = "Return of the ioctl.",
        ioctl_ns: u64 = "end_ns - begin_ns.",
        op: &'static str = "get, clear or reset.",
        vm: Bits = "Address of the VM's struct kvm.",
        slot: Option<Slot> = "Memslot; absent for reset, which is of the whole VM.",
        iteration: u64 = "n-th harvest of this slot, from 1.",
        tid: u32 = "Thread.",
        ret: i64 = "Return value of the ioctl.",
        words: u64 = "Bitmap words (or ring batches) with bits.",
        pages: u64 = "Pages taken; manual-protect get: read.",
        protect_ns: u64 = "First word to last word.",
        flush_ns: Option<u64> = "Remote TLB flush inside; absent: none was seen.",
        is_flush_counted: bool = "The VM's flush counter moved between begin and end.",
        is_complete: bool = "Begin, end and every record between were seen.",
        worst: Option<&'static str> = "Worst verdict on its pages.",
    }

    /// A row of [`Table::Verdicts`].
    VerdictRow {
        verdict: &'static str = "lost, at-risk, exposed or unknown.",
        rule: &'static str = "Rule id, K01 to K15.",
        first_ns: Time = "When it first happened.",
        last_ns: Time = "When it last happened.",
        count: u64 = "How often it happened to this page.",
        vm: Bits = "Address of the VM's struct kvm.",
        slot: Slot = "Memslot.",
        gfn: Option<u64> = "The page; absent where the rule speaks of a slot or harvest.",
        sentence: String = "What went wrong, with the values that prove it.",
        known: Option<&'static str> = "Name under which this hazard is listed for this kernel release.",
        witness: serde_json::Value = "Smallest set of events that makes the case: steps, edges, losing step.",
    }

    /// A row of [`Table::Gaps`].
    GapRow {
        from_ns: Time = "Missing records are not older than this.",
        to_ns: Time = "Missing records are not younger than this.",
        cause: &'static str = "ring-full, probe-missed, thread-table, budget, memory-limit, damaged; or, for a record that made no sense, unknown-kind, unknown-class, unknown-ioctl, late.",
        dropped: u64 = "How many.",
        lane: Option<&'static str> = "page, boundary or syscall; absent: any.",
        cpu: Option<u16> = "CPU; absent: any.",
        hook: Option<&'static str> = "Hook that missed; absent: any.",
    }

    /// A row of [`Table::Slots`].
    SlotRow {
        vm: Bits = "Address of the VM's struct kvm.",
        tgid: u32 = "Process that created the VM, 0 if not known.",
        slot: Slot = "Memslot, as_id:id.",
        gfn: u64 = "First page.",
        npages: u64 = "Pages.",
        is_logging: bool = "Dirty logging is on at the end of the trace.",
        logging_since_ns: Option<Time> = "Since when.",
        harvests: u64 = "Harvests of this slot.",
        pages_harvested: u64 = "Pages they took, in all.",
        ring_bytes: u32 = "Bytes of each dirty ring of the VM, 0 in bitmap mode.",
        flags: Flags = "manual-protect, initially-set, vm-gone.",
    }
}

/// The first line of JSON lines.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HeaderRow<'a> {
    schema: u32,
    tool: &'static str,
    version: &'static str,
    host: &'a str,
    kernel: &'a str,
    clock: &'static str,
    epsilon_ns: u64,
    plan: &'a crate::event::Plan,
}

impl<'a> HeaderRow<'a> {
    pub(super) fn new(origin: &'a Origin) -> Self {
        Self {
            schema: SCHEMA_VERSION,
            tool: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            host: &origin.host,
            kernel: &origin.setup.kernel,
            clock: "monotonic",
            epsilon_ns: origin.setup.epsilon_ns,
            plan: &origin.setup.plan,
        }
    }
}

impl From<&Window> for WindowRow {
    fn from(window: &Window) -> Self {
        let Window { kind, vm, slot, gfn, tid, opened, closed, harvests_inside } = *window;
        Self {
            kind: kind.name(),
            opened_ns: Time(opened.0),
            closed_ns: closed.map(|closed| Time(closed.0)),
            open_for_ns: window.open_for_ns(),
            vm: Bits(vm.0),
            slot: Slot(slot),
            gfn: gfn.0,
            tid: tid.0,
            harvests_inside,
        }
    }
}

impl From<&Harvest> for HarvestRow {
    fn from(harvest: &Harvest) -> Self {
        let has_slot = harvest.op != crate::event::IoctlOp::ResetDirtyRings;
        Self {
            harvest: harvest.id,
            begin_ns: Time(harvest.begin.0),
            end_ns: Time(harvest.end.0),
            ioctl_ns: harvest.end.since(harvest.begin),
            op: super::event_row::op_name(harvest.op),
            vm: Bits(harvest.vm.0),
            slot: has_slot.then_some(Slot(harvest.slot)),
            iteration: harvest.iteration,
            tid: harvest.tid.0,
            ret: harvest.ret,
            words: harvest.words,
            pages: harvest.pages,
            protect_ns: harvest.protect_ns,
            flush_ns: harvest.flush_ns,
            is_flush_counted: harvest.flush_counter_moved,
            is_complete: harvest.is_complete,
            worst: harvest.worst.map(|verdict| verdict.name()),
        }
    }
}

impl From<&Finding> for VerdictRow {
    fn from(finding: &Finding) -> Self {
        Self {
            verdict: finding.verdict.name(),
            rule: finding.rule.name(),
            first_ns: Time(finding.first.0),
            last_ns: Time(finding.last.0),
            count: finding.count,
            vm: Bits(finding.vm.0),
            slot: Slot(finding.slot),
            gfn: finding.gfn.map(|gfn| gfn.0),
            sentence: finding.sentence.clone(),
            known: finding.known,
            witness: super::event_row::witness_json(&finding.witness),
        }
    }
}

impl From<&Gap> for GapRow {
    fn from(gap: &Gap) -> Self {
        let Gap { lane, hook, cause, from, to, dropped } = *gap;
        Self {
            from_ns: Time(from.0),
            to_ns: Time(to.0),
            cause: cause.name(),
            dropped,
            lane: lane.map(|lane| super::event_row::class_name(lane.class)),
            cpu: lane.map(|lane| lane.cpu.0),
            hook: hook.map(|hook| hook.name()),
        }
    }
}

impl From<&Anomaly> for GapRow {
    fn from(anomaly: &Anomaly) -> Self {
        let Anomaly { at, lane, kind } = *anomaly;
        Self {
            from_ns: Time(at.0),
            to_ns: Time(at.0),
            cause: match kind {
                AnomalyKind::UnknownKind(_) => "unknown-kind",
                AnomalyKind::UnknownClass(_) => "unknown-class",
                AnomalyKind::UnknownIoctl(_) => "unknown-ioctl",
                AnomalyKind::NoSuchPage => "no-such-page",
                AnomalyKind::Late => "late",
            },
            dropped: 1,
            lane: Some(super::event_row::class_name(lane.class)),
            cpu: Some(lane.cpu.0),
            hook: None,
        }
    }
}

impl SlotRow {
    /// The row of one slot of `vm`.
    #[must_use]
    pub fn new(vm: &VmSummary, id: SlotId, slot: &SlotSummary) -> Self {
        Self {
            vm: Bits(vm.vm.0),
            tgid: vm.tgid,
            slot: Slot(id),
            gfn: slot.base.0,
            npages: slot.npages,
            is_logging: slot.is_logging,
            logging_since_ns: slot.logging_since.map(|since| Time(since.0)),
            harvests: slot.harvests,
            pages_harvested: slot.pages_harvested,
            ring_bytes: vm.ring_bytes,
            flags: Flags::default()
                .with(vm.manual_protect & 1 != 0, "manual-protect")
                .with(vm.manual_protect & 2 != 0, "initially-set")
                .with(vm.is_gone, "vm-gone"),
        }
    }
}

/// Calls `$body` with `$row` bound to the item's row, whatever its table.
macro_rules! with_row {
    ($item:expr, $inventory:expr, |$row:ident| $body:expr) => {
        match $item {
            $crate::export::Item::Event(event) => {
                let $row = &$crate::export::event_row::EventRow::new(event, $inventory);
                $body
            }
            $crate::export::Item::Gap(gap) => {
                let $row = &$crate::export::table::GapRow::from(*gap);
                $body
            }
            $crate::export::Item::Anomaly(anomaly) => {
                let $row = &$crate::export::table::GapRow::from(*anomaly);
                $body
            }
            $crate::export::Item::Window(window) => {
                let $row = &$crate::export::table::WindowRow::from(*window);
                $body
            }
            $crate::export::Item::Harvest(harvest) => {
                let $row = &$crate::export::table::HarvestRow::from(*harvest);
                $body
            }
            $crate::export::Item::Finding(finding) => {
                let $row = &$crate::export::table::VerdictRow::from(*finding);
                $body
            }
            $crate::export::Item::Slot { vm, id, slot } => {
                let $row = &$crate::export::table::SlotRow::new(vm, *id, slot);
                $body
            }
        }
    };
}

pub(super) use with_row;
