//! Every bound of the wire in one place.

/// CPUs the probe keeps lanes for; records of a CPU beyond share, and name, the lane of `cpu % CPUS_MAX`.
pub const CPUS_MAX: u32 = 1024;

/// Shards of the page ring: the ring of CPU `n` is `n % SHARDS_MAX`.
pub const SHARDS_MAX: u32 = 64;

/// Bytes of one page-ring shard (a power of two, a multiple of the page size), unless the loader overrides it.
pub const PAGE_RING_BYTES: u32 = 8 << 20;

/// Bytes of the boundary ring.
pub const BOUNDARY_RING_BYTES: u32 = 4 << 20;

/// Bytes of the ring of the syscall tracepoints, which also carries the words of harvested bitmaps.
pub const SYSCALL_RING_BYTES: u32 = 16 << 20;

/// Bytes of the syscall ring that bitmap words leave free, so that the end of an ioctl always finds room.
pub const SYSCALL_RING_RESERVE: u32 = 256 << 10;

/// Threads that may be inside a traced bracket at the same time.
pub const THREADS_MAX: u32 = 16_384;

/// VMs one trace follows.
pub const VMS_MAX: u32 = 256;

/// Runs of entries that ring resets in progress have popped and not read back yet: one per vCPU and RESET.
pub const POPS_MAX: u32 = 4096;

/// Records one run of the probe's `measure_burst` emits.
pub const BURST: u32 = 1024;

/// SPTEs remembered for read-back at harvest by the tracepoint plan (by the low bits of the gfn: one that
/// needs the place of another forgets it, and is not wrong).
pub const READBACK_SPTES_MAX: u32 = 1 << 20;

/// Bitmap words one harvest may emit from the tracepoint plan (2^18 words are 64 GiB of guest memory in one slot).
pub const HARVEST_WORDS_MAX: u32 = 1 << 18;
