//! Insertions into a rmap, by which a harvest finds the SPTEs of the shadow MMU.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::{Hook, Kind};

use crate::emit::{self, Fact};
use crate::kernel::now;
use crate::thread::{Thread, expect_closed};
use crate::vm::{Slot, is_followed};

/// `__rmap_add(kvm, cache, slot, spte, gfn, access)`.
#[kprobe]
pub fn rmap_add(ctx: ProbeContext) -> u32 {
    let kvm: u64 = ctx.arg(0).unwrap_or(0);
    if !is_followed(kvm) {
        return 0;
    }
    let Some(thread) = Thread::current() else { return 0 };
    let rmap = &mut thread.brackets.rmap;
    expect_closed(Hook::RmapAdd, rmap.begin_ns);
    rmap.kvm = kvm;
    rmap.slotref = Slot::read(ctx.arg(2).unwrap_or(0)).slotref;
    rmap.sptep = ctx.arg(3).unwrap_or(0);
    rmap.gfn = ctx.arg(4).unwrap_or(0);
    rmap.begin_ns = now();
    0
}

/// `__rmap_add` returned.
#[kretprobe]
pub fn rmap_add_return(_: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let rmap = &mut thread.brackets.rmap;
    let begin_ns = rmap.begin_ns;
    if begin_ns == 0 {
        return 0;
    }
    rmap.begin_ns = 0;
    emit::page(
        Hook::RmapAdd,
        &Fact {
            kind: Kind::RmapAdd,
            flags: 0,
            vm: rmap.kvm,
            begin_ns,
            args: [rmap.gfn, rmap.sptep, rmap.slotref, 0],
        },
    );
    0
}
