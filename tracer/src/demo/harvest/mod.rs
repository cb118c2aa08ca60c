//! The harvest loops: how each mode takes the log, and when a reported page may be copied.

mod bitmap;
mod ring;

use crate::demo::DemoError;
use crate::demo::config::{GuestConfig, Mode};
use crate::demo::interrupter::Interrupter;
use crate::demo::machine::{Machine, Slot};
use crate::demo::protocol::{Harvest, IoctlTimes, Quantiles};
use crate::demo::sys::monotonic_ns;
use crate::event::{Gfn, SlotId};

/// How a VMM harvests, and what it has learned from it.
#[derive(Debug)]
pub struct Harvester {
    mode: Mode,
    clear_chunk: u64,
    /// The page whose reports are ignored on purpose.
    ignored: Option<Gfn>,
    /// Sends signals to this thread while it resets rings, if asked for.
    interrupter: Option<Interrupter>,
    times: Times,
}

#[derive(Debug, Default)]
struct Times {
    get_ns: Vec<u64>,
    clear_ns: Vec<u64>,
    reset_ns: Vec<u64>,
}

/// Which pass a harvest belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Counts from 1.
    pub iteration: u64,
    /// Whether the vCPUs have stopped for good.
    pub is_final: bool,
}

impl Harvester {
    /// A harvester for the calling thread.
    pub fn new(config: &GuestConfig, interrupter: Option<Interrupter>) -> Self {
        Self {
            mode: config.mode,
            clear_chunk: config.clear_chunk,
            ignored: config.oracle_ignore_gfn.map(Gfn),
            interrupter,
            times: Times::default(),
        }
    }

    /// Harvests every slot of a VM and copies what was reported.
    ///
    /// # Errors
    ///
    /// [`DemoError::Ioctl`] if KVM refuses.
    pub fn harvest(
        &mut self,
        machine: &mut Machine,
        pass: Pass,
    ) -> Result<Vec<Harvest>, DemoError> {
        let harvests = match self.mode {
            Mode::Get | Mode::Manual | Mode::ManualInitset => (0..machine.slots.len())
                .map(|index| self.harvest_slot(machine, index, pass))
                .collect::<Result<_, _>>()?,
            Mode::Ring => vec![ring::harvest(self, machine, pass)?],
        };
        machine.harvested();
        Ok(harvests)
    }

    /// Harvests at least one slot, before something happens to it; in ring mode all, since rings
    /// are per vCPU.
    ///
    /// # Errors
    ///
    /// [`DemoError::Ioctl`] if KVM refuses.
    pub fn harvest_slot(
        &mut self,
        machine: &mut Machine,
        index: usize,
        pass: Pass,
    ) -> Result<Harvest, DemoError> {
        match self.mode {
            Mode::Get => bitmap::get(self, machine, index, pass),
            Mode::Manual | Mode::ManualInitset => bitmap::get_and_clear(self, machine, index, pass),
            Mode::Ring => ring::harvest(self, machine, pass),
        }
    }

    /// Signals sent into ring resets so far.
    pub fn interruptions(&self) -> u64 {
        self.interrupter.as_ref().map_or(0, Interrupter::sent)
    }

    /// Times of all harvest ioctls so far.
    pub fn ioctl_times(&self) -> IoctlTimes {
        let Times { get_ns, clear_ns, reset_ns } = &self.times;
        IoctlTimes {
            get: quantiles(get_ns),
            clear: quantiles(clear_ns),
            reset: quantiles(reset_ns),
        }
    }
}

/// A harvest that has only begun.
fn begin(machine: &Machine, slot: Option<SlotId>, pass: Pass) -> Harvest {
    let now = monotonic_ns();
    Harvest {
        vm: machine.index,
        iteration: pass.iteration,
        is_final: pass.is_final,
        slot: slot.map(SlotId::to_abi),
        reported: 0,
        copied: 0,
        get_ns: 0,
        clears: 0,
        clear_ns: 0,
        resets: 0,
        reset_ns: 0,
        unreset: 0,
        begin_ns: now,
        end_ns: now,
    }
}

/// Copies a reported page, unless it is the one to be lost on purpose; returns how many were
/// copied.
fn copy_page(slot: &mut Slot, offset: u64, ignored: Option<Gfn>) -> u64 {
    if ignored == Some(slot.gfn(offset)) {
        return 0;
    }
    slot.shadow.copy(&slot.memory, offset as usize);
    1
}

/// Calls an ioctl and notes how long it took; returns its result and the time.
fn timed<T>(
    times: &mut Vec<u64>,
    call: &'static str,
    ioctl: impl FnOnce() -> std::io::Result<T>,
) -> Result<(T, u64), DemoError> {
    let begin = monotonic_ns();
    let result = ioctl();
    let took = monotonic_ns() - begin;
    times.push(took);
    result.map(|value| (value, took)).map_err(|source| DemoError::ioctl(call, source))
}

/// Median, 99th percentile and maximum by rank; none of no durations.
fn quantiles(durations_ns: &[u64]) -> Option<Quantiles> {
    let mut sorted = durations_ns.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    let rank = |hundredths: usize| sorted[last * hundredths / 100];
    Some(Quantiles {
        calls: sorted.len() as u64,
        median_ns: rank(50),
        p99_ns: rank(99),
        max_ns: sorted[last],
        total_ns: sorted.iter().sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_durations_that_occurred() {
        let durations: Vec<u64> = (1..=1000).rev().collect();
        let expected =
            Quantiles { calls: 1000, median_ns: 500, p99_ns: 990, max_ns: 1000, total_ns: 500_500 };
        assert_eq!(quantiles(&durations), Some(expected));
        assert_eq!(quantiles(&[]), None);
    }
}
