//! The text of `trace-cmd report`, `trace_pipe` and tracefs' `trace`.
//!
//! ```text
//! vm0 vcpu1-2751  [000] d..1. 5242.960582293: kvm_mmu_set_spte: gfn 1 spte 131a74a25 (r-xu) level 1 at 164d34008
//! ```

use std::fs::File;
use std::io::{BufRead as _, BufReader};

use super::ImportError;
use super::fact::{Args, Fact, Fields, Function, Known, Record};

/// Reads one text from begin to end.
#[derive(Debug)]
pub(super) struct Lines {
    input: BufReader<File>,
    line: String,
    number: u64,
    offset: u64,
    len: u64,
    /// Nanoseconds between two times the text can tell apart.
    resolution_ns: u64,
    last: u64,
    records: u64,
    /// Told, and not yet placed: they lie before the next record, which both tools print behind them.
    dropped: Option<(u16, u64)>,
    ready: Option<Record>,
}

/// Lines longer than this are no trace.
const LINE_BYTES_MAX: u64 = 1 << 16;

/// Lines without a single record before we say that this is no trace.
const FOREIGN_LINES_MAX: u64 = 10_000;

impl Lines {
    pub(super) fn new(file: File) -> Result<Self, ImportError> {
        let len = file.metadata().map_or(0, |data| data.len());
        Ok(Self {
            input: BufReader::new(file),
            line: String::new(),
            number: 0,
            offset: 0,
            len,
            resolution_ns: 1,
            last: 0,
            records: 0,
            dropped: None,
            ready: None,
        })
    }

    /// The next record of interest.
    pub(super) fn next(&mut self) -> Result<Option<Record>, ImportError> {
        if let Some(record) = self.ready.take() {
            return Ok(Some(record));
        }
        while self.read_line()? {
            let Some(event) = Line::parse(&self.line) else {
                match dropped(&self.line) {
                    Some(dropped) => self.dropped = Some(dropped),
                    None => self.check_foreign()?,
                }
                continue;
            };
            let Line { tid, cpu, ts, resolution_ns, .. } = event;
            let record = event.fact().map(|fact| Record { ts, cpu, tid, fact });
            self.records += 1;
            self.resolution_ns = self.resolution_ns.max(resolution_ns);
            self.last = ts;
            let gap = self.take_dropped();
            if gap.is_some() {
                self.ready = record;
                return Ok(gap);
            }
            if record.is_some() {
                return Ok(record);
            }
        }
        Ok(self.take_dropped())
    }

    fn take_dropped(&mut self) -> Option<Record> {
        let (cpu, dropped) = self.dropped.take()?;
        Some(Record { ts: self.last, cpu, tid: 0, fact: Fact::Dropped(dropped) })
    }

    /// The coarsest time seen.
    pub(super) const fn resolution_ns(&self) -> u64 {
        self.resolution_ns
    }

    pub(super) const fn progress(&self) -> (u64, u64) {
        (self.offset, self.len)
    }

    /// `false` at the end.
    fn read_line(&mut self) -> Result<bool, ImportError> {
        let mut bytes = Vec::new();
        let offset = self.offset;
        let mut limited = std::io::Read::take(&mut self.input, LINE_BYTES_MAX);
        let n = limited
            .read_until(b'\n', &mut bytes)
            .map_err(|source| ImportError::Read { offset, source })? as u64;
        if n == LINE_BYTES_MAX {
            let what = format!("line {} is longer than {LINE_BYTES_MAX} bytes", self.number + 1);
            return Err(ImportError::Malformed { offset, what });
        }
        self.offset += n;
        self.number += 1;
        self.line = String::from_utf8_lossy(&bytes).into_owned();
        Ok(n != 0)
    }

    fn check_foreign(&self) -> Result<(), ImportError> {
        if self.records == 0 && FOREIGN_LINES_MAX < self.number {
            return Err(ImportError::Foreign);
        }
        Ok(())
    }
}

/// The parts of a line.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    tid: u32,
    cpu: u16,
    ts: u64,
    resolution_ns: u64,
    event: &'a str,
    args: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // A name of a task may hold anything, even brackets: the CPU is the first `[digits]` behind a number.
        let (task, cpu, rest) = line.match_indices(" [").find_map(|(at, _)| {
            let (cpu, rest) = line[at + 2..].split_once(']')?;
            let task = line[..at].trim_end();
            // tracefs can show the thread group in between: `task-123   (  120) [000]`.
            let task = task.rfind('(').map_or(task, |open| {
                if task.ends_with(')') { task[..open].trim_end() } else { task }
            });
            let tid = task.rsplit_once('-')?.1.parse::<u32>().ok()?;
            Some((tid, cpu.parse::<u16>().ok()?, rest))
        })?;
        let mut words = rest.split_whitespace();
        let time = words.find(|word| word.ends_with(':'))?;
        let (ts, resolution_ns) = time_ns(time.trim_end_matches(':'))?;
        let event = words.next()?.strip_suffix(':')?;
        let begin = event.as_ptr() as usize - line.as_ptr() as usize + event.len() + 1;
        Some(Self { tid: task, cpu, ts, resolution_ns, event, args: line[begin..].trim() })
    }

    fn fact(&self) -> Option<Fact> {
        if let Some(known) = Known::from_name(self.event) {
            // `fixed 1` is said outright, so any value of `ret` that stands for it will do.
            return known.fact(&Words { known, args: self.args }, Some(1));
        }
        self.probe()
    }

    /// The kernel prints `(symbol+0x0/0x90 [kvm]) name=value` and `(caller+0x12/0x90 <- symbol) name=value`; trace-cmd
    /// `(ffffffffc020dc44)` and `(ffffffffc020dc44 <- ffffffff81090e60)`, where the probe's name tells the function.
    fn probe(&self) -> Option<Fact> {
        let (place, args) = self.args.strip_prefix('(')?.split_once(')')?;
        let (is_return, place) = match place.split_once("<-") {
            Some((_, function)) => (true, function),
            None => (false, place),
        };
        let symbol = place.trim().split(['+', ' ', '/']).next()?;
        let function =
            Function::from_symbol(symbol).or_else(|| Function::from_probe_name(self.event))?;
        let mut found = Args::default();
        for (name, value) in args.split_whitespace().filter_map(|word| word.split_once('=')) {
            if let Some(value) = number(value) {
                found.set(name, value);
            }
        }
        Some(Fact::Probe { function, is_return, args: found })
    }
}

/// `5242.960582293` in nanoseconds, and how fine it is.
fn time_ns(text: &str) -> Option<(u64, u64)> {
    let (seconds, fraction) = text.split_once('.')?;
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| (1..=9).contains(digits))?;
    let unit = 10u64.pow(9 - digits);
    let ns = fraction.parse::<u64>().ok()?.checked_mul(unit)?;
    let seconds = seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?;
    Some((seconds.checked_add(ns)?, unit))
}

/// `CPU:1 [LOST 12 EVENTS]` of tracefs, `CPU:1 [12 EVENTS DROPPED]` of trace-cmd.
fn dropped(line: &str) -> Option<(u16, u64)> {
    let (_, rest) = line.split_once("CPU")?;
    let rest = rest.trim_start_matches([':', ' ']);
    let (cpu, rest) = rest.split_once([' ', '['])?;
    if !rest.contains("EVENTS") {
        return None;
    }
    let n = rest.split(|c: char| !c.is_ascii_digit()).find_map(|word| word.parse().ok());
    Some((cpu.trim().parse().ok()?, n.unwrap_or(0)))
}

/// Decimal with sign, or `0x` hexadecimal.
fn number(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(|value| value as u64))
}

/// The values of a printed event.
struct Words<'a> {
    known: Known,
    args: &'a str,
}

impl Words<'_> {
    /// The word behind `key`.
    fn after(&self, key: &str) -> Option<&str> {
        let mut words = self.args.split([' ', ',', '\t']).filter(|word| !word.is_empty());
        words.find(|word| *word == key)?;
        words.next()
    }

    fn hex(&self, key: &str) -> Option<u64> {
        let word = self.after(key)?.trim_end_matches(')');
        u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok()
    }

    fn decimal(&self, key: &str) -> Option<u64> {
        let word = self.after(key)?.trim_end_matches([')', ':']);
        word.parse::<i64>().ok().map(|value| value as u64)
    }

    /// The n-th `0x` number of the line.
    fn nth_address(&self, n: usize) -> Option<u64> {
        let mut found = self.args.split_whitespace().filter_map(|word| word.strip_prefix("0x"));
        u64::from_str_radix(found.nth(n)?, 16).ok()
    }

    /// What stands in the parentheses at the end: `reason KVM_EXIT_IO (2)`.
    fn in_parentheses(&self) -> Option<u64> {
        self.args.rsplit_once('(')?.1.split(')').next()?.trim().parse().ok()
    }
}

impl Fields for Words<'_> {
    fn get(&self, name: &str) -> Option<u64> {
        match (self.known, name) {
            (Known::SpteChanged, "as_id") => self.decimal("id"),
            (Known::SpteSet, "sptep") => self.hex("at"),
            (Known::FastFault, "vcpu_id") | (Known::Entry | Known::PageFault, "vcpu_id") => {
                self.decimal("vcpu")
            }
            // Printed with %p, which the kernel hashes.
            (Known::FastFault, "sptep") => None,
            (Known::FastFault, "cr2_or_gpa") => self.hex("gva"),
            (Known::FastFault, "old_spte") => self.hex("old"),
            (Known::FastFault, "ret") => self.decimal("fixed"),
            (Known::PageFault, "fault_address") => self.hex("address"),
            (Known::UserExit, "reason") => self.in_parentheses(),
            (Known::RingPush | Known::RingReset, "index") => self.decimal("ring"),
            (Known::RingPush | Known::RingReset, "dirty_index") => self.hex("dirty"),
            (Known::RingPush | Known::RingReset, "reset_index") => self.hex("reset"),
            (Known::RingPush, "slot") => self.decimal("slot"),
            // The level stands alone: `l1`.
            (Known::Zap, "role") => {
                let mut words = self.args.split_whitespace();
                words.find_map(|word| word.strip_prefix('l')?.parse().ok())
            }
            (Known::Invalidate, "start") => self.nth_address(0),
            (Known::Invalidate, "end") => self.nth_address(1),
            (Known::SysEnter | Known::SysExit, "id") => self.decimal("NR"),
            (Known::SysExit, "ret") => self.decimal("="),
            (_, "level" | "errno") => self.decimal(name),
            _ => self.hex(name),
        }
    }

    /// `NR 16 (6, 4010ae42, 7f44570c5ad0, 0, 8, 0)`.
    fn element(&self, _: &str, idx: usize) -> Option<u64> {
        let (_, inside) = self.args.split_once('(')?;
        let word = inside.trim_end().trim_end_matches(')').split(',').nth(idx)?;
        u64::from_str_radix(word.trim(), 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::IoctlOp;
    use crate::trace::import::fact::Request;

    fn fact(line: &str) -> Option<Fact> {
        Line::parse(line)?.fact()
    }

    #[test]
    fn a_line_of_trace_cmd_report_with_a_space_in_the_tasks_name() {
        let line = "       vm0 vcpu1-2751  [003]  5242.960582293: kvm_mmu_set_spte:     gfn 1a spte 131a74a25 (r-xu) level 1 at 164d34008";
        let parsed = Line::parse(line).unwrap();
        assert_eq!((parsed.tid, parsed.cpu, parsed.ts), (2751, 3, 5_242_960_582_293));
        let set = Fact::SpteSet { gfn: 0x1a, level: 1, new: 0x1_31a7_4a25, sptep: 0x1_64d3_4008 };
        assert_eq!(parsed.fact(), Some(set));
    }

    #[test]
    fn a_line_of_tracefs_with_flags_and_thread_group() {
        let line = " CPU 0/KVM-901     (    880) [001] d..1.  12.000123: kvm_tdp_mmu_spte_changed: as id 0 gfn 400 level 1 old_spte 6 new_spte 860";
        let parsed = Line::parse(line).unwrap();
        assert_eq!((parsed.tid, parsed.cpu), (901, 1));
        assert_eq!((parsed.ts, parsed.resolution_ns), (12_000_123_000, 1_000));
        let changed = Fact::SpteChanged { as_id: 0, gfn: 0x400, level: 1, old: 6, new: 0x860 };
        assert_eq!(parsed.fact(), Some(changed));
    }

    #[test]
    fn every_printed_event_is_read() {
        let of = |text: &str| fact(&format!("a-1 [000] 1.0: {text}"));
        assert_eq!(
            of(
                "fast_page_fault: vcpu 0 gva 403008 error_code P|W sptep 00000000abcdef01 old 0x860 new 862 spurious 0 fixed 1"
            ),
            Some(Fact::FastFault { addr: 0x40_3008, sptep: 0, old: 0x860, ret: 1, is_fixed: true })
        );
        assert_eq!(
            of("kvm_page_fault: vcpu 2 rip 0x1000 address 0x0000000000403008 error_code 0x7"),
            Some(Fact::PageFault { vcpu: 2, addr: 0x40_3008, error_code: 7 })
        );
        assert_eq!(
            of("kvm_entry: vcpu 1, rip 0x1000 intr_info 0x0"),
            Some(Fact::Entry { vcpu: 1 })
        );
        assert_eq!(
            of("kvm_userspace_exit: reason KVM_EXIT_IO (2)"),
            Some(Fact::UserExit { reason: 2 })
        );
        assert_eq!(
            of(
                "kvm_dirty_ring_push: ring 1: dirty 0x2a reset 0x1 slot 65537 offset 0x10 (used 41)"
            ),
            Some(Fact::RingPush { ring: 1, dirty: 0x2a, slot: 65537, offset: 0x10 })
        );
        assert_eq!(
            of("kvm_dirty_ring_reset: ring 1: dirty 0x2a reset 0x2a (used 0)"),
            Some(Fact::RingReset { ring: 1, dirty: 0x2a, reset: 0x2a })
        );
        assert_eq!(
            of("kvm_mmu_split_huge_page: gfn 400 spte 86000007f level 2 errno -12"),
            Some(Fact::Split { gfn: 0x400, level: 2, old: 0x8_6000_007f, errno: -12 })
        );
        assert_eq!(
            of(
                "kvm_mmu_prepare_zap_page: sp gen 0 gfn 400 l1 8-byte q0 direct wux nxe ad root 0 sync"
            ),
            Some(Fact::Zap { gfn: 0x400, level: 1 })
        );
        assert_eq!(
            of("kvm_unmap_hva_range: mmu notifier unmap range: 0x7f00 -- 0x7f10"),
            Some(Fact::Invalidate { start: 0x7f00, end: 0x7f10 })
        );
        assert_eq!(
            of("sys_enter: NR 16 (6, 4010ae42, 7f44570c5ad0, 0, 8, 0)"),
            Some(Fact::IoctlEnter { request: Request::Vm { op: IoctlOp::GetDirtyLog, fd: 6 } })
        );
        assert_eq!(of("sys_exit: NR 16 = -4"), Some(Fact::IoctlExit { ret: -4 }));
        assert_eq!(of("sys_exit: NR 1 = 4"), None);
    }

    #[test]
    fn kprobes_are_known_by_their_function() {
        let line = "qemu-7 [000] 1.000000001: any_name: (mark_page_dirty_in_slot+0x0/0x1a0 [kvm]) kvm=0xffff888100000000 gfn=0x403 id=1";
        let args = Args {
            kvm: Some(0xffff_8881_0000_0000),
            gfn: Some(0x403),
            id: Some(1),
            ..Args::default()
        };
        assert_eq!(
            fact(line),
            Some(Fact::Probe { function: Function::Mark, is_return: false, args })
        );
        let line = "qemu-7 [000] 1.000000002: r: (kvm_vm_ioctl+0x5/0x9 [kvm] <- kvm_get_dirty_log_protect) ret=-14";
        let args = Args { ret: Some(-14i64 as u64), ..Args::default() };
        assert_eq!(
            fact(line),
            Some(Fact::Probe { function: Function::GetLog, is_return: true, args })
        );
    }

    #[test]
    fn kprobes_are_known_by_their_name_where_trace_cmd_prints_addresses() {
        let line = "vm0 vcpu0-177 [000] 22.988718644: p_mark_page_dirty_in_slot: (ffffffffc020dc44) gfn=0x41c id=1";
        let args = Args { gfn: Some(0x41c), id: Some(1), ..Args::default() };
        assert_eq!(
            fact(line),
            Some(Fact::Probe { function: Function::Mark, is_return: false, args })
        );
        let line = "vm0 vcpu0-177 [000] 22.98895782: r_mark_page_dirty_in_slot_0: (ffffffffc020dc44 <- ffffffff81090e60)";
        assert_eq!(
            fact(line),
            Some(Fact::Probe { function: Function::Mark, is_return: true, args: Args::default() })
        );
    }

    #[test]
    fn dropped_records_are_told_by_both_tools() {
        assert_eq!(dropped("CPU:1 [LOST 12 EVENTS]"), Some((1, 12)));
        assert_eq!(dropped("CPU:3 [12 EVENTS DROPPED]"), Some((3, 12)));
        assert_eq!(dropped("CPU:0 [EVENTS DROPPED]"), Some((0, 0)));
        assert_eq!(dropped("CPU 1 is empty"), None);
    }

    #[test]
    fn other_lines_are_nothing() {
        for line in
            ["", "# tracer: nop", "cpus=2", "x [000] 1.0: kvm_entry: vcpu 0", "a-1 [0] 1: x: y"]
        {
            assert_eq!(fact(line), None, "{line}");
        }
    }
}
