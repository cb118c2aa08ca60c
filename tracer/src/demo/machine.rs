//! A small VM: its memslots, its vCPU threads and the switches a VMM needs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};

use crate::demo::DemoError;
use crate::demo::bell::Bell;
use crate::demo::capability;
use crate::demo::code;
use crate::demo::config::{GuestConfig, Mode};
use crate::demo::gate::{Gate, Kicker};
use crate::demo::host_write;
use crate::demo::interrupt;
use crate::demo::layout::{
    self, Extent, GuestPages, PAGE, PAGE_BYTES, PROGRAM_ADDRESS, SYSTEM_BYTES, state_address,
};
use crate::demo::memory::{HostPages, Mapping};
use crate::demo::oracle::Shadow;
use crate::demo::plan::VcpuPlan;
use crate::demo::protocol::{SlotFacts, VcpuFacts, VmFacts};
use crate::demo::ring::DirtyRing;
use crate::demo::smm;
use crate::demo::vcpu::{self, Address, Exits, Station};
use crate::demo::workload::{Workload, Workloads};
use crate::event::{Gfn, SlotId};

/// One memslot with the memory behind it and its copy.
#[derive(Debug)]
pub struct Slot {
    /// Its number.
    pub id: SlotId,
    /// Where it lies in the guest.
    pub extent: Extent,
    /// Its memory.
    pub memory: Mapping,
    /// The copy made of reported pages.
    pub shadow: Shadow,
    /// Room for a GET: a bit per page.
    pub bitmap: Vec<u64>,
}

impl Slot {
    /// The page at an offset from the start of the slot.
    pub fn gfn(&self, offset: u64) -> Gfn {
        Gfn(self.extent.address / PAGE_BYTES + offset)
    }
}

/// The slot that may be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovableSlot {
    /// Index among the slots of the machine.
    pub index: usize,
    /// The two places where it may lie.
    pub places: [Extent; 2],
}

/// Whether KVM logs writes to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logging {
    /// No.
    Off,
    /// Yes (`KVM_MEM_LOG_DIRTY_PAGES`).
    On,
}

/// A VM and everything that keeps it alive.
///
/// Fields are dropped in this order: the VM must be gone before the memory of its slots is
/// unmapped.
#[derive(Debug)]
pub struct Machine {
    /// Index of the VM in this process.
    pub index: u32,
    /// The VM; shared with the vCPU threads where they interrupt themselves.
    pub vm: Arc<VmFd>,
    /// One per vCPU in ring mode, else none.
    pub rings: Vec<DirtyRing>,
    /// In ascending order of number.
    pub slots: Vec<Slot>,
    /// Which of them may be moved, and deleted and made again.
    pub movable: Option<MovableSlot>,
    /// What each vCPU writes.
    pub plans: Vec<VcpuPlan>,
    /// Exits of all vCPUs.
    pub exits: Arc<Exits>,
    gate: Arc<Gate>,
    smi: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    vcpus: Vec<VcpuFacts>,
    kickers: Vec<Kicker>,
}

impl Machine {
    /// Creates a VM with its memory and vCPU threads; the vCPUs are held.
    ///
    /// # Errors
    ///
    /// Whatever the host refuses, by the name of the call.
    pub fn create(
        kvm: &Kvm,
        config: &GuestConfig,
        index: u32,
        bell: &Bell,
        workloads: &mut Workloads,
    ) -> Result<Self, DemoError> {
        let vm = kvm.create_vm().map_err(|errno| DemoError::ioctl("KVM_CREATE_VM", errno))?;
        capability::enable_mode(&vm, config)?;
        smm::check(&vm, workloads);
        if workloads.wants(Workload::PvEoi) {
            interrupt::create_controllers(&vm)?;
        }
        let blueprint = Blueprint::new(config, workloads);
        let mut machine = Self {
            index,
            vm: Arc::new(vm),
            rings: Vec::new(),
            slots: create_slots(config, &blueprint.slots)?,
            movable: blueprint.movable,
            plans: blueprint.plans,
            exits: Arc::default(),
            gate: Arc::new(Gate::closed()),
            smi: Arc::default(),
            threads: Vec::new(),
            vcpus: Vec::new(),
            kickers: Vec::new(),
        };
        machine.write_memory(config, blueprint.end);
        machine.set_logging(Logging::Off)?;
        machine.spawn_vcpus(kvm, config, bell, workloads)?;
        Ok(machine)
    }

    /// What a tracer may want to know about the VM.
    pub fn facts(&self) -> VmFacts {
        let slots = self.slots.iter().map(|slot| SlotFacts {
            slot: slot.id.to_abi(),
            gfn: slot.gfn(0).0,
            pages: slot.extent.pages,
            hva: slot.memory.host_address(),
        });
        VmFacts { vm: self.index, vcpus: self.vcpus.clone(), slots: slots.collect() }
    }

    /// Lets the vCPUs run.
    pub fn run(&self) {
        self.gate.run();
    }

    /// Takes the vCPUs out of the guest; on return none is in `KVM_RUN`.
    pub fn hold(&self) {
        self.gate.hold(&self.kickers);
    }

    /// Lets vCPUs go on that wait for room in their ring.
    pub fn harvested(&self) {
        self.gate.harvested();
    }

    /// Tells KVM about every slot, with logging on or off.
    ///
    /// # Errors
    ///
    /// [`DemoError::Ioctl`] if KVM refuses.
    pub fn set_logging(&self, logging: Logging) -> Result<(), DemoError> {
        self.slots.iter().try_for_each(|slot| self.put_slot(slot, slot.extent, logging))
    }

    /// Tells KVM where a slot lies now; an extent without pages deletes it.
    ///
    /// # Errors
    ///
    /// [`DemoError::Ioctl`] if KVM refuses.
    pub fn put_slot(&self, slot: &Slot, extent: Extent, logging: Logging) -> Result<(), DemoError> {
        let flags = match logging {
            Logging::Off => 0,
            Logging::On => KVM_MEM_LOG_DIRTY_PAGES,
        };
        let region = kvm_userspace_memory_region {
            slot: slot.id.to_abi(),
            flags,
            guest_phys_addr: extent.address,
            memory_size: extent.pages * PAGE_BYTES,
            userspace_addr: slot.memory.host_address(),
        };
        assert!(region.memory_size <= slot.memory.bytes() as u64, "slot larger than its memory");
        // SAFETY: the memory is mapped for the life of this machine, which outlives its VM, and is
        // used as plain bytes only.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|errno| DemoError::ioctl("KVM_SET_USER_MEMORY_REGION", errno))
    }

    /// Writes words of the system slot from the VMM's side, and copies the pages, since KVM does
    /// not log what the VMM writes by itself.
    pub fn write_words(&mut self, words: &[(u64, u64)]) {
        let system = &mut self.slots[0];
        for &(address, value) in words {
            system.memory.write_word(address, value);
            system.shadow.copy(&system.memory, (address / PAGE_BYTES) as usize);
        }
    }

    /// Walks done by all vCPUs, and the increments they amount to.
    pub fn progress(&self, config: &GuestConfig) -> Progress {
        let mut progress = Progress { walks: 0, stores: 0 };
        for plan in &self.plans {
            let walks = self.slots[0].memory.read_word(state_address(plan.vcpu) + code::WALKS);
            progress.walks += walks;
            progress.stores += walks * plan.stores_per_walk(config);
        }
        progress
    }

    /// Sends the first vCPU into system management mode, when it enters the guest next.
    pub fn enter_smm(&self) {
        self.smi.store(true, Ordering::SeqCst);
    }

    /// How often KVM itself wrote into the guest, by workload, judged by what is in guest memory.
    pub fn host_writes(&self) -> Vec<(Workload, u64)> {
        let system = &self.slots[0].memory;
        let mut writes = Vec::new();
        for plan in &self.plans {
            writes.extend(host_write::count(system, plan.vcpu));
            writes.push((Workload::PvEoi, interrupt::count(system, plan.vcpu)));
        }
        let smm = self.smm_slot().map(|slot| (Workload::Smm, smm::count(&slot.memory)));
        writes.extend(smm);
        writes
    }

    fn smm_slot(&self) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.id == smm::SLOT)
    }

    fn write_memory(&self, config: &GuestConfig, end: u64) {
        let memory = &self.slots[0].memory;
        memory.write_bytes(PROGRAM_ADDRESS, code::PROGRAM);
        memory.write_bytes(interrupt::HANDLER_ADDRESS, interrupt::HANDLER);
        let pages = if config.huge_pages { GuestPages::Huge } else { GuestPages::Small };
        let tables = layout::page_tables(end, pages);
        let plans = self.plans.iter().flat_map(|plan| plan.words(config));
        for (address, value) in tables.into_iter().chain(plans).chain(interrupt::words()) {
            memory.write_word(address, value);
        }
        if let Some(slot) = self.smm_slot() {
            smm::write_program(&slot.memory);
        }
    }

    fn spawn_vcpus(
        &mut self,
        kvm: &Kvm,
        config: &GuestConfig,
        bell: &Bell,
        workloads: &mut Workloads,
    ) -> Result<(), DemoError> {
        let (sender, addresses) = mpsc::channel::<Address>();
        for vcpu in 0..config.vcpus {
            let fd = self
                .vm
                .create_vcpu(vcpu.into())
                .map_err(|errno| DemoError::ioctl("KVM_CREATE_VCPU", errno))?;
            vcpu::set_features(kvm, &fd)?;
            vcpu::set_registers(&fd, vcpu, config.seed)?;
            host_write::enable(&fd, vcpu, workloads)?;
            let interrupts = workloads.wants(Workload::PvEoi);
            if interrupts {
                interrupt::enable(&fd, vcpu, workloads)?;
            }
            if config.mode == Mode::Ring {
                self.rings.push(DirtyRing::map(&fd, config.ring_entries as usize)?);
            }
            let station = Station {
                vm: self.index,
                vcpu,
                gate: Arc::clone(&self.gate),
                bell: bell.clone(),
                exits: Arc::clone(&self.exits),
                pinning: config.pin_vcpus,
                interrupts: interrupts.then(|| Arc::clone(&self.vm)),
                // Only the first vCPU is ever asked to: all would save their state at one place.
                smi: if vcpu == 0 { Arc::clone(&self.smi) } else { Arc::default() },
            };
            let sender = sender.clone();
            let thread = std::thread::Builder::new()
                .name(format!("vm{} vcpu{vcpu}", self.index))
                .spawn(move || vcpu::run_thread(fd, &station, sender))
                .map_err(|source| DemoError::Thread { call: "clone", source })?;
            self.threads.push(thread);
        }
        drop(sender);
        let mut addresses: Vec<Address> = addresses.iter().collect();
        addresses.sort_by_key(|address| address.vcpu);
        for Address { vcpu, tid, kicker } in addresses {
            self.vcpus.push(VcpuFacts { vcpu, tid });
            self.kickers.push(kicker);
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.gate.quit(&self.kickers);
        for thread in self.threads.drain(..) {
            // A panic of the thread was printed by its hook; there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}

/// How far the guest came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Walks over the region lists.
    pub walks: u64,
    /// Increments, those of unfinished walks not counted.
    pub stores: u64,
}

/// What a VM is to be made of.
struct Blueprint {
    slots: Vec<(SlotId, Extent)>,
    movable: Option<MovableSlot>,
    plans: Vec<VcpuPlan>,
    /// First address that the guest does not map.
    end: u64,
}

impl Blueprint {
    fn new(config: &GuestConfig, workloads: &Workloads) -> Self {
        let mut extents = layout::data_extents(config.pages, config.slots);
        let data_end = extents.last().map_or(layout::DATA_ADDRESS, Extent::end);
        let places = layout::movable_extents(data_end);
        let mut movable = None;
        if workloads.wants_movable_slot() {
            extents.push(places[0]);
            movable = Some(MovableSlot { index: extents.len(), places });
        }
        let plans = (0..config.vcpus)
            .map(|vcpu| VcpuPlan::new(config, vcpu, &extents, workloads))
            .collect();
        extents.insert(0, Extent { address: 0, pages: SYSTEM_BYTES / PAGE_BYTES });
        let mut slots: Vec<(SlotId, Extent)> =
            (0..).map(SlotId::from_abi).zip(extents.iter().copied()).collect();
        if workloads.wants(Workload::Smm) {
            slots.push((smm::SLOT, smm::EXTENT));
        }
        Self { slots, movable, plans, end: places[1].end() }
    }
}

fn create_slots(config: &GuestConfig, slots: &[(SlotId, Extent)]) -> Result<Vec<Slot>, DemoError> {
    let data_pages = if config.huge_pages { HostPages::Huge } else { HostPages::Small };
    let slot = |&(id, extent): &(SlotId, Extent)| {
        let pages = extent.pages as usize;
        let is_data = layout::DATA_ADDRESS <= extent.address;
        let host_pages = if is_data { data_pages } else { HostPages::Small };
        Ok(Slot {
            id,
            extent,
            memory: Mapping::new(pages * PAGE, config.backing, host_pages)?,
            shadow: Shadow::new(pages),
            bitmap: vec![0; pages.div_ceil(64)],
        })
    };
    slots.iter().map(slot).collect()
}
