//! One attach plan put into the kernel: constants, programs, links.

use aya::maps::{MapData, RingBuf};
use kvmdirty_common::limits;
use kvmdirty_common::target::{Config, Offsets};

use super::kernel::Kernel;
use super::memory::{Memory, Window};
use super::object::{Object, Sizes};
use super::plan::{Blueprint, PlanKind, Refused};
use super::target::Target;
use super::{LiveError, masks, privilege};
use crate::event::{Plan, SpteMasks};

/// Memory all page-ring shards together take at most.
const PAGE_RINGS_BYTES_MAX: u32 = 64 << 20;

/// The probe, attached.
pub struct Attached {
    /// Programs and links.
    pub object: Object,
    /// Every ring.
    pub rings: Vec<RingBuf<MapData>>,
    /// The way into kernel memory.
    pub window: Window,
    /// What is observed.
    pub plan: Plan,
    /// SPTE masks of this kernel.
    pub masks: SpteMasks,
}

impl Attached {
    /// Loads and attaches every program of the plan the kernel accepts.
    ///
    /// # Errors
    /// [`LiveError::NoPlan`] if what is accepted is not enough; permission and load errors as they are.
    pub fn new(
        kind: PlanKind,
        target: Target,
        kernel: &Kernel,
        page_ring_bytes: Option<u32>,
    ) -> Result<Self, LiveError> {
        // Before anything is loaded: the plan may be impossible on the face of it.
        sufficient(&Blueprint::new(kind, kernel, &Refused::new()))?;
        let masks = read_masks(kernel)?;
        let sizes = sizes(page_ring_bytes);
        let config = configure(target, kernel, &masks, sizes)?;
        let mut object = Object::create(kind, &kernel.offsets, &config, sizes)?;
        let mut rings = object.create_page_rings(sizes)?;
        rings.push(object.take("BOUNDARY_RING")?);
        rings.push(object.take("SYSCALL_RING")?);
        let window = Window::of(&mut object)?;
        let plan = attach_accepted(&mut object, kind, kernel)?;
        Ok(Self { object, rings, window, plan, masks })
    }
}

/// Loads and attaches; a program the kernel refuses takes its ways with it, and the plan is made again without them.
fn attach_accepted(
    object: &mut Object,
    kind: PlanKind,
    kernel: &Kernel,
) -> Result<Plan, LiveError> {
    let mut refused = Refused::new();
    loop {
        let blueprint = load_accepted(object, kind, kernel, &mut refused);
        if !refused.is_empty() {
            permitted("load and attach BPF programs")?;
        }
        sufficient(&blueprint)?;
        let failure = blueprint.attachments.iter().find_map(|attachment| {
            object.attach(attachment).err().map(|error| (attachment.point.program, error))
        });
        let Some((program, error)) = failure else { return Ok(blueprint.plan) };
        object.detach_all();
        refused.insert(program, reason(&error));
    }
}

/// Loads the programs of the plan; ends with one whose programs are all in the kernel.
fn load_accepted(
    object: &mut Object,
    kind: PlanKind,
    kernel: &Kernel,
    refused: &mut Refused,
) -> Blueprint {
    loop {
        let blueprint = Blueprint::new(kind, kernel, refused);
        let known = refused.len();
        for attachment in &blueprint.attachments {
            if let Err(error) = object.load(attachment.point.program) {
                refused.insert(attachment.point.program, reason(&error));
            }
        }
        if refused.len() == known {
            return blueprint;
        }
    }
}

/// A refused program of a process that lacks a capability is refused for that.
fn permitted(action: &'static str) -> Result<(), LiveError> {
    let missing = privilege::missing();
    if missing.iter().any(|capability| matches!(capability.name, "CAP_BPF" | "CAP_PERFMON")) {
        return Err(LiveError::NotPermitted {
            action,
            missing: privilege::missing_text(),
            source: None,
        });
    }
    Ok(())
}

fn sufficient(blueprint: &Blueprint) -> Result<(), LiveError> {
    match blueprint.obstacle() {
        None => Ok(()),
        Some(obstacle) => Err(LiveError::NoPlan { reason: obstacle.to_owned() }),
    }
}

/// An error and its causes in one line.
fn reason(error: &LiveError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        // The verifier's log has many lines; the first says what it was.
        let line = error.to_string();
        text += &format!(": {}", line.lines().next().unwrap_or_default());
        cause = error.source();
    }
    text
}

/// The plan as the kernel would take it: every program is loaded, none attached.
///
/// # Errors
/// As [`Attached::new`].
pub fn rehearse(kind: PlanKind, kernel: &Kernel) -> Result<Plan, LiveError> {
    sufficient(&Blueprint::new(kind, kernel, &Refused::new()))?;
    let masks = read_masks(kernel)?;
    let sizes = sizes(Some(PAGE_BYTES));
    let config = configure(Target::All, kernel, &masks, sizes)?;
    let mut object = Object::create(kind, &kernel.offsets, &config, sizes)?;
    let _rings = object.create_page_rings(sizes)?;
    let mut refused = Refused::new();
    let blueprint = load_accepted(&mut object, kind, kernel, &mut refused);
    if !refused.is_empty() {
        permitted("load BPF programs")?;
    }
    sufficient(&blueprint)?;
    Ok(blueprint.plan)
}

fn read_masks(kernel: &Kernel) -> Result<SpteMasks, LiveError> {
    let sizes = Sizes { shards: 1, page_ring_bytes: 4096, readback_entries: 1 };
    let mut object = Object::create(PlanKind::Kprobe, &Offsets::NONE, &Config::NONE, sizes)?;
    let mut window = Window::of(&mut object)?;
    masks::read(&mut Memory::new(&mut object, &mut window), kernel)
}

/// `asked`: bytes of one page ring, brought to a size the kernel takes.
fn sizes(asked: Option<u32>) -> Sizes {
    let cpus = aya::util::nr_cpus().unwrap_or(1) as u32;
    let shards = cpus.clamp(1, limits::SHARDS_MAX);
    let share = (PAGE_RINGS_BYTES_MAX / shards.next_power_of_two()).max(1 << 19);
    Sizes {
        shards,
        page_ring_bytes: match asked {
            Some(bytes) => bytes.clamp(PAGE_BYTES, 1 << 30).next_power_of_two(),
            None => share.min(limits::PAGE_RING_BYTES),
        },
        readback_entries: limits::READBACK_SPTES_MAX,
    }
}

/// The least a ring can have.
const PAGE_BYTES: u32 = 4096;

/// Pages a harvest reads back at most: 64 Ki take about 3 ms.
const READBACKS_MAX: u64 = 1 << 16;

fn configure(
    target: Target,
    kernel: &Kernel,
    masks: &SpteMasks,
    sizes: Sizes,
) -> Result<Config, LiveError> {
    if kernel.symbols.are_hidden() {
        return Err(LiveError::AddressesHidden);
    }
    let address = |symbol: &str| kernel.symbols.address(symbol).unwrap_or(0);
    Ok(Config {
        target_tgid: target.tgid().into(),
        vm_ioctl: address("kvm_vm_ioctl"),
        vcpu_ioctl: address("kvm_vcpu_ioctl"),
        preempt_ops: address("kvm_preempt_ops"),
        protect_mask: masks.writable | if masks.pml { masks.dirty } else { 0 },
        mmu_writable_mask: masks.mmu_writable,
        present_mask: masks.present,
        ret_pf_fixed: kernel.btf.enumerator("RET_PF_FIXED").map_or(u64::MAX, u64::from),
        shards: sizes.shards.into(),
        readback_mask: (sizes.readback_entries - 1).into(),
        readbacks_max: READBACKS_MAX,
        abi: kernel.forms,
        ..Config::NONE
    })
}
