//! The writer: records to lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::field::Words;
use super::read::{CLASSES, VM, class_of};
use super::{Litmus, schema};
use crate::event::{
    CpuId, Event, Evidence, Gap, Operation, Plan, Setup, SpteMasks, Tid, VmId, decode,
};
use kvmdirty_common::hook::Hook;

pub(super) fn write(litmus: &Litmus) -> String {
    let Litmus { title, setup, threads, batch, notes, expectations } = litmus;
    let mut text = String::new();
    for line in title.lines() {
        let _ = writeln!(text, "{}", format!("# {line}").trim_end());
    }
    write_setup(&mut text, setup);
    let events: Vec<(usize, Event)> = batch
        .records
        .iter()
        .enumerate()
        .filter_map(|(index, raw)| Some((index, decode(raw).ok()?)))
        .collect();
    let vm = events.first().map_or(VM, |(_, event)| event.vm);
    if vm != VM {
        let _ = writeln!(text, "setup vm={vm}");
    }
    let cpus = write_threads(&mut text, threads, &events);
    let width = events
        .iter()
        .map(|(_, event)| thread_name(threads, event.tid).len())
        .max()
        .unwrap_or_default();
    let mut seqs = BTreeMap::new();
    for (index, event) in &events {
        let name = thread_name(threads, event.tid);
        let _ = write!(text, "{name:<width$}  {:<13}", event.kind.kind().name());
        write_event(&mut text, event, &setup.masks, (vm, cpus[&event.tid]));
        let seq = seqs.entry(event.lane).or_insert(0_u32);
        if event.seq != *seq {
            let _ = write!(text, " seq={}", event.seq);
        }
        *seq = event.seq.wrapping_add(1);
        if let Some(note) = notes.get(index) {
            let _ = write!(text, "  # {note}");
        }
        text.push('\n');
    }
    for gap in &batch.gaps {
        write_gap(&mut text, gap);
    }
    for expectation in expectations {
        let _ = writeln!(text, "expect {expectation}");
    }
    text
}

fn write_setup(text: &mut String, setup: &Setup) {
    let standard = Setup::complete("litmus");
    let Setup { kernel, epsilon_ns, masks, plan, is_final, limits } = setup;
    let mut words = format!("setup kernel={} plan={}", word(kernel), word(&plan.name));
    let _ = write!(words, " epsilon={epsilon_ns}");
    if *is_final {
        words.push_str(" final");
    }
    let _ = writeln!(text, "{words}");
    let named = Plan::named(&plan.name);
    let levels =
        [("missing", Evidence::None), ("nearest", Evidence::Nearest), ("direct", Evidence::Direct)];
    for (name, evidence) in levels {
        let names: Vec<_> = Operation::ALL
            .iter()
            .filter(|&&operation| plan.evidence(operation) == evidence)
            .filter(|&&operation| named.evidence(operation) != evidence)
            .map(|operation| operation.name())
            .collect();
        if !names.is_empty() {
            let _ = writeln!(text, "setup {name}={}", names.join(","));
        }
    }
    if *masks != standard.masks {
        write_masks(text, masks);
    }
    if *limits != standard.limits {
        let _ = writeln!(
            text,
            "setup pages-max={} findings-max={} threads-max={}",
            limits.pages_max, limits.findings_max, limits.threads_max
        );
    }
}

fn write_masks(text: &mut String, masks: &SpteMasks) {
    let SpteMasks { writable, mmu_writable, host_writable, dirty, accessed, present, pml } = masks;
    let _ = write!(
        text,
        "setup writable={writable:#x} mmu-writable={mmu_writable:#x} \
         host-writable={host_writable:#x} dirty={dirty:#x} accessed={accessed:#x} \
         present={present:#x}"
    );
    text.push_str(if *pml { " pml\n" } else { "\n" });
}

/// A name as one word: no spaces, no `#`.
fn word(name: &str) -> String {
    name.split(|c: char| c.is_whitespace() || c == '#').collect::<Vec<_>>().join("-")
}

/// Every thread with its id and the CPU of its first event.
fn write_threads(
    text: &mut String,
    threads: &BTreeMap<Tid, String>,
    events: &[(usize, Event)],
) -> BTreeMap<Tid, CpuId> {
    let mut cpus = BTreeMap::new();
    for (_, event) in events {
        cpus.entry(event.tid).or_insert_with(|| {
            let (tid, cpu) = (event.tid, event.lane.cpu);
            let name = thread_name(threads, tid);
            let _ = writeln!(text, "thread {name} tid={} cpu={}", tid.0, cpu.0);
            cpu
        });
    }
    cpus
}

fn thread_name(threads: &BTreeMap<Tid, String>, tid: Tid) -> String {
    threads.get(&tid).map_or_else(|| format!("t{}", tid.0), |name| word(name))
}

fn write_event(
    text: &mut String,
    event: &Event,
    masks: &SpteMasks,
    (default_vm, cpu): (VmId, CpuId),
) {
    let Event { span, vm, tid: _, lane, seq: _, kind } = event;
    let mut words = Words { text: String::new(), masks, page: None };
    let _ = if span.lo == span.hi {
        write!(words.text, " @{}", span.hi.0)
    } else if span.lo.0 == 0 {
        write!(words.text, " @..{}", span.hi.0)
    } else {
        write!(words.text, " @{}..{}", span.lo.0, span.hi.0)
    };
    schema::write_kind(kind, &mut words);
    if *vm != default_vm {
        words.put("vm", &vm.to_string());
    }
    if lane.cpu != cpu {
        words.put("cpu", &lane.cpu.0.to_string());
    }
    if lane.class != class_of(kind.kind()) {
        words.put("class", CLASSES[lane.class as usize].1);
    }
    text.push_str(&words.text);
}

fn write_gap(text: &mut String, gap: &Gap) {
    let Gap { lane, hook, cause, from, to, dropped } = gap;
    text.push_str("gap");
    if let Some(lane) = lane {
        let _ = write!(text, " lane={lane}");
    }
    if let Some(hook) = hook.map(Hook::name) {
        let _ = write!(text, " hook={hook}");
    }
    let _ = writeln!(text, " cause={} @{}..{} dropped={dropped}", cause.name(), from.0, to.0);
}
