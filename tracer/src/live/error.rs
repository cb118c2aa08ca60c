//! What can keep a trace from starting, each with its remedy.

use std::io;
use std::path::PathBuf;

/// Why live tracing cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The process does not exist.
    #[error("no process has pid {pid}: `kvmdirty-trace list` shows the VMs of this host")]
    NoSuchProcess {
        /// The pid asked for.
        pid: u32,
    },
    /// The pid is that of a thread.
    #[error("{pid} is a thread of process {tgid}: trace --pid {tgid}")]
    NotAProcess {
        /// The pid asked for.
        pid: u32,
        /// The process it belongs to.
        tgid: u32,
    },
    /// The process is no VMM and may not become one.
    #[error(
        "process {pid} has no KVM VM open: name the process that owns /dev/kvm (`kvmdirty-trace list`), \
         or wait for one to appear with --wait"
    )]
    NotAVmm {
        /// The pid asked for.
        pid: u32,
    },
    /// There is no KVM on this host.
    #[error(
        "this kernel runs no KVM: load kvm_intel or kvm_amd, or trace on the host that runs the VMs"
    )]
    NoKvm,
    /// The caller may not load BPF programs.
    #[error(
        "not permitted to {action}: run as root, or grant {missing} \
         (`sudo setcap cap_bpf,cap_perfmon,cap_syslog,cap_sys_ptrace,cap_sys_resource+ep $(command -v kvmdirty-trace)`)"
    )]
    NotPermitted {
        /// What was refused.
        action: &'static str,
        /// Capabilities the process lacks.
        missing: String,
        /// The kernel's answer.
        #[source]
        source: Option<io::Error>,
    },
    /// The kernel publishes no type information.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux is missing): use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf,
    /// The kernel's type information is of a form this version does not know.
    #[error("this kernel's BTF cannot be read: it is newer than this version of kvmdirty-trace")]
    BadBtf,
    /// Kernel addresses are hidden.
    #[error(
        "/proc/kallsyms shows no addresses: run as root or with CAP_SYSLOG, and \
         `sysctl kernel.kptr_restrict=1` if it is 2"
    )]
    AddressesHidden,
    /// Neither attach plan works here.
    #[error("nothing to attach to: {reason} (`kvmdirty-trace doctor` shows each operation)")]
    NoPlan {
        /// The decisive part that is missing.
        reason: String,
    },
    /// A file of the kernel could not be read.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The probe could not be loaded.
    #[error("load the probe")]
    Load(#[source] Box<aya::EbpfError>),
    /// One program was refused by the kernel.
    #[error("load program {program}")]
    Program {
        /// Its name in the object.
        program: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The object lacks a program or map: it belongs to another version of the tool.
    #[error("the embedded probe has no {name}: rebuild kvmdirty-trace")]
    ObjectMismatch {
        /// What is missing.
        name: &'static str,
    },
    /// A map operation failed.
    #[error("map {map}")]
    Map {
        /// Its name in the object.
        map: &'static str,
        /// The kernel's answer.
        #[source]
        source: aya::maps::MapError,
    },
}
