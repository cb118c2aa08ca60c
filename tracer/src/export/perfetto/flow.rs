//! Flows: the arrows from a harvest to the word it protects and the flush, and from a mark to the word that took it.

use std::collections::BTreeMap;

use super::track::hash;
use crate::event::{Event, EventKind, Gfn, IoctlOp, Tid, VmId};
use crate::export::inventory::Inventory;

/// Flows an event is part of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Through {
    pub passing: Vec<u64>,
    pub ending: Vec<u64>,
}

/// Flows that have begun.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// Marks no harvest has taken yet.
    marks: BTreeMap<(VmId, Gfn), u64>,
    /// Harvest ioctls that run, with how far their flow has come.
    harvests: BTreeMap<Tid, Stage>,
}

#[derive(Clone, Copy, Debug)]
struct Stage {
    id: u64,
    has_word: bool,
}

/// Marks remembered; those beyond get no arrow.
const MARKS_MAX: usize = 1 << 16;

impl Flows {
    /// Takes the next event, by order of time.
    pub(super) fn take(&mut self, event: &Event, inventory: &Inventory) -> Through {
        let mut through = Through::default();
        match event.kind {
            EventKind::IoctlBegin { op, .. } => {
                if matches!(
                    op.op,
                    IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog | IoctlOp::ResetDirtyRings
                ) {
                    let id = flow_id(1, event, 0);
                    self.harvests.insert(event.tid, Stage { id, has_word: false });
                    through.passing.push(id);
                }
            }
            EventKind::IoctlEnd { .. } => {
                self.harvests.remove(&event.tid);
            }
            EventKind::HarvestWord { first, mask, .. }
            | EventKind::UserWord { first, mask, .. } => {
                if let Some(stage) = self.harvests.get_mut(&event.tid)
                    && !std::mem::replace(&mut stage.has_word, true)
                {
                    through.passing.push(stage.id);
                }
                for bit in (0..64).filter(|bit| mask >> bit & 1 != 0) {
                    let gfn = Gfn(first.0.wrapping_add(bit));
                    through.ending.extend(self.marks.remove(&(event.vm, gfn)));
                }
            }
            EventKind::Flush { .. } => {
                through.ending.extend(self.harvests.remove(&event.tid).map(|stage| stage.id));
            }
            EventKind::Mark { gfn, .. } => through.passing.extend(self.mark(event, gfn)),
            EventKind::SpteSet { page, word: Some(_), .. } => {
                through.passing.extend(self.mark(event, page.gfn));
            }
            EventKind::RingPush { offset, slot, .. } => {
                let gfn = inventory.gfn_at(event.vm, slot, offset);
                through.passing.extend(gfn.and_then(|gfn| self.mark(event, gfn)));
            }
            _ => {}
        }
        through
    }

    /// A mark continues the flow of an earlier mark of the page that nothing has taken yet.
    fn mark(&mut self, event: &Event, gfn: Gfn) -> Option<u64> {
        let page = (event.vm, gfn);
        if self.marks.len() == MARKS_MAX && !self.marks.contains_key(&page) {
            return None;
        }
        Some(*self.marks.entry(page).or_insert_with(|| flow_id(2, event, gfn.0)))
    }
}

fn flow_id(kind: u64, event: &Event, what: u64) -> u64 {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&u64::from(event.tid.0).to_le_bytes());
    bytes[16..24].copy_from_slice(&event.span.lo.0.to_le_bytes());
    bytes[24..].copy_from_slice(&what.to_le_bytes());
    hash(&bytes)
}
