//! Interned names: numbers that are fixed for a build, sent once at the head of the trace.

use super::proto::{AnnotationValue, DebugAnnotation, InternedData, InternedName};
use crate::event::{EventKind, IoctlOp, Kind};
use crate::export::row::{Cell, Row};
use crate::export::table::Table;

/// Categories by which Perfetto can filter.
const CATEGORIES: [&str; 8] =
    ["ioctl", "vcpu", "mark", "spte", "harvest", "flush", "state", "judgement"];

/// Names of slices that are no kind of event.
const IOCTLS: [&str; 6] = [
    "KVM_GET_DIRTY_LOG",
    "KVM_CLEAR_DIRTY_LOG",
    "KVM_RESET_DIRTY_RINGS",
    "KVM_SET_USER_MEMORY_REGION",
    "KVM_ENABLE_CAP",
    "KVM_RUN",
];

/// Interned names start at 1; event names are the kinds by number, then the ioctls.
const IOCTL_FIRST: u64 = 100;

/// An interned event name and category.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub iid: u64,
    pub category: u64,
}

/// Everything interned, for the first packet of a sequence.
pub(super) fn interned() -> InternedData {
    let kinds = Kind::ALL.iter().map(|&kind| (kind as u64, kind.name()));
    let ioctls = (IOCTL_FIRST..).zip(IOCTLS);
    InternedData {
        event_categories: (1..).zip(CATEGORIES).map(entry).collect(),
        event_names: kinds.chain(ioctls).map(entry).collect(),
        debug_annotation_names: annotation_names().map(entry).collect(),
    }
}

fn entry((iid, name): (u64, &str)) -> InternedName {
    InternedName { iid: Some(iid), name: Some(name.to_owned()) }
}

/// The columns of all tables, each numbered by its table and place.
fn annotation_names() -> impl Iterator<Item = (u64, &'static str)> {
    Table::ALL.iter().flat_map(|&table| {
        table
            .columns()
            .iter()
            .enumerate()
            .map(move |(idx, column)| (annotation_iid(table, idx), column.name))
    })
}

fn annotation_iid(table: Table, column_idx: usize) -> u64 {
    1 + table as u64 * 100 + column_idx as u64
}

/// The values of a row from its `skip`th column on.
pub(super) fn annotations<R: Row>(table: Table, row: &R, skip: usize) -> Vec<DebugAnnotation> {
    let mut annotations = Vec::new();
    let mut idx = 0;
    row.for_each_cell(&mut |cell| {
        if let Some(cell) = cell
            && idx >= skip
        {
            annotations.push(DebugAnnotation {
                name_iid: Some(annotation_iid(table, idx)),
                value: Some(value(cell)),
            });
        }
        idx += 1;
    });
    annotations
}

fn value(cell: Cell<'_>) -> AnnotationValue {
    match cell {
        Cell::Unsigned(value) => AnnotationValue::Uint(value),
        Cell::Signed(value) => AnnotationValue::Int(value),
        Cell::Bits(value) => AnnotationValue::Pointer(value),
        Cell::Bool(value) => AnnotationValue::Bool(value),
        Cell::Text(_) | Cell::Slot(_) | Cell::Json(_) => AnnotationValue::String(cell.to_string()),
    }
}

/// Name and category of an event's slice or instant.
pub(super) fn name_of(kind: &EventKind) -> Name {
    let name = |category: u64| Name { iid: kind.kind() as u64, category };
    match kind {
        EventKind::IoctlBegin { op, .. } | EventKind::IoctlEnd { op, .. } => {
            Name { iid: IOCTL_FIRST + op.op as u64 - IoctlOp::GetDirtyLog as u64, category: 1 }
        }
        EventKind::RunBegin { .. } | EventKind::RunEnd { .. } => {
            Name { iid: IOCTL_FIRST + IOCTLS.len() as u64 - 1, category: 2 }
        }
        EventKind::Fault { .. } | EventKind::FastFault { .. } => name(2),
        EventKind::Mark { .. } | EventKind::RingPush { .. } | EventKind::HostWrite { .. } => {
            name(3)
        }
        EventKind::SpteChange { .. }
        | EventKind::SpteSet { .. }
        | EventKind::RmapAdd { .. }
        | EventKind::Split { .. }
        | EventKind::Zap { .. } => name(4),
        EventKind::HarvestWord { .. }
        | EventKind::UserWord { .. }
        | EventKind::RingReset { .. }
        | EventKind::SlotProtect { .. } => name(5),
        EventKind::Flush { .. } | EventKind::Invalidate { .. } => name(6),
        EventKind::VmSeen { .. }
        | EventKind::VmGone
        | EventKind::SlotState { .. }
        | EventKind::LockWait { .. } => name(7),
    }
}

/// Category of what the analysis says.
pub(super) const JUDGEMENT: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn interned_numbers_are_unique() {
        let InternedData { event_categories, event_names, debug_annotation_names } = interned();
        for names in [event_categories, event_names, debug_annotation_names] {
            let iids: BTreeSet<_> = names.iter().map(|name| name.iid).collect();
            assert_eq!(iids.len(), names.len());
            assert!(!iids.contains(&Some(0)));
        }
    }
}
