//! The running kernel as the attach plan sees it: version, types, symbols, which kinds of probes it takes.

use std::path::Path;

use kvmdirty_common::target::Offsets;

use super::btf::Btf;
use super::points::POINTS;
use super::symbols::Symbols;
use super::{LiveError, offsets};

/// Symbols that are read rather than attached to.
const DATA_SYMBOLS: [&str; 10] = [
    "kvm_vm_ioctl",
    "kvm_vcpu_ioctl",
    "kvm_preempt_ops",
    "shadow_mmu_writable_mask",
    "shadow_host_writable_mask",
    "shadow_dirty_mask",
    "shadow_accessed_mask",
    "enable_pml",
    "tdp_mmu_enabled",
    "tdp_enabled",
];

/// Everything about the running kernel that decides what can be attached.
#[derive(Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// Its first two numbers.
    pub version: (u32, u32),
    /// Types.
    pub btf: Btf,
    /// Field offsets.
    pub offsets: Offsets,
    /// Bits of [`kvmdirty_common::target::abi`].
    pub forms: u64,
    /// Symbols.
    pub symbols: Symbols,
    /// The kernel takes kprobes.
    pub has_kprobes: bool,
    /// Guests get roots of the TDP MMU.
    pub has_tdp_mmu: bool,
    /// KVM's own types come from a module's BTF or from `vmlinux`.
    pub is_kvm_module: bool,
}

impl Kernel {
    /// Looks at the running kernel.
    ///
    /// # Errors
    /// No KVM, no BTF, unreadable kallsyms.
    pub fn running() -> Result<Self, LiveError> {
        let symbols = Symbols::of_running_kernel(is_wanted)?;
        if !symbols.has("kvm_vm_ioctl") && !symbols.has("kvm_flush_remote_tlbs") {
            return Err(LiveError::NoKvm);
        }
        let btf = Btf::of_running_kernel()?;
        let release = release();
        Ok(Self {
            version: version(&release),
            release,
            offsets: offsets::of(&btf),
            forms: offsets::function_forms(&btf),
            has_kprobes: Path::new("/sys/bus/event_source/devices/kprobe/type").exists(),
            has_tdp_mmu: has_tdp_mmu(),
            is_kvm_module: Path::new("/sys/module/kvm/initstate").exists(),
            symbols,
            btf,
        })
    }

    /// `bpf_loop` exists.
    #[must_use]
    pub fn has_bpf_loop(&self) -> bool {
        (5, 17) <= self.version
    }

    /// Tracepoints are called with preemption enabled, under SRCU (`__DECLARE_TRACE`, include/linux/tracepoint.h): 7.3
    /// does so, 6.12 does not, and what lies between is taken to be like the next.
    #[must_use]
    pub fn preempts_tracepoints(&self) -> bool {
        (7, 0) <= self.version
    }

    /// `SPTE_MMU_PRESENT_MASK` is bit 11 of every present SPTE (since 5.13, arch/x86/kvm/mmu/spte.h); before, any
    /// non-zero SPTE that is no MMIO one is present.
    #[must_use]
    pub fn present_mask(&self) -> u64 {
        if (5, 13) <= self.version { 1 << 11 } else { 0 }
    }
}

/// `kvm.tdp_mmu` says what was asked for; without nested paging nothing comes of it.
fn has_tdp_mmu() -> bool {
    let is_on = |path: &str| {
        std::fs::read_to_string(path).is_ok_and(|value| matches!(value.trim(), "Y" | "1"))
    };
    is_on("/sys/module/kvm/parameters/tdp_mmu")
        && (is_on("/sys/module/kvm_amd/parameters/npt")
            || is_on("/sys/module/kvm_intel/parameters/ept"))
}

fn is_wanted(name: &str) -> bool {
    match name.strip_prefix("__traceiter_") {
        Some(tracepoint) => POINTS.iter().any(|point| point.site.names().contains(&tracepoint)),
        None => {
            DATA_SYMBOLS.contains(&name)
                || POINTS.iter().any(|point| point.site.names().contains(&name))
        }
    }
}

fn release() -> String {
    nix::sys::utsname::uname()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// `6.12.0-rc1+deb13` is (6, 12).
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_the_first_two_numbers() {
        assert_eq!(version("6.12.0-rc1+deb13-amd64"), (6, 12));
        assert_eq!(version("5.10"), (5, 10));
        assert_eq!(version(""), (0, 0));
    }
}
