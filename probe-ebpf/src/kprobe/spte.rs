//! SPTE changes of both MMUs, with old and new value.

use aya_ebpf::macros::{kprobe, raw_tracepoint};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext};
use kvmdirty_common::kind::{flag, gfnref};
use kvmdirty_common::target::abi;
use kvmdirty_common::{Hook, Kind};

use super::brackets::Word;
use super::word;
use crate::config::{config, offset};
use crate::emit::{self, Fact};
use crate::kernel::{arguments, current_task, current_tgid, field_or_0, now, read, running_vcpu};
use crate::thread::Thread;
use crate::vm::is_followed;

/// `kvm_tdp_mmu_spte_changed(as_id, gfn, level, old_spte, new_spte)` names no VM: it is the one of the thread's
/// bracket.
#[raw_tracepoint(tracepoint = "kvm_tdp_mmu_spte_changed")]
pub fn tdp_spte_changed(ctx: RawTracePointContext) -> i32 {
    changed(0, ctx.arg::<u32>(0), ctx.arg(1), ctx.arg::<u32>(2), ctx.arg(3), ctx.arg(4));
    0
}

/// `__handle_changed_spte(kvm, as_id, gfn, old_spte, new_spte, level, ...)`, where that tracepoint is missing (5.10).
#[kprobe]
pub fn tdp_changed(ctx: ProbeContext) -> u32 {
    changed(
        ctx.arg(0).unwrap_or(0),
        ctx.arg(1).unwrap_or(0),
        ctx.arg(2).unwrap_or(0),
        ctx.arg(5).unwrap_or(0),
        ctx.arg(3).unwrap_or(0),
        ctx.arg(4).unwrap_or(0),
    );
    0
}

#[inline(always)]
fn changed(kvm: u64, as_id: u32, gfn: u64, level: u32, old: u64, new: u64) {
    let Some(thread) = Thread::known() else {
        orphan(kvm, as_id, gfn, level, old, new);
        return;
    };
    if kvm != 0 && !is_followed(kvm) {
        return;
    }
    let kvm = if kvm == 0 { thread.bracket_vm() } else { kvm };
    if kvm == 0 {
        orphan(kvm, as_id, gfn, level, old, new);
        return;
    }
    let brackets = &mut thread.brackets;
    brackets.fault.is_touched = 1;
    if level == 1 {
        if word::fold(&mut brackets.word, gfn, old, new) {
            return;
        }
        if brackets.protect.begin_ns != 0 {
            // A helper walks the slot in order of gfns: the word in hand is done, the next one begins.
            word::emit_word(kvm, &mut brackets.word);
            let word = &mut brackets.word;
            word.first = gfn & !63;
            word.mask = 0;
            word.protected = 0;
            word.slotref = brackets.protect.slotref;
            word.begin_ns = now();
            if word::fold(word, gfn, old, new) {
                return;
            }
            word.begin_ns = 0;
        }
    }
    let mut begin_ns = brackets.fault.begin_ns;
    if brackets.protect.begin_ns != 0 {
        begin_ns = brackets.protect.begin_ns;
    }
    store(kvm, begin_ns, page(as_id, gfn, level), [old, new], 0, 0);
}

/// A change in a thread without bracket: kernel workers (NX recovery, zapping). Of the followed VMs, any may be meant.
#[inline(always)]
fn orphan(kvm: u64, as_id: u32, gfn: u64, level: u32, old: u64, new: u64) {
    let vcpu = running_vcpu();
    let kvm = if vcpu == 0 { kvm } else { field_or_0(vcpu, offset!(vcpu_kvm)) };
    if kvm != 0 && !is_followed(kvm) {
        return;
    }
    // Another process's thread works for that process's VM, which is not followed.
    let target = config!(target_tgid) as u32;
    if kvm == 0
        && target != 0
        && target != current_tgid()
        && field_or_0(current_task(), offset!(task_mm)) != 0
    {
        return;
    }
    store(kvm, 0, page(as_id, gfn, level), [old, new], 0, 0);
}

#[inline(always)]
fn page(as_id: u32, gfn: u64, level: u32) -> u64 {
    gfn & gfnref::GFN
        | u64::from(level & 0xf) << gfnref::LEVEL_SHIFT
        | u64::from(as_id & 0xf) << gfnref::AS_SHIFT
        | gfnref::HAS_AS
}

#[inline(always)]
fn store(kvm: u64, begin_ns: u64, page: u64, [old, new]: [u64; 2], sptep: u64, flags: u8) {
    emit::page(
        Hook::SpteChange,
        &Fact { kind: Kind::SpteChange, flags, vm: kvm, begin_ns, args: [page, old, new, sptep] },
    );
}

/// `mmu_set_spte(vcpu, slot, sptep, ...)`; before 5.16 `(vcpu, sptep, ...)`: the store follows.
#[kprobe]
pub fn shadow_set(ctx: ProbeContext) -> u32 {
    let [vcpu, second, third, ..] = arguments(&ctx);
    let kvm = field_or_0(vcpu, offset!(vcpu_kvm));
    if !is_followed(kvm) {
        return 0;
    }
    let Some(thread) = Thread::current() else { return 0 };
    let has_slot = config!(abi) & abi::SET_SPTE_HAS_SLOT != 0;
    let sptep = if has_slot { third } else { second };
    let set = &mut thread.brackets.set;
    set.kvm = kvm;
    set.sptep = sptep;
    set.old = read(sptep).unwrap_or(0);
    set.begin_ns = now();
    0
}

/// `kvm_mmu_set_spte(level, gfn, sptep)`: stored, not in the rmap yet. The TDP MMU emits it as well, without
/// `mmu_set_spte`; its changes have their own tracepoint.
#[raw_tracepoint(tracepoint = "kvm_mmu_set_spte")]
pub fn shadow_set_done(ctx: RawTracePointContext) -> i32 {
    let Some(thread) = Thread::known() else { return 0 };
    thread.brackets.fault.is_touched = 1;
    let set = &mut thread.brackets.set;
    let begin_ns = set.begin_ns;
    let sptep: u64 = ctx.arg(2);
    if begin_ns == 0 || set.sptep != sptep {
        return 0;
    }
    set.begin_ns = 0;
    let old = set.old;
    let Some(new) = read::<u64>(sptep) else { return 0 };
    let gfn: u64 = ctx.arg(1);
    let level = u64::from(ctx.arg::<u32>(0) & 0xf);
    let page = gfn & gfnref::GFN | level << gfnref::LEVEL_SHIFT;
    store(set.kvm, begin_ns, page, [old, new], sptep, flag::SPTE_SHADOW);
    0
}

/// `rmap_write_protect(rmap_head, pt_protect)`: the stores inside belong to the rmap's gfn. Before 5.16
/// `__rmap_write_protect(kvm, rmap_head, pt_protect)`, of which compilers drop the unused `kvm`.
#[kprobe]
pub fn rmap_protect(ctx: ProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let word = &mut thread.brackets.word;
    if word.begin_ns == 0 {
        return 0;
    }
    let walked = gfn_of_head(word, ctx.arg(0).unwrap_or(0));
    word.walked = if walked == 0 { gfn_of_head(word, ctx.arg(1).unwrap_or(0)) } else { walked };
    0
}

/// gfn + 1 of the word in hand whose rmap that is; 0: of none of its gfns.
#[inline(always)]
fn gfn_of_head(word: &Word, head: u64) -> u64 {
    // `struct kvm_rmap_head` is one word; heads above level 1 lie in other arrays and fall outside the word's gfns.
    if word.rmap == 0 || head < word.rmap {
        return 0;
    }
    let gfn = word.base + (head - word.rmap) / 8;
    if word.first <= gfn && gfn - word.first < 64 { gfn + 1 } else { 0 }
}

/// `mmu_spte_update(sptep, new_spte)`: inside a rmap walk of a harvest, a write-protection.
#[kprobe]
pub fn shadow_store(ctx: ProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let word = &mut thread.brackets.word;
    if word.begin_ns == 0 || word.walked == 0 {
        return 0;
    }
    let gfn = word.walked - 1;
    let old = read::<u64>(ctx.arg(0).unwrap_or(0)).unwrap_or(0);
    word::fold(word, gfn, old, ctx.arg(1).unwrap_or(0));
    0
}

/// `kvm_mmu_split_huge_page(gfn, spte, level, errno)`.
#[raw_tracepoint(tracepoint = "kvm_mmu_split_huge_page")]
pub fn split(ctx: RawTracePointContext) -> i32 {
    let Some(thread) = Thread::known() else { return 0 };
    let kvm = thread.bracket_vm();
    if kvm == 0 {
        return 0;
    }
    let level = u64::from(ctx.arg::<u32>(2) & 0xf);
    let gfn: u64 = ctx.arg(0);
    let errno = i64::from(ctx.arg::<i32>(3)) as u64;
    emit::page(
        Hook::Split,
        &Fact {
            kind: Kind::Split,
            flags: 0,
            vm: kvm,
            begin_ns: 0,
            args: [gfn & gfnref::GFN | level << gfnref::LEVEL_SHIFT, ctx.arg(1), errno, 0],
        },
    );
    0
}
