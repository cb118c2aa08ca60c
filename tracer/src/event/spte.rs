//! SPTEs and the masks that give their bits a meaning on the running kernel.

use std::fmt;

/// The value of a shadow or TDP page-table entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spte(pub u64);

/// Masks of the running kernel (its `shadow_*_mask` variables); a zero mask means "not published by this kernel".
///
/// W is bit 1 on every kernel and both page-table formats; everything else moves (KVM.md, section 0, fact 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SpteMasks {
    /// Hardware-writable.
    pub writable: u64,
    /// `shadow_mmu_writable_mask`: KVM allows W to be set locklessly.
    pub mmu_writable: u64,
    /// `shadow_host_writable_mask`.
    pub host_writable: u64,
    /// `shadow_dirty_mask`.
    pub dirty: u64,
    /// `shadow_accessed_mask`.
    pub accessed: u64,
    /// `SPTE_MMU_PRESENT_MASK` (bit 11 since 5.13; 0 before, where non-zero means present).
    pub present: u64,
    /// PML is in use: the harvest clears D, not W.
    pub pml: bool,
}

impl SpteMasks {
    /// What every x86 kernel shares: W is bit 1, nothing else is known.
    pub const W_ONLY: Self = Self {
        writable: 1 << 1,
        mmu_writable: 0,
        host_writable: 0,
        dirty: 0,
        accessed: 0,
        present: 0,
        pml: false,
    };

    /// The entry maps something.
    #[must_use]
    pub const fn is_present(&self, spte: Spte) -> bool {
        if self.present == 0 { spte.0 != 0 } else { spte.0 & self.present != 0 }
    }

    /// A write through this entry is not logged any more: W is set; under PML, D is set as well.
    ///
    /// This is the state the rule of DESIGN.md section 1 calls *writable*.
    #[must_use]
    pub const fn is_open(&self, spte: Spte) -> bool {
        let writable = self.is_present(spte) && spte.0 & self.writable != 0;
        if self.pml { writable && spte.0 & self.dirty != 0 } else { writable }
    }

    /// W can be set again without `mmu_lock`.
    #[must_use]
    pub const fn is_mmu_writable(&self, spte: Spte) -> bool {
        self.is_present(spte) && spte.0 & self.mmu_writable != 0
    }
}

impl fmt::Display for Spte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pml_asks_for_d_and_w() {
        let masks = SpteMasks { pml: true, dirty: 1 << 9, present: 1 << 11, ..SpteMasks::W_ONLY };
        assert!(!masks.is_open(Spte(1 << 11 | 1 << 1)));
        assert!(masks.is_open(Spte(1 << 11 | 1 << 9 | 1 << 1)));
        assert!(!masks.is_open(Spte(1 << 9 | 1 << 1)));
    }
}
