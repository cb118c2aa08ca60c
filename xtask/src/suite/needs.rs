//! What a step needs of the machine, and how to provide it.

use std::{fs::OpenOptions, path::Path};

use anyhow::Error;

use crate::{lab::kernel, mutants, tools};

/// A precondition.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// The source of `core`, and the BPF linker.
    ProbeToolchain,
    /// The emulator, a shell for it, and a kernel.
    Kernel(&'static str),
    /// KVM's source, and what builds it.
    KvmSource,
    /// A usable `/dev/kvm`.
    Kvm,
    /// Python with packages of PyPI.
    Python,
    /// Permission to load BPF programs, and types to load them with.
    Bpf,
    /// A terminal without a person.
    Tmux,
    /// trace-cmd with its libraries.
    TraceCmd,
}

/// Why a step cannot run here, and what would make it run.
#[derive(Debug)]
pub struct Missing {
    /// What is not there.
    pub why: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl Need {
    /// Fetches or looks for what is needed.
    pub fn missing(self) -> Result<(), Missing> {
        match self {
            Self::ProbeToolchain => tools::rust_src::library()
                .and_then(|_| tools::bpf_linker::path())
                .map(drop)
                .map_err(because(
                    "give the machine network access, or install rust-src and bpf-linker",
                )),
            Self::Kernel(name) => kernel::named(name)
                .and_then(kernel::Kernel::image)
                .and_then(|_| tools::busybox::path())
                .and_then(|_| tools::qemu::Qemu::find())
                .map(drop)
                .map_err(because("run on Debian 12 or later with access to a Debian mirror")),
            Self::KvmSource => mutants::prepare().map_err(because(
                "run on Debian 12 with access to a Debian mirror, and install gcc-12 and make",
            )),
            Self::Kvm => {
                OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop).map_err(
                    |error| Missing {
                        why: format!("/dev/kvm cannot be opened ({error})"),
                        remedy: "run on a host with virtualization, as root or in group kvm",
                    },
                )
            }
            Self::Python => tools::python::path()
                .map(drop)
                .map_err(because("install python3 with venv, and give the machine access to PyPI")),
            Self::TraceCmd => tools::trace_cmd::TraceCmd::find()
                .map(drop)
                .map_err(because("give the machine access to a Debian mirror")),
            Self::Bpf => bpf(),
            Self::Tmux => tools::tmux::Tmux::find()
                .map(drop)
                .map_err(because("install tmux, or give the machine access to a Debian mirror")),
        }
    }
}

fn because(remedy: &'static str) -> impl Fn(Error) -> Missing {
    move |error| Missing { why: format!("{error:#}"), remedy }
}

fn bpf() -> Result<(), Missing> {
    let missing = |why: &str, remedy| Err(Missing { why: why.to_owned(), remedy });
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return missing("the kernel has no BTF", "run on a kernel with CONFIG_DEBUG_INFO_BTF");
    }
    if !has_bpf_capability() {
        return missing("no permission to load BPF programs", "run as root");
    }
    Ok(())
}

/// `CAP_SYS_ADMIN`, by the mask of effective capabilities; only it covers every kernel's BPF and
/// perf checks.
fn has_bpf_capability() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << CAP_SYS_ADMIN) != 0)
}
