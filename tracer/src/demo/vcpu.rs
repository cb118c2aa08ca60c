//! One vCPU: its registers, its thread, and what its exits mean.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use kvm_bindings::{KVM_EXIT_DIRTY_RING_FULL, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::demo::DemoError;
use crate::demo::bell::Bell;
use crate::demo::config::Pinning;
use crate::demo::gate::{Gate, Kicker};
use crate::demo::interrupt;
use crate::demo::layout::{PROGRAM_ADDRESS, TABLES_ADDRESS, control_address, state_address};
use crate::demo::protocol::ExitCounts;

// Register bits, Intel SDM volume 3, 2.5 and AMD APM volume 2, 3.1.
/// PG, WP, NE, ET, MP, PE.
const CR0: u64 = 0x8001_0033;
/// PAE.
const CR4: u64 = 0x20;
/// LMA, LME.
const EFER: u64 = 0x500;
/// I/O privilege 3 and the bit that is always one; interrupts off. PVM runs ring 3 without the
/// privilege and asks the I/O bitmap of the task segment instead, which is at address 0 after reset
/// (see `layout`).
const RFLAGS: u64 = 0x3002;

/// A vCPU that interrupts itself does so once in so many exits.
const INTERRUPT_PERIOD: u64 = 8;

/// Counts the exits of all vCPUs of a VM.
#[derive(Debug, Default)]
pub struct Exits {
    out: AtomicU64,
    mmio: AtomicU64,
    interrupted: AtomicU64,
    ring_full: AtomicU64,
}

impl Exits {
    /// The counts so far.
    pub fn counts(&self) -> ExitCounts {
        let Self { out, mmio, interrupted, ring_full } = self;
        ExitCounts {
            out: out.load(Ordering::Relaxed),
            mmio: mmio.load(Ordering::Relaxed),
            interrupted: interrupted.load(Ordering::Relaxed),
            ring_full: ring_full.load(Ordering::Relaxed),
        }
    }
}

/// What a vCPU thread shares with its VM.
#[derive(Clone, Debug)]
pub struct Station {
    /// Index of the VM.
    pub vm: u32,
    /// Index of the vCPU.
    pub vcpu: u32,
    /// Lets the thread in and out.
    pub gate: Arc<Gate>,
    /// Wakes the harvester.
    pub bell: Bell,
    /// Where exits are counted.
    pub exits: Arc<Exits>,
    /// The VM through which the vCPU interrupts itself, if it is to do so.
    pub interrupts: Option<Arc<VmFd>>,
    /// Which CPU the vCPU keeps to.
    pub pinning: Option<Pinning>,
    /// Set to send the vCPU into system management mode before it enters the guest next.
    pub smi: Arc<AtomicBool>,
}

/// Where a vCPU thread can be reached; it says so before it first waits at its gate.
#[derive(Debug)]
pub struct Address {
    /// Index of the vCPU.
    pub vcpu: u32,
    /// Kernel thread id.
    pub tid: i32,
    /// Takes it out of the guest.
    pub kicker: Kicker,
}

/// Gives a vCPU every CPU feature that KVM supports, as a VMM does before it sets registers.
///
/// Linux 7.3 refuses 64-bit registers for a vCPU whose CPUID does not say that it has them.
///
/// # Errors
///
/// [`DemoError::Ioctl`] if KVM refuses.
pub fn set_features(kvm: &Kvm, fd: &VcpuFd) -> Result<(), DemoError> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|errno| DemoError::ioctl("KVM_GET_SUPPORTED_CPUID", errno))?;
    fd.set_cpuid2(&supported).map_err(|errno| DemoError::ioctl("KVM_SET_CPUID2", errno))
}

/// Prepares a vCPU to enter the guest program in 64-bit ring 3.
///
/// No interrupt or exception has a handler: anything but the program itself ends in a shutdown
/// exit, which is reported as a failure. Ring 3 because a host without VMX and SVM (PVM) runs that
/// natively, and VMX and SVM do as well.
///
/// # Errors
///
/// [`DemoError::Ioctl`] if KVM refuses the registers.
pub fn set_registers(fd: &VcpuFd, vcpu: u32, seed: u64) -> Result<(), DemoError> {
    let mut sregs = fd.get_sregs().map_err(|errno| DemoError::ioctl("KVM_GET_SREGS", errno))?;
    sregs.cr0 = CR0;
    sregs.cr3 = TABLES_ADDRESS;
    sregs.cr4 = CR4;
    sregs.efer = EFER;
    // Execute/read/accessed, 64-bit; read/write/accessed, 32-bit as data segments are.
    sregs.cs = segment(0x1b, 11, 1, 0);
    let data = segment(0x23, 3, 0, 1);
    [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss] = [data; 5];
    fd.set_sregs(&sregs).map_err(|errno| DemoError::ioctl("KVM_SET_SREGS", errno))?;
    let regs = kvm_regs {
        rip: PROGRAM_ADDRESS,
        rflags: RFLAGS,
        r14: state_address(vcpu),
        r15: control_address(vcpu),
        // Taken up from the state page by the program; here only so that a register dump shows it.
        r13: seed,
        ..Default::default()
    };
    fd.set_regs(&regs).map_err(|errno| DemoError::ioctl("KVM_SET_REGS", errno))
}

/// A flat segment of privilege 3.
fn segment(selector: u16, kind: u8, long: u8, default_32: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 3,
        db: default_32,
        s: 1,
        l: long,
        g: 1,
        ..Default::default()
    }
}

/// The body of a vCPU thread: runs the guest whenever the gate allows it.
///
/// A failure is told to the bell, and the harvester ends the run.
pub fn run_thread(mut fd: VcpuFd, station: &Station, reachable: Sender<Address>) {
    let immediate_exit = &raw mut fd.get_kvm_run().immediate_exit;
    // SAFETY: the byte lies in the mapping that `fd` owns. This thread drops `fd` as its last act,
    // and ends only when the gate says quit, after which nobody kicks.
    let kicker = unsafe { Kicker::for_this_thread(immediate_exit) };
    if let Some(pinning) = station.pinning
        && let Err(error) = pin(pinning, station.vcpu)
    {
        station.bell.fail(error);
    }
    let tid = nix::unistd::gettid().as_raw();
    if reachable.send(Address { vcpu: station.vcpu, tid, kicker }).is_err() {
        return;
    }
    drop(reachable);
    let mut exits = 0_u64;
    while station.gate.enter(|| fd.set_kvm_immediate_exit(0)) {
        let exit = match station.smi.swap(false, Ordering::SeqCst).then(|| fd.smi()) {
            None | Some(Ok(())) => run_once(&mut fd, &station.exits),
            Some(Err(errno)) => Exit::Unexpected(format!("KVM_SMI: {errno}")),
        };
        station.gate.leave();
        match exit {
            Exit::Expected => {
                exits += 1;
                match &station.interrupts {
                    Some(vm) if exits.is_multiple_of(INTERRUPT_PERIOD) => {
                        if let Err(error) = interrupt::send(vm, station.vcpu) {
                            station.bell.fail(error);
                        }
                    }
                    Some(_) | None => {}
                }
            }
            Exit::RingFull => {
                station.bell.ring_full();
                station.gate.await_harvest();
            }
            Exit::Unexpected(exit) => {
                let Station { vm, vcpu, .. } = *station;
                let exit = format!("{exit}{}", place(&fd));
                station.bell.fail(DemoError::GuestStopped { vm, vcpu, exit });
                station.gate.await_quit();
            }
        }
    }
}

/// Keeps the calling thread on one CPU: apart, the last one for the first vCPU, and so on downwards.
fn pin(pinning: Pinning, vcpu: u32) -> Result<(), DemoError> {
    // Not `available_parallelism`: the process may have been told to leave these CPUs to the vCPUs.
    // SAFETY: sysconf reads no memory of ours.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    let cpus = usize::try_from(online).unwrap_or(1).max(1);
    let mut set = CpuSet::new();
    // More vCPUs than CPUs share again from the last one.
    let below = match pinning {
        Pinning::Apart => vcpu as usize % cpus,
        Pinning::Together => 0,
    };
    let pinned = set.set(cpus - 1 - below);
    pinned
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|errno| DemoError::Thread { call: "sched_setaffinity", source: errno.into() })
}

/// Where the guest stood, for the message about its end; empty if KVM does not tell.
fn place(fd: &VcpuFd) -> String {
    match (fd.get_regs(), fd.get_sregs()) {
        (Ok(regs), Ok(sregs)) => {
            format!(" (rip {:#x}, cr2 {:#x}, r8 {:#x})", regs.rip, sregs.cr2, regs.r8)
        }
        (Err(_), _) | (_, Err(_)) => String::new(),
    }
}

enum Exit {
    Expected,
    RingFull,
    Unexpected(String),
}

/// Runs the guest until it leaves once, and counts why.
fn run_once(fd: &mut VcpuFd, exits: &Exits) -> Exit {
    let counter = match fd.run() {
        Ok(VcpuExit::IoOut(..)) => &exits.out,
        // The hole behind the system slot, or the place a slot has just left: the guest takes up
        // the new place with its next visit. What it stores there goes nowhere.
        Ok(VcpuExit::MmioWrite(..) | VcpuExit::MmioRead(..)) => &exits.mmio,
        Ok(VcpuExit::Intr) => &exits.interrupted,
        Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => {
            exits.ring_full.fetch_add(1, Ordering::Relaxed);
            return Exit::RingFull;
        }
        Ok(other) => return Exit::Unexpected(format!("{other:?}")),
        Err(errno) => match io::Error::from(errno) {
            error if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                &exits.interrupted
            }
            error => return Exit::Unexpected(format!("KVM_RUN: {error}")),
        },
    };
    counter.fetch_add(1, Ordering::Relaxed);
    Exit::Expected
}
