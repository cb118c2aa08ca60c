//! One record into the ring of its lane, or one drop counted.

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::MaybeUninit;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use kvmdirty_common::hook::HOOKS_MAX;
use kvmdirty_common::limits::CPUS_MAX;
use kvmdirty_common::raw::{CLASS_SHIFT, SPAN_SATURATED};
use kvmdirty_common::{Class, Hook, Kind, RawEvent};

use crate::config::config;
use crate::kernel::{current_tid, now};
use crate::maps::{BOUNDARY_RING, LANES, Lanes, MISSES, PAGE_RINGS, SYSCALL_RING};

/// A record before it has a time and a number.
pub struct Fact {
    /// Kind.
    pub kind: Kind,
    /// Flags of the kind.
    pub flags: u8,
    /// `struct kvm *`.
    pub vm: u64,
    /// When the operation began; 0: it is an instant.
    pub begin_ns: u64,
    /// Arguments of the kind.
    pub args: [u64; 4],
}

/// Emits a page record.
#[inline(always)]
pub fn page(hook: Hook, fact: &Fact) {
    page_then(hook, fact, |_| ());
}

/// Emits a page record that `amend` may change once its time has been taken.
#[inline(always)]
pub fn page_then(hook: Hook, fact: &Fact, amend: impl FnOnce(&mut RawEvent)) {
    // `checked_rem`: a panic on zero, even one that cannot happen, is code the verifier refuses.
    let shard = current_cpu().checked_rem(config!(shards) as u32).unwrap_or(0);
    let Some((lanes, number)) = take_number(Class::Page) else { return };
    let slot = PAGE_RINGS.get(shard).and_then(|ring| ring.reserve(0));
    match slot {
        Some(mut slot) => {
            amend(write(&mut slot, Class::Page, number, fact));
            slot.submit(BPF_RB_NO_WAKEUP.into());
        }
        None => count_drop(lanes, Class::Page, hook),
    }
    end(lanes, Class::Page);
}

/// Emits a boundary record.
#[inline(always)]
pub fn boundary(hook: Hook, fact: &Fact) {
    let Some((lanes, number)) = take_number(Class::Boundary) else { return };
    match BOUNDARY_RING.reserve::<RawEvent>(0) {
        Some(mut slot) => {
            write(&mut slot, Class::Boundary, number, fact);
            slot.submit(BPF_RB_NO_WAKEUP.into());
        }
        None => count_drop(lanes, Class::Boundary, hook),
    }
    end(lanes, Class::Boundary);
}

/// Emits a record of a syscall tracepoint.
#[inline(always)]
pub fn syscall(hook: Hook, fact: &Fact) {
    let Some((lanes, number)) = take_number(Class::Syscall) else { return };
    match SYSCALL_RING.reserve::<RawEvent>(0) {
        Some(mut slot) => {
            write(&mut slot, Class::Syscall, number, fact);
            slot.submit(BPF_RB_NO_WAKEUP.into());
        }
        None => count_drop(lanes, Class::Syscall, hook),
    }
    end(lanes, Class::Syscall);
}

#[inline(always)]
fn current_cpu() -> u32 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_get_smp_processor_id() }
}

/// The CPU whose counters are used, and that records name: its own, on all but machines with more than `CPUS_MAX`.
#[inline(always)]
fn lane_cpu() -> u32 {
    const { assert!(CPUS_MAX.is_power_of_two()) }
    current_cpu() & (CPUS_MAX - 1)
}

/// Counts a fact that left no trace in any sequence.
#[inline(always)]
pub fn count_missed(hook: Hook) {
    count(HOOKS_MAX + hook as u32);
}

/// Takes the next number of the lane; [`end`] must follow.
///
/// The record is counted as begun before its time is read: user space reads the clock and then finds a moment at which
/// nothing is begun and not ended on this CPU; what begins later is later than that reading of the clock.
#[inline(always)]
fn take_number(class: Class) -> Option<(*mut Lanes, u32)> {
    let lanes = LANES.get_ptr_mut(lane_cpu())?;
    // SAFETY: the pointer is to this CPU's value.
    add_one(unsafe { &raw mut (*lanes).begun });
    // SAFETY: as above. A program that interrupts or preempts this one here takes the same number, as documented at
    // `RawEvent`; 5.10 has no atomic that returns the old value.
    let seq = unsafe { &mut (*lanes).seq[class as usize] };
    let number = *seq;
    *seq = number + 1;
    Some((lanes, number as u32))
}

/// The record is submitted or dropped.
#[inline(always)]
fn end(lanes: *mut Lanes, class: Class) {
    // SAFETY: the pointer is to the value of the CPU that `take_number` ran on; programs do not migrate.
    add_one(unsafe { &raw mut (*lanes).ended[class as usize] });
}

#[inline(always)]
fn write<'a>(
    slot: &'a mut MaybeUninit<RawEvent>,
    class: Class,
    seq: u32,
    fact: &Fact,
) -> &'a mut RawEvent {
    let ts_ns = now();
    let span = if fact.begin_ns == 0 { 0 } else { ts_ns - fact.begin_ns };
    let span_ns = if span >= u64::from(SPAN_SATURATED) { SPAN_SATURATED } else { span as u32 };
    slot.write(RawEvent {
        ts_ns,
        vm: fact.vm,
        tid: current_tid(),
        seq,
        span_ns,
        cpu: lane_cpu() as u16,
        kind: fact.kind as u8,
        flags: fact.flags | (class as u8) << CLASS_SHIFT,
        args: fact.args,
    })
}

#[inline(always)]
fn count_drop(lanes: *mut Lanes, class: Class, hook: Hook) {
    // SAFETY: as in `end`.
    add_one(unsafe { &raw mut (*lanes).dropped[class as usize] });
    count(hook as u32);
}

#[inline(always)]
fn count(index: u32) {
    if let Some(counter) = MISSES.get_ptr_mut(lane_cpu() * 2 * HOOKS_MAX + index) {
        add_one(counter);
    }
}

#[inline(always)]
fn add_one(counter: *mut u64) {
    // SAFETY: the pointer is into a map value and aligned. The result is unused, so this compiles to the add without
    // fetch that 5.10 knows. (`core::sync::atomic` offers no read-modify-write on a target without compare-and-swap.)
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}
