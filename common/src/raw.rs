//! The record: 64 bytes, the same for every kind.
//!
//! ```text
//! offset  0        8        16   20   24      28   30    31     32
//!         ts_ns    vm       tid  seq  span_ns cpu  kind  flags  args[0..4]
//! ```
//!
//! A record states one operation that took place in `[ts_ns - span_ns, ts_ns]`; both ends are readings of
//! `bpf_ktime_get_ns` (CLOCK_MONOTONIC) taken in the thread that performed it. Instants have `span_ns == 0`.

/// One fact out of the kernel.
///
/// A *lane* is `(class, cpu)`, the class being the top two bits of `flags`: `seq` counts the records the probe tried
/// to emit on that lane, so a forward jump means dropped records. On kernels that run tracepoint programs preemptibly
/// two programs may take the same number; that is no loss (the drop counters are exact).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct RawEvent {
    /// End of the operation, nanoseconds of CLOCK_MONOTONIC.
    pub ts_ns: u64,
    /// Address of the VM's `struct kvm`; 0 where the probe could not tell.
    pub vm: u64,
    /// Kernel thread id of the thread that did it (the low half of `bpf_get_current_pid_tgid`).
    pub tid: u32,
    /// Number of this record on its lane, wrapping.
    pub seq: u32,
    /// Nanoseconds from the begin of the operation to `ts_ns`; [`SPAN_SATURATED`] means "at least that long".
    pub span_ns: u32,
    /// CPU the record was emitted on.
    pub cpu: u16,
    /// A [`crate::Kind`].
    pub kind: u8,
    /// Bits 0..6: flags of the kind; bits 6..8: the lane's [`crate::Class`].
    pub flags: u8,
    /// Meaning per kind, see [`crate::Kind`].
    pub args: [u64; 4],
}

/// `span_ns` of an operation that took 2^32 - 1 ns or longer: its begin is only bounded from above.
pub const SPAN_SATURATED: u32 = u32::MAX;

/// Bytes of one record.
pub const RECORD_BYTES: usize = 64;

/// Shift of the class within `flags`.
pub const CLASS_SHIFT: u8 = 6;

/// The bits of `flags` that belong to the kind.
pub const KIND_FLAGS: u8 = 0x3f;

const _: () = {
    assert!(size_of::<RawEvent>() == RECORD_BYTES);
    assert!(align_of::<RawEvent>() == 8);
    assert!(core::mem::offset_of!(RawEvent, span_ns) == 24);
    assert!(core::mem::offset_of!(RawEvent, kind) == 30);
    assert!(core::mem::offset_of!(RawEvent, args) == 32);
};
