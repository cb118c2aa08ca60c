//! Whose VMs are traced, and how they are found: by the files a process has open.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::LiveError;

/// Whose VMs are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Those of one process, now and later.
    Pid(u32),
    /// Those of every process.
    All,
}

/// A process that has something of KVM open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vmm {
    /// Its pid.
    pub pid: u32,
    /// Its name (`comm`).
    pub name: String,
    /// Descriptors of VMs (`anon_inode:kvm-vm`).
    pub vm_fds: Vec<RawFd>,
    /// Number of vCPU descriptors.
    pub vcpus: usize,
    /// `/dev/kvm` is open.
    pub has_device: bool,
}

impl Target {
    /// The tgid the probe filters by; 0: none.
    #[must_use]
    pub const fn tgid(self) -> u32 {
        match self {
            Self::Pid(pid) => pid,
            Self::All => 0,
        }
    }

    /// The VMMs it means at this moment.
    ///
    /// # Errors
    /// No such process, a thread's id, or files that may not be looked at.
    pub fn vmms(self) -> Result<Vec<Vmm>, LiveError> {
        match self {
            Self::All => Ok(all_vmms().vmms),
            Self::Pid(pid) => {
                check_process(pid)?;
                Ok(vec![Vmm::of(pid)?])
            }
        }
    }
}

impl Vmm {
    /// Looks at the open files of a process.
    ///
    /// # Errors
    /// The process is gone or may not be looked at.
    pub fn of(pid: u32) -> Result<Self, LiveError> {
        let folder = PathBuf::from(format!("/proc/{pid}/fd"));
        let entries = std::fs::read_dir(&folder).map_err(|source| match source.kind() {
            std::io::ErrorKind::PermissionDenied => LiveError::NotPermitted {
                action: "look at the open files of another user's process",
                missing: "CAP_SYS_PTRACE".to_owned(),
                source: Some(source),
            },
            _ => LiveError::NoSuchProcess { pid },
        })?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let mut vmm = Self {
            pid,
            name: name.trim_end().to_owned(),
            vm_fds: Vec::new(),
            vcpus: 0,
            has_device: false,
        };
        for entry in entries.flatten() {
            let Ok(file) = std::fs::read_link(entry.path()) else { continue };
            let file = file.to_string_lossy();
            if file == "anon_inode:kvm-vm" {
                vmm.vm_fds.extend(entry.file_name().to_string_lossy().parse::<RawFd>());
            } else if file.starts_with("anon_inode:kvm-vcpu") {
                vmm.vcpus += 1;
            } else if file == "/dev/kvm" {
                vmm.has_device = true;
            }
        }
        vmm.vm_fds.sort_unstable();
        Ok(vmm)
    }

    /// It owns a VM or is about to.
    #[must_use]
    pub fn is_vmm(&self) -> bool {
        self.has_device || !self.vm_fds.is_empty()
    }

    /// Copies of its VM descriptors in this process, which keep the VMs alive while they are looked at.
    ///
    /// # Errors
    /// The kernel forbids it (`CAP_SYS_PTRACE`).
    pub fn borrow_vms(&self) -> Result<Vec<OwnedFd>, LiveError> {
        let failed = |source: std::io::Error| LiveError::NotPermitted {
            action: "look at the VMs of the process",
            missing: "CAP_SYS_PTRACE".to_owned(),
            source: Some(source),
        };
        if self.vm_fds.is_empty() {
            return Ok(Vec::new());
        }
        let process = pidfd_open(self.pid).map_err(failed)?;
        let mut copies = Vec::new();
        for &fd in &self.vm_fds {
            match pidfd_getfd(&process, fd) {
                Ok(copy) => copies.push(copy),
                // Closed since it was listed.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(copies)
    }
}

/// The VMMs of this host, as far as they may be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Every process that has a VM or `/dev/kvm` open, by pid.
    pub vmms: Vec<Vmm>,
    /// Processes whose files may not be looked at.
    pub hidden: usize,
}

/// Looks at every process of this host.
#[must_use]
pub fn all_vmms() -> Listing {
    let mut listing = Listing::default();
    let Ok(processes) = std::fs::read_dir("/proc") else { return listing };
    let pids =
        processes.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    for pid in pids {
        match Vmm::of(pid) {
            Ok(vmm) if vmm.is_vmm() => listing.vmms.push(vmm),
            Err(LiveError::NotPermitted { .. }) => listing.hidden += 1,
            Ok(_) | Err(_) => {}
        }
    }
    listing.vmms.sort_by_key(|vmm| vmm.pid);
    listing
}

/// `pid` names a process, not a thread, not nothing.
fn check_process(pid: u32) -> Result<(), LiveError> {
    let status = Path::new("/proc").join(pid.to_string()).join("status");
    let status = std::fs::read_to_string(status).map_err(|_| LiveError::NoSuchProcess { pid })?;
    let tgid = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(pid);
    if tgid == pid { Ok(()) } else { Err(LiveError::NotAProcess { pid, tgid }) }
}

fn pidfd_open(pid: u32) -> std::io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a descriptor or -1.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

fn pidfd_getfd(process: &OwnedFd, fd: RawFd) -> std::io::Result<OwnedFd> {
    // SAFETY: pidfd_getfd takes three integers and returns a descriptor or -1.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

fn owned(fd: libc::c_long) -> std::io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_no_vmm() {
        let vmm = Vmm::of(std::process::id()).unwrap();
        assert_eq!(vmm.vm_fds, [] as [RawFd; 0]);
    }

    #[test]
    fn a_thread_is_no_process() {
        let tid = std::thread::spawn(|| nix::unistd::gettid().as_raw() as u32).join().unwrap();
        // The thread may be gone already; then there is no such process either.
        assert!(Target::Pid(tid).vmms().is_err());
    }

    #[test]
    fn no_process_has_pid_0() {
        assert!(matches!(Target::Pid(0).vmms(), Err(LiveError::NoSuchProcess { pid: 0 })));
    }
}
