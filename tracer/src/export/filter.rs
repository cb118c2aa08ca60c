//! Filters: which items an export keeps.
//!
//! A filter drops only what certainly does not match: a record that names no page, slot or VM (a flush of the whole
//! VM, a KVM_RUN bracket) passes a filter on pages, slots or VMs, because it can act on them; `--kind` drops it. Gaps
//! always pass, save by time: an export that hides loss would lie.

use std::str::FromStr;

use super::event_row::EventRow;
use super::inventory::Inventory;
use super::table::Table;
use super::{Item, row};
use crate::event::{Event, Gfn, IoctlOp, Kind, Nanos, SlotId, VmId};
use crate::verdict::RuleId;

/// What to keep. Empty lists keep everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not before.
    pub from: Option<TimeSpec>,
    /// Before.
    pub to: Option<TimeSpec>,
    /// These VMs.
    pub vms: Vec<VmSpec>,
    /// These slots.
    pub slots: Vec<SlotSpec>,
    /// These pages.
    pub gfns: Vec<GfnRange>,
    /// Verdicts of these rules. With rules and no kinds, only verdicts are kept.
    pub rules: Vec<RuleId>,
    /// Events of these kinds, rows of these tables.
    pub kinds: Vec<KindSpec>,
}

/// A point in the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSpec {
    /// A reading of CLOCK_MONOTONIC, written as a plain number of nanoseconds.
    Absolute(Nanos),
    /// Nanoseconds since the first record, written with a unit: `1.5s`, `200ms`, `10us`, `5ns`.
    Relative(u64),
}

/// A VM: the address of its `struct kvm` (`0x..`) or the pid of the process that created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmSpec {
    /// Address.
    Address(VmId),
    /// Process.
    Process(u32),
}

/// A slot, `as_id:id` or the id in address space 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSpec(pub SlotId);

/// Pages `first..end`, written `GFN` or `FIRST..END`, decimal or `0x..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GfnRange {
    /// First page.
    pub first: Gfn,
    /// First page after.
    pub end: Gfn,
}

/// A kind of event, or all rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindSpec {
    /// Events of this kind.
    Event(Kind),
    /// Rows of this table.
    Table(Table),
}

/// A filter's text means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}")]
pub struct FilterError {
    text: String,
    what: &'static str,
}

/// A stretch of time, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    from: u64,
    to: u64,
}

impl Filter {
    /// Whether the item is kept. `begin` is the time of the first record.
    #[must_use]
    pub fn keeps(&self, item: &Item<'_>, inventory: &Inventory, begin: Nanos) -> bool {
        if !self.keeps_time(item, begin) {
            return false;
        }
        if let Item::Gap(_) | Item::Anomaly(_) = item {
            return true;
        }
        self.keeps_kind(item) && self.keeps_vm(item, inventory) && self.keeps_pages(item, inventory)
    }

    fn keeps_time(&self, item: &Item<'_>, begin: Nanos) -> bool {
        let stretch = Stretch {
            from: self.from.map_or(0, |time| time.at(begin)),
            to: self.to.map_or(u64::MAX, |time| time.at(begin)),
        };
        match item {
            // By its end alone, so that the events of adjacent stretches add up to those of their union.
            Item::Event(event) => stretch.overlaps(event.span.hi, event.span.hi),
            Item::Gap(gap) => stretch.overlaps(gap.from, gap.to),
            Item::Anomaly(anomaly) => stretch.overlaps(anomaly.at, anomaly.at),
            Item::Window(window) => {
                stretch.overlaps(window.opened, window.closed.unwrap_or(Nanos(u64::MAX)))
            }
            Item::Harvest(harvest) => stretch.overlaps(harvest.begin, harvest.end),
            Item::Finding(finding) => stretch.overlaps(finding.first, finding.last),
            Item::Slot { .. } => true,
        }
    }

    fn keeps_kind(&self, item: &Item<'_>) -> bool {
        if self.kinds.is_empty() {
            return self.rules.is_empty() || self.keeps_rule(item);
        }
        let is_named = self.kinds.iter().any(|kind| match (kind, item) {
            (KindSpec::Event(kind), Item::Event(event)) => *kind == event.kind.kind(),
            (KindSpec::Event(_), _) => false,
            (KindSpec::Table(table), item) => *table == item.table(),
        });
        is_named
            && (self.rules.is_empty() || item.table() != Table::Verdicts || self.keeps_rule(item))
    }

    fn keeps_rule(&self, item: &Item<'_>) -> bool {
        matches!(item, Item::Finding(finding) if self.rules.contains(&finding.rule))
    }

    fn keeps_vm(&self, item: &Item<'_>, inventory: &Inventory) -> bool {
        let vm = item.vm();
        if self.vms.is_empty() || vm == VmId::UNKNOWN {
            return true;
        }
        let tgid = match item {
            Item::Slot { vm, .. } => Some(vm.tgid),
            _ => inventory.tgid(vm),
        };
        self.vms.iter().any(|spec| match *spec {
            VmSpec::Address(address) => address == vm,
            VmSpec::Process(pid) => tgid.is_none_or(|tgid| tgid == pid),
        })
    }

    fn keeps_pages(&self, item: &Item<'_>, inventory: &Inventory) -> bool {
        if self.slots.is_empty() && self.gfns.is_empty() {
            return true;
        }
        match item {
            Item::Event(event) => self.keeps_event_pages(event, inventory),
            Item::Gap(_) | Item::Anomaly(_) => true,
            Item::Window(window) => {
                self.names_slot(Some(window.slot)) && self.names_pages(window.gfn.0, 1)
            }
            Item::Harvest(harvest) => {
                let has_slot = harvest.op != IoctlOp::ResetDirtyRings;
                self.names_slot(has_slot.then_some(harvest.slot))
            }
            Item::Finding(finding) => {
                self.names_slot(Some(finding.slot))
                    && finding.gfn.is_none_or(|gfn| self.names_pages(gfn.0, 1))
            }
            Item::Slot { id, slot, .. } => {
                self.names_slot(Some(*id)) && self.names_pages(slot.base.0, slot.npages)
            }
        }
    }

    fn keeps_event_pages(&self, event: &Event, inventory: &Inventory) -> bool {
        let row = EventRow::new(event, inventory);
        if !self.names_slot(row.slot.map(|row::Slot(slot)| slot)) {
            return false;
        }
        match (row.gfn, row.npages, row.mask) {
            (Some(first), _, Some(row::Bits(mask))) => {
                (0..64).any(|bit| mask >> bit & 1 != 0 && self.names_pages(first + bit, 1))
            }
            (Some(first), npages, None) => self.names_pages(first, npages.unwrap_or(1)),
            (None, _, _) => true,
        }
    }

    fn names_slot(&self, slot: Option<SlotId>) -> bool {
        self.slots.is_empty() || slot.is_none_or(|slot| self.slots.contains(&SlotSpec(slot)))
    }

    fn names_pages(&self, first: u64, npages: u64) -> bool {
        let end = first.saturating_add(npages);
        self.gfns.is_empty()
            || self.gfns.iter().any(|range| range.first.0 < end && first < range.end.0)
    }
}

impl TimeSpec {
    /// The reading this means in a trace whose first record is at `begin`.
    #[must_use]
    pub const fn at(self, begin: Nanos) -> u64 {
        match self {
            Self::Absolute(at) => at.0,
            Self::Relative(after) => begin.0.saturating_add(after),
        }
    }
}

impl Stretch {
    const fn overlaps(self, first: Nanos, last: Nanos) -> bool {
        self.from <= last.0 && first.0 < self.to
    }
}

impl FromStr for TimeSpec {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let error =
            || FilterError::new(text, "time (nanoseconds, or since the begin: 1.5s, 200ms)");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit_ns = match &text[digits.len()..] {
            "" => return digits.parse().map(|at| Self::Absolute(Nanos(at))).map_err(|_| error()),
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            _ => return Err(error()),
        };
        decimal(digits, unit_ns).map(Self::Relative).ok_or_else(error)
    }
}

/// `digits` units of `unit_ns`, in integers, so that no nanosecond is rounded away.
fn decimal(digits: &str, unit_ns: u64) -> Option<u64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut ns = whole.parse::<u64>().ok()?.checked_mul(unit_ns)?;
    let mut place = unit_ns;
    for digit in fraction.bytes() {
        place /= 10;
        ns = ns.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some(ns)
}

impl FromStr for VmSpec {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(|at| Self::Address(VmId(at))),
            None => text.parse().ok().map(Self::Process),
        };
        parsed.ok_or_else(|| FilterError::new(text, "VM (0x address of its struct kvm, or a pid)"))
    }
}

impl FromStr for SlotSpec {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (as_id, id) = text.split_once(':').unwrap_or(("0", text));
        match (as_id.parse(), id.parse()) {
            (Ok(as_id), Ok(id)) => Ok(Self(SlotId { as_id, id })),
            _ => Err(FilterError::new(text, "slot (as_id:id, or id)")),
        }
    }
}

impl FromStr for GfnRange {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let error = || FilterError::new(text, "page or range of pages (0x400, 0x400..0x800)");
        let (first, end) = match text.split_once("..") {
            None => {
                let first = integer(text).ok_or_else(error)?;
                (first, first.checked_add(1).ok_or_else(error)?)
            }
            Some((first, end)) => {
                (integer(first).ok_or_else(error)?, integer(end).ok_or_else(error)?)
            }
        };
        if first < end { Ok(Self { first: Gfn(first), end: Gfn(end) }) } else { Err(error()) }
    }
}

impl FromStr for KindSpec {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let event =
            Kind::ALL.iter().find(|kind| kind.name() == text).map(|&kind| Self::Event(kind));
        event.or_else(|| Table::from_name(text).map(Self::Table)).ok_or_else(|| {
            FilterError::new(text, "kind of event or record (mark, flush, window, harvest ..)")
        })
    }
}

fn integer(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

impl FilterError {
    fn new(text: &str, what: &'static str) -> Self {
        Self { text: text.to_owned(), what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Class, CpuId, EventKind, Lane, MarkWord, SlotRef, Span, Tid};

    fn event(at: u64, kind: EventKind) -> Event {
        Event {
            span: Span::at(Nanos(at)),
            vm: VmId(0x1000),
            tid: Tid(7),
            lane: Lane { class: Class::Page, cpu: CpuId(0) },
            seq: 0,
            kind,
        }
    }

    fn slot(id: u16) -> SlotRef {
        SlotRef { id: SlotId { as_id: 0, id }, logging: true, has_bitmap: true }
    }

    fn word(first: u64, mask: u64) -> Event {
        event(
            50,
            EventKind::HarvestWord { first: Gfn(first), mask, protected: mask, slot: slot(1) },
        )
    }

    fn keeps(filter: &Filter, event: &Event) -> bool {
        filter.keeps(&Item::Event(event), &Inventory::default(), Nanos(0))
    }

    #[test]
    fn a_time_with_a_unit_counts_from_the_first_record() {
        assert_eq!("1.5s".parse(), Ok(TimeSpec::Relative(1_500_000_000)));
        assert_eq!("0.000000001s".parse(), Ok(TimeSpec::Relative(1)));
        assert_eq!("20".parse(), Ok(TimeSpec::Absolute(Nanos(20))));
        assert_eq!(TimeSpec::Relative(5).at(Nanos(10)), 15);
        for bad in ["", "s", "1.5", "-1s", "1h", "1.x2s", "99999999999999999999s"] {
            assert!(bad.parse::<TimeSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn adjacent_stretches_share_no_event() {
        let mark = event(100, EventKind::VmGone);
        let before = Filter { to: Some(TimeSpec::Absolute(Nanos(100))), ..Filter::default() };
        let after = Filter { from: Some(TimeSpec::Absolute(Nanos(100))), ..Filter::default() };
        assert!(!keeps(&before, &mark));
        assert!(keeps(&after, &mark));
    }

    #[test]
    fn a_page_filter_looks_into_masks() {
        let gfn = |text: &str| Filter { gfns: vec![text.parse().unwrap()], ..Filter::default() };
        assert!(keeps(&gfn("0x43"), &word(0x40, 0b1000)));
        assert!(!keeps(&gfn("0x42"), &word(0x40, 0b1000)));
        assert!(keeps(&gfn("0x42..0x44"), &word(0x40, 0b1000)));
    }

    #[test]
    fn what_names_no_page_passes_a_page_filter() {
        let filter = Filter { gfns: vec!["7".parse().unwrap()], ..Filter::default() };
        let whole = EventKind::Flush { before: 1, after: 2, first: Gfn(0), npages: 0 };
        let range = EventKind::Flush { before: 1, after: 2, first: Gfn(8), npages: 4 };
        assert!(keeps(&filter, &event(1, whole)));
        assert!(!keeps(&filter, &event(1, range)));
    }

    #[test]
    fn kinds_and_slots_and_vms_narrow() {
        let mark = event(
            1,
            EventKind::Mark {
                gfn: Gfn(7),
                slot: slot(3),
                word: MarkWord::Unread,
                spte: None,
                has_vcpu: true,
                in_fast: false,
            },
        );
        let of = |kind: &str| Filter { kinds: vec![kind.parse().unwrap()], ..Filter::default() };
        assert!(keeps(&of("mark"), &mark));
        assert!(keeps(&of("event"), &mark));
        assert!(!keeps(&of("flush"), &mark));
        assert!(!keeps(&of("windows"), &mark));
        let slot = |text: &str| Filter { slots: vec![text.parse().unwrap()], ..Filter::default() };
        assert!(keeps(&slot("0:3"), &mark));
        assert!(!keeps(&slot("4"), &mark));
        let vm = |text: &str| Filter { vms: vec![text.parse().unwrap()], ..Filter::default() };
        assert!(keeps(&vm("0x1000"), &mark));
        assert!(!keeps(&vm("0x2000"), &mark));
    }

    #[test]
    fn rules_alone_keep_only_their_verdicts() {
        let filter = Filter { rules: vec![RuleId::K05], ..Filter::default() };
        assert!(!keeps(&filter, &word(0, 1)));
        let filter = Filter { kinds: vec!["events".parse().unwrap()], ..filter };
        assert!(keeps(&filter, &word(0, 1)));
    }
}
