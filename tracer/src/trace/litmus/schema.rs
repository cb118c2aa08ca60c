//! The fields of every kind with their defaults: one table, read and written by the same macro.

use super::field::{Fields, Problem, Value, Words};
use crate::event::{EventKind, Kind, MarkWord};

macro_rules! default {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

macro_rules! schema {
    ($($kind:ident { $($field:ident $(= $default:expr)?),* })+) => {
        /// Reads the fields of one kind.
        pub(super) fn read_kind(kind: Kind, fields: &Fields<'_>) -> Result<EventKind, Problem> {
            Ok(match kind { $(
                Kind::$kind => EventKind::$kind {
                    $($field: Value::take(fields, stringify!($field), default!($($default)?))?),*
                },
            )+ })
        }

        /// Writes the fields of one kind, defaults left out.
        pub(super) fn write_kind(kind: &EventKind, words: &mut Words<'_>) {
            match *kind { $(
                EventKind::$kind { $($field),* } => {
                    $(Value::put(&$field, words, stringify!($field), default!($($default)?));)*
                }
            )+ }
        }

        /// The fields a kind has, for messages.
        pub(super) fn known_fields(kind: Kind) -> String {
            let names: &[&str] = match kind { $(Kind::$kind => &[$(stringify!($field)),*],)+ };
            let mut known: Vec<&str> = Vec::new();
            for name in names {
                match *name {
                    "page" => known.extend(["gfn", "level", "as_id"]),
                    "op" => known.extend(["op", "slot", "mem_flags"]),
                    "word" if kind == Kind::Mark => known.extend(["word", "ring"]),
                    "mask" => known.extend(["mask", "gfns"]),
                    _ => known.push(name),
                }
            }
            known.extend(["vm", "cpu", "class", "seq"]);
            known.join(", ")
        }
    };
}

schema! {
    VmSeen {
        tgid = 0, manual_protect = 0, ring_bytes = 0, generation = 0, created = false, flushes = 0
    }
    VmGone {}
    SlotState { base, slot, npages, bitmap = 0, commit = false }
    IoctlBegin { op, first = 0, count = 0, flushes = 0 }
    IoctlEnd { op, ret = 0, flushes = 0, words = 0, words_cut = false }
    Flush { before = 0, after = 0, first = crate::event::Gfn(0), npages = 0 }
    RingReset {
        vcpu, before, after, ret = 0, dirty_index = 0, size = 0, bracketed = true
    }
    SlotProtect { slot, level = 1 }
    Invalidate { start, end, flushes_before = 0, flushes_after = 0 }
    LockWait { lock, lcb_flags = 0, ret = 0 }
    Mark { gfn, slot, word = MarkWord::Unread, spte = None, has_vcpu = true, in_fast = false }
    SpteChange { page, old = None, new, sptep = 0, shadow = false }
    FastFault { page, old, ret = 0, sptep = 0, fixed = false }
    Fault { addr, error_code = 0, ret = 0, vcpu }
    HarvestWord { first, mask, protected = 0, slot }
    UserWord { first, mask, protected = 0, writable = 0 }
    RmapAdd { gfn, sptep = 0, slot }
    HostWrite { gpa, bytes = 8, slot, writer = 1, failed = false, data_at_mark = None }
    RingPush { offset, slot, index, vcpu }
    RunBegin { vcpu }
    RunEnd { vcpu, ret = Some(0), exit_reason = 0 }
    SpteSet { page, new, word = None, sptep = 0, logging = false, ring = false }
    Split { page, old, errno = 0 }
    Zap { page }
}
