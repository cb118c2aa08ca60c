//! Which records are slices and which are instants.

use crate::event::{Event, EventKind, Nanos};

/// How an event is drawn.
pub(super) enum Shape {
    /// Begins a slice whose end is another record.
    Open,
    /// Ends it.
    Close,
    /// A slice of its own.
    Slice,
    /// A point in time.
    Instant,
}

/// The shape of an event.
pub(super) fn shape(event: &Event) -> Shape {
    match event.kind {
        EventKind::IoctlBegin { .. } | EventKind::RunBegin { .. } => Shape::Open,
        EventKind::IoctlEnd { .. } | EventKind::RunEnd { .. } => Shape::Close,
        EventKind::Flush { .. }
        | EventKind::RingReset { .. }
        | EventKind::SlotProtect { .. }
        | EventKind::LockWait { .. }
        | EventKind::Mark { .. }
        | EventKind::FastFault { .. }
        | EventKind::Fault { .. }
        | EventKind::HarvestWord { .. }
        | EventKind::RmapAdd { .. }
        | EventKind::HostWrite { .. } => {
            let is_bounded = event.span.lo != Nanos(0) && event.span.lo < event.span.hi;
            if is_bounded { Shape::Slice } else { Shape::Instant }
        }
        // Their interval bounds an instant; it is no bracket of the thread.
        EventKind::VmSeen { .. }
        | EventKind::VmGone
        | EventKind::SlotState { .. }
        | EventKind::Invalidate { .. }
        | EventKind::SpteChange { .. }
        | EventKind::UserWord { .. }
        | EventKind::RingPush { .. }
        | EventKind::SpteSet { .. }
        | EventKind::Split { .. }
        | EventKind::Zap { .. } => Shape::Instant,
    }
}
