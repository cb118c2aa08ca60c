//! Facts: what a record of ftrace says, whichever form it came in.

use crate::event::IoctlOp;

/// A record of a known event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub ts: u64,
    pub cpu: u16,
    pub tid: u32,
    pub fact: Fact,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// `kvm_tdp_mmu_spte_changed`.
    SpteChanged { as_id: u8, gfn: u64, level: u8, old: u64, new: u64 },
    /// `kvm_mmu_set_spte`.
    SpteSet { gfn: u64, level: u8, new: u64, sptep: u64 },
    /// `kvm_mmu_spte_requested`: the fault holds `mmu_lock` and has not stored yet.
    SpteRequested,
    /// `fast_page_fault`.
    FastFault { addr: u64, sptep: u64, old: u64, ret: i64, is_fixed: bool },
    /// `kvm_page_fault`: a fault exit, before it is handled.
    PageFault { vcpu: u32, addr: u64, error_code: u64 },
    /// `kvm_entry`.
    Entry { vcpu: u32 },
    /// `kvm_exit`.
    Exit,
    /// `kvm_userspace_exit`.
    UserExit { reason: u64 },
    /// `kvm_dirty_ring_push`.
    RingPush { ring: u32, dirty: u32, slot: u32, offset: u64 },
    /// `kvm_dirty_ring_reset`.
    RingReset { ring: u32, dirty: u32, reset: u32 },
    /// `kvm_mmu_split_huge_page`.
    Split { gfn: u64, level: u8, old: u64, errno: i64 },
    /// `kvm_mmu_prepare_zap_page`.
    Zap { gfn: u64, level: u8 },
    /// `kvm_unmap_hva_range`.
    Invalidate { start: u64, end: u64 },
    /// `sys_enter` of an ioctl of KVM.
    IoctlEnter { request: Request },
    /// `sys_exit` of any ioctl.
    IoctlExit { ret: i64 },
    /// A kprobe or kretprobe on a function of KVM.
    Probe { function: Function, is_return: bool, args: Args },
    /// Records were dropped on this CPU before this one; 0: nobody counted them.
    Dropped(u64),
    /// What this CPU did since its last record cannot be read: the file is damaged there.
    Damaged,
}

/// The ioctls that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Run { fd: u64 },
    Vm { op: IoctlOp, fd: u64 },
}

/// Functions whose kprobes are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Function {
    Mark,
    HarvestWord,
    Flush,
    GetLog,
    ClearLog,
    ResetRings,
    FastFault,
}

/// Fetch arguments of a kprobe, by the names `docs/import.md` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    pub kvm: Option<u64>,
    pub gfn: Option<u64>,
    pub offset: Option<u64>,
    pub mask: Option<u64>,
    /// Slot number of the ioctl's argument: address space and id.
    pub slot: Option<u64>,
    pub id: Option<u64>,
    pub as_id: Option<u64>,
    pub base: Option<u64>,
    pub npages: Option<u64>,
    pub bitmap: Option<u64>,
    pub flags: Option<u64>,
    pub ret: Option<u64>,
}

/// Known events, without their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    SpteChanged,
    SpteSet,
    SpteRequested,
    FastFault,
    PageFault,
    Entry,
    Exit,
    UserExit,
    RingPush,
    RingReset,
    Split,
    Zap,
    Invalidate,
    SysEnter,
    SysExit,
}

/// How a record's values are found by name.
pub(super) trait Fields {
    /// The value, sign-extended.
    fn get(&self, name: &str) -> Option<u64>;

    /// An element of an array.
    fn element(&self, name: &str, idx: usize) -> Option<u64>;
}

/// `ioctl` on x86-64.
const IOCTL: u64 = 16;

impl Known {
    /// The event of that name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "kvm_tdp_mmu_spte_changed" => Self::SpteChanged,
            "kvm_mmu_set_spte" => Self::SpteSet,
            "kvm_mmu_spte_requested" => Self::SpteRequested,
            "fast_page_fault" => Self::FastFault,
            "kvm_page_fault" => Self::PageFault,
            "kvm_entry" => Self::Entry,
            "kvm_exit" => Self::Exit,
            "kvm_userspace_exit" => Self::UserExit,
            "kvm_dirty_ring_push" => Self::RingPush,
            "kvm_dirty_ring_reset" => Self::RingReset,
            "kvm_mmu_split_huge_page" => Self::Split,
            "kvm_mmu_prepare_zap_page" => Self::Zap,
            "kvm_unmap_hva_range" => Self::Invalidate,
            "sys_enter" => Self::SysEnter,
            "sys_exit" => Self::SysExit,
            _ => return None,
        })
    }

    /// The fact, `None` if the record is of no interest or lacks a value. `fixed` is the value of `ret` by which this
    /// kernel's fast page fault says that it fixed the fault.
    pub(super) fn fact(self, fields: &impl Fields, fixed: Option<i64>) -> Option<Fact> {
        match self {
            Self::SpteChanged
            | Self::SpteSet
            | Self::SpteRequested
            | Self::FastFault
            | Self::Split
            | Self::Zap
            | Self::Invalidate => self.mmu_fact(fields, fixed),
            Self::PageFault
            | Self::Entry
            | Self::Exit
            | Self::UserExit
            | Self::RingPush
            | Self::RingReset
            | Self::SysEnter
            | Self::SysExit => self.thread_fact(fields),
        }
    }

    /// What the MMU did.
    fn mmu_fact(self, fields: &impl Fields, fixed: Option<i64>) -> Option<Fact> {
        let get = |name: &str| fields.get(name);
        Some(match self {
            Self::SpteChanged => Fact::SpteChanged {
                as_id: get("as_id")? as u8,
                gfn: get("gfn")?,
                level: get("level")? as u8,
                old: get("old_spte")?,
                new: get("new_spte")?,
            },
            Self::SpteSet => Fact::SpteSet {
                gfn: get("gfn")?,
                level: get("level")? as u8,
                new: get("spte")?,
                sptep: get("sptep").unwrap_or(0),
            },
            Self::SpteRequested => Fact::SpteRequested,
            Self::FastFault => {
                let ret = get("ret")? as i64;
                Fact::FastFault {
                    addr: get("cr2_or_gpa")?,
                    sptep: get("sptep").unwrap_or(0),
                    old: get("old_spte")?,
                    ret,
                    is_fixed: fixed == Some(ret),
                }
            }
            Self::Split => Fact::Split {
                gfn: get("gfn")?,
                level: get("level")? as u8,
                old: get("spte")?,
                errno: get("errno")? as i64,
            },
            // The low four bits of `kvm_mmu_page_role` are the level [1].
            //
            // [1]: https://github.com/torvalds/linux/blob/v6.12/arch/x86/include/asm/kvm_host.h
            Self::Zap => Fact::Zap { gfn: get("gfn")?, level: (get("role")? & 15) as u8 },
            Self::Invalidate => Fact::Invalidate { start: get("start")?, end: get("end")? },
            _ => unreachable!("fact passes on only the events above"),
        })
    }

    /// What a thread did.
    fn thread_fact(self, fields: &impl Fields) -> Option<Fact> {
        let get = |name: &str| fields.get(name);
        Some(match self {
            Self::PageFault => Fact::PageFault {
                vcpu: get("vcpu_id").unwrap_or(u64::from(u32::MAX)) as u32,
                addr: get("fault_address")?,
                error_code: get("error_code")?,
            },
            Self::Entry => Fact::Entry { vcpu: get("vcpu_id")? as u32 },
            Self::Exit => Fact::Exit,
            Self::UserExit => Fact::UserExit { reason: get("reason")? },
            Self::RingPush => Fact::RingPush {
                ring: get("index")? as u32,
                dirty: get("dirty_index")? as u32,
                slot: get("slot")? as u32,
                offset: get("offset")?,
            },
            Self::RingReset => Fact::RingReset {
                ring: get("index")? as u32,
                dirty: get("dirty_index")? as u32,
                reset: get("reset_index")? as u32,
            },
            Self::SysEnter => {
                let (fd, number) = (fields.element("args", 0)?, fields.element("args", 1)?);
                let is_ioctl = get("id")? == IOCTL;
                Fact::IoctlEnter { request: is_ioctl.then(|| request(fd, number)).flatten()? }
            }
            Self::SysExit => {
                let ret = get("ret")? as i64;
                (get("id")? == IOCTL).then_some(Fact::IoctlExit { ret })?
            }
            _ => unreachable!("fact passes on only the events above"),
        })
    }
}

/// The request numbers of `include/uapi/linux/kvm.h` on x86-64.
fn request(fd: u64, number: u64) -> Option<Request> {
    let op = match number as u32 {
        0xae80 => return Some(Request::Run { fd }),
        0x4010_ae42 => IoctlOp::GetDirtyLog,
        0xc018_aec0 => IoctlOp::ClearDirtyLog,
        0xaec7 => IoctlOp::ResetDirtyRings,
        0x4020_ae46 | 0x40a0_ae49 => IoctlOp::SetMemory,
        0x4068_aea3 => IoctlOp::EnableCap,
        _ => return None,
    };
    Some(Request::Vm { op, fd })
}

impl Function {
    /// The function of that symbol.
    pub(super) fn from_symbol(symbol: &str) -> Option<Self> {
        // Clones the compiler makes carry a suffix.
        Some(match symbol.split('.').next().unwrap_or(symbol) {
            "mark_page_dirty_in_slot" => Self::Mark,
            "kvm_arch_mmu_enable_log_dirty_pt_masked" => Self::HarvestWord,
            "kvm_flush_remote_tlbs" => Self::Flush,
            "kvm_get_dirty_log_protect" => Self::GetLog,
            "kvm_clear_dirty_log_protect" => Self::ClearLog,
            "kvm_vm_ioctl_reset_dirty_pages" => Self::ResetRings,
            "fast_page_fault" => Self::FastFault,
            _ => return None,
        })
    }

    /// The function a probe was named after: the kernel calls a probe without a name `p_SYMBOL_0` or `r_SYMBOL_0`.
    pub(super) fn from_probe_name(name: &str) -> Option<Self> {
        let name = name.trim_start_matches("p_").trim_start_matches("r_");
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
        Self::from_symbol(name)
    }
}

impl Args {
    /// Sets the argument of that name; other names are ignored.
    pub(super) fn set(&mut self, name: &str, value: u64) {
        let place = match name {
            "kvm" => &mut self.kvm,
            "gfn" => &mut self.gfn,
            "offset" => &mut self.offset,
            "mask" => &mut self.mask,
            "slot" => &mut self.slot,
            "id" => &mut self.id,
            "as_id" => &mut self.as_id,
            "base" => &mut self.base,
            "npages" => &mut self.npages,
            "bitmap" => &mut self.bitmap,
            "flags" => &mut self.flags,
            "ret" => &mut self.ret,
            _ => return,
        };
        *place = Some(value);
    }
}
