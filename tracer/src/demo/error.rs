//! Why a demo guest could not start or go on, each with what to do about it.

use std::io;

/// A failure of the demo guest; the text is one sentence and carries the remedy where there is one.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// `/dev/kvm` does not exist.
    #[error(
        "no /dev/kvm on this host: load a KVM module (modprobe kvm_intel or kvm_amd) and enable \
         virtualization in the firmware or, in a virtual machine, nesting on its host"
    )]
    NoKvm,
    /// `/dev/kvm` exists and may not be opened by this user.
    #[error(
        "no permission to open /dev/kvm: run as root or join the group kvm (usermod -aG kvm USER)"
    )]
    KvmPermission,
    /// `/dev/kvm` could not be opened for another reason.
    #[error("open /dev/kvm")]
    OpenKvm(#[source] io::Error),
    /// The kernel does not offer what the chosen mode needs.
    #[error("this kernel does not offer {what}: {remedy}")]
    Unsupported {
        /// The capability, in the kernel's words.
        what: &'static str,
        /// What the user can choose instead.
        remedy: &'static str,
    },
    /// A value of the configuration lies outside its bounds.
    #[error("--{option} {given}: {bound}")]
    Config {
        /// Name of the option, without dashes.
        option: &'static str,
        /// The value given.
        given: String,
        /// What would be accepted.
        bound: String,
    },
    /// A KVM ioctl was refused.
    #[error("{call}")]
    Ioctl {
        /// The ioctl, in the kernel's words.
        call: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Guest memory could not be mapped or changed.
    #[error("{call} {bytes} bytes of guest memory")]
    Memory {
        /// The system call.
        call: &'static str,
        /// How many bytes it was asked for.
        bytes: usize,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A thread or its signal handler could not be set up.
    #[error("{call} for the demo guest's threads")]
    Thread {
        /// The system call.
        call: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A vCPU stopped in a way that the guest program never asks for.
    #[error("vm {vm} vcpu {vcpu} left the guest unexpectedly: {exit}")]
    GuestStopped {
        /// Index of the VM in this process.
        vm: u32,
        /// Index of the vCPU in its VM.
        vcpu: u32,
        /// The exit, as KVM reported it.
        exit: String,
    },
    /// The controlling side sent a line that is no command.
    #[error("unknown command {line:?}: the demo guest understands go and stop")]
    UnknownCommand {
        /// The line received.
        line: String,
    },
    /// The controlling side went away before it said `go`.
    #[error("the control channel closed before go")]
    NeverStarted,
    /// A line of the protocol could not be written.
    #[error("write a protocol line")]
    Output(#[source] io::Error),
}

impl DemoError {
    /// Wraps the error of a refused KVM ioctl.
    pub(crate) fn ioctl(call: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Ioctl { call, source: source.into() }
    }
}
