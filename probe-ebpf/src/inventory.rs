//! Run by the loader itself (BPF_PROG_TEST_RUN), never attached: it reads what existed before the attach.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kvmdirty_common::{Hook, Kind};

use crate::emit::{self, Fact};
use crate::kernel::{current_task, read};
use crate::maps::{PEEK, SLOTS, SlotExtent, SlotKey, VMS, Vm};

/// Copies the 64 bytes at the address in argument 0 to the first words of the peek map; address 0 asks for the current
/// task's address instead. Returns 0 on success.
#[raw_tracepoint]
pub fn peek(ctx: RawTracePointContext) -> i32 {
    let Some(words) = PEEK.get_ptr_mut(0) else { return 1 };
    let address: u64 = ctx.arg(0);
    let bytes = if address == 0 {
        [current_task(), 0, 0, 0, 0, 0, 0, 0]
    } else {
        match read::<[u64; 8]>(address) {
            Some(bytes) => bytes,
            None => return 1,
        }
    };
    // SAFETY: the map value has 32 words; the loader runs one such program at a time.
    unsafe { *words.cast::<[u64; 8]>() = bytes };
    0
}

/// Follows the VM in the peek map and emits its `VmSeen`: words `[kvm, begin, args...]`.
#[raw_tracepoint]
pub fn announce_vm(_: RawTracePointContext) -> i32 {
    let Some(words) = PEEK.get(0) else { return 1 };
    let kvm = words[0];
    let vm = Vm { tgid: words[2] as u32, ring: (words[3] >> 32) as u32 };
    if VMS.insert(kvm, vm, 0).is_err() {
        emit::count_missed(Hook::Inventory);
        return 1;
    }
    emit::boundary(
        Hook::Inventory,
        &Fact {
            kind: Kind::VmSeen,
            flags: 0,
            vm: kvm,
            begin_ns: words[1],
            args: [words[2], words[3], words[4], words[5]],
        },
    );
    0
}

/// Registers the memslot in the peek map and emits its `SlotState`: words `[kvm, begin, args...]`.
#[raw_tracepoint]
pub fn announce_slot(_: RawTracePointContext) -> i32 {
    let Some(words) = PEEK.get(0) else { return 1 };
    let kvm = words[0];
    let key = SlotKey { kvm, slot: words[2] as u32, reserved: 0 };
    if SLOTS.insert(key, SlotExtent { base: words[3], npages: words[4] }, 0).is_err() {
        emit::count_missed(Hook::Inventory);
    }
    emit::boundary(
        Hook::Inventory,
        &Fact {
            kind: Kind::SlotState,
            flags: 0,
            vm: kvm,
            begin_ns: words[1],
            args: [words[2], words[3], words[4], words[5]],
        },
    );
    0
}
