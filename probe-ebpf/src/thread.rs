//! What a thread is in the middle of: begin of each open bracket and what was seen inside it.

use kvmdirty_common::Hook;

use crate::emit::count_missed;
use crate::kernel::current_tid;
use crate::kprobe::brackets::Brackets;
use crate::maps::{BLANK, THREADS};
use crate::words::Walk;

/// Open brackets of one thread. A time of 0 means: not open.
#[repr(C)]
pub struct Thread {
    /// VM the thread last worked for.
    pub kvm: u64,
    /// vCPU the thread last ran.
    pub vcpu: u64,
    /// The ioctl of the VM.
    pub ioctl: Ioctl,
    /// KVM_RUN.
    pub run_ns: u64,
    /// `kvm_mmu_spte_requested` of the fault in progress.
    pub requested_ns: u64,
    /// Its memslot.
    pub requested_slot: u64,
    /// A wait for `mmu_lock`.
    pub wait_ns: u64,
    /// The lock and its contention flags.
    pub wait_flags: u64,
    /// Runs of ring entries its RESET has popped so far.
    pub pops: u32,
    /// Non-zero: a run found no room.
    pub pops_cut: u32,
    /// The bitmap of the ioctl, while its words are emitted.
    pub walk: Walk,
    /// What the kprobe plan has open.
    pub brackets: Brackets,
}

/// A bracket is about to be opened; one that is open still has missed its return, or that comes out of order.
///
/// Kernels before 6.7 do not tell how often they did not run a return probe.
#[inline(always)]
pub fn expect_closed(hook: Hook, open: u64) {
    if open != 0 {
        count_missed(hook);
    }
}

/// An ioctl in progress.
#[repr(C)]
pub struct Ioctl {
    /// Its begin.
    pub begin_ns: u64,
    /// Its opref; 0: none.
    pub op: u64,
    /// User address of the bitmap (GET, CLEAR).
    pub bitmap: u64,
    /// First page or gfn.
    pub first: u64,
    /// Pages.
    pub npages: u64,
}

impl Thread {
    /// The current thread's entry, made if there is none; a full table is counted.
    #[inline(always)]
    pub fn current() -> Option<&'static mut Self> {
        let tid = current_tid();
        if let Some(thread) = THREADS.get_ptr_mut(&tid) {
            // SAFETY: a map value; only its own thread writes it.
            return Some(unsafe { &mut *thread });
        }
        let blank = BLANK.get(0)?;
        if THREADS.insert(&tid, blank, 0).is_err() {
            count_missed(Hook::ThreadTable);
            return None;
        }
        // SAFETY: as above.
        THREADS.get_ptr_mut(&tid).map(|thread| unsafe { &mut *thread })
    }

    /// The VM of an open bracket; 0: none is open, the thread may be working for any VM.
    #[inline(always)]
    pub fn bracket_vm(&self) -> u64 {
        if self.brackets.invalidate.begin_ns != 0 {
            return self.brackets.invalidate.kvm;
        }
        if self.run_ns != 0 || self.ioctl.op != 0 { self.kvm } else { 0 }
    }

    /// The current thread's entry, if it has one.
    #[inline(always)]
    pub fn known() -> Option<&'static mut Self> {
        // SAFETY: a map value; only its own thread writes it.
        THREADS.get_ptr_mut(current_tid()).map(|thread| unsafe { &mut *thread })
    }
}
