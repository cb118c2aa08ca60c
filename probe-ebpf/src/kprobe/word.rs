//! Harvested bitmap words (and ring batches), with the pages protected inside: one record per word.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::{Hook, Kind};

use super::brackets::Word;
use crate::config::{config, offset};
use crate::emit::{self, Fact};
use crate::kernel::now;
use crate::thread::{Thread, expect_closed};
use crate::vm::{Slot, is_followed};

/// `kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, gfn_offset, mask)`: the word has been taken, `mmu_lock` is held.
#[kprobe]
pub fn word(ctx: ProbeContext) -> u32 {
    let kvm: u64 = ctx.arg(0).unwrap_or(0);
    let mask: u64 = ctx.arg(3).unwrap_or(0);
    // 6.1's ring reset calls it with no page first.
    if mask == 0 || !is_followed(kvm) {
        return 0;
    }
    let Some(thread) = Thread::current() else { return 0 };
    thread.kvm = kvm;
    let slot_address: u64 = ctx.arg(1).unwrap_or(0);
    let slot = Slot::read(slot_address);
    // A slot helper's word in hand has no return of its own.
    if thread.brackets.protect.begin_ns == 0 {
        expect_closed(Hook::HarvestWord, thread.brackets.word.begin_ns);
    }
    let word = &mut thread.brackets.word;
    word.first = slot.base + ctx.arg::<u64>(2).unwrap_or(0);
    word.mask = mask;
    word.protected = 0;
    word.slotref = slot.slotref;
    word.base = slot.base;
    word.rmap = crate::kernel::field_or_0(slot_address, offset!(slot_rmap));
    word.walked = 0;
    word.begin_ns = now();
    0
}

/// The word's pages are protected.
#[kretprobe]
pub fn word_return(_: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let kvm = thread.kvm;
    emit_word(kvm, &mut thread.brackets.word);
    0
}

/// Emits the word in hand, if there is one, and closes it.
#[inline(always)]
pub fn emit_word(kvm: u64, word: &mut Word) {
    let begin_ns = word.begin_ns;
    if begin_ns == 0 {
        return;
    }
    word.begin_ns = 0;
    emit::page(
        Hook::HarvestWord,
        &Fact {
            kind: Kind::HarvestWord,
            flags: 0,
            vm: kvm,
            begin_ns,
            args: [word.first, word.mask, word.protected, word.slotref],
        },
    );
}

/// Notes that `gfn`'s SPTE went from `old` to `new` inside the word in hand; true if that was a protection of one of
/// its pages, which the word's record will tell.
#[inline(always)]
pub fn fold(word: &mut Word, gfn: u64, old: u64, new: u64) -> bool {
    if word.begin_ns == 0 || gfn < word.first || gfn - word.first >= 64 {
        return false;
    }
    let protects = config!(protect_mask);
    if old & protects & !new == 0 {
        return false;
    }
    word.protected |= 1 << ((gfn - word.first) & 63);
    true
}
