//! What the kernel must offer for a mode, and how it is turned on.

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, kvm_dirty_gfn,
    kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VmFd};

use crate::demo::DemoError;
use crate::demo::config::{GuestConfig, Mode};

/// Opens `/dev/kvm`.
///
/// # Errors
///
/// [`DemoError::NoKvm`], [`DemoError::KvmPermission`] or [`DemoError::OpenKvm`].
pub fn open_kvm() -> Result<Kvm, DemoError> {
    Kvm::new().map_err(|errno| match errno.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => DemoError::NoKvm,
        libc::EACCES | libc::EPERM => DemoError::KvmPermission,
        _ => DemoError::OpenKvm(errno.into()),
    })
}

/// Turns on what the mode needs; to be done before the first vCPU exists.
///
/// # Errors
///
/// [`DemoError::Unsupported`] if this kernel does not have it, [`DemoError::Config`] if its rings
/// are smaller than asked for, [`DemoError::Ioctl`] if it refuses.
pub fn enable_mode(vm: &VmFd, config: &GuestConfig) -> Result<(), DemoError> {
    match config.mode {
        Mode::Get => Ok(()),
        Mode::Manual => enable_manual(vm, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE),
        Mode::ManualInitset => {
            enable_manual(vm, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET)
        }
        Mode::Ring => enable_rings(vm, config.ring_entries),
    }
}

fn enable_manual(vm: &VmFd, flags: u32) -> Result<(), DemoError> {
    let offered = vm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    if offered & flags as i32 != flags as i32 {
        return Err(DemoError::Unsupported {
            what: "this kind of manual protection (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)",
            remedy: "it needs Linux 5.2, or 5.8 for manual-initset; choose --mode get",
        });
    }
    enable(
        vm,
        "KVM_ENABLE_CAP(MANUAL_DIRTY_LOG_PROTECT2)",
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        flags,
    )
}

fn enable_rings(vm: &VmFd, entries: u32) -> Result<(), DemoError> {
    let bytes = entries * size_of::<kvm_dirty_gfn>() as u32;
    // x86 has both; the first is the older one.
    for capability in [KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL] {
        let bytes_max = vm.check_extension_raw(capability.into());
        if bytes_max <= 0 {
            continue;
        }
        if bytes_max.cast_unsigned() < bytes {
            let entries_max = bytes_max.cast_unsigned() / size_of::<kvm_dirty_gfn>() as u32;
            return Err(DemoError::Config {
                option: "ring-entries",
                given: entries.to_string(),
                bound: format!("this kernel allows {entries_max}"),
            });
        }
        return enable(vm, "KVM_ENABLE_CAP(DIRTY_LOG_RING)", capability, bytes);
    }
    Err(DemoError::Unsupported {
        what: "dirty rings (KVM_CAP_DIRTY_LOG_RING)",
        remedy: "they need Linux 5.11; choose --mode get, manual or manual-initset",
    })
}

fn enable(vm: &VmFd, call: &'static str, cap: u32, argument: u32) -> Result<(), DemoError> {
    let cap = kvm_enable_cap { cap, args: [argument.into(), 0, 0, 0], ..Default::default() };
    vm.enable_cap(&cap).map_err(|errno| DemoError::ioctl(call, errno))
}
