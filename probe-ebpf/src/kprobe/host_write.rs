//! Writes of the host into guest memory, and on which side of their mark they lie.
//!
//! The copy has no hook. So at the entry of the nested mark the guest's bytes are compared with the data: the same, and
//! not the same before, means the copy precedes the mark; different means the mark came first.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::kind::{flag, writer};
use kvmdirty_common::target::{ABSENT, abi};
use kvmdirty_common::{Hook, Kind};

use super::brackets::Host;
use crate::config::{config, offset};
use crate::emit::{self, Fact};
use crate::kernel::{arguments, field, field_or_0, now, read, read_user, running_vcpu};
use crate::thread::Thread;
use crate::vm::{Slot, is_followed};

const PAGE_SHIFT: u64 = 12;

/// The bytes were the data before the write already: they cannot tell.
const SAME_BEFORE: u64 = 1 << 7;
/// A mark was entered inside the bracket.
const MARKED: u64 = 1 << 8;

/// What a writer is about to do.
struct Write {
    kvm: u64,
    writer: u8,
    gpa: u64,
    bytes: u64,
    slot: u64,
    data: u64,
    hva: u64,
    cache: u64,
}

#[inline(always)]
fn open(write: &Write) {
    if !is_followed(write.kvm) {
        return;
    }
    let Some(thread) = Thread::current() else { return };
    let host = &mut thread.brackets.host;
    // A writer that calls another one is one write, except where the outer one has not found its page.
    if host.begin_ns != 0 && host.gpa != 0 {
        return;
    }
    host.kvm = write.kvm;
    host.writer = write.writer.into();
    host.gpa = write.gpa;
    host.bytes = write.bytes;
    host.slotref = Slot::read(write.slot).slotref;
    host.data = write.data;
    host.hva = write.hva;
    host.cache = write.cache;
    host.flags = match shows_data(host) {
        Some(true) => SAME_BEFORE,
        Some(false) | None => 0,
    };
    host.begin_ns = now();
}

/// Whether the guest's first bytes are the data's; `None` if one of them cannot be read.
#[inline(always)]
fn shows_data(host: &Host) -> Option<bool> {
    if host.data == 0 || host.hva == 0 || host.bytes == 0 {
        return None;
    }
    // The guest's aligned word is read: behind it may lie the end of a slot. Of the data eight bytes are read; if they
    // cross into a page that is not mapped, there is no evidence.
    let within = host.hva & 7;
    let data: u64 = read(host.data)?;
    let guest = read_user::<u64>(host.hva - within)? >> (within * 8);
    let bytes = if host.bytes < 8 - within { host.bytes & 7 } else { 8 - within };
    let mask = if bytes >= 8 { u64::MAX } else { (1 << (bytes * 8)) - 1 };
    Some((data ^ guest) & mask == 0)
}

/// The cache was stale at the entry: the bytes looked at then are not those that are written.
///
/// `kvm_write_guest_offset_cached()` initializes the cache anew if the memslots have changed since.
#[inline(always)]
fn is_refreshed(host: &Host) -> bool {
    if host.cache == 0 {
        return false;
    }
    let offset = host.gpa - field_or_0(host.cache, offset!(ghc_gpa));
    field_or_0(host.cache, offset!(ghc_hva)) + offset != host.hva
}

/// A mark of `gfn` is entered on this thread.
#[inline(always)]
pub fn at_mark(host: &mut Host, gfn: u64) {
    if host.begin_ns == 0 {
        return;
    }
    if host.gpa == 0 {
        host.gpa = gfn << PAGE_SHIFT;
    }
    // A write over several pages marks each; the evidence is that of the first.
    if host.flags & MARKED != 0 || host.gpa >> PAGE_SHIFT != gfn {
        return;
    }
    host.flags |= MARKED;
    if host.flags & SAME_BEFORE != 0 || is_refreshed(host) {
        return;
    }
    host.flags |= match shows_data(host) {
        Some(true) => flag::HOST_DATA_AT_MARK.into(),
        Some(false) => flag::HOST_NO_DATA_AT_MARK.into(),
        None => 0,
    };
}

/// `__kvm_write_guest_page([kvm,] slot, gfn, data, offset, len)`.
#[kprobe]
pub fn write_page(ctx: ProbeContext) -> u32 {
    let [a, b, c, d, e, f] = arguments(&ctx);
    let (kvm, [slot, gfn, data, offset, len]) = if config!(abi) & abi::WRITE_PAGE_HAS_KVM != 0 {
        (a, [b, c, d, e, f])
    } else {
        (loaded_vm(), [a, b, c, d, e])
    };
    // `int offset, int len`: the upper halves of the registers are anything.
    let (offset, len) = (offset as u32, len as u32);
    let base = field_or_0(slot, offset!(slot_base_gfn));
    let start = field_or_0(slot, offset!(slot_userspace_addr));
    let hva = if start == 0 { 0 } else { start + ((gfn - base) << PAGE_SHIFT) + u64::from(offset) };
    open(&Write {
        kvm,
        writer: writer::GUEST_PAGE,
        gpa: (gfn << PAGE_SHIFT) + u64::from(offset),
        bytes: len.into(),
        slot,
        data,
        hva,
        cache: 0,
    });
    0
}

/// `kvm_write_guest_offset_cached(kvm, ghc, data, offset, len)`.
#[kprobe]
pub fn write_cached(ctx: ProbeContext) -> u32 {
    let cache: u64 = ctx.arg(1).unwrap_or(0);
    let offset = u64::from(ctx.arg::<u32>(3).unwrap_or(0));
    let hva = field_or_0(cache, offset!(ghc_hva));
    open(&Write {
        kvm: ctx.arg(0).unwrap_or(0),
        writer: writer::CACHED,
        gpa: field_or_0(cache, offset!(ghc_gpa)) + offset,
        bytes: ctx.arg(4).unwrap_or(0),
        slot: field_or_0(cache, offset!(ghc_memslot)),
        data: ctx.arg(2).unwrap_or(0),
        hva: if hva == 0 { 0 } else { hva + offset },
        cache,
    });
    0
}

/// `kvm_vcpu_unmap(vcpu, map[, dirty])`: the end of a writable map, whose writes lie before.
#[kprobe]
pub fn unmap_map(ctx: ProbeContext) -> u32 {
    let map: u64 = ctx.arg(1).unwrap_or(0);
    let dirty = if config!(abi) & abi::UNMAP_HAS_DIRTY != 0 {
        ctx.arg::<u32>(2).unwrap_or(0) & 0xff
    } else if offset!(map_writable) != ABSENT {
        field::<u8>(map, offset!(map_writable)).unwrap_or(0).into()
    } else {
        0
    };
    if dirty == 0 {
        return 0;
    }
    // Nothing is mapped any more: nested VMX unmaps its pages once when L2 exits and again when it frees them.
    if offset!(map_hva) != ABSENT && field_or_0(map, offset!(map_hva)) == 0 {
        return 0;
    }
    let gfn = field_or_0(map, offset!(map_gfn));
    open(&Write {
        kvm: field_or_0(ctx.arg(0).unwrap_or(0), offset!(vcpu_kvm)),
        writer: writer::UNMAP,
        gpa: gfn << PAGE_SHIFT,
        bytes: 1 << PAGE_SHIFT,
        slot: 0,
        data: 0,
        hva: 0,
        cache: 0,
    });
    0
}

/// `emulator_cmpxchg_emulated(ctxt, addr, old, new, bytes, exception)`; its page is named by [`cmpxchg_gfn`].
#[kprobe]
pub fn cmpxchg(ctx: ProbeContext) -> u32 {
    open(&Write {
        kvm: loaded_vm(),
        writer: writer::CMPXCHG,
        gpa: 0,
        bytes: ctx.arg::<u32>(4).unwrap_or(0).into(),
        slot: 0,
        data: 0,
        hva: 0,
        cache: 0,
    });
    0
}

/// `kvm_vcpu_gfn_to_hva(vcpu, gfn)` (5.10: `kvm_vcpu_map`) inside an emulated cmpxchg: the page it writes.
#[kprobe]
pub fn cmpxchg_gfn(ctx: ProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let host = &mut thread.brackets.host;
    if host.begin_ns != 0 && host.writer == u64::from(writer::CMPXCHG) {
        host.gpa = ctx.arg::<u64>(1).unwrap_or(0) << PAGE_SHIFT;
    }
    0
}

/// `record_steal_time(vcpu)`.
#[kprobe]
pub fn steal_time(ctx: ProbeContext) -> u32 {
    open_unplaced(field_or_0(ctx.arg(0).unwrap_or(0), offset!(vcpu_kvm)), writer::STEAL_TIME);
    0
}

/// `kvm_arch_vcpu_put(vcpu)`: `kvm_steal_time_set_preempted()`, inlined there, notes that the vCPU leaves its CPU.
///
/// Not where a writer is at work already: it slept in a copy, and this is the scheduler.
#[kprobe]
pub fn vcpu_put(ctx: ProbeContext) -> u32 {
    let kvm = field_or_0(ctx.arg(0).unwrap_or(0), offset!(vcpu_kvm));
    if is_followed(kvm) && Thread::known().is_some_and(|thread| thread.brackets.host.begin_ns == 0)
    {
        open_unplaced(kvm, writer::STEAL_TIME_PREEMPTED);
    }
    0
}

/// `kvm_arch_vcpu_put` returned.
#[kretprobe]
pub fn vcpu_put_return(_: RetProbeContext) -> u32 {
    let is_own =
        |thread: &Thread| thread.brackets.host.writer == u64::from(writer::STEAL_TIME_PREEMPTED);
    if Thread::known().is_some_and(|thread| is_own(thread)) {
        close(false);
    }
    0
}

/// `kvm_setup_guest_pvclock`.
#[kprobe]
pub fn pvclock(_: ProbeContext) -> u32 {
    open_unplaced(loaded_vm(), writer::PVCLOCK);
    0
}

/// A writer that may write nothing, and whose page only its mark names.
#[inline(always)]
fn open_unplaced(kvm: u64, writer: u8) {
    open(&Write { kvm, writer, gpa: 0, bytes: 0, slot: 0, data: 0, hva: 0, cache: 0 });
}

#[inline(always)]
fn loaded_vm() -> u64 {
    field_or_0(running_vcpu(), offset!(vcpu_kvm))
}

/// A writing function returned.
#[kretprobe]
pub fn host_write_return(ctx: RetProbeContext) -> u32 {
    close(ctx.ret::<i32>() != 0);
    0
}

/// `emulator_cmpxchg_emulated` returned; X86EMUL_CONTINUE 0, X86EMUL_CMPXCHG_FAILED 4: both write the page.
#[kretprobe]
pub fn cmpxchg_return(ctx: RetProbeContext) -> u32 {
    let ret: i32 = ctx.ret();
    close(ret != 0 && ret != 4);
    0
}

/// A writing function without a return value returned.
#[kretprobe]
pub fn host_write_void_return(_: RetProbeContext) -> u32 {
    close(false);
    0
}

#[inline(always)]
fn close(failed: bool) {
    let Some(thread) = Thread::known() else { return };
    let host = &mut thread.brackets.host;
    let begin_ns = host.begin_ns;
    if begin_ns == 0 {
        return;
    }
    host.begin_ns = 0;
    // Nothing was written as far as can be told: no page was named.
    if host.gpa == 0 {
        return;
    }
    // The data is not there at the end either: another vCPU wrote over it, or the VMM threw the page away, and it may
    // have been there before the mark.
    let no_data = u64::from(flag::HOST_NO_DATA_AT_MARK);
    if host.flags & no_data != 0 && shows_data(host) != Some(true) {
        host.flags &= !no_data;
    }
    if host.cache != 0 {
        host.slotref = Slot::read(field_or_0(host.cache, offset!(ghc_memslot))).slotref;
    }
    emit::page(
        Hook::HostWrite,
        &Fact {
            kind: Kind::HostWrite,
            flags: host.flags as u8 & (flag::HOST_DATA_AT_MARK | flag::HOST_NO_DATA_AT_MARK),
            vm: host.kvm,
            begin_ns,
            args: [host.gpa, host.bytes, host.slotref, host.writer | u64::from(failed) << 8],
        },
    );
}
