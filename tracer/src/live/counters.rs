//! What the kernel itself counts about the probe: runs it skipped, and what the programs cost.
//!
//! Sources: `bpf_prog_info.recursion_misses` (since 5.12), `bpf_link_info.perf_event.kprobe.missed` (since 6.7; earlier
//! kernels keep a kprobe's `nmissed` to themselves when it is opened through perf), `run_time_ns` and `run_cnt` while
//! `BPF_ENABLE_STATS` is on.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};

use aya_obj::generated::{bpf_cmd, bpf_prog_info};

use super::object::Object;

/// What one program cost since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The program.
    pub program: &'static str,
    /// Times it ran.
    pub runs: u64,
    /// Nanoseconds it ran, the kernel's own measuring included.
    pub run_ns: u64,
}

/// Links of this process whose misses are counted, found once after the attach.
#[derive(Debug, Default)]
pub struct Links {
    probes: Vec<(RawFd, &'static str)>,
}

impl Links {
    /// Finds the links of the object's programs among this process's descriptors.
    #[must_use]
    pub fn of(object: &Object) -> Self {
        let programs: Vec<(u32, &'static str)> = object
            .loaded()
            .iter()
            .filter_map(|&name| Some((program_info(object.program_fd(name)?)?.id, name)))
            .collect();
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Self::default() };
        let probes = entries
            .flatten()
            .filter(|entry| {
                std::fs::read_link(entry.path())
                    .is_ok_and(|file| file.to_string_lossy().starts_with("anon_inode:bpf"))
            })
            .filter_map(|entry| entry.file_name().to_string_lossy().parse::<RawFd>().ok())
            .filter_map(|fd| {
                let info = LinkInfo::of(fd)?;
                let (_, name) = programs.iter().find(|(id, _)| *id == info.program_id())?;
                info.is_kprobe().then_some((fd, *name))
            })
            .collect();
        Self { probes }
    }

    /// kprobe misses per program, only programs with any.
    #[must_use]
    pub fn missed(&self) -> Vec<(&'static str, u64)> {
        self.probes
            .iter()
            .filter_map(|(fd, name)| Some((*name, LinkInfo::of(*fd)?.missed())))
            .filter(|(_, missed)| *missed != 0)
            .collect()
    }
}

/// Runs of programs that were skipped because the program was running on that CPU already, only programs with any.
#[must_use]
pub fn recursion_misses(object: &Object) -> Vec<(&'static str, u64)> {
    object
        .loaded()
        .iter()
        .filter_map(|&name| Some((name, program_info(object.program_fd(name)?)?.recursion_misses)))
        .filter(|(_, misses)| *misses != 0)
        .collect()
}

/// What each program cost; zeros unless the kernel was asked to measure.
#[must_use]
pub fn costs(object: &Object) -> Vec<Cost> {
    object
        .loaded()
        .iter()
        .filter_map(|&program| {
            let info = program_info(object.program_fd(program)?)?;
            Some(Cost { program, runs: info.run_cnt, run_ns: info.run_time_ns })
        })
        .collect()
}

fn program_info(program: BorrowedFd<'_>) -> Option<bpf_prog_info> {
    // SAFETY: all-zero is a valid value of this plain struct; a zero length asks for no arrays.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let info_len = size_of::<bpf_prog_info>() as u32;
    info_by_fd(program.as_fd().as_raw_fd(), (&raw mut info).cast(), info_len)?;
    Some(info)
}

/// `struct bpf_link_info` as words; the union is read by its layout in include/uapi/linux/bpf.h.
struct LinkInfo {
    words: [u64; 16],
    len: u32,
}

impl LinkInfo {
    const KPROBES: [u32; 2] = [3, 4];

    fn of(link: RawFd) -> Option<Self> {
        let mut words = [0u64; 16];
        let len = info_by_fd(link, words.as_mut_ptr().cast(), size_of_val(&words) as u32)?;
        Some(Self { words, len })
    }

    fn program_id(&self) -> u32 {
        self.words[1] as u32
    }

    /// A perf-event link (type 7) of BPF_PERF_EVENT_KPROBE or _KRETPROBE.
    fn is_kprobe(&self) -> bool {
        self.words[0] as u32 == 7 && Self::KPROBES.contains(&(self.words[2] as u32))
    }

    /// `perf_event.kprobe.missed`, 0 where the kernel does not fill it in.
    fn missed(&self) -> u64 {
        if 56 <= self.len { self.words[6] } else { 0 }
    }
}

/// BPF_OBJ_GET_INFO_BY_FD; the number of bytes the kernel filled in.
fn info_by_fd(fd: RawFd, info: *mut u8, info_len: u32) -> Option<u32> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut attr = Attr { fd: fd as u32, info_len, info: info as u64 };
    // SAFETY: `attr` has the layout of `bpf_attr.info` and lives through the call; `info` has `info_len` bytes.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_long,
            &raw mut attr,
            size_of::<Attr>(),
        )
    };
    (status == 0).then_some(attr.info_len)
}
