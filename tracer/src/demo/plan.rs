//! What each vCPU of a VM writes: the region lists that the VMM puts into the control pages.
//!
//! ```text
//! data slot   | shared by all vCPUs, one word each | vCPU 0 | vCPU 1 | …
//! ```

use crate::demo::code::{REGION_BYTES, REGION_TABLE, REGIONS_MAX, RegionKind};
use crate::demo::config::{GuestConfig, Pattern};
use crate::demo::layout::{
    CROSSING_ADDRESS, Extent, PAGE_BYTES, SPARE_ENTRY_ADDRESS, control_address, kvm_page_address,
    state_address,
};
use crate::demo::workload::{Workload, Workloads};

/// One of eight pages of a slot is shared by all vCPUs, and one of eight of a region is hot.
const PART: u64 = 8;
/// One random store of 16 goes to the whole region instead of its hot pages.
const COLD_MASK: u64 = 15;
/// Offset of the forced store in the page that KVM writes, behind the clock, the steal time and the EOI word.
const FORCED_OFFSET: u64 = 0xc00;

/// A region as the guest reads it from its control page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Address of the vCPU's word in the first page.
    pub address: u64,
    /// Number of pages.
    pub pages: u64,
    /// Number of pages at the start that are written most.
    pub hot: u64,
    /// What to do there.
    pub kind: RegionKind,
}

/// The regions of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuPlan {
    /// Index of the vCPU.
    pub vcpu: u32,
    /// In the order of a walk.
    pub regions: Vec<Region>,
}

impl VcpuPlan {
    /// Plans the stores of one vCPU over the data slots, the movable slot last if there is one.
    pub fn new(config: &GuestConfig, vcpu: u32, slots: &[Extent], workloads: &Workloads) -> Self {
        let word = 8 * u64::from(vcpu);
        let own = match (config.pattern, vcpu % 2) {
            (Pattern::Sequential, _) | (Pattern::Mixed, 1..) => RegionKind::Sequential,
            (Pattern::Random, _) | (Pattern::Mixed, 0) => RegionKind::Random,
            (Pattern::Streaks, _) => RegionKind::Streak,
        };
        let region = |address, pages: u64, kind| Region {
            address: address + word,
            pages,
            hot: (pages / PART).max(1),
            kind,
        };
        let mut regions = Vec::new();
        for slot in slots {
            let shared = match config.pattern {
                Pattern::Streaks => 0,
                Pattern::Mixed | Pattern::Sequential | Pattern::Random => {
                    (slot.pages / PART).max(1)
                }
            };
            let share = (slot.pages - shared) / u64::from(config.vcpus);
            let first = slot.address + (shared + u64::from(vcpu) * share) * PAGE_BYTES;
            if 0 < shared {
                regions.push(region(slot.address, shared, RegionKind::Random));
            }
            if 0 < share {
                regions.push(region(first, share, own));
            }
        }
        // The emulated stores of all vCPUs go to the same few words; what they leave there is no
        // sequence number, but a page is compared as a whole all the same.
        let state = state_address(vcpu);
        let emulated = [
            (Workload::Crossing, CROSSING_ADDRESS, RegionKind::Crossing),
            (Workload::Exchange, SPARE_ENTRY_ADDRESS, RegionKind::Exchange),
            (Workload::ForcedEmulation, state + PAGE_BYTES - 8, RegionKind::ForcedExchange),
            // A page that only KVM writes: no store of the guest has it reported once more.
            (
                Workload::ForcedEmulation,
                kvm_page_address(vcpu) + FORCED_OFFSET,
                RegionKind::ForcedStore,
            ),
        ];
        for (workload, address, kind) in emulated {
            if workloads.wants(workload) {
                regions.push(Region { address, pages: 1, hot: 1, kind });
            }
        }
        assert!(regions.len() <= REGIONS_MAX, "more regions than a control page holds");
        Self { vcpu, regions }
    }

    /// The words to write before the vCPU starts, as `(address, value)`.
    pub fn words(&self, config: &GuestConfig) -> Vec<(u64, u64)> {
        let control = control_address(self.vcpu);
        // Any non-zero value will do; the multiplication keeps the vCPUs' sequences apart.
        let random = (config.seed ^ u64::from(self.vcpu)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut words = vec![
            (state_address(self.vcpu), random),
            (control, config.batch),
            (control + 0x08, self.regions.len() as u64),
            (control + 0x10, COLD_MASK),
        ];
        for (index, region) in self.regions.iter().enumerate() {
            let Region { address, pages, hot, kind } = *region;
            let entry = control + REGION_TABLE + index as u64 * REGION_BYTES;
            words.extend([
                (entry, address),
                (entry + 0x08, pages),
                (entry + 0x10, hot),
                (entry + 0x18, kind as u64),
            ]);
        }
        words
    }

    /// Increments per walk.
    pub fn stores_per_walk(&self, config: &GuestConfig) -> u64 {
        let loops = self.regions.iter().filter(|region| match region.kind {
            RegionKind::Sequential | RegionKind::Random | RegionKind::Streak => true,
            RegionKind::Crossing
            | RegionKind::Exchange
            | RegionKind::ForcedExchange
            | RegionKind::ForcedStore => false,
        });
        loops.count() as u64 * config.batch
    }

    /// Moves the regions of a slot to where the slot went; returns the words to write.
    pub fn relocate(&mut self, from: Extent, to: Extent) -> Vec<(u64, u64)> {
        let control = control_address(self.vcpu);
        let mut words = Vec::new();
        for (index, region) in self.regions.iter_mut().enumerate() {
            if from.address <= region.address && region.address < from.end() {
                region.address = region.address - from.address + to.address;
                let entry = control + REGION_TABLE + index as u64 * REGION_BYTES;
                words.push((entry, region.address));
            }
        }
        words
    }
}
