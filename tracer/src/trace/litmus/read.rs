//! The reader: lines to records.

use std::collections::BTreeMap;

use super::expect::{self, Expectation};
use super::field::{Fields, Problem, number};
use super::{Litmus, LitmusError, schema};
use crate::event::{
    Batch, Class, CpuId, Event, EventKind, Evidence, Gap, GapCause, Gfn, Kind, Lane, Nanos,
    Operation, Plan, PlanEntry, Setup, SlotId, SlotRef, Span, Tid, VmId, encode,
};
use kvmdirty_common::Hook;
use kvmdirty_common::raw::SPAN_SATURATED;

/// Time from one line without a time to the next.
const STEP_NS: u64 = 10;

/// The VM unless a `setup vm=` line says otherwise.
pub(super) const VM: VmId = VmId(1);

/// The slots as the lines above state them.
#[derive(Debug, Default)]
pub(super) struct Slots(BTreeMap<(VmId, SlotId), (Gfn, u64, SlotRef)>);

impl Slots {
    /// The slot of the first address space that holds `gfn`.
    pub(super) fn of(&self, vm: VmId, gfn: Gfn) -> Option<SlotRef> {
        self.0
            .iter()
            .filter(|((of, _), _)| *of == vm)
            .find(|(_, (base, npages, _))| base.0 <= gfn.0 && gfn.0 - base.0 < *npages)
            .map(|(_, (_, _, slot))| *slot)
    }

    fn note(&mut self, vm: VmId, kind: &EventKind) {
        if let EventKind::SlotState { slot, base, npages, .. } = *kind {
            self.0.insert((vm, slot.id), (base, npages, slot));
        }
    }
}

/// What the lines so far have built.
struct Reader<'a> {
    litmus: Litmus,
    slots: Slots,
    /// The VM of lines that name none.
    vm: VmId,
    now: u64,
    threads: BTreeMap<&'a str, (Tid, CpuId)>,
    begun: BTreeMap<&'a str, u64>,
    ioctls: BTreeMap<Tid, u64>,
    runs: BTreeMap<Tid, u64>,
    seqs: BTreeMap<Lane, u32>,
}

pub(super) fn read(text: &str) -> Result<Litmus, LitmusError> {
    let setup = Setup::complete("litmus");
    let litmus = Litmus {
        title: String::new(),
        setup,
        threads: BTreeMap::new(),
        batch: Batch::default(),
        notes: BTreeMap::new(),
        expectations: Vec::new(),
    };
    let mut reader = Reader {
        litmus,
        slots: Slots::default(),
        vm: VM,
        now: 0,
        threads: BTreeMap::new(),
        begun: BTreeMap::new(),
        ioctls: BTreeMap::new(),
        runs: BTreeMap::new(),
        seqs: BTreeMap::new(),
    };
    let mut is_title = true;
    for (index, line) in text.lines().enumerate() {
        let (words, note) = match line.split_once('#') {
            Some((words, note)) => (words, Some(note.trim())),
            None => (line, None),
        };
        if words.trim().is_empty() {
            is_title &= note.is_some();
            if let (true, Some(note)) = (is_title, note) {
                reader.add_title(note);
            }
            continue;
        }
        is_title = false;
        let words: Vec<&str> = words.split_whitespace().collect();
        reader.line(&words, note).map_err(|problem| LitmusError { line: index + 1, problem })?;
    }
    Ok(reader.finish())
}

impl<'a> Reader<'a> {
    fn add_title(&mut self, line: &str) {
        let title = &mut self.litmus.title;
        if !title.is_empty() {
            title.push('\n');
        }
        title.push_str(line);
    }

    fn line(&mut self, words: &[&'a str], note: Option<&str>) -> Result<(), Problem> {
        match words {
            ["setup", rest @ ..] => self.setup(rest),
            ["thread", rest @ ..] => self.thread_line(rest),
            ["gap", rest @ ..] => self.gap(rest),
            ["expect", rest @ ..] => {
                let expectation: Expectation = expect::read(rest, &self.litmus.setup.masks)?;
                self.litmus.expectations.push(expectation);
                Ok(())
            }
            [_, "begin", name] => {
                self.now += STEP_NS;
                self.begun.insert(name, self.now);
                Ok(())
            }
            [thread, kind, rest @ ..] => self.event(thread, kind, rest, note),
            [thread] => Err(Problem::NoKind((*thread).to_owned())),
            [] => Ok(()),
        }
    }

    fn setup(&mut self, words: &[&str]) -> Result<(), Problem> {
        let setup = &mut self.litmus.setup;
        for word in words {
            let bad = || Problem::Word {
                word: (*word).to_owned(),
                place: "setup",
                known: "vm=, kernel=, plan=, epsilon=, missing=, nearest=, direct=, final, pml, \
                        writable=, mmu-writable=, host-writable=, dirty=, accessed=, present=, pages-max=, \
                        findings-max= or threads-max=",
            };
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let amount = || number(value).ok_or_else(bad);
            match name {
                "vm" => self.vm = VmId(amount()?),
                "kernel" => setup.kernel = value.to_owned(),
                "plan" => setup.plan = Plan::named(value),
                "epsilon" => setup.epsilon_ns = amount()?,
                "missing" => observe(&mut setup.plan, value, Evidence::None).ok_or_else(bad)?,
                "nearest" => observe(&mut setup.plan, value, Evidence::Nearest).ok_or_else(bad)?,
                "direct" => observe(&mut setup.plan, value, Evidence::Direct).ok_or_else(bad)?,
                "final" => setup.is_final = true,
                "pml" => setup.masks.pml = true,
                "writable" => setup.masks.writable = amount()?,
                "mmu-writable" => setup.masks.mmu_writable = amount()?,
                "host-writable" => setup.masks.host_writable = amount()?,
                "dirty" => setup.masks.dirty = amount()?,
                "accessed" => setup.masks.accessed = amount()?,
                "present" => setup.masks.present = amount()?,
                "pages-max" => setup.limits.pages_max = amount()?,
                "findings-max" => setup.limits.findings_max = small(value).ok_or_else(bad)?,
                "threads-max" => setup.limits.threads_max = small(value).ok_or_else(bad)?,
                _ => return Err(bad()),
            }
        }
        Ok(())
    }

    fn thread_line(&mut self, words: &[&'a str]) -> Result<(), Problem> {
        let bad = |word: &str| Problem::Word {
            word: word.to_owned(),
            place: "thread",
            known: "thread <name> [tid=101] [cpu=1]",
        };
        let [name, rest @ ..] = words else { return Err(bad("thread")) };
        let (mut tid, mut cpu) = self.next_thread(name);
        for word in rest {
            match word.split_once('=') {
                Some(("tid", value)) => tid = Tid(small(value).ok_or_else(|| bad(word))?),
                Some(("cpu", value)) => cpu = CpuId(small(value).ok_or_else(|| bad(word))?),
                _ => return Err(bad(word)),
            }
        }
        self.add_thread(name, tid, cpu);
        Ok(())
    }

    /// What a thread of that name gets unless it is told: `t101` is thread 101, others count from 1.
    fn next_thread(&self, name: &str) -> (Tid, CpuId) {
        let cpu = CpuId(u16::try_from(self.threads.len()).unwrap_or(u16::MAX));
        if let Some(own) = name.strip_prefix('t').and_then(|digits| digits.parse().ok()) {
            return (Tid(own), cpu);
        }
        let is_free = |tid: &u32| self.threads.values().all(|(taken, _)| taken.0 != *tid);
        (Tid((1..).find(is_free).unwrap_or_default()), cpu)
    }

    fn add_thread(&mut self, name: &'a str, tid: Tid, cpu: CpuId) {
        self.threads.insert(name, (tid, cpu));
        if name != format!("t{}", tid.0) {
            self.litmus.threads.insert(tid, name.to_owned());
        }
    }

    fn gap(&mut self, words: &[&'a str]) -> Result<(), Problem> {
        let bad = |word: &str| Problem::Word {
            word: word.to_owned(),
            place: "gap",
            known: "[lane=page/cpu0] [hook=mark] [cause=ring-full] @100..200 dropped=3",
        };
        let mut gap = Gap {
            lane: None,
            hook: None,
            cause: GapCause::RingFull,
            from: Nanos(self.now),
            to: Nanos(self.now),
            dropped: 1,
        };
        for word in words {
            if let Some(time) = word.strip_prefix('@') {
                let span = self.span(time)?;
                (gap.from, gap.to) = (span.lo, span.hi);
                continue;
            }
            let (name, value) = word.split_once('=').ok_or_else(|| bad(word))?;
            match name {
                "lane" => gap.lane = Some(lane_named(value).ok_or_else(|| bad(word))?),
                "hook" => gap.hook = Some(hook_named(value).ok_or_else(|| bad(word))?),
                "cause" => gap.cause = cause_named(value).ok_or_else(|| bad(word))?,
                "dropped" => gap.dropped = number(value).ok_or_else(|| bad(word))?,
                _ => return Err(bad(word)),
            }
        }
        self.litmus.batch.gaps.push(gap);
        Ok(())
    }

    fn event(
        &mut self,
        thread: &'a str,
        kind: &'a str,
        words: &[&'a str],
        note: Option<&str>,
    ) -> Result<(), Problem> {
        let word = kind;
        let kind = Kind::ALL.iter().copied().find(|known| known.name() == word);
        let Some(kind) = kind else { return Err(Problem::Kind(word.to_owned())) };
        let known = || format!("@time, {}", schema::known_fields(kind));
        let (tid, cpu) = match self.threads.get(thread) {
            Some(known) => *known,
            None => {
                let (tid, cpu) = self.next_thread(thread);
                self.add_thread(thread, tid, cpu);
                (tid, cpu)
            }
        };
        let (times, words): (Vec<&str>, Vec<&str>) =
            words.iter().partition(|word| word.starts_with('@'));
        let span = match times.first() {
            Some(time) => self.span(&time[1..])?,
            None => self.implied_span(tid, kind),
        };
        let masks = self.litmus.setup.masks;
        let mut fields = Fields::new(&words, &masks, &self.slots, self.vm);
        fields.vm = VmId(fields.value("vm")?.unwrap_or(self.vm.0));
        let vm = fields.vm;
        let cpu = CpuId(fields.value::<u32>("cpu")?.map_or(cpu.0, |cpu| cpu as u16));
        let class = match fields.text("class") {
            Some(text) => class_named(text).ok_or_else(|| Problem::Value {
                field: String::from("class"),
                value: text.to_owned(),
                wanted: "page|boundary|syscall",
            })?,
            None => class_of(kind),
        };
        let lane = Lane { class, cpu };
        let seq = fields.value("seq")?.unwrap_or(*self.seqs.get(&lane).unwrap_or(&0));
        let event_kind = schema::read_kind(kind, &fields)?;
        if let Some(field) = fields.unread() {
            return Err(Problem::Field { field: field.to_owned(), known: known() });
        }
        self.seqs.insert(lane, seq.wrapping_add(1));
        self.slots.note(vm, &event_kind);
        match kind {
            Kind::IoctlBegin => drop(self.ioctls.insert(tid, span.lo.0)),
            Kind::RunBegin => drop(self.runs.insert(tid, span.lo.0)),
            _ => {}
        }
        let records = &mut self.litmus.batch.records;
        if let Some(note) = note.filter(|note| !note.is_empty()) {
            self.litmus.notes.insert(records.len(), note.to_owned());
        }
        records.push(encode(&Event { span, vm, tid, lane, seq, kind: event_kind }));
        Ok(())
    }

    /// The next tick; the end of an ioctl or a KVM_RUN reaches back to its begin.
    fn implied_span(&mut self, tid: Tid, kind: Kind) -> Span {
        self.now += STEP_NS;
        let begin = match kind {
            Kind::IoctlEnd => self.ioctls.get(&tid).copied(),
            Kind::RunEnd => self.runs.get(&tid).copied(),
            _ => None,
        };
        Span { lo: Nanos(begin.unwrap_or(self.now)), hi: Nanos(self.now) }
    }

    fn span(&mut self, text: &str) -> Result<Span, Problem> {
        let bad = || Problem::Time(text.to_owned());
        let (lo, hi) = match text.split_once("..") {
            None => {
                let at = number(text).ok_or_else(bad)?;
                (at, at)
            }
            Some((lo, hi)) => {
                let hi = match hi {
                    "" => self.now + STEP_NS,
                    _ => number(hi).ok_or_else(bad)?,
                };
                let lo = match lo {
                    "" => 0,
                    _ => number(lo).or(self.begun.get(lo).copied()).ok_or_else(bad)?,
                };
                (lo, hi)
            }
        };
        if hi < lo {
            return Err(bad());
        }
        if lo != 0 && hi - lo >= u64::from(SPAN_SATURATED) {
            return Err(Problem::Span { lo, hi });
        }
        self.now = self.now.max(hi);
        Ok(Span { lo: Nanos(lo), hi: Nanos(hi) })
    }

    fn finish(mut self) -> Litmus {
        let batch = &mut self.litmus.batch;
        let last = batch.records.iter().map(|raw| raw.ts_ns);
        batch.watermark =
            Nanos(last.chain(batch.gaps.iter().map(|gap| gap.to.0)).max().unwrap_or_default());
        self.litmus
    }
}

/// The class the probe uses for a kind: boundary kinds are numbered below 32.
pub(super) fn class_of(kind: Kind) -> Class {
    if (kind as u8) < Kind::Mark as u8 { Class::Boundary } else { Class::Page }
}

pub(super) const CLASSES: [(Class, &str); 3] =
    [(Class::Page, "page"), (Class::Boundary, "boundary"), (Class::Syscall, "syscall")];

fn class_named(text: &str) -> Option<Class> {
    CLASSES.iter().find(|(_, name)| *name == text).map(|(class, _)| *class)
}

fn lane_named(text: &str) -> Option<Lane> {
    let (class, cpu) = text.split_once("/cpu")?;
    Some(Lane { class: class_named(class)?, cpu: CpuId(cpu.parse().ok()?) })
}

fn hook_named(text: &str) -> Option<Hook> {
    Hook::ALL.iter().copied().find(|hook| hook.name() == text)
}

fn cause_named(text: &str) -> Option<GapCause> {
    GapCause::ALL.into_iter().find(|cause| cause.name() == text)
}

fn small<T: TryFrom<u64>>(text: &str) -> Option<T> {
    T::try_from(number(text)?).ok()
}

/// Sets the evidence of the operations in a comma-separated list.
fn observe(plan: &mut Plan, names: &str, evidence: Evidence) -> Option<()> {
    for name in names.split(',') {
        let operation = Operation::ALL.iter().copied().find(|op| op.name() == name)?;
        plan.entries.retain(|entry| entry.operation != operation);
        if evidence != Evidence::None {
            let points = Vec::new();
            plan.entries.push(PlanEntry { operation, evidence, points, note: String::new() });
        }
    }
    Some(())
}
