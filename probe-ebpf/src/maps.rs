//! Every map of the probe.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{ArrayOfMaps, RingBuf as BtfRingBuf};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use kvmdirty_common::hook::HOOKS_MAX;
use kvmdirty_common::{RawEvent, limits};

use crate::thread::Thread;

/// Page records; the loader puts one ring per shard in.
#[btf_map]
pub static PAGE_RINGS: ArrayOfMaps<
    BtfRingBuf<RawEvent, { limits::PAGE_RING_BYTES as usize }>,
    { limits::SHARDS_MAX as usize },
> = ArrayOfMaps::new();

/// Boundary records, so that page records cannot push them out.
#[map]
pub static BOUNDARY_RING: RingBuf = RingBuf::with_byte_size(limits::BOUNDARY_RING_BYTES, 0);

/// Records of the syscall tracepoints.
#[map]
pub static SYSCALL_RING: RingBuf = RingBuf::with_byte_size(limits::SYSCALL_RING_BYTES, 0);

/// Sequence numbers and drops per lane: one value per CPU, one number per class. Its size is that of two cache lines,
/// so that CPUs do not share one.
#[repr(C)]
pub struct Lanes {
    /// The next record's number.
    pub seq: [u64; 3],
    /// Numbers taken by records that could not be reserved.
    pub dropped: [u64; 3],
    /// Records that are submitted or dropped.
    pub ended: [u64; 3],
    /// Records begun, of all classes: more than `ended` in all while a program is making one.
    pub begun: u64,
    /// Nothing.
    pub reserved: [u64; 6],
}

/// The lanes of each CPU, by its number.
///
/// User space maps this and [`MISSES`] into its memory and reads them there. It must not ask for them with `bpf(2)`:
/// while a map is read that way (`bpf_disable_instrumentation`, kernel/bpf/syscall.c) no kprobe program runs on that
/// CPU, and where the kernel may preempt the reader in the middle (7.3) thousands of records were missed.
#[map]
pub static LANES: Array<Lanes> = Array::with_max_entries(limits::CPUS_MAX, BPF_F_MMAPABLE);

/// Misses per CPU and hook, see `kvmdirty_common::hook::HOOKS_MAX`: `2 * HOOKS_MAX` words for each CPU.
#[map]
pub static MISSES: Array<u64> =
    Array::with_max_entries(limits::CPUS_MAX * 2 * HOOKS_MAX, BPF_F_MMAPABLE);

/// VMs that are followed, by `struct kvm *`.
#[map]
pub static VMS: HashMap<u64, Vm> = HashMap::with_max_entries(limits::VMS_MAX, 0);

/// A followed VM.
#[repr(C)]
pub struct Vm {
    /// Process it was first seen in.
    pub tgid: u32,
    /// Non-zero: it uses a dirty ring.
    pub ring: u32,
}

/// Open brackets, by thread id.
#[map]
pub static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(limits::THREADS_MAX, 0);

/// A thread without open brackets, to insert from: it is too large for the stack.
#[map]
pub static BLANK: Array<Thread> = Array::with_max_entries(1, 0);

/// Memslots by VM and slot number.
#[map]
pub static SLOTS: HashMap<SlotKey, SlotExtent> = HashMap::with_max_entries(8192, 0);

/// Key of [`SLOTS`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SlotKey {
    /// `struct kvm *`.
    pub kvm: u64,
    /// `as_id << 16 | id`.
    pub slot: u32,
    /// Zero.
    pub reserved: u32,
}

/// The guest pages of a slot.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SlotExtent {
    /// First gfn.
    pub base: u64,
    /// Pages.
    pub npages: u64,
}

/// Last known `reset_index` of each dirty ring, by `struct kvm_dirty_ring *` (tracepoint plan).
#[map]
pub static RINGS: HashMap<u64, u32> = HashMap::with_max_entries(4096, 0);

/// What resets in progress have popped and not read back yet (tracepoint plan).
#[map]
pub static POPS: HashMap<PopKey, Pop> = HashMap::with_max_entries(limits::POPS_MAX, 0);

/// Key of [`POPS`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PopKey {
    /// The thread in KVM_RESET_DIRTY_RINGS.
    pub tid: u32,
    /// Number of the ring within that ioctl.
    pub n: u32,
}

/// A run of entries one reset popped from one ring.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pop {
    /// `struct kvm_dirty_ring *`.
    pub ring: u64,
    /// Its `reset_index` before.
    pub before: u32,
    /// And after.
    pub after: u32,
}

/// The SPTE last set for a gfn, to be read back when a harvest takes the gfn (tracepoint plan).
///
/// Indexed by the low bits of the gfn: an entry is forgotten when another gfn needs its place, never wrong, because
/// the tag names the gfn and the SPTE is believed only while it is present and maps the same frame.
#[map]
pub static READBACK: Array<ReadBack> = Array::with_max_entries(limits::READBACK_SPTES_MAX, 0);

/// Entry of [`READBACK`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReadBack {
    /// gfn, mixed with the VM, see `crate::shadow::tag`.
    pub tag: u64,
    /// `u64 *sptep`.
    pub sptep: u64,
    /// Value set.
    pub spte: u64,
}

/// Words the loader reads kernel memory through, see [`crate::inventory`].
#[map]
pub static PEEK: Array<[u64; 32]> = Array::with_max_entries(1, 0);
