//! Who and what, in words short enough for a column.

use crate::event::{Event, Tid, VmId};
use crate::tui::model::Model;

pub use crate::summary::words::{event, ioctl, ioctl_short};

/// Who an event's thread is.
#[must_use]
pub fn thread(model: &Model, event: &Event) -> String {
    match model.shown.summary.vcpus.get(&event.tid) {
        Some(&(vm, _)) if vm != event.vm && event.vm != VmId::UNKNOWN => {
            format!("tid {}", event.tid)
        }
        Some(_) | None => thread_name(model, event.tid),
    }
}

/// A thread by what it is, then by its name, then by its number: `vcpu 0 (tid 4712)`, `harvester`, `tid 4711`.
#[must_use]
pub fn thread_name(model: &Model, tid: Tid) -> String {
    match (model.shown.summary.vcpus.get(&tid), model.facts.threads.get(&tid)) {
        (Some((_, vcpu)), _) => format!("vcpu {} (tid {tid})", vcpu.0),
        (None, Some(name)) => name.clone(),
        (None, None) => format!("tid {tid}"),
    }
}
