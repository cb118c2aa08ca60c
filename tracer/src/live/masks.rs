//! SPTE masks of the running kernel: its `shadow_*_mask` variables, read from memory.
//!
//! Where `/proc/kallsyms` lists no data symbols (`CONFIG_KALLSYMS_ALL` off) they are not published: the masks stay 0
//! and what needs them is unknown. W is bit 1 on every kernel.

use super::LiveError;
use super::kernel::Kernel;
use super::memory::Memory;
use crate::event::SpteMasks;

/// Reads the masks.
///
/// # Errors
/// The kernel refuses the reading program.
pub fn read(memory: &mut Memory<'_>, kernel: &Kernel) -> Result<SpteMasks, LiveError> {
    let mut variable = |name: &str| match kernel.symbols.address(name) {
        Some(address) => memory.word(address),
        None => Ok(0),
    };
    Ok(SpteMasks {
        writable: 1 << 1,
        mmu_writable: variable("shadow_mmu_writable_mask")?,
        host_writable: variable("shadow_host_writable_mask")?,
        dirty: variable("shadow_dirty_mask")?,
        accessed: variable("shadow_accessed_mask")?,
        present: kernel.present_mask(),
        pml: is_pml_on(),
    })
}

/// `kvm_intel`'s parameter says whether it uses page-modification logging.
fn is_pml_on() -> bool {
    std::fs::read_to_string("/sys/module/kvm_intel/parameters/pml")
        .is_ok_and(|value| value.trim() == "Y")
}
