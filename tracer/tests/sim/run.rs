//! One run from seed to records and truth.

use kvmdirty_trace::event::{RawEvent, Setup};

use super::config::Config;
use super::machine::{Machine, Task, Thread};
use super::world::Truth;

/// What a run left behind.
pub struct Run {
    pub config: Config,
    pub setup: Setup,
    /// The records of each lane by number, the lanes mixed as time mixes them.
    pub records: Vec<RawEvent>,
    pub truth: Truth,
}

pub fn run(config: Config) -> Run {
    let machine = Machine::new(config);
    let vmm = Thread::new(100, 0, None);
    let vcpus: Vec<Thread> = (0..config.vcpus)
        .map(|vcpu| Thread::new(101 + vcpu, 1 + vcpu as u16, Some(vcpu as usize)))
        .collect();
    let zapper = Thread::new(120, 10, None);
    let device = Thread::new(121, 11, None);
    let worker = Thread::new(122, 12, None);
    let tool = Thread::new(90, 13, None);
    let mut tasks: Vec<Task<'_>> = vec![Box::pin(machine.vmm_thread(&vmm))];
    if config.attach_ns == 0 {
        machine.announce_vm(&vmm);
        machine.announce_slots(&vmm);
    } else {
        tasks.push(Box::pin(attach(&machine, &tool)));
    }
    for vcpu in &vcpus {
        tasks.push(Box::pin(machine.vcpu_thread(vcpu)));
    }
    tasks.push(Box::pin(machine.late_flush_thread(&worker)));
    if config.has_zapper {
        tasks.push(Box::pin(machine.zapper_thread(&zapper)));
    }
    if config.has_device {
        tasks.push(Box::pin(machine.device_thread(&device)));
    }
    machine.run(tasks);
    let Machine { world, probe, .. } = machine;
    let truth = world.into_inner().truth;
    let records = probe.into_inner().records;
    Run { config, setup: config.setup(), records, truth }
}

/// The tool attaches while everything runs: the first probe that runs adopts the VM, the inventory of its slots
/// follows.
async fn attach(machine: &Machine, tool: &Thread) {
    machine.wait(machine.config.attach_ns).await;
    machine.probe.borrow_mut().attach(machine.clock(tool));
    machine.announce_vm(tool);
    machine.wait(machine.rng.between(1, 200)).await;
    machine.announce_slots(tool);
}
