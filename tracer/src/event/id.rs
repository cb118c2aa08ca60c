//! Identifiers and quantities: one newtype each, so that a gfn cannot be taken for a slot number.

use std::fmt;

pub use kvmdirty_common::Class;
use kvmdirty_common::RawEvent;
use kvmdirty_common::raw::CLASS_SHIFT;

/// Guest frame number: index of a guest-physical page (`gfn_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfn(pub u64);

/// A VM: the address of its `struct kvm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId(pub u64);

/// A kernel thread id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub u32);

/// A host CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u16);

/// `kvm_vcpu.vcpu_id` (dirty rings: `kvm_dirty_ring.index`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u32);

/// A reading of CLOCK_MONOTONIC, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

/// A memslot: address space and id; the ABI packs them as `as_id << 16 | id`. Printed `as_id:id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId {
    /// Address space (1 is SMM).
    pub as_id: u16,
    /// Slot id within it.
    pub id: u16,
}

/// The stream a record travelled in: sequence numbers count per lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Which ring class.
    pub class: Class,
    /// Which CPU.
    pub cpu: CpuId,
}

/// A closed interval of time, `lo <= hi`, that is proven to contain an instant or an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Not before.
    pub lo: Nanos,
    /// Not after.
    pub hi: Nanos,
}

impl Gfn {
    /// The page's bit in a word of 64 pages that begins with `first`; `None`: it is none of them.
    #[must_use]
    #[inline]
    pub const fn bit_in(self, first: Self) -> Option<u64> {
        match self.0.checked_sub(first.0) {
            Some(offset @ 0..64) => Some(1 << offset),
            Some(_) | None => None,
        }
    }
}

impl VmId {
    /// The probe could not tell the VM.
    pub const UNKNOWN: Self = Self(0);
}

impl SlotId {
    /// The slot with the ABI's number.
    #[must_use]
    pub const fn from_abi(number: u32) -> Self {
        Self { as_id: (number >> 16) as u16, id: number as u16 }
    }

    /// The ABI's number.
    #[must_use]
    pub const fn to_abi(self) -> u32 {
        (self.as_id as u32) << 16 | self.id as u32
    }
}

impl Lane {
    /// The lane of a record; of a class that nobody knows, that of page records.
    #[must_use]
    pub fn of(record: &RawEvent) -> Self {
        let class = Class::from_u8(record.flags >> CLASS_SHIFT).unwrap_or(Class::Page);
        Self { class, cpu: CpuId(record.cpu) }
    }
}

impl Nanos {
    /// Time from `earlier` to `self`, 0 if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Span {
    /// An instant.
    #[must_use]
    pub const fn at(instant: Nanos) -> Self {
        Self { lo: instant, hi: instant }
    }

    /// The interval between two readings, in either order.
    #[must_use]
    pub fn between(a: Nanos, b: Nanos) -> Self {
        Self { lo: a.min(b), hi: a.max(b) }
    }

    /// Real time orders `self` before `other`: the intervals, widened by the clock uncertainty between two CPUs, do
    /// not touch (DESIGN.md, observed order 2).
    #[must_use]
    pub const fn is_before(self, other: Self, epsilon_ns: u64) -> bool {
        self.hi.0.saturating_add(epsilon_ns) < other.lo.0
    }

    /// `other` lies within `self`, bounds included.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.lo.0 <= other.lo.0 && other.hi.0 <= self.hi.0
    }

    /// Length in nanoseconds.
    #[must_use]
    pub const fn len_ns(self) -> u64 {
        self.hi.0 - self.lo.0
    }
}

impl fmt::Display for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.as_id, self.id)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            Class::Page => "page",
            Class::Boundary => "boundary",
            Class::Syscall => "syscall",
        };
        write!(f, "{class}/cpu{}", self.cpu.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_intervals_are_not_ordered() {
        let a = Span { lo: Nanos(10), hi: Nanos(20) };
        let b = Span { lo: Nanos(25), hi: Nanos(30) };
        assert!(a.is_before(b, 4));
        assert!(!a.is_before(b, 5));
        assert!(!b.is_before(a, 0));
    }

    #[test]
    fn slot_numbers_round_trip() {
        let slot = SlotId { as_id: 1, id: 7 };
        assert_eq!(SlotId::from_abi(slot.to_abi()), slot);
        assert_eq!(slot.to_string(), "1:7");
    }
}
