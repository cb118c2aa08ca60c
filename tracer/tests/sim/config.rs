//! What one run is: kernel, mode, load, plan; all of it drawn from the seed.

use kvmdirty_trace::event::{Evidence, Limits, Operation, Plan, PlanEntry, Setup, SpteMasks};

use super::fault::Fault;
use super::rng::Rng;

/// How user space harvests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Get,
    Manual,
    ManualInitSet,
    Ring,
}

/// Which MMU maps the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mmu {
    Tdp,
    Shadow,
}

/// Which kernel's code paths are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// mmu_lock is a spinlock; the TDP MMU marks after the store and has no fast path; no ring.
    V5_10,
    /// Marks without a running vCPU are dropped.
    V6_1,
    V6_12,
}

/// What the probe could attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbePlan {
    Kprobe,
    Tracepoint,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub seed: u64,
    pub kernel: Kernel,
    pub mode: Mode,
    pub mmu: Mmu,
    pub pml: bool,
    pub plan: ProbePlan,
    pub fault: Option<Fault>,
    pub vcpus: u32,
    pub slots: u32,
    pub pages: u64,
    pub iterations: u64,
    /// Times logging is turned on and off again.
    pub migrations: u64,
    /// All migrations but the last are cancelled: logging is turned off while the guest runs.
    pub cancels: bool,
    /// Pages the load concentrates on.
    pub hot: u64,
    /// Longest ordinary step, in nanoseconds.
    pub step_ns: u64,
    /// How often, in percent, a step is a long one (a preempted thread).
    pub preempted: u64,
    pub epsilon_ns: u64,
    /// Guest memory is mapped by huge pages while nothing logs.
    pub huge: bool,
    /// They are split when logging begins, not at the first write.
    pub splits_eagerly: bool,
    pub has_zapper: bool,
    pub has_device: bool,
    /// The probe attaches this long after the VM started.
    pub attach_ns: u64,
}

pub const PRESENT: u64 = 1 << 11;
pub const WRITABLE: u64 = 1 << 1;
pub const ACCESSED: u64 = 1 << 8;
pub const DIRTY: u64 = 1 << 9;
pub const MMU_WRITABLE: u64 = 1 << 58;

/// A kernel, a way to harvest, an MMU, a plan: what a rule may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combination {
    pub kernel: Kernel,
    pub mode: Mode,
    pub mmu: Mmu,
    pub pml: bool,
    pub huge: bool,
    pub vcpus: u32,
    pub plan: ProbePlan,
}

impl ProbePlan {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

impl Combination {
    /// All that exist.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for kernel in [Kernel::V5_10, Kernel::V6_1, Kernel::V6_12] {
            for mode in [Mode::Get, Mode::Manual, Mode::ManualInitSet, Mode::Ring] {
                for (mmu, pml, huge) in [
                    (Mmu::Tdp, false, false),
                    (Mmu::Tdp, true, false),
                    (Mmu::Tdp, false, true),
                    (Mmu::Shadow, false, false),
                ] {
                    for plan in [ProbePlan::Kprobe, ProbePlan::Tracepoint] {
                        for vcpus in [1, 3] {
                            all.push(Self { kernel, mode, mmu, pml, huge, vcpus, plan });
                        }
                    }
                }
            }
        }
        all.retain(|one| one.kernel != Kernel::V5_10 || one.mode != Mode::Ring && !one.huge);
        all
    }
}

impl std::fmt::Display for Combination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kernel, mode, mmu, pml, huge, vcpus, plan } = self;
        let kind = match (pml, huge) {
            (true, _) => " pml",
            (_, true) => " huge",
            _ => "",
        };
        write!(f, "{} {kernel:?} {mode:?} {mmu:?}{kind} {vcpus} vcpus", plan.name())
    }
}

impl Config {
    /// A healthy run of that combination.
    pub fn of(seed: u64, combination: Combination) -> Self {
        let Combination { kernel, mode, mmu, pml, huge, vcpus, plan } = combination;
        let drawn = Self::healthy(seed);
        let has_device = mode != Mode::Ring && kernel != Kernel::V6_1 && drawn.has_device;
        let slots = if huge { 1 } else { drawn.slots };
        let pages = if huge { super::huge::HUGE } else { drawn.pages.min(130) };
        Self { kernel, mode, mmu, pml, huge, vcpus, plan, slots, pages, has_device, ..drawn }
    }

    /// A healthy run on the kprobe plan.
    pub fn healthy(seed: u64) -> Self {
        let rng = Rng::new(seed);
        let kernel = *rng.pick(&[Kernel::V5_10, Kernel::V6_1, Kernel::V6_12, Kernel::V6_12]);
        let modes = [Mode::Get, Mode::Get, Mode::Manual, Mode::ManualInitSet, Mode::Ring];
        let mode = *rng.pick(if kernel == Kernel::V5_10 { &modes[..4] } else { &modes });
        let mmu = if rng.chance(65) { Mmu::Tdp } else { Mmu::Shadow };
        let pml = mmu == Mmu::Tdp && rng.chance(25);
        let huge = mmu == Mmu::Tdp && kernel != Kernel::V5_10 && !pml && rng.chance(25);
        let slots = if rng.chance(30) { 2 } else { 1 };
        Self {
            seed,
            kernel,
            mode,
            mmu,
            pml,
            plan: ProbePlan::Kprobe,
            fault: None,
            vcpus: rng.between(1, 3) as u32,
            slots: if huge { 1 } else { slots },
            pages: if huge { super::huge::HUGE } else { rng.between(2, 130) },
            iterations: rng.between(2, 5),
            migrations: if rng.chance(20) { 2 } else { 1 },
            hot: rng.between(1, 12),
            step_ns: *rng.pick(&[3, 20, 100]),
            preempted: *rng.pick(&[0, 2, 10]),
            epsilon_ns: *rng.pick(&[0, 0, 5, 50]),
            huge,
            splits_eagerly: rng.chance(50),
            has_zapper: rng.chance(40),
            has_device: mode != Mode::Ring && kernel != Kernel::V6_1 && rng.chance(40),
            cancels: rng.chance(50),
            attach_ns: if rng.chance(15) { rng.between(1, 40_000) } else { 0 },
        }
    }

    /// A run of a kernel (or VMM) with this fault.
    pub fn broken(seed: u64, fault: Fault) -> Self {
        for attempt in 0.. {
            let mut config = Self::healthy(seed.wrapping_add(attempt << 48));
            config.seed = seed;
            config.fault = Some(fault);
            (config.attach_ns, config.cancels) = (0, false);
            if fault == Fault::FlushAssumed {
                // The harvest must find nothing but pages that somebody else has just protected.
                config.has_zapper = true;
                (config.slots, config.pages, config.hot) = (1, 2, 1);
                config.iterations = 20;
            }
            if fault == Fault::MarkDropped {
                config.has_device = true;
                config.kernel = Kernel::V6_12;
            }
            if fault == Fault::ClobberedSpte {
                config.has_zapper = true;
            }
            if !config.huge {
                config.pages = config.pages.min(40);
            }
            if fault.fits(&config) {
                return config;
            }
        }
        unreachable!("every fault fits some configuration")
    }

    /// Some migration ends with bits that nobody reads, on purpose.
    pub fn is_cancelled(&self) -> bool {
        self.cancels && 1 < self.migrations
    }

    /// Lockless fast faults exist (5.10: not in its TDP MMU).
    pub fn has_fast_faults(&self) -> bool {
        self.kernel != Kernel::V5_10 || self.mmu == Mmu::Shadow
    }

    /// First gfn of the first slot.
    pub fn first_gfn(&self) -> u64 {
        if self.huge { super::huge::HUGE } else { 0x40 }
    }

    pub fn has_ring(&self) -> bool {
        self.mode == Mode::Ring
    }

    pub fn is_manual(&self) -> bool {
        matches!(self.mode, Mode::Manual | Mode::ManualInitSet)
    }

    /// RET_PF_FIXED of the kernel.
    pub fn ret_fixed(&self) -> i64 {
        match self.kernel {
            Kernel::V5_10 => 3,
            Kernel::V6_1 => 4,
            Kernel::V6_12 => 5,
        }
    }

    /// SPTE of a page that may be written.
    pub fn open_spte(&self) -> u64 {
        PRESENT | MMU_WRITABLE | WRITABLE | ACCESSED | if self.pml { DIRTY } else { 0 }
    }

    /// The bits whose loss protects a page.
    pub fn protect_bits(&self) -> u64 {
        if self.pml { DIRTY } else { WRITABLE }
    }

    /// What the pipeline is told.
    pub fn setup(&self) -> Setup {
        let kernel = match self.kernel {
            Kernel::V5_10 => "5.10.0-sim",
            Kernel::V6_1 => "6.1.0-sim",
            Kernel::V6_12 => "6.12.0-sim",
        };
        Setup {
            kernel: kernel.to_owned(),
            epsilon_ns: self.epsilon_ns,
            masks: SpteMasks {
                writable: WRITABLE,
                mmu_writable: MMU_WRITABLE,
                host_writable: 0,
                dirty: if self.pml { DIRTY } else { 0 },
                accessed: ACCESSED,
                present: if self.kernel == Kernel::V5_10 { 0 } else { PRESENT },
                pml: self.pml,
            },
            plan: self.plan(),
            is_final: !self.is_cancelled(),
            limits: Limits::STANDARD,
        }
    }

    fn plan(&self) -> Plan {
        match self.plan {
            ProbePlan::Kprobe => {
                let mut plan = Plan::complete("kprobe");
                let is_seen = |entry: &PlanEntry| {
                    self.kernel != Kernel::V5_10 || entry.operation != Operation::RmapAdd
                };
                plan.entries.retain(is_seen);
                plan
            }
            ProbePlan::Tracepoint => {
                use Operation as Op;
                let observed = [
                    (Op::Ioctl, Evidence::Direct),
                    (Op::Slot, Evidence::Nearest),
                    (Op::Run, Evidence::Direct),
                    (Op::Mark, Evidence::Nearest),
                    (Op::HarvestWord, Evidence::Nearest),
                    (Op::WriteProtect, Evidence::Nearest),
                    (Op::SpteChange, Evidence::Nearest),
                    (Op::FlushCounter, Evidence::Direct),
                    (Op::RingPush, Evidence::Direct),
                    (Op::RingReset, Evidence::Nearest),
                    (Op::Zap, Evidence::Nearest),
                    (Op::LockWait, Evidence::Direct),
                ];
                let entries = observed.map(|(operation, evidence)| PlanEntry {
                    operation,
                    evidence,
                    points: Vec::new(),
                    note: String::new(),
                });
                Plan { name: String::from("tracepoint"), entries: entries.into() }
            }
        }
    }
}
