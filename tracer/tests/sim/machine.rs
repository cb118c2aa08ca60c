//! The machine: threads as coroutines, time that advances from step to step, and locks.
//!
//! Exactly one thread runs between two steps, and no two steps share an instant, so the model knows the true order of
//! everything. A thread is an `async fn`; `step().await` is where other CPUs may come in between.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use kvmdirty_trace::event::{CpuId, Tid};

use super::config::Config;
use super::fault::Fault;
use super::probe::Probe;
use super::rng::Rng;
use super::world::World;

/// Steps after which a run is stuck.
const STEPS_MAX: u64 = 4_000_000;

/// Everything threads share.
pub struct Machine {
    pub config: Config,
    pub rng: Rng,
    pub world: RefCell<World>,
    pub probe: RefCell<Probe>,
    pub mmu_lock: Lock,
    pub slots_lock: Lock,
    pub srcu: Srcu,
    skews: Vec<u64>,
    now: Cell<u64>,
    wake: Cell<u64>,
}

/// A thread of the model.
pub struct Thread {
    pub tid: Tid,
    pub cpu: CpuId,
    /// Index of the vCPU it runs, if any.
    pub vcpu: Option<usize>,
    last_clock: Cell<u64>,
}

pub type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

impl Thread {
    pub fn new(tid: u32, cpu: u16, vcpu: Option<usize>) -> Self {
        Self { tid: Tid(tid), cpu: CpuId(cpu), vcpu, last_clock: Cell::new(0) }
    }
}

impl Machine {
    pub fn new(config: Config) -> Self {
        let rng = Rng::new(config.seed ^ 0x5151_aaaa);
        let skews = (0..64).map(|_| rng.below(config.epsilon_ns + 1)).collect();
        Self {
            world: RefCell::new(World::new(&config)),
            probe: RefCell::new(Probe::new(&config)),
            config,
            rng,
            mmu_lock: Lock::default(),
            slots_lock: Lock::default(),
            srcu: Srcu::default(),
            skews,
            now: Cell::new(1_000_000),
            wake: Cell::new(0),
        }
    }

    /// True time.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// What the thread's clock shows: true time plus its CPU's skew.
    pub fn clock(&self, thread: &Thread) -> u64 {
        let shown = self.now.get() + self.skews[usize::from(thread.cpu.0)];
        thread.last_clock.set(thread.last_clock.get().max(shown));
        thread.last_clock.get()
    }

    /// Lets other threads in: an ordinary step, sometimes a long one.
    pub fn step(&self) -> Wait<'_> {
        let Config { step_ns, preempted, .. } = self.config;
        let delay = if self.rng.chance(preempted) {
            self.rng.between(step_ns, step_ns * 60)
        } else {
            self.rng.below(step_ns)
        };
        self.wait(delay)
    }

    /// A step that takes its time, such as a window that a fault widens.
    pub fn long_step(&self) -> Wait<'_> {
        let step_ns = self.config.step_ns;
        self.wait(self.rng.between(step_ns * 5, step_ns * 200))
    }

    pub fn wait(&self, delay: u64) -> Wait<'_> {
        Wait { machine: self, delay, is_armed: false }
    }

    /// The fault of this run strikes here, at these pages.
    pub fn trips(&self, fault: Fault, gfns: impl IntoIterator<Item = u64>) -> bool {
        if self.config.fault != Some(fault) || !self.rng.chance(60) {
            return false;
        }
        let gfns: Vec<u64> = gfns.into_iter().collect();
        if gfns.is_empty() {
            return false;
        }
        self.world.borrow_mut().truth.fired.extend(gfns);
        true
    }

    pub fn is_broken_by(&self, fault: Fault) -> bool {
        self.config.fault == Some(fault)
    }

    /// Runs all threads to their ends.
    pub fn run(&self, tasks: Vec<Task<'_>>) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut queue: Vec<(u64, Task<'_>)> =
            tasks.into_iter().map(|task| (self.now.get() + self.rng.below(50), task)).collect();
        let mut steps = 0_u64;
        while !queue.is_empty() {
            steps += 1;
            assert!(steps < STEPS_MAX, "stuck: {:?}", self.config);
            let next = (0..queue.len()).min_by_key(|index| queue[*index].0).expect("not empty");
            self.now.set((self.now.get() + 1).max(queue[next].0));
            match queue[next].1.as_mut().poll(&mut cx) {
                Poll::Ready(()) => drop(queue.swap_remove(next)),
                Poll::Pending => queue[next].0 = self.wake.get(),
            }
        }
    }
}

/// A pause of one thread.
pub struct Wait<'a> {
    machine: &'a Machine,
    delay: u64,
    is_armed: bool,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.is_armed {
            return Poll::Ready(());
        }
        self.is_armed = true;
        self.machine.wake.set(self.machine.now.get() + self.delay);
        Poll::Pending
    }
}

/// A lock that is taken exclusively or shared; a waiting writer keeps new readers out.
#[derive(Default)]
pub struct Lock {
    readers: Cell<u32>,
    is_written: Cell<bool>,
    writers_waiting: Cell<u32>,
}

impl Lock {
    pub async fn write(&self, machine: &Machine) {
        self.writers_waiting.set(self.writers_waiting.get() + 1);
        while self.is_written.get() || self.readers.get() != 0 {
            machine.wait(machine.rng.between(1, 8)).await;
        }
        self.writers_waiting.set(self.writers_waiting.get() - 1);
        self.is_written.set(true);
    }

    pub async fn read(&self, machine: &Machine) {
        while self.is_written.get() || self.writers_waiting.get() != 0 {
            machine.wait(machine.rng.between(1, 8)).await;
        }
        self.readers.set(self.readers.get() + 1);
    }

    pub fn unlock_write(&self) {
        assert!(self.is_written.replace(false), "unlocked twice");
    }

    pub fn unlock_read(&self) {
        self.readers.set(self.readers.get().checked_sub(1).expect("unlocked twice"));
    }
}

/// Sleepable RCU of the memslots: who reads since when.
#[derive(Default)]
pub struct Srcu {
    epoch: Cell<u64>,
    readers: RefCell<Vec<u64>>,
}

impl Srcu {
    /// Enters a read side; the token goes to [`Srcu::unlock`].
    pub fn lock(&self) -> u64 {
        self.readers.borrow_mut().push(self.epoch.get());
        self.epoch.get()
    }

    pub fn unlock(&self, token: u64) {
        let mut readers = self.readers.borrow_mut();
        let index = readers.iter().position(|epoch| *epoch == token).expect("a reader");
        readers.swap_remove(index);
    }

    /// Waits until every read side that began before has ended.
    pub async fn synchronize(&self, machine: &Machine) {
        self.epoch.set(self.epoch.get() + 1);
        let own = self.epoch.get();
        while self.readers.borrow().iter().any(|epoch| *epoch < own) {
            machine.wait(machine.rng.between(1, 20)).await;
        }
    }
}
