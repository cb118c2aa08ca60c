//! VMs and the ways into them: creation, ioctls, KVM_RUN.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kvmdirty_common::{Hook, Kind};

use crate::config::offset;
use crate::emit::{self, Fact};
use crate::kernel::{field_or_0, flush_requests, now};
use crate::maps::VMS;
use crate::request::{self, Request};
use crate::thread::{Ioctl, Thread, expect_closed};
use crate::vm::{adopt_created, is_followed};

/// `kvm_arch_init_vm(kvm, type)`: a VM is being created (`kvm_create_vm` itself is inlined everywhere).
#[kprobe]
pub fn vm_init(ctx: ProbeContext) -> u32 {
    let kvm: u64 = ctx.arg(0).unwrap_or(0);
    if kvm != 0 {
        adopt_created(kvm);
    }
    0
}

/// `kvm_destroy_vm(kvm)`.
#[kprobe]
pub fn vm_destroyed(ctx: ProbeContext) -> u32 {
    let kvm: u64 = ctx.arg(0).unwrap_or(0);
    if VMS.remove(&kvm).is_ok() {
        emit::boundary(
            Hook::Vm,
            &Fact { kind: Kind::VmGone, flags: 0, vm: kvm, begin_ns: 0, args: [0; 4] },
        );
    }
    0
}

/// `kvm_vm_ioctl(filp, ioctl, arg)`.
#[kprobe]
pub fn vm_ioctl(ctx: ProbeContext) -> u32 {
    let Some(op) = request::op(ctx.arg::<u32>(1).unwrap_or(0)) else { return 0 };
    let kvm = field_or_0(ctx.arg(0).unwrap_or(0), offset!(file_private_data));
    if !is_followed(kvm) {
        return 0;
    }
    let Some(request) = Request::read(op, ctx.arg(2).unwrap_or(0)) else { return 0 };
    let Some(thread) = Thread::current() else { return 0 };
    thread.kvm = kvm;
    expect_closed(Hook::VmIoctl, thread.ioctl.op);
    thread.ioctl = Ioctl {
        begin_ns: now(),
        op: request.opref,
        bitmap: request.bitmap,
        first: request.first,
        npages: request.npages,
    };
    emit::boundary(
        Hook::VmIoctl,
        &Fact {
            kind: Kind::IoctlBegin,
            flags: 0,
            vm: kvm,
            begin_ns: 0,
            args: [request.opref, request.first, request.npages, flush_requests(kvm)],
        },
    );
    0
}

/// `kvm_vm_ioctl` returned.
#[kretprobe]
pub fn vm_ioctl_return(ctx: RetProbeContext) -> u32 {
    let Some(thread) = Thread::known() else { return 0 };
    let op = thread.ioctl.op;
    if op == 0 {
        return 0;
    }
    thread.ioctl.op = 0;
    // `long` since 6.1 (BTF), `long` before as well; negative values are errors either way.
    let ret: i64 = ctx.ret();
    log!(&ctx, "ioctl {} of vm {:x} returned {}", op as u8, thread.kvm, ret);
    emit::boundary(
        Hook::VmIoctl,
        &Fact {
            kind: Kind::IoctlEnd,
            flags: 0,
            vm: thread.kvm,
            begin_ns: thread.ioctl.begin_ns,
            args: [op, ret as u64, flush_requests(thread.kvm), 0],
        },
    );
    0
}

/// `kvm_arch_vcpu_ioctl_run(vcpu)`.
#[kprobe]
pub fn vcpu_run(ctx: ProbeContext) -> u32 {
    if let Some(fact) = crate::run::begin(ctx.arg(0).unwrap_or(0)) {
        emit::page(Hook::Run, &fact);
    }
    0
}
