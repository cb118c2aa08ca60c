//! A running trace: attach, drain, finish.

use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use kvmdirty_common::hook::HOOKS_MAX;
use kvmdirty_common::raw::RECORD_BYTES;
use kvmdirty_common::{RawEvent, limits};
use zerocopy::FromBytes as _;

use super::attach::Attached;
use super::counters::{self, Cost, Links};
use super::kernel::Kernel;
use super::lanes::{LANE_WORDS, Lanes};
use super::mapped::Counters;
use super::memory::Memory;
use super::misses::{Drops, Misses};
use super::object::Object;
use super::plan::PlanKind;
use super::target::Target;
use super::{LiveError, clock, inventory};
use crate::event::{Batch, Gap, Limits, Nanos, Setup};

/// Records taken from one ring at a time, so that one busy CPU does not hold up the others.
const RECORDS_PER_RING_MAX: usize = 1 << 16;

/// Miss counters are system calls each; they are read at most this often, and the watermark waits for them.
const POLL_NS: u64 = 20_000_000;

/// A number that was taken and never delivered (a program stopped in between) holds the watermark this long at most.
const HOLD_NS: u64 = 1_000_000_000;

/// How to trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Use this plan or none; else the best one.
    pub plan: Option<PlanKind>,
    /// Accept a process that has nothing of KVM open yet.
    pub wait: bool,
    /// Let the kernel measure what each program costs (about 60 ns a run, for every BPF program of the host).
    pub measure: bool,
    /// The last harvest of every slot is declared to be the final one.
    pub is_final: bool,
    /// Bytes of each CPU's ring of page records, instead of what suits this machine; brought to a power of two.
    pub page_ring_bytes: Option<u32>,
}

/// What a bench asks the probe to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// A program that does nothing.
    Empty,
    /// One that emits a record.
    Record,
    /// One that emits [`Measure::BURST`] records.
    Burst,
}

impl Measure {
    /// Records of a burst.
    pub const BURST: u32 = limits::BURST;

    /// The program's name, under which [`Session::overhead`] tells its cost.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "measure_empty",
            Self::Record => "measure_record",
            Self::Burst => "measure_burst",
        }
    }
}

/// A running trace. Dropping it detaches everything; nothing is pinned, so a killed process leaves nothing either.
pub struct Session {
    object: Object,
    rings: Vec<RingBuf<MapData>>,
    counters: Counters,
    lanes: Lanes,
    misses: Misses,
    setup: Setup,
    watermark: Nanos,
    incomplete_since: Option<Nanos>,
    /// Once detached.
    end: Option<End>,
    /// Keeps the kernel measuring.
    _stats: Option<std::os::fd::OwnedFd>,
}

/// The end of a trace, as it was when detaching began.
#[derive(Clone, Debug)]
struct End {
    at: Nanos,
    /// What was missed since the last drain.
    gaps: Vec<Gap>,
    /// What was dropped in all.
    drops: Vec<Drops>,
}

impl Session {
    /// Attaches to the VMs of `target`, present and future. When this returns every hook is attached.
    ///
    /// # Errors
    /// See [`LiveError`]; nothing is left attached.
    pub fn attach(target: Target, options: &Options) -> Result<Self, LiveError> {
        let vmms = target.vmms()?;
        if let (Target::Pid(pid), Some(vmm)) = (target, vmms.first())
            && !vmm.is_vmm()
            && !options.wait
        {
            return Err(LiveError::NotAVmm { pid });
        }
        let kernel = Kernel::running()?;
        let mut refusal = None;
        for kind in [PlanKind::Kprobe, PlanKind::Tracepoint] {
            if options.plan.is_some_and(|only| only != kind) {
                continue;
            }
            match Attached::new(kind, target, &kernel, options.page_ring_bytes) {
                Ok(attached) => return Self::start(attached, target, &kernel, options),
                // The last plan tried is the one that asks for least: what it lacks is what counts.
                Err(error @ LiveError::NoPlan { .. }) => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or(LiveError::NoPlan { reason: "no plan was allowed".to_owned() }))
    }

    fn start(
        mut attached: Attached,
        target: Target,
        kernel: &Kernel,
        options: &Options,
    ) -> Result<Self, LiveError> {
        // Measuring is a convenience: without it the costs read zero.
        let stats = if options.measure {
            aya::sys::enable_stats(aya::sys::Stats::RunTime).ok()
        } else {
            None
        };
        for vmm in target.vmms()? {
            for fd in vmm.borrow_vms()? {
                let mut memory = Memory::new(&mut attached.object, &mut attached.window);
                if let Some(vm) = inventory::read_vm(&mut memory, &kernel.offsets, &fd)? {
                    inventory::announce(&mut memory, &vm, vmm.pid)?;
                }
            }
        }
        let links = Links::of(&attached.object);
        let Attached { mut object, rings, plan, masks, window: _ } = attached;
        let counters = Counters::of(&mut object, "LANES", limits::CPUS_MAX * LANE_WORDS)?;
        let misses = Counters::of(&mut object, "MISSES", limits::CPUS_MAX * 2 * HOOKS_MAX)?;
        Ok(Self {
            rings,
            counters,
            lanes: Lanes::default(),
            misses: Misses::new(misses, links),
            setup: Setup {
                kernel: kernel.release.clone(),
                epsilon_ns: clock::uncertainty(),
                masks,
                plan,
                is_final: options.is_final,
                limits: Limits::STANDARD,
            },
            object,
            watermark: Nanos(0),
            incomplete_since: None,
            end: None,
            _stats: stats,
        })
    }

    /// What the pipeline must be told before the first batch.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Everything delivered since the last call; never waits.
    ///
    /// # Errors
    /// A map of the probe cannot be read any more.
    pub fn drain(&mut self) -> Result<Batch, LiveError> {
        let now = Nanos(clock::now());
        self.object.print_log();
        self.read_lanes();
        let records = self.take_records();
        let mut gaps = Vec::new();
        if POLL_NS <= now.since(self.misses.polled()) {
            gaps = self.misses.poll(&self.object);
        }
        self.advance(now);
        Ok(Batch { records, gaps, watermark: self.watermark })
    }

    /// Detaches: the trace ends here; what it recorded can still be drained.
    ///
    /// Links go one after the other, and each waits for RCU: seconds on a busy machine. A guest that runs on is then
    /// seen by some hooks and not by others, which proves nothing; records younger than this are none of the trace.
    pub fn detach(&mut self) {
        if self.end.is_none() {
            let at = Nanos(clock::now());
            self.read_lanes();
            self.lanes.end();
            let gaps = self.misses.poll(&self.object);
            self.end = Some(End { at, gaps, drops: self.misses.drops() });
            self.object.detach_all();
            // The counts are final now; what was missed meanwhile lies behind the end.
            let _ = self.misses.poll(&self.object);
        }
    }

    /// Detaches and delivers the rest, with the drops that no later record shows.
    ///
    /// # Errors
    /// As [`Self::drain`].
    pub fn finish(mut self) -> Result<Batch, LiveError> {
        self.detach();
        let End { at: end, mut gaps, .. } = self.end.clone().expect("detach sets it");
        // Programs that are running when their link goes away finish once they are scheduled again.
        let mut records = Vec::new();
        let begin = Nanos(clock::now());
        loop {
            self.read_lanes();
            records.append(&mut self.take_records());
            if self.lanes.is_complete() || HOLD_NS <= Nanos(clock::now()).since(begin) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        gaps.append(&mut self.lanes.untold(end));
        gaps.extend(self.lanes.unfinished(self.watermark, end));
        gaps.retain(|gap| gap.from <= end);
        Ok(Batch { records, gaps, watermark: end })
    }

    /// Records dropped in the kernel so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lanes.dropped()
    }

    /// Records dropped in the kernel so far, or until the trace ended, by CPU and hook.
    #[must_use]
    pub fn drops(&self) -> Vec<Drops> {
        self.end.as_ref().map_or_else(|| self.misses.drops(), |end| end.drops.clone())
    }

    /// What each program cost so far; zeros unless [`Options::measure`].
    #[must_use]
    pub fn overhead(&self) -> Vec<Cost> {
        counters::costs(&self.object)
    }

    /// Runs of each program that the kernel skipped, by its own counters; only programs with any.
    #[must_use]
    pub fn misses(&self) -> Vec<(&'static str, u64)> {
        self.misses.by_program()
    }

    /// For benches: runs one of the probe's `measure_*` programs on this CPU.
    ///
    /// # Errors
    /// The kernel refuses the program.
    pub fn measure(&mut self, program: Measure, argument: u64) -> Result<(), LiveError> {
        self.object.run(program.name(), argument)?;
        Ok(())
    }

    fn read_lanes(&mut self) {
        self.lanes.read(limits::CPUS_MAX, |index| self.counters.word(index));
    }

    fn take_records(&mut self) -> Vec<RawEvent> {
        let mut records = Vec::new();
        for ring in &mut self.rings {
            for _ in 0..RECORDS_PER_RING_MAX {
                let Some(item) = ring.next() else { break };
                let bytes = item.get(..RECORD_BYTES).expect("the probe writes whole records");
                let record = RawEvent::read_from_bytes(bytes).expect("the length is a record's");
                // Drops that only a record behind the end of the trace would show must be told instead.
                if self.end.as_ref().is_some_and(|end| end.at.0 < record.ts_ns) {
                    self.lanes.pass(&record);
                    continue;
                }
                self.lanes.deliver(&record);
                records.push(record);
            }
        }
        records
    }

    /// Moves the watermark to `now`, or to the last reading of the miss counters, unless a lane still owes records.
    fn advance(&mut self, now: Nanos) {
        let is_held = !self.lanes.is_complete() && {
            let since = *self.incomplete_since.get_or_insert(now);
            now.since(since) < HOLD_NS
        };
        if !is_held {
            self.incomplete_since = None;
            self.watermark = self.watermark.max(now.min(self.misses.polled()));
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("setup", &self.setup)
            .field("watermark", &self.watermark)
            .finish_non_exhaustive()
    }
}
