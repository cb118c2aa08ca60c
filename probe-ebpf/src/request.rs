//! The ioctls of dirty logging as user space states them. Numbers and layouts are ABI (include/uapi/linux/kvm.h).

use kvmdirty_common::IoctlOp;

use crate::kernel::read_user;
use crate::maps::SlotKey;

/// KVM_CREATE_VM.
pub const KVM_CREATE_VM: u32 = 0xae01;
/// KVM_RUN.
pub const KVM_RUN: u32 = 0xae80;

const KVM_GET_DIRTY_LOG: u32 = 0x4010_ae42;
const KVM_CLEAR_DIRTY_LOG: u32 = 0xc018_aec0;
const KVM_RESET_DIRTY_RINGS: u32 = 0xaec7;
const KVM_SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
const KVM_SET_USER_MEMORY_REGION2: u32 = 0x40a0_ae49;
const KVM_ENABLE_CAP: u32 = 0x4068_aea3;

const KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: u32 = 168;
const KVM_CAP_DIRTY_LOG_RING: u32 = 192;
const KVM_CAP_DIRTY_LOG_RING_ACQ_REL: u32 = 223;

const PAGE_SHIFT: u64 = 12;

/// The operation an ioctl number stands for.
#[inline(always)]
pub fn op(command: u32) -> Option<IoctlOp> {
    Some(match command {
        KVM_GET_DIRTY_LOG => IoctlOp::GetDirtyLog,
        KVM_CLEAR_DIRTY_LOG => IoctlOp::ClearDirtyLog,
        KVM_RESET_DIRTY_RINGS => IoctlOp::ResetDirtyRings,
        KVM_SET_USER_MEMORY_REGION | KVM_SET_USER_MEMORY_REGION2 => IoctlOp::SetMemory,
        KVM_ENABLE_CAP => IoctlOp::EnableCap,
        _ => return None,
    })
}

/// Key of a slot.
#[inline(always)]
pub fn slot_key(kvm: u64, number: u32) -> SlotKey {
    SlotKey { kvm, slot: number, reserved: 0 }
}

/// An ioctl's argument.
pub struct Request {
    /// Packed as `opref`.
    pub opref: u64,
    /// First page (CLEAR), first gfn (SET_MEMORY), capability (ENABLE_CAP).
    pub first: u64,
    /// Pages; ENABLE_CAP: the capability's first argument.
    pub npages: u64,
    /// User address of the bitmap.
    pub bitmap: u64,
}

impl Request {
    /// Reads the argument; `None` for capabilities that have nothing to do with dirty logging.
    ///
    /// Where the memory is not resident (it will be when the ioctl returns) the slot reads as `u32::MAX`.
    #[inline(always)]
    pub fn read(op: IoctlOp, user: u64) -> Option<Self> {
        const UNREAD: [u64; 2] = [u32::MAX as u64, 0];
        let mut request = Self { opref: op as u64, first: 0, npages: 0, bitmap: 0 };
        if matches!(op, IoctlOp::ResetDirtyRings) {
            return Some(request);
        }
        let [head, second] = read_user::<[u64; 2]>(user).unwrap_or(UNREAD);
        let (low, high) = (head & 0xffff_ffff, head >> 32);
        match op {
            IoctlOp::GetDirtyLog => {
                request.opref |= low << 32;
                request.bitmap = second;
            }
            IoctlOp::ClearDirtyLog => {
                request.opref |= low << 32;
                request.npages = high;
                request.first = second;
                request.bitmap = read_user(user + 16).unwrap_or(0);
            }
            IoctlOp::SetMemory => {
                request.opref |= low << 32 | (high & 0x00ff_ffff) << 8;
                request.first = second >> PAGE_SHIFT;
                request.npages = read_user(user + 16).unwrap_or(0) >> PAGE_SHIFT;
            }
            IoctlOp::EnableCap => {
                let is_ours = matches!(
                    low as u32,
                    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
                        | KVM_CAP_DIRTY_LOG_RING
                        | KVM_CAP_DIRTY_LOG_RING_ACQ_REL
                );
                if !is_ours {
                    return None;
                }
                request.first = low;
                // `struct kvm_enable_cap`: cap, flags, args[4].
                request.npages = second;
            }
            IoctlOp::ResetDirtyRings => {}
        }
        Some(request)
    }

    /// Key of the slot it names.
    #[inline(always)]
    pub fn key(&self, kvm: u64) -> SlotKey {
        slot_key(kvm, (self.opref >> 32) as u32)
    }
}
