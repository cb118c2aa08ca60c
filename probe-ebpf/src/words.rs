//! The bitmap a harvest handed to user space, read at the ioctl's return (tracepoint plan).
//!
//! Uses `bpf_loop`, so the programs that call it are loaded on 5.17 and later only.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::helpers::generated;
use kvmdirty_common::{Hook, Kind, limits};

use crate::config::config;
use crate::emit::{self, Fact};
use crate::kernel::{read, read_user};
use crate::maps::{READBACK, SLOTS, SYSCALL_RING};
use crate::shadow::tag;
use crate::thread::Ioctl;

/// Words read at once.
const CHUNK: u32 = 4;

/// A walk over one bitmap.
#[repr(C)]
pub struct Walk {
    kvm: u64,
    user: u64,
    first_gfn: u64,
    words: u32,
    /// First word of the chunk in hand.
    first: u32,
    readbacks_left: u32,
    /// The word in hand: its first gfn, its bits, and which of them were read back without and with W. Kept here and
    /// not in a frame of its own because all frames together have 512 bytes.
    gfn: u64,
    mask: u64,
    protected: u64,
    writable: u64,
    /// Words emitted.
    pub emitted: u64,
    /// Not all words could be read or emitted.
    pub is_cut: bool,
}

/// Emits every non-zero word of the bitmap of a GET or CLEAR that succeeded.
#[inline(never)]
pub fn emit_all(kvm: u64, ioctl: &Ioctl) -> Walk {
    let mut walk = Walk {
        kvm,
        user: ioctl.bitmap,
        first_gfn: 0,
        words: 0,
        first: 0,
        readbacks_left: config!(readbacks_max) as u32,
        gfn: 0,
        mask: 0,
        protected: 0,
        writable: 0,
        emitted: 0,
        is_cut: true,
    };
    let key = crate::request::slot_key(kvm, (ioctl.op >> 32) as u32);
    // SAFETY: read once and copied.
    let Some(extent) = (unsafe { SLOTS.get(&key) }) else { return walk };
    walk.first_gfn = extent.base + ioctl.first;
    let words = ioctl.npages.div_ceil(64);
    let is_too_long = words > u64::from(limits::HARVEST_WORDS_MAX);
    walk.words = if is_too_long { limits::HARVEST_WORDS_MAX } else { words as u32 };
    walk.is_cut = false;
    // SAFETY: the callback has the signature `bpf_loop` asks for and gets the walk it was given.
    unsafe {
        generated::bpf_loop(
            walk.words.div_ceil(CHUNK),
            chunk as *mut c_void,
            (&raw mut walk).cast(),
            0,
        );
    }
    walk.is_cut |= is_too_long;
    walk
}

/// `bpf_loop` callback: the next [`CHUNK`] words, most of which are zero. Returns 1 to stop.
///
/// The words are visited by a loop of its own, not unrolled: older verifiers walk every combination of zero and
/// non-zero words otherwise.
extern "C" fn chunk(index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `emit_all` passes its own walk.
    let walk = unsafe { &mut *walk };
    walk.first = index * CHUNK;
    let user = walk.user + u64::from(walk.first) * 8;
    let is_whole = walk.first + CHUNK <= walk.words;
    if is_whole && read_user::<[u64; CHUNK as usize]>(user) == Some([0; CHUNK as usize]) {
        return 0;
    }
    // SAFETY: as for `emit_all`.
    unsafe { generated::bpf_loop(CHUNK, word as *mut c_void, ptr::from_mut(walk).cast(), 0) };
    i64::from(walk.is_cut)
}

/// `bpf_loop` callback: one word of the chunk.
extern "C" fn word(index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `chunk` passes the walk it was given.
    let walk = unsafe { &mut *walk };
    let index = walk.first + index;
    if walk.words <= index {
        return 1;
    }
    let Some(mask) = read_user::<u64>(walk.user + u64::from(index) * 8) else {
        walk.is_cut = true;
        return 1;
    };
    if mask != 0 && !emit_word(walk, index, mask) {
        walk.is_cut = true;
        return 1;
    }
    0
}

/// Emits one word; `false` if the ring has only the room kept for the ends of ioctls.
#[inline(never)]
fn emit_word(walk: &mut Walk, index: u32, mask: u64) -> bool {
    const BPF_RB_AVAIL_DATA: u64 = 0;
    let used = SYSCALL_RING.query(BPF_RB_AVAIL_DATA);
    if used > u64::from(limits::SYSCALL_RING_BYTES - limits::SYSCALL_RING_RESERVE) {
        return false;
    }
    walk.gfn = walk.first_gfn + u64::from(index) * 64;
    walk.mask = mask;
    walk.protected = 0;
    walk.writable = 0;
    if walk.readbacks_left >= 64 {
        walk.readbacks_left -= 64;
        let context = ptr::from_mut(walk).cast();
        // SAFETY: as for `emit_all`.
        unsafe { generated::bpf_loop(64, read_back as *mut c_void, context, 0) };
    }
    walk.emitted += 1;
    emit::syscall(
        Hook::HarvestWord,
        &Fact {
            kind: Kind::UserWord,
            flags: 0,
            vm: walk.kvm,
            begin_ns: 0,
            args: [walk.gfn, walk.mask, walk.protected, walk.writable],
        },
    );
    true
}

/// `bpf_loop` callback: reads back the SPTE of one page of the word.
///
/// The value is believed only if it is present and maps the frame that was set: a page-table page may have been freed
/// and reused since.
extern "C" fn read_back(bit: u32, walk: *mut Walk) -> i64 {
    const W: u64 = 1 << 1;
    // SAFETY: `emit_word` passes the walk it was given.
    let walk = unsafe { &mut *walk };
    let gfn = walk.gfn + u64::from(bit);
    let bit = 1u64 << (bit & 63);
    if walk.mask & bit == 0 {
        return 0;
    }
    let Some(entry) = READBACK.get((gfn & config!(readback_mask)) as u32) else { return 0 };
    if entry.tag != tag(walk.kvm, gfn) {
        return 0;
    }
    let Some(spte) = read::<u64>(entry.sptep) else { return 0 };
    let present = config!(present_mask);
    let is_present = if present == 0 { spte != 0 } else { spte & present != 0 };
    if !is_present || (spte ^ entry.spte) & config!(pfn_mask) != 0 {
        return 0;
    }
    if spte & W == 0 {
        walk.protected |= bit;
    } else {
        walk.writable |= bit;
    }
    0
}
