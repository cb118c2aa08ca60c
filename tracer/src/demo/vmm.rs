//! The run of a demo guest: create, wait for `go`, harvest again and again, stop, harvest once
//! more, compare.
//!
//! ```text
//! ready ─ go ─▶ running ─▶ logging on, copy all ─▶ { wait; disturb; harvest }*
//!       ─▶ vCPUs stop ─▶ final harvest ─▶ compare ─▶ report
//! ```

use std::io::{BufRead, Write};
use std::time::Duration;

use crate::demo::DemoError;
use crate::demo::bell::{Bell, Wake};
use crate::demo::capability::open_kvm;
use crate::demo::config::GuestConfig;
use crate::demo::control::{self, Teller};
use crate::demo::disturbance::disturb;
use crate::demo::gate::ignore_kicks;
use crate::demo::harvest::{Harvester, Pass};
use crate::demo::interrupter::Interrupter;
use crate::demo::machine::{Logging, Machine};
use crate::demo::oracle::Comparison;
use crate::demo::protocol::{GuestReport, Harvest, Line, Phase, PhaseMark, Ready, VmReport};
use crate::demo::sys::monotonic_ns;
use crate::demo::workload::{Host, Workload, Workloads};

/// How long the vCPUs run before logging is turned on, so that there are writable SPTEs to protect.
const WARM_UP: Duration = Duration::from_millis(100);

/// How long the vCPUs run on, by mistake, after the last harvest.
const LATE: Duration = Duration::from_millis(50);

/// Runs a demo guest under the control of a parent process.
///
/// `control` and `out` speak the lines of [`protocol`](crate::demo::protocol); the end of `control`
/// stops the guest. The report is also returned.
///
/// # Errors
///
/// A [`DemoError`] where the host refuses something, the guest dies or the parent misbehaves.
pub fn run(
    config: &GuestConfig,
    control: impl BufRead + Send + 'static,
    out: impl Write,
) -> Result<GuestReport, DemoError> {
    config.check()?;
    ignore_kicks()?;
    let workloads = Workloads::new(config, &Host::detect());
    let mut run = Run {
        config,
        bell: Bell::default(),
        teller: Teller::new(out),
        tallies: Vec::new(),
        workloads,
    };
    let mut machines = if config.late_vm { Vec::new() } else { run.create_machines()? };
    control::listen(control, run.bell.clone())?;
    let vms = machines.iter().map(Machine::facts).collect();
    run.teller.tell(&Line::Ready(Ready { pid: std::process::id(), mode: config.mode, vms }))?;
    run.bell.await_go()?;
    let begin_ns = monotonic_ns();
    if config.late_vm {
        machines = run.create_machines()?;
        for machine in &machines {
            run.teller.tell(&Line::Vm(machine.facts()))?;
        }
    }
    let harvester = run.migrate(&mut machines, begin_ns)?;
    let report = run.report(&machines, &harvester, monotonic_ns() - begin_ns);
    run.teller.tell(&Line::Report(report.clone()))?;
    Ok(report)
}

/// What a run carries from phase to phase.
struct Run<'a, W> {
    config: &'a GuestConfig,
    bell: Bell,
    teller: Teller<W>,
    tallies: Vec<Tally>,
    workloads: Workloads,
}

/// What the harvests of one VM came to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    iterations: u64,
    reported: u64,
    copied: u64,
    unreset: u64,
}

impl<W: Write> Run<'_, W> {
    /// Creates the VM, and the second one where asked for: smaller, one vCPU.
    fn create_machines(&mut self) -> Result<Vec<Machine>, DemoError> {
        let kvm = open_kvm()?;
        let mut machines =
            vec![Machine::create(&kvm, self.config, 0, &self.bell, &mut self.workloads)?];
        if self.workloads.wants(Workload::SecondVm) {
            let config = second_config(self.config);
            machines.push(Machine::create(&kvm, &config, 1, &self.bell, &mut self.workloads)?);
            self.workloads.done(Workload::SecondVm, 1);
        }
        self.tallies = vec![Tally::default(); machines.len()];
        Ok(machines)
    }

    /// Harvests like a migration: until the time is over or the parent says stop, then once more.
    fn migrate(&mut self, machines: &mut [Machine], begin_ns: u64) -> Result<Harvester, DemoError> {
        let interrupter = match self.workloads.wants(Workload::RingSignals) {
            true => Some(Interrupter::for_this_thread()?),
            false => None,
        };
        let mut harvester = Harvester::new(self.config, interrupter);
        self.start_logging(machines)?;
        let end_ns = begin_ns + (self.config.seconds * 1e9) as u64;
        let interval = Duration::from_millis(self.config.interval_ms);
        let mut pass = Pass { iteration: 0, is_final: false };
        loop {
            let left = Duration::from_nanos(end_ns.saturating_sub(monotonic_ns()));
            let wake = self.bell.wait(interval.min(left))?;
            if matches!(wake, Wake::Stop) || left.is_zero() {
                break;
            }
            pass.iteration += 1;
            self.pass(machines, &mut harvester, pass, wake)?;
        }
        pass = Pass { iteration: pass.iteration + 1, is_final: true };
        self.end_logging(machines, &mut harvester, pass)?;
        Ok(harvester)
    }

    /// Stops the vCPUs, harvests once more and turns logging off, in that order unless a mistake is
    /// asked for.
    fn end_logging(
        &mut self,
        machines: &mut [Machine],
        harvester: &mut Harvester,
        pass: Pass,
    ) -> Result<(), DemoError> {
        let drops_log = self.workloads.wants(Workload::DropLog);
        let is_early = self.workloads.wants(Workload::FinalTooEarly);
        if !drops_log && !is_early {
            machines.iter().for_each(Machine::hold);
        }
        self.enter(Phase::Final)?;
        for machine in &mut *machines {
            if !drops_log {
                let harvests = harvester.harvest(machine, pass)?;
                self.tell_harvests(pass, harvests)?;
            }
        }
        if drops_log || is_early {
            self.bell.wait(LATE)?;
            machines.iter().for_each(Machine::hold);
            self.workloads.done(Workload::DropLog, 1);
            self.workloads.done(Workload::FinalTooEarly, 1);
        }
        machines.iter().try_for_each(|machine| machine.set_logging(Logging::Off))?;
        self.enter(Phase::Done)
    }

    /// Lets the vCPUs run, turns logging on under them and makes the first full copy.
    fn start_logging(&mut self, machines: &mut [Machine]) -> Result<(), DemoError> {
        self.enter(Phase::Running)?;
        machines.iter().for_each(Machine::run);
        self.bell.wait(WARM_UP)?;
        for machine in machines {
            machine.set_logging(Logging::On)?;
            for slot in &mut machine.slots {
                slot.shadow.copy_all(&slot.memory);
            }
        }
        self.enter(Phase::Logging)
    }

    /// One pass: disturbances, unless a vCPU waits for room in its ring, and a harvest of every VM.
    fn pass(
        &mut self,
        machines: &mut [Machine],
        harvester: &mut Harvester,
        pass: Pass,
        wake: Wake,
    ) -> Result<(), DemoError> {
        for machine in machines {
            let mut harvests = match wake {
                Wake::Interval => disturb(machine, &mut self.workloads, harvester, pass)?,
                Wake::RingFull | Wake::Stop => Vec::new(),
            };
            harvests.extend(harvester.harvest(machine, pass)?);
            self.tell_harvests(pass, harvests)?;
        }
        Ok(())
    }

    fn tell_harvests(&mut self, pass: Pass, harvests: Vec<Harvest>) -> Result<(), DemoError> {
        for harvest in harvests {
            let tally = &mut self.tallies[harvest.vm as usize];
            tally.iterations = pass.iteration;
            tally.reported += harvest.reported;
            tally.copied += harvest.copied;
            tally.unreset += harvest.unreset;
            self.teller.tell(&Line::Harvest(harvest))?;
        }
        Ok(())
    }

    fn enter(&mut self, phase: Phase) -> Result<(), DemoError> {
        self.teller.tell(&Line::Phase(PhaseMark { phase, at_ns: monotonic_ns() }))
    }

    /// Compares memory with the shadows and puts everything together; the vCPUs are held.
    fn report(
        &mut self,
        machines: &[Machine],
        harvester: &Harvester,
        elapsed_ns: u64,
    ) -> GuestReport {
        let mut vms = Vec::new();
        let mut walks = 0;
        for (machine, tally) in machines.iter().zip(&self.tallies) {
            let mut found = Comparison::default();
            for slot in &machine.slots {
                let Comparison { compared, changed, lost } =
                    slot.shadow.compare(&slot.memory, slot.id, slot.gfn(0));
                found.compared += compared;
                found.changed += changed;
                found.lost.extend(lost);
            }
            for (workload, writes) in machine.host_writes() {
                self.workloads.done(workload, writes);
            }
            let progress = machine.progress(self.config);
            walks += progress.walks;
            vms.push(VmReport {
                vm: machine.index,
                iterations: tally.iterations,
                reported: tally.reported,
                copied: tally.copied,
                stores: progress.stores,
                exits: machine.exits.counts(),
                compared: found.compared,
                changed: found.changed,
                lost: found.lost,
                unreset: tally.unreset,
            });
        }
        self.workloads.done(Workload::Crossing, walks);
        self.workloads.done(Workload::Exchange, walks);
        self.workloads.done(Workload::ForcedEmulation, walks);
        self.workloads.done(Workload::RingSignals, harvester.interruptions());
        GuestReport {
            pid: std::process::id(),
            mode: self.config.mode,
            elapsed_ns,
            vms,
            ioctl_times: harvester.ioctl_times(),
            workloads: self.workloads.clone().into_reports(),
        }
    }
}

/// The configuration of the second VM: a quarter of the pages in one slot, for one vCPU.
fn second_config(config: &GuestConfig) -> GuestConfig {
    GuestConfig {
        vcpus: 1,
        slots: 1,
        pages: (config.pages / 4).max(8),
        oracle_ignore_gfn: None,
        ..config.clone()
    }
}
