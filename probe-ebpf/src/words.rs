//! The bitmap a harvest handed to user space, read at the ioctl's return (tracepoint plan).
//!
//! Uses `bpf_loop`, so the programs that call it are loaded on 5.17 and later only. The walk lives in the thread's
//! entry, a map value, and the callbacks get a pointer to it: what a verifier knows about counters on the stack keeps
//! it going through iterations that differ in nothing else.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::helpers::generated;
use kvmdirty_common::{Hook, Kind, limits};

use crate::config::config;
use crate::emit::{self, Fact};
use crate::kernel::{read, read_user};
use crate::maps::{READBACK, SLOTS, SYSCALL_RING};
use crate::shadow::tag;
use crate::thread::Thread;

/// Words read at once.
const CHUNK: u32 = 8;

/// A walk over one bitmap; part of [`Thread`].
#[repr(C)]
pub struct Walk {
    kvm: u64,
    user: u64,
    first_gfn: u64,
    words: u64,
    /// First word of the chunk in hand.
    first: u64,
    readbacks_left: u64,
    /// The word in hand: its first gfn, its bits, and which of them were read back without and with W.
    gfn: u64,
    mask: u64,
    protected: u64,
    writable: u64,
    /// Words emitted.
    pub emitted: u64,
    /// Non-zero: not all words could be read or emitted.
    pub is_cut: u64,
}

/// Runs `callback` for `0..n`, with the walk.
#[inline(always)]
fn each(n: u64, callback: extern "C" fn(u32, *mut &mut Walk) -> i64, mut walk: &mut Walk) {
    // SAFETY: the callback has the signature `bpf_loop` asks for; the context is on this frame and outlives the call.
    unsafe {
        generated::bpf_loop(n as u32, callback as *mut c_void, ptr::from_mut(&mut walk).cast(), 0);
    }
}

/// Emits every non-zero word of the bitmap of a GET or CLEAR that succeeded; [`Thread::walk`] tells how that went.
#[inline(always)]
pub fn emit_all(thread: &mut Thread) {
    let walk = &mut thread.walk;
    walk.kvm = thread.kvm;
    walk.user = thread.ioctl.bitmap;
    walk.readbacks_left = config!(readbacks_max);
    walk.emitted = 0;
    walk.is_cut = 1;
    let key = crate::request::slot_key(thread.kvm, (thread.ioctl.op >> 32) as u32);
    // SAFETY: read once and copied.
    let Some(extent) = (unsafe { SLOTS.get(&key) }) else { return };
    walk.first_gfn = extent.base + thread.ioctl.first;
    walk.words = thread.ioctl.npages.div_ceil(64);
    walk.is_cut = 0;
    if walk.words > u64::from(limits::HARVEST_WORDS_MAX) {
        walk.words = limits::HARVEST_WORDS_MAX.into();
        walk.is_cut = 1;
    }
    each(walk.words.div_ceil(CHUNK.into()), chunk, walk);
}

/// `bpf_loop` callback: the next [`CHUNK`] words, most of which are zero.
extern "C" fn chunk(index: u32, walk: *mut &mut Walk) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut **walk };
    walk.first = u64::from(index) * u64::from(CHUNK);
    let user = walk.user + walk.first * 8;
    let is_whole = walk.first + u64::from(CHUNK) <= walk.words;
    if is_whole && read_user::<[u64; CHUNK as usize]>(user) == Some([0; CHUNK as usize]) {
        return 0;
    }
    each(CHUNK.into(), word, walk);
    0
}

/// `bpf_loop` callback: one word of the chunk.
extern "C" fn word(index: u32, walk: *mut &mut Walk) -> i64 {
    const BPF_RB_AVAIL_DATA: u64 = 0;
    // SAFETY: as for `chunk`.
    let walk = unsafe { &mut **walk };
    let index = walk.first + u64::from(index);
    if walk.words <= index {
        return 1;
    }
    let Some(mask) = read_user::<u64>(walk.user + index * 8) else {
        walk.is_cut = 1;
        return 1;
    };
    if mask == 0 {
        return 0;
    }
    // The ends of ioctls must find room however many words there are.
    let used = SYSCALL_RING.query(BPF_RB_AVAIL_DATA);
    if used > u64::from(limits::SYSCALL_RING_BYTES - limits::SYSCALL_RING_RESERVE) {
        walk.is_cut = 1;
        return 1;
    }
    walk.gfn = walk.first_gfn + index * 64;
    walk.mask = mask;
    walk.protected = 0;
    walk.writable = 0;
    if walk.readbacks_left >= 64 {
        walk.readbacks_left -= 64;
        each(64, read_back, walk);
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
    0
}

/// `bpf_loop` callback: reads back the SPTE of one page of the word.
///
/// The value is believed only if it is present and maps the frame that was set: a page-table page may have been freed
/// and reused since.
extern "C" fn read_back(bit: u32, walk: *mut &mut Walk) -> i64 {
    const W: u64 = 1 << 1;
    // SAFETY: as for `chunk`.
    let walk = unsafe { &mut **walk };
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
