//! Pages of the ring entries a RESET popped, read back at the ioctl's return (tracepoint plan).
//!
//! ```text
//! KVM_RESET_DIRTY_RINGS:  [ pop entries, write-protect their pages, tracepoint ]* .. flush .. return
//!                                                                  note --^             emit_all --^
//! ```
//!
//! The tracepoint gives the indexes; the entries stay in the ring until it comes round. They are read at the return,
//! not at the tracepoint, because there `slots_lock` is held and the kernel is not to be kept from its flush.

use kvmdirty_common::IoctlOp;
use kvmdirty_common::target::ABSENT;

use crate::config::{config, offset};
use crate::kernel::{current_tid, field, field_or_0, read};
use crate::maps::{POPS, Pop, PopKey, SLOTS};
use crate::thread::Thread;
use crate::words::{Walk, each, emit, look};

/// Bytes of `struct kvm_dirty_gfn { __u32 flags; __u32 slot; __u64 offset; }` (include/uapi/linux/kvm.h).
const ENTRY_BYTES: u64 = 16;

/// The current thread's RESET has popped entries `before..after` of a ring.
#[inline(always)]
pub fn note(ring: u64, before: u32, after: u32) {
    let Some(thread) = Thread::known() else { return };
    if before == after || thread.ioctl.op as u8 != IoctlOp::ResetDirtyRings as u8 {
        return;
    }
    let key = PopKey { tid: current_tid(), n: thread.pops };
    if POPS.insert(key, Pop { ring, before, after }, 0).is_err() {
        thread.pops_cut = 1;
        return;
    }
    thread.pops += 1;
}

/// Emits the pages of everything the RESET popped; [`Thread::walk`] tells how that went.
#[inline(always)]
pub fn emit_all(thread: &mut Thread) {
    let pops = thread.pops;
    let walk = &mut thread.walk;
    walk.kvm = thread.kvm;
    walk.readbacks_left = config!(readbacks_max);
    walk.emitted = 0;
    walk.is_cut = thread.pops_cut.into();
    walk.mask = 0;
    if offset!(ring_dirty_gfns) == ABSENT {
        walk.is_cut = 1;
        return;
    }
    each(pops.into(), ring, walk);
    if walk.mask != 0 {
        emit(walk);
    }
}

/// `bpf_loop` callback: the entries popped from one ring.
extern "C" fn ring(n: u32, walk: *mut &mut Walk) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut **walk };
    let key = PopKey { tid: current_tid(), n };
    // SAFETY: copied; only this thread uses its entries.
    let Some(pop) = (unsafe { POPS.get(&key) }).copied() else {
        walk.is_cut = 1;
        return 0;
    };
    let _ = POPS.remove(key);
    walk.ring = pop.ring;
    walk.ring_size = field::<u32>(pop.ring, offset!(ring_size)).unwrap_or(0);
    walk.user = field_or_0(pop.ring, offset!(ring_dirty_gfns));
    walk.first = pop.before.into();
    each(pop.after.wrapping_sub(pop.before).into(), entry, walk);
    0
}

/// `bpf_loop` callback: one popped entry. Neighbours are gathered into words, as the kernel gathers them into batches.
extern "C" fn entry(n: u32, walk: *mut &mut Walk) -> i64 {
    // SAFETY: as for `ring`.
    let walk = unsafe { &mut **walk };
    let index = (walk.first as u32).wrapping_add(n);
    let place = u64::from(index & walk.ring_size.wrapping_sub(1));
    let Some([head, offset]) = read::<[u64; 2]>(walk.user + place * ENTRY_BYTES) else {
        walk.is_cut = 1;
        return 1;
    };
    // Read after the entry: if the ring has come round, the entry may be a newer one.
    let dirty = field::<u32>(walk.ring, offset!(ring_dirty_index)).unwrap_or(index);
    if walk.ring_size <= dirty.wrapping_sub(index) {
        walk.is_cut = 1;
        return 0;
    }
    let key = crate::request::slot_key(walk.kvm, (head >> 32) as u32);
    // SAFETY: read once and copied.
    let Some(extent) = (unsafe { SLOTS.get(&key) }).copied() else { return 0 };
    if extent.npages <= offset {
        return 0;
    }
    let first = extent.base + (offset & !63);
    if walk.mask != 0 && walk.gfn != first {
        if !emit(walk) {
            walk.mask = 0;
            return 1;
        }
        walk.mask = 0;
    }
    if walk.mask == 0 {
        walk.gfn = first;
        walk.protected = 0;
        walk.writable = 0;
    }
    let bit = (offset & 63) as u32;
    walk.mask |= 1u64 << bit;
    if walk.readbacks_left != 0 {
        walk.readbacks_left -= 1;
        look(walk, bit);
    }
    0
}
