//! The dirty ring of one vCPU, shared with the kernel.
//!
//! ```text
//! kernel   entry.slot, entry.offset = …;  store-release flags = DIRTY
//! here     load-acquire flags == DIRTY;   read slot, offset;   store-release flags = RESET
//! kernel   (KVM_RESET_DIRTY_RINGS) load-acquire flags == RESET; flags = 0; protect the page again
//! ```

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};

use crate::demo::DemoError;
use crate::demo::layout::PAGE;
use crate::event::SlotId;

/// `KVM_DIRTY_GFN_F_DIRTY` of the kernel's interface.
const DIRTY: u32 = 1 << 0;
/// `KVM_DIRTY_GFN_F_RESET` of the kernel's interface.
const RESET: u32 = 1 << 1;

/// A page reported by a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingEntry {
    /// The slot, with its address space.
    pub slot: SlotId,
    /// The page within the slot.
    pub offset: u64,
}

/// The mapped ring of one vCPU.
#[derive(Debug)]
pub struct DirtyRing {
    // Invariant: `entries` points to `count` mapped entries, a power of two.
    entries: NonNull<kvm_dirty_gfn>,
    count: usize,
    next: usize,
}

// SAFETY: the mapping belongs to the process, and only the owner of this value reads or writes it
// from user space.
unsafe impl Send for DirtyRing {}

impl DirtyRing {
    /// Maps the ring of a vCPU whose VM has dirty rings of `count` entries.
    ///
    /// # Errors
    ///
    /// [`DemoError::Memory`] if the kernel refuses.
    pub fn map(vcpu: &impl AsRawFd, count: usize) -> Result<Self, DemoError> {
        let bytes = count * size_of::<kvm_dirty_gfn>();
        let offset = KVM_DIRTY_LOG_PAGE_OFFSET as usize * PAGE;
        // SAFETY: the kernel chooses the addresses; the descriptor is a vCPU's.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        match NonNull::new(start.cast()) {
            Some(entries) if start != libc::MAP_FAILED => Ok(Self { entries, count, next: 0 }),
            Some(_) | None => {
                let source = io::Error::last_os_error();
                Err(DemoError::Memory { call: "mmap of a dirty ring", bytes, source })
            }
        }
    }

    /// Takes the next reported page and marks its entry as collected.
    pub fn collect(&mut self) -> Option<RingEntry> {
        let index = self.next % self.count;
        // SAFETY: `index` is below `count` (invariant).
        let entry = unsafe { self.entries.add(index) }.as_ptr();
        // SAFETY: the entry is mapped and aligned.
        let flags = unsafe { &raw mut (*entry).flags };
        // SAFETY: the kernel accesses this word atomically too, with the orders drawn above.
        let flags = unsafe { AtomicU32::from_ptr(flags) };
        if flags.load(Ordering::Acquire) & DIRTY == 0 {
            return None;
        }
        // SAFETY: the kernel wrote slot and offset before DIRTY and leaves them alone until RESET.
        let kvm_dirty_gfn { slot, offset, .. } = unsafe { entry.read() };
        flags.store(RESET, Ordering::Release);
        self.next += 1;
        Some(RingEntry { slot: SlotId::from_abi(slot), offset })
    }
}

impl Drop for DirtyRing {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<kvm_dirty_gfn>();
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), bytes) };
    }
}
