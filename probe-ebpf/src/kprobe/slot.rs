//! Memslot commits, and the helpers that protect a whole slot when logging is turned on.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::kind::flag;
use kvmdirty_common::target::abi;
use kvmdirty_common::{Hook, Kind};

use super::word::emit_word;
use crate::config::config;
use crate::emit::{self, Fact};
use crate::kernel::{arguments, now};
use crate::thread::{Thread, expect_closed};
use crate::vm::{Slot, is_followed};

/// `kvm_arch_commit_memory_region(kvm, old, new, change)`; before 5.17 `(kvm, mem, old, new, change)`.
///
/// The new slots have been visible since before this, and an SRCU grace period has passed; protection follows.
#[kprobe]
pub fn slot_commit(ctx: ProbeContext) -> u32 {
    let [kvm, second, third, fourth, ..] = arguments(&ctx);
    if !is_followed(kvm) {
        return 0;
    }
    let (old, new) =
        if config!(abi) & abi::COMMIT_WITHOUT_MEM != 0 { (second, third) } else { (third, fourth) };
    let mut slot = Slot::read(if new == 0 { old } else { new });
    if new == 0 {
        slot.npages = 0;
        slot.bitmap = 0;
    }
    emit::boundary(
        Hook::Slot,
        &Fact {
            kind: Kind::SlotState,
            flags: flag::SLOT_COMMIT,
            vm: kvm,
            begin_ns: 0,
            args: [slot.slotref, slot.base, slot.npages, slot.bitmap],
        },
    );
    0
}

/// `kvm_mmu_slot_remove_write_access(kvm, slot, start_level)`.
#[kprobe]
pub fn slot_protect(ctx: ProbeContext) -> u32 {
    begin(ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0), ctx.arg::<u32>(2).unwrap_or(0));
    0
}

/// `kvm_mmu_slot_leaf_clear_dirty(kvm, slot)`.
#[kprobe]
pub fn slot_clear_dirty(ctx: ProbeContext) -> u32 {
    begin(ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0), 1);
    0
}

#[inline(always)]
fn begin(kvm: u64, slot: u64, level: u32) {
    if !is_followed(kvm) {
        return;
    }
    let Some(thread) = Thread::current() else { return };
    thread.kvm = kvm;
    thread.brackets.word.begin_ns = 0;
    let protect = &mut thread.brackets.protect;
    expect_closed(Hook::SlotProtect, protect.begin_ns);
    protect.kvm = kvm;
    protect.slotref = Slot::read(slot).slotref;
    protect.level = level.into();
    protect.begin_ns = now();
}

/// The helper returned: its last word is done.
#[kretprobe]
pub fn slot_protect_return(_: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let begin_ns = thread.brackets.protect.begin_ns;
    if begin_ns == 0 {
        return 0;
    }
    let kvm = thread.brackets.protect.kvm;
    emit_word(kvm, &mut thread.brackets.word);
    let protect = &mut thread.brackets.protect;
    protect.begin_ns = 0;
    emit::boundary(
        Hook::SlotProtect,
        &Fact {
            kind: Kind::SlotProtect,
            flags: 0,
            vm: kvm,
            begin_ns,
            args: [protect.slotref, protect.level, 0, 0],
        },
    );
    0
}
