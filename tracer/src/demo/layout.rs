//! Where everything lies in the guest: guest physical addresses, memslots and page tables.
//!
//! ```text
//! slot 0, "system", 2 MiB at 0
//!   0x0000_0000  zeros: a task segment whose I/O bitmap allows every port
//!   0x0000_1000  program
//!   0x0000_2000  control page of vCPU n
//!   0x0001_2000  state page of vCPU n
//!   0x0002_2000  page of vCPU n that KVM itself writes
//!   0x0003_2000  interrupt table, and descriptors in the page behind it
//!   0x0004_0000  PML4, PDPT, PD, then one page table per 2 MiB
//!   0x001f_d000  (virtual only) the local APIC's registers
//!   0x001f_e000  the one page that the guest does not map
//!   0x001f_f000  in its last word begins a store that ends in the hole behind the slot
//! hole, 2 MiB at 0x20_0000: no memslot, a store there is MMIO
//! slots 1..=n, "data", each at the next 2 MiB boundary from 0x40_0000
//! slot n+1, "movable", at one of two places behind the data slots
//! ```
//!
//! The guest runs on identity page tables (virtual = physical), so one number names a page
//! everywhere.

/// Bytes of a small page.
pub const PAGE: usize = 4096;
/// [`PAGE`] as an address distance.
pub const PAGE_BYTES: u64 = PAGE as u64;
/// Bytes of a huge page (one PD entry).
pub const HUGE_BYTES: u64 = 2 << 20;
/// Most vCPUs a demo VM may have; bounded by the room for their pages.
pub const VCPUS_MAX: u32 = 16;
/// Most data slots.
pub const SLOTS_MAX: u32 = 16;
/// Most data pages; bounded by the room for page tables in the system slot.
pub const DATA_PAGES_MAX: u64 = 196_608;
/// Pages of the movable slot.
pub const MOVABLE_PAGES: u64 = 64;

/// Address of the guest program.
pub const PROGRAM_ADDRESS: u64 = 0x1000;
/// Bytes of the system slot.
pub const SYSTEM_BYTES: u64 = HUGE_BYTES;
/// Address of an eight-byte store that begins in the system slot and ends in the hole behind it.
pub const CROSSING_ADDRESS: u64 = SYSTEM_BYTES - 4;
/// Address of the first data slot.
pub const DATA_ADDRESS: u64 = 2 * HUGE_BYTES;
/// Address of the top-level page table, for CR3.
pub const TABLES_ADDRESS: u64 = 0x4_0000;
/// Address of the interrupt table; the segment descriptors are in the page behind it.
pub const DESCRIPTORS_ADDRESS: u64 = 0x3_2000;
/// Virtual address of the local APIC's registers, the only page that is not mapped one to one.
pub const LOCAL_APIC_ADDRESS: u64 = SYSTEM_BYTES - 3 * PAGE_BYTES;
/// Physical address of the local APIC's registers after reset.
const LOCAL_APIC_PHYSICAL: u64 = 0xfee0_0000;
/// A page that the guest does not map.
const UNMAPPED_ADDRESS: u64 = SYSTEM_BYTES - 2 * PAGE_BYTES;
/// Address of the page-table entry of the unmapped page; never present, so the guest may scribble
/// in it.
pub const SPARE_ENTRY_ADDRESS: u64 =
    TABLES_ADDRESS + 3 * PAGE_BYTES + UNMAPPED_ADDRESS / PAGE_BYTES * 8;

// Page-table entry bits, Intel SDM volume 3, 4.5.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;

/// The size of the pages with which the guest maps its data.
///
/// A shadow MMU can only use huge pages where the guest does; a two-dimensional one does not care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestPages {
    /// 4 KiB everywhere.
    Small,
    /// 2 MiB from the first data slot on.
    Huge,
}

/// A range of guest memory that one memslot covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub address: u64,
    /// Number of small pages.
    pub pages: u64,
}

impl Extent {
    /// The first byte behind the range.
    pub fn end(&self) -> u64 {
        self.address + self.pages * PAGE_BYTES
    }
}

/// Address of the control page of a vCPU.
pub fn control_address(vcpu: u32) -> u64 {
    0x2000 + u64::from(vcpu) * PAGE_BYTES
}

/// Address of the state page of a vCPU.
pub fn state_address(vcpu: u32) -> u64 {
    0x1_2000 + u64::from(vcpu) * PAGE_BYTES
}

/// Address of the page of a vCPU that KVM itself writes (clock, steal time).
pub fn kvm_page_address(vcpu: u32) -> u64 {
    0x2_2000 + u64::from(vcpu) * PAGE_BYTES
}

/// The extents of the data slots: `pages` split evenly, the first ones one page larger where
/// needed.
pub fn data_extents(pages: u64, slots: u32) -> Vec<Extent> {
    let slots = u64::from(slots);
    let mut address = DATA_ADDRESS;
    (0..slots)
        .map(|index| {
            let extent =
                Extent { address, pages: pages / slots + u64::from(index < pages % slots) };
            address = extent.end().next_multiple_of(HUGE_BYTES);
            extent
        })
        .collect()
}

/// The two places of the movable slot, behind everything that ends at `data_end`.
pub fn movable_extents(data_end: u64) -> [Extent; 2] {
    let first = data_end.next_multiple_of(HUGE_BYTES);
    [first, first + HUGE_BYTES].map(|address| Extent { address, pages: MOVABLE_PAGES })
}

/// The guest's page tables up to address `end`, as `(address, entry)` pairs for the VMM to write.
///
/// One page stays unmapped ([`SPARE_ENTRY_ADDRESS`]), and so does everything from `end` on.
pub fn page_tables(end: u64, data: GuestPages) -> Vec<(u64, u64)> {
    let link = PRESENT | WRITABLE | USER;
    let [pml4, pdpt, pd, tables] = [0, 1, 2, 3].map(|index| TABLES_ADDRESS + index * PAGE_BYTES);
    let mut entries = vec![(pml4, pdpt | link), (pdpt, pd | link)];
    for (index, base) in (0..end).step_by(HUGE_BYTES as usize).enumerate() {
        let index = index as u64;
        if data == GuestPages::Huge && DATA_ADDRESS <= base {
            entries.push((pd + 8 * index, base | link | LARGE));
            continue;
        }
        let table = tables + index * PAGE_BYTES;
        entries.push((pd + 8 * index, table | link));
        for page in 0..512 {
            let address = base + page * PAGE_BYTES;
            let entry = match address {
                UNMAPPED_ADDRESS => continue,
                LOCAL_APIC_ADDRESS => LOCAL_APIC_PHYSICAL | link,
                _ => address | link,
            };
            entries.push((table + 8 * page, entry));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_slots_are_aligned_disjoint_and_cover_all_pages() {
        let extents = data_extents(1001, 3);
        assert_eq!(extents.iter().map(|extent| extent.pages).sum::<u64>(), 1001);
        assert!(extents.iter().all(|extent| extent.address % HUGE_BYTES == 0));
        assert!(extents.windows(2).all(|pair| pair[0].end() <= pair[1].address));
    }

    #[test]
    fn largest_layout_leaves_its_page_tables_inside_the_system_slot() {
        let extents = data_extents(DATA_PAGES_MAX, SLOTS_MAX);
        let end = movable_extents(extents.last().unwrap().end())[1].end();
        let tables = page_tables(end, GuestPages::Small);
        let highest = tables.iter().map(|(address, _)| *address).max().unwrap();
        assert!(highest < LOCAL_APIC_ADDRESS);
        assert!(end <= 1 << 30);
    }

    #[test]
    fn the_spare_entry_is_the_only_hole() {
        let tables = page_tables(DATA_ADDRESS, GuestPages::Small);
        assert!(tables.iter().all(|(address, _)| *address != SPARE_ENTRY_ADDRESS));
        assert!(
            tables.contains(&(SPARE_ENTRY_ADDRESS - 16, 0x1f_c000 | PRESENT | WRITABLE | USER))
        );
    }

    #[test]
    fn pages_of_sixteen_vcpus_do_not_overlap() {
        let last = VCPUS_MAX - 1;
        assert!(control_address(last) + PAGE_BYTES <= state_address(0));
        assert!(state_address(last) + PAGE_BYTES <= kvm_page_address(0));
        assert!(kvm_page_address(last) + PAGE_BYTES <= DESCRIPTORS_ADDRESS);
        const { assert!(DESCRIPTORS_ADDRESS + 2 * PAGE_BYTES <= TABLES_ADDRESS) };
    }
}
