//! The ioctls of the target at the syscall tracepoints (tracepoint plan).

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kvmdirty_common::kind::flag;
use kvmdirty_common::{Hook, IoctlOp, Kind};

use crate::config::{config, offset};
use crate::emit::{self, Fact};
use crate::kernel::{current_task, current_tgid, field_or_0, flush_requests, now, read};
use crate::maps::{SLOTS, SlotExtent};
use crate::popped;
use crate::request::{self, Request};
use crate::thread::{Ioctl, Thread};
use crate::vm::{Slot, adopt_created, is_followed, note_ring_size};
use crate::words;

// `struct pt_regs` of x86-64 and its system call numbers are ABI.
const REGS_ORIG_AX: u64 = 120;
const REGS_DI: u64 = 112;
const REGS_SI: u64 = 104;
const REGS_DX: u64 = 96;
const SYS_IOCTL: u64 = 16;

/// Whether the current process is one whose ioctls matter.
#[inline(always)]
fn is_target() -> bool {
    let target = config!(target_tgid) as u32;
    target == 0 || target == current_tgid()
}

/// The current process's open file with that descriptor.
#[inline(always)]
fn file(fd: u64) -> u64 {
    let files = field_or_0(current_task(), offset!(task_files));
    let table = field_or_0(files, offset!(files_fdt));
    let array = field_or_0(table, offset!(fdtable_fd));
    if array == 0 || fd > 0xff_ffff {
        return 0;
    }
    read(array + 8 * fd).unwrap_or(0)
}

/// `private_data` of a file whose ioctl handler is `handler`, else 0.
#[inline(always)]
fn private_data(fd: u64, handler: u64) -> u64 {
    let file = file(fd);
    let operations = field_or_0(file, offset!(file_f_op));
    if operations == 0 || field_or_0(operations, offset!(fops_unlocked_ioctl)) != handler {
        return 0;
    }
    field_or_0(file, offset!(file_private_data))
}

/// `sys_enter(regs, id)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u64>(1) != SYS_IOCTL || !is_target() {
        return 0;
    }
    let regs: u64 = ctx.arg(0);
    let Some(command) = read::<u32>(regs + REGS_SI) else { return 0 };
    let fd = read::<u64>(regs + REGS_DI).unwrap_or(u64::MAX);
    if command == request::KVM_RUN {
        if let Some(fact) = crate::run::begin(private_data(fd, config!(vcpu_ioctl))) {
            emit::syscall(Hook::Syscall, &fact);
        }
        return 0;
    }
    let Some(op) = request::op(command) else { return 0 };
    let kvm = private_data(fd, config!(vm_ioctl));
    if !is_followed(kvm) {
        return 0;
    }
    let Some(request) = Request::read(op, read(regs + REGS_DX).unwrap_or(0)) else { return 0 };
    begin(kvm, op, &request);
    0
}

#[inline(always)]
fn begin(kvm: u64, op: IoctlOp, request: &Request) {
    let Some(thread) = Thread::current() else { return };
    let mut npages = request.npages;
    if matches!(op, IoctlOp::GetDirtyLog)
        // SAFETY: read once and copied; slots change only while no GET runs.
        && let Some(extent) = unsafe { SLOTS.get(&request.key(kvm)) }
    {
        npages = extent.npages;
    }
    thread.kvm = kvm;
    thread.pops = 0;
    thread.pops_cut = 0;
    thread.ioctl = Ioctl {
        begin_ns: now(),
        op: request.opref,
        bitmap: request.bitmap,
        first: request.first,
        npages,
    };
    emit::syscall(
        Hook::Syscall,
        &Fact {
            kind: Kind::IoctlBegin,
            flags: 0,
            vm: kvm,
            begin_ns: 0,
            args: [request.opref, request.first, npages, flush_requests(kvm)],
        },
    );
}

/// `sys_exit(regs, ret)`.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    if !is_target() {
        return 0;
    }
    let regs: u64 = ctx.arg(0);
    if read::<u64>(regs + REGS_ORIG_AX) != Some(SYS_IOCTL) {
        return 0;
    }
    let ret: i64 = ctx.arg(1);
    if ret >= 0 && read::<u32>(regs + REGS_SI) == Some(request::KVM_CREATE_VM) {
        let kvm = private_data(ret as u64, config!(vm_ioctl));
        if kvm != 0 {
            adopt_created(kvm);
        }
        return 0;
    }
    let Some(thread) = Thread::known() else { return 0 };
    if thread.run_ns != 0 {
        let reason = crate::run::exit_reason(thread.vcpu);
        if let Some(fact) = crate::run::end(thread, Some(ret), reason) {
            emit::syscall(Hook::Run, &fact);
        }
    }
    if thread.ioctl.op != 0 {
        end(thread, ret);
        log!(&ctx, "ioctl {} of vm {:x} returned {}", thread.ioctl.op as u8, thread.kvm, ret);
        thread.ioctl.op = 0;
    }
    0
}

#[inline(always)]
fn end(thread: &mut Thread, ret: i64) {
    let kvm = thread.kvm;
    let flushes = flush_requests(kvm);
    let mut emitted = 0;
    let mut flags = 0;
    match IoctlOp::from_u8(thread.ioctl.op as u8) {
        Some(IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog) if ret == 0 => {
            words::emit_all(thread);
            emitted = thread.walk.emitted;
            if thread.walk.is_cut != 0 {
                flags = flag::WORDS_CUT;
            }
        }
        // The return value is the number of entries popped.
        Some(IoctlOp::ResetDirtyRings) if ret >= 0 => {
            popped::emit_all(thread);
            emitted = thread.walk.emitted;
            if thread.walk.is_cut != 0 {
                flags = flag::WORDS_CUT;
            }
        }
        Some(IoctlOp::EnableCap) if ret == 0 => note_ring_size(kvm),
        Some(IoctlOp::SetMemory) if ret == 0 => slot_changed(kvm, &thread.ioctl),
        Some(_) | None => {}
    }
    let ioctl = &thread.ioctl;
    emit::syscall(
        Hook::Syscall,
        &Fact {
            kind: Kind::IoctlEnd,
            flags,
            vm: kvm,
            begin_ns: ioctl.begin_ns,
            args: [ioctl.op, ret as u64, flushes, emitted],
        },
    );
}

/// A SET_MEMORY succeeded: the kernel's slot is what was asked for.
#[inline(always)]
fn slot_changed(kvm: u64, ioctl: &Ioctl) {
    let number = (ioctl.op >> 32) as u32;
    let key = request::slot_key(kvm, number);
    let flags = ioctl.op >> 8 & 0x00ff_ffff;
    let mut slotref = u64::from(number) | flags << 32;
    let mut bitmap = 0;
    if ioctl.npages == 0 {
        let _ = SLOTS.remove(key);
    } else {
        let extent = SlotExtent { base: ioctl.first, npages: ioctl.npages };
        if SLOTS.insert(key, extent, 0).is_err() {
            emit::count_missed(Hook::Slot);
        }
        let slot = Slot::read(crate::slots::by_gfn(kvm, number >> 16, ioctl.first));
        if slot.slotref as u32 == number {
            slotref = slot.slotref;
            bitmap = slot.bitmap;
        }
    }
    emit::syscall(
        Hook::Slot,
        &Fact {
            kind: Kind::SlotState,
            flags: flag::SLOT_COMMIT,
            vm: kvm,
            begin_ns: ioctl.begin_ns,
            args: [slotref, ioctl.first, ioctl.npages, bitmap],
        },
    );
}
