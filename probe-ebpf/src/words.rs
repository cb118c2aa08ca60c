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

/// A walk over one bitmap, or over the entries popped from rings ([`crate::popped`]); part of [`Thread`].
#[repr(C)]
pub struct Walk {
    /// The VM.
    pub kvm: u64,
    /// The bitmap in user space; the `dirty_gfns` of the ring in hand.
    pub user: u64,
    first_gfn: u64,
    words: u64,
    /// First word of the chunk in hand; first index popped from the ring in hand.
    pub first: u64,
    /// The ring in hand and its size.
    pub ring: u64,
    /// Entries of that ring.
    pub ring_size: u32,
    /// Zero.
    pub reserved: u32,
    /// SPTEs that may still be read back.
    pub readbacks_left: u64,
    /// The word in hand: its first gfn, its bits, and which of them were read back without and with W.
    pub gfn: u64,
    /// See `gfn`.
    pub mask: u64,
    /// See `gfn`.
    pub protected: u64,
    /// See `gfn`.
    pub writable: u64,
    /// Words emitted.
    pub emitted: u64,
    /// Non-zero: not all words could be read or emitted.
    pub is_cut: u64,
}

/// Runs `callback` for `0..n`, with the walk.
#[inline(always)]
pub fn each(n: u64, callback: extern "C" fn(u32, *mut &mut Walk) -> i64, mut walk: &mut Walk) {
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
    walk.gfn = walk.first_gfn + index * 64;
    walk.mask = mask;
    walk.protected = 0;
    walk.writable = 0;
    if walk.readbacks_left >= 64 {
        walk.readbacks_left -= 64;
        each(64, read_back, walk);
    }
    i64::from(!emit(walk))
}

/// Emits the word in hand; `false` if there is no room for more.
#[inline(always)]
pub fn emit(walk: &mut Walk) -> bool {
    const BPF_RB_AVAIL_DATA: u64 = 0;
    // The ends of ioctls must find room however many words there are.
    let used = SYSCALL_RING.query(BPF_RB_AVAIL_DATA);
    if used > u64::from(limits::SYSCALL_RING_BYTES - limits::SYSCALL_RING_RESERVE) {
        walk.is_cut = 1;
        return false;
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
extern "C" fn read_back(bit: u32, walk: *mut &mut Walk) -> i64 {
    // SAFETY: as for `chunk`.
    let walk = unsafe { &mut **walk };
    if walk.mask & 1u64 << (bit & 63) != 0 {
        look(walk, bit);
    }
    0
}

/// Notes whether the SPTE last set for page `bit` of the word lets writes through now.
///
/// A present value is believed only if it maps the frame that was set: a page-table page may have been freed and reused
/// since. One that is not present lets nothing through, whether the SPTE was zapped or its table freed.
#[inline(always)]
pub fn look(walk: &mut Walk, bit: u32) {
    let gfn = walk.gfn + u64::from(bit);
    let bit = 1u64 << (bit & 63);
    let Some(entry) = READBACK.get((gfn & config!(readback_mask)) as u32) else { return };
    if entry.tag != tag(walk.kvm, gfn) {
        return;
    }
    let Some(spte) = read::<u64>(entry.sptep) else { return };
    let present = config!(present_mask);
    let is_present = if present == 0 { spte != 0 } else { spte & present != 0 };
    if is_present && (spte ^ entry.spte) & config!(pfn_mask) != 0 {
        return;
    }
    // Under PML a harvest clears D and leaves W.
    let protects = config!(protect_mask);
    if !is_present || spte & protects != protects {
        walk.protected |= bit;
    } else {
        walk.writable |= bit;
    }
}
