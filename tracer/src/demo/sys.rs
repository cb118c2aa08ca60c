//! The dirty-log ioctls that kvm-ioctls does not offer, or only with an allocation inside the timed
//! part.
//!
//! Numbers and layouts as in [Documentation/virt/kvm/api.rst][1], sections 4.8 (GET), 4.116 (CLEAR)
//! and 8.29 (dirty ring).
//!
//! [1]: https://docs.kernel.org/virt/kvm/api.html

use std::io;
use std::os::fd::AsRawFd as _;

use kvm_bindings::{
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log,
    kvm_dirty_log__bindgen_ty_1,
};
use kvm_ioctls::VmFd;
use nix::time::{ClockId, clock_gettime};

use crate::event::SlotId;

/// `_IOW(KVMIO, 0x42, struct kvm_dirty_log)`.
const KVM_GET_DIRTY_LOG: libc::Ioctl = 0x4010_ae42_u32 as libc::Ioctl;
/// `_IOWR(KVMIO, 0xc0, struct kvm_clear_dirty_log)`.
const KVM_CLEAR_DIRTY_LOG: libc::Ioctl = 0xc018_aec0_u32 as libc::Ioctl;
/// `_IO(KVMIO, 0xc7)`.
const KVM_RESET_DIRTY_RINGS: libc::Ioctl = 0xaec7;

/// Now, on the clock that `bpf_ktime_get_ns` reads.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux always has CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Reads the dirty bitmap of a slot into `bitmap`, bit n of word w for page 64 w + n.
///
/// # Safety
///
/// `bitmap` has a bit for every page that the slot has at this moment: the kernel writes that many,
/// rounded up to whole words.
///
/// # Errors
///
/// The kernel's answer.
pub unsafe fn get_dirty_log(vm: &VmFd, slot: SlotId, bitmap: &mut [u64]) -> io::Result<()> {
    let log = kvm_dirty_log {
        slot: slot.to_abi(),
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: bitmap.as_mut_ptr().cast() },
    };
    // SAFETY: the descriptor is a VM's, the argument has the layout the number names, and the
    // caller promised the size of the bitmap.
    let result = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_GET_DIRTY_LOG, &raw const log) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Clears the bits that are set in `bitmap` from the log of `pages` and protects those pages again.
///
/// `pages` starts at a multiple of 64 and is one long unless it ends with the slot; bit 0 of the
/// bitmap stands for its first page.
///
/// # Panics
///
/// If the bitmap is too short for the range.
///
/// # Errors
///
/// The kernel's answer.
pub fn clear_dirty_log(
    vm: &VmFd,
    slot: SlotId,
    pages: std::ops::Range<u64>,
    bitmap: &[u64],
) -> io::Result<()> {
    let count = pages.end - pages.start;
    assert!(count <= 64 * bitmap.len() as u64, "bitmap shorter than its range");
    let log = kvm_clear_dirty_log {
        slot: slot.to_abi(),
        num_pages: u32::try_from(count).expect("slots are smaller than 16 TiB"),
        first_page: pages.start,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            // The kernel only reads through this pointer (`copy_from_user`).
            dirty_bitmap: bitmap.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY: the descriptor is a VM's, the argument has the layout the number names, and the
    // bitmap holds a bit for every page of the range, as asserted.
    let result = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_CLEAR_DIRTY_LOG, &raw const log) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Hands all collected ring entries back to the kernel, which protects their pages; returns how
/// many.
///
/// # Errors
///
/// The kernel's answer.
pub fn reset_dirty_rings(vm: &VmFd) -> io::Result<u64> {
    // SAFETY: the descriptor is a VM's and the request takes no argument.
    let result = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_RESET_DIRTY_RINGS, 0) };
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_encode_the_size_of_their_argument() {
        assert_eq!(KVM_GET_DIRTY_LOG as u32 >> 16 & 0x3fff, size_of::<kvm_dirty_log>() as u32);
        assert_eq!(
            KVM_CLEAR_DIRTY_LOG as u32 >> 16 & 0x3fff,
            size_of::<kvm_clear_dirty_log>() as u32
        );
    }

    #[test]
    fn the_clock_goes_forward() {
        let first = monotonic_ns();
        assert!(0 < first && first <= monotonic_ns());
    }
}
