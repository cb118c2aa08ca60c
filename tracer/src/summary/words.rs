//! Events and operations in words, short enough for a column.

use super::Summary;
use crate::event::{Event, EventKind, IoctlOp, MarkWord, Spte, VmId};

/// The ioctl as KVM names it, without its prefix.
#[must_use]
pub const fn ioctl(op: IoctlOp) -> &'static str {
    match op {
        IoctlOp::GetDirtyLog => "GET_DIRTY_LOG",
        IoctlOp::ClearDirtyLog => "CLEAR_DIRTY_LOG",
        IoctlOp::ResetDirtyRings => "RESET_DIRTY_RINGS",
        IoctlOp::SetMemory => "SET_MEMORY_REGION",
        IoctlOp::EnableCap => "ENABLE_CAP",
    }
}

/// The ioctl in a narrow column.
#[must_use]
pub const fn ioctl_short(op: IoctlOp) -> &'static str {
    match op {
        IoctlOp::GetDirtyLog => "GET",
        IoctlOp::ClearDirtyLog => "CLEAR",
        IoctlOp::ResetDirtyRings => "RESET",
        IoctlOp::SetMemory => "SETMEM",
        IoctlOp::EnableCap => "CAP",
    }
}

/// Who an event's thread is: `vcpu 0 (tid 4712)`, or `tid 4711`.
#[must_use]
pub fn thread(summary: &Summary, event: &Event) -> String {
    match summary.vcpus.get(&event.tid) {
        Some(&(vm, vcpu)) if vm == event.vm || event.vm == VmId::UNKNOWN => {
            format!("vcpu {} (tid {})", vcpu.0, event.tid)
        }
        Some(_) | None => format!("tid {}", event.tid),
    }
}

/// What an event says.
#[must_use]
pub fn event(event: &Event) -> String {
    let name = event.kind.kind().name();
    match event.kind {
        EventKind::VmSeen { .. } | EventKind::VmGone => name.to_owned(),
        EventKind::SlotState { slot, base, npages, commit, .. } => {
            let how = if commit { "committed" } else { "found" };
            let logging = if slot.logging { "logging" } else { "not logging" };
            format!("slot {} {how}: {base} + {npages} pages, {logging}", slot.id)
        }
        EventKind::IoctlBegin { op, .. } => format!("{} {} begins", ioctl(op.op), op.slot),
        EventKind::IoctlEnd { op, ret, .. } => {
            format!("{} {} returns {ret}", ioctl(op.op), op.slot)
        }
        EventKind::Flush { npages: 0, .. } => String::from("flush TLBs of the VM"),
        EventKind::Flush { first, npages, .. } => format!("flush TLBs {first} + {npages} pages"),
        EventKind::RingReset { vcpu, before, after, ret, .. } => {
            format!("reset ring {}: {before}..{after}, returns {ret}", vcpu.0)
        }
        EventKind::SlotProtect { slot, level } => {
            format!("write-protect slot {} from level {level} up", slot.id)
        }
        EventKind::Invalidate { start, end, .. } => format!("invalidate hva {start:#x}..{end:#x}"),
        EventKind::LockWait { .. } => format!("waited for mmu_lock {} ns", event.span.len_ns()),
        EventKind::Mark { gfn, word, has_vcpu, in_fast, .. } => {
            mark(gfn.0, word, has_vcpu, in_fast)
        }
        EventKind::SpteChange { page, old, new, .. } => {
            let old = old.map_or_else(|| String::from("?"), spte);
            format!("SPTE of {} level {}: {old} to {}", page.gfn, page.level, spte(new))
        }
        EventKind::FastFault { page, old, fixed, .. } => {
            let how = if fixed { "set W again" } else { "changed nothing" };
            format!("fast fault on {} {how}, was {}", page.gfn, spte(old))
        }
        EventKind::Fault { addr, error_code, ret, .. } => {
            format!("fault at {addr:#x} error {error_code:#x} returns {ret}")
        }
        EventKind::HarvestWord { first, mask, protected, .. } => {
            format!("take bits {mask:#x} from {first}, protected {protected:#x}")
        }
        EventKind::UserWord { first, mask, protected, writable } => format!(
            "user sees bits {mask:#x} from {first}: protected {protected:#x}, writable {writable:#x}"
        ),
        EventKind::RmapAdd { gfn, .. } => format!("add {gfn} to rmap"),
        EventKind::HostWrite { gpa, bytes, failed, .. } => {
            let how = if failed { "fails to write" } else { "writes" };
            format!("host {how} {bytes} bytes at gpa {gpa:#x}")
        }
        EventKind::RingPush { offset, slot, index, vcpu } => {
            format!("push slot {slot} page {offset:#x} to ring {} at {index}", vcpu.0)
        }
        EventKind::RunBegin { vcpu } => format!("KVM_RUN of vcpu {} begins", vcpu.0),
        EventKind::RunEnd { vcpu, ret, exit_reason } => {
            let ret = ret.map_or_else(String::new, |ret| format!(" {ret}"));
            format!("KVM_RUN of vcpu {} returns{ret}, exit reason {exit_reason}", vcpu.0)
        }
        EventKind::SpteSet { page, new, word, .. } => {
            let word = word.map_or_else(String::new, |word| format!(", bitmap word {word:#x}"));
            format!("set SPTE of {} to {}{word}", page.gfn, spte(new))
        }
        EventKind::Split { page, errno, .. } => {
            format!("split {} level {}, errno {errno}", page.gfn, page.level)
        }
        EventKind::Zap { page } => format!("zap {} level {}", page.gfn, page.level),
    }
}

/// An SPTE with the one bit that means the same on every kernel spelled out.
fn spte(spte: Spte) -> String {
    let writable = if spte.0 & 1 << 1 == 0 { "RO" } else { "W" };
    format!("{spte} {writable}")
}

fn mark(gfn: u64, word: MarkWord, has_vcpu: bool, in_fast: bool) -> String {
    let mut text = format!("mark {gfn:#x} dirty");
    if in_fast {
        text.push_str(" without mmu_lock");
    }
    if !has_vcpu {
        text.push_str(", no vCPU running");
    }
    match word {
        MarkWord::Unread => {}
        MarkWord::Bitmap(word) => {
            let bit = if word >> (gfn % 64) & 1 == 0 { "already taken" } else { "set" };
            text.push_str(&format!(", bit {bit} at return"));
        }
        MarkWord::Ring(index) => text.push_str(&format!(", ring index {index}")),
    }
    text
}
