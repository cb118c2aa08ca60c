//! MMU-notifier invalidations.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::target::ABSENT;
use kvmdirty_common::{Hook, Kind};

use crate::config::offset;
use crate::emit::{self, Fact};
use crate::kernel::{field_or_0, flush_requests, now};
use crate::thread::{Thread, expect_closed};
use crate::vm::is_followed;

/// `kvm_mmu_notifier_invalidate_range_start(mn, range)`: the notifier is embedded in its VM.
#[kprobe]
pub fn invalidate(ctx: ProbeContext) -> u32 {
    if offset!(kvm_mmu_notifier) == ABSENT {
        return 0;
    }
    let notifier: u64 = ctx.arg(0).unwrap_or(0);
    let kvm = notifier - u64::from(offset!(kvm_mmu_notifier));
    if !is_followed(kvm) {
        return 0;
    }
    let Some(thread) = Thread::current() else { return 0 };
    let range: u64 = ctx.arg(1).unwrap_or(0);
    let invalidate = &mut thread.brackets.invalidate;
    expect_closed(Hook::Zap, invalidate.begin_ns);
    invalidate.kvm = kvm;
    invalidate.start = field_or_0(range, offset!(range_start));
    invalidate.end = field_or_0(range, offset!(range_end));
    invalidate.before = flush_requests(kvm);
    invalidate.begin_ns = now();
    0
}

/// `kvm_mmu_notifier_invalidate_range_start` returned: the range is unmapped and, if needed, flushed.
#[kretprobe]
pub fn invalidate_return(_: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let invalidate = &mut thread.brackets.invalidate;
    let begin_ns = invalidate.begin_ns;
    if begin_ns == 0 {
        return 0;
    }
    invalidate.begin_ns = 0;
    let kvm = invalidate.kvm;
    emit::boundary(
        Hook::Zap,
        &Fact {
            kind: Kind::Invalidate,
            flags: 0,
            vm: kvm,
            begin_ns,
            args: [invalidate.start, invalidate.end, invalidate.before, flush_requests(kvm)],
        },
    );
    0
}
