//! Finding a memslot by gfn, as the kernel does.

use kvmdirty_common::target::ABSENT;

use crate::config::offset;
use crate::kernel::{field, field_or_0};

/// Nodes on a path from root to leaf of a red-black tree with 32,767 slots: at most 2 * log2(n + 1).
const DEPTH_MAX: u32 = 30;

/// `struct kvm_memory_slot *` that holds `gfn`, 0 if there is none.
///
/// Walks `kvm_memslots.gfn_tree` without locks, so a concurrent change may hide the slot; the caller compares the
/// slot's number with the one it means.
#[inline(never)]
pub fn by_gfn(kvm: u64, as_id: u32, gfn: u64) -> u64 {
    if offset!(kvm_memslots) == ABSENT {
        return 0;
    }
    let memslots = field_or_0(kvm + u64::from(as_id & 1) * 8, offset!(kvm_memslots));
    if offset!(memslots_gfn_tree) == ABSENT {
        in_array(memslots, gfn)
    } else {
        in_tree(memslots, gfn)
    }
}

/// 5.10: an array in descending order of gfns.
#[inline(always)]
fn in_array(memslots: u64, gfn: u64) -> u64 {
    if offset!(memslots_array) == ABSENT || offset!(slot_size) == ABSENT {
        return 0;
    }
    let slot = |n: u32| {
        memslots + u64::from(offset!(memslots_array)) + u64::from(n) * u64::from(offset!(slot_size))
    };
    let used: u32 = field(memslots, offset!(memslots_used)).unwrap_or(0);
    let (mut start, mut end) = (0, used);
    // 2^10 is more than KVM_MEM_SLOTS_NUM of that kernel.
    for _ in 0..10 {
        if start < end {
            let middle = start + (end - start) / 2;
            if field_or_0(slot(middle), offset!(slot_base_gfn)) <= gfn {
                end = middle;
            } else {
                start = middle + 1;
            }
        }
    }
    let found = slot(start);
    let base = field_or_0(found, offset!(slot_base_gfn));
    let is_in = start < used && base <= gfn && gfn < base + field_or_0(found, offset!(slot_npages));
    if is_in { found } else { 0 }
}

/// Since 5.17: a red-black tree.
#[inline(always)]
fn in_tree(memslots: u64, gfn: u64) -> u64 {
    let idx: u32 = field(memslots, offset!(memslots_node_idx)).unwrap_or(0);
    // `struct rb_node` is { parent and colour, right, left }.
    let node_offset = u64::from(offset!(slot_gfn_node)) + u64::from(idx & 1) * 24;
    let mut node = field_or_0(memslots, offset!(memslots_gfn_tree));
    for _ in 0..DEPTH_MAX {
        if node == 0 {
            return 0;
        }
        let slot = node - node_offset;
        let base = field_or_0(slot, offset!(slot_base_gfn));
        let next = if gfn < base {
            16
        } else if gfn < base + field_or_0(slot, offset!(slot_npages)) {
            return slot;
        } else {
            8
        };
        node = field_or_0(node, next);
    }
    0
}
