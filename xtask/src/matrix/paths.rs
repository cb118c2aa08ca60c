//! The paths of KVM that dirty a page, and whether each was really taken: judged by the records of a
//! guest that should take it.

use anyhow::Result;
use serde_json::Value;

use super::{Row, cell::Guest};
use crate::{
    lab::{machine::Mmu, payload},
    process,
};

/// A guest that takes paths the plain ones do not: its name, mode and flags.
const GUESTS: [(&str, &str, &str); 9] = [
    ("zap", "get", "--workload zap --backing memfd"),
    ("huge-eager", "get", "--huge-pages"),
    ("huge-lazy", "manual-initset", "--huge-pages --clear-chunk 64"),
    ("clocks", "get", "--workload kvm-clock,steal-time"),
    ("pv-eoi", "get", "--workload pv-eoi --batch 64"),
    ("emulated", "get", "--workload crossing,exchange,forced-emulation"),
    ("slots", "get", "--slots 3 --workload move-slot,recreate-slot,second-vm"),
    ("smm", "get", "--workload smm"),
    ("ring-full", "ring", "--ring-entries 256"),
];

/// A path: its name, the guest that should take it, what shows that it did, and how that is counted.
struct Path {
    name: &'static str,
    guest: &'static str,
    evidence: &'static str,
    count: fn(&[Value]) -> usize,
}

/// `KVM_EXIT_DIRTY_RING_FULL`.
const RING_FULL: u64 = 31;

const PATHS: [Path; 19] = [
    Path {
        name: "write fault under the lock",
        guest: "zap",
        evidence: "marks outside of a fast fault, of a logging slot",
        count: |events| {
            of(events, "mark").filter(|e| flag(e, "logging") && !flag(e, "in-fast")).count()
        },
    },
    Path {
        name: "fast fault",
        guest: "zap",
        evidence: "fast faults that made a page writable",
        count: |events| of(events, "fast-fault").filter(|e| flag(e, "fixed")).count(),
    },
    Path {
        name: "host memory unmapped and restored",
        guest: "zap",
        evidence: "MMU-notifier invalidations",
        count: |events| of(events, "invalidate").count(),
    },
    Path {
        name: "slow fault after a zap",
        guest: "zap",
        evidence: "SPTEs made from nothing while the slot was harvested",
        count: made_after_harvest,
    },
    Path {
        name: "huge pages, split eagerly",
        guest: "huge-eager",
        evidence: "splits, or huge SPTEs that lost W when logging was turned on",
        count: splits,
    },
    Path {
        name: "huge pages, split when cleared",
        guest: "huge-lazy",
        evidence: "splits, or huge SPTEs that lost W",
        count: splits,
    },
    Path {
        name: "CLEAR in chunks",
        guest: "huge-lazy",
        evidence: "CLEAR ioctls",
        count: |events| ioctls(events, "clear"),
    },
    Path {
        name: "kvm-clock",
        guest: "clocks",
        evidence: "host writes by kvm_setup_guest_pvclock (5.10: cached)",
        count: |events| writes(events, "pvclock"),
    },
    Path {
        name: "steal time",
        guest: "clocks",
        evidence: "host writes by record_steal_time",
        count: |events| writes(events, "steal-time"),
    },
    Path {
        name: "PV-EOI",
        guest: "pv-eoi",
        evidence: "host writes by kvm_write_guest_offset_cached",
        count: |events| writes(events, "cached"),
    },
    Path {
        name: "store across the end of a slot",
        guest: "emulated",
        evidence: "host writes by __kvm_write_guest_page",
        count: |events| writes(events, "guest-page"),
    },
    Path {
        name: "emulated LOCK CMPXCHG",
        guest: "emulated",
        evidence: "host writes by emulator_cmpxchg_emulated",
        count: |events| writes(events, "cmpxchg"),
    },
    Path {
        name: "slot moved under logging",
        guest: "slots",
        evidence: "commits that give a slot another first gfn",
        count: moved,
    },
    Path {
        name: "slot deleted under logging",
        guest: "slots",
        evidence: "commits that leave a slot without pages",
        count: |events| of(events, "slot-state").filter(|e| number(e, "npages") == 0).count(),
    },
    Path {
        name: "several slots",
        guest: "slots",
        evidence: "slots of which words were harvested",
        count: |events| distinct(events, "harvest-word", "slot"),
    },
    Path {
        name: "second VM in the process",
        guest: "slots",
        evidence: "VMs of which words were harvested",
        count: |events| distinct(events, "harvest-word", "vm"),
    },
    Path {
        name: "second address space (SMM)",
        guest: "smm",
        evidence: "marks in address space 1",
        count: |events| of(events, "mark").filter(|e| text(e, "slot").starts_with("1:")).count(),
    },
    Path {
        name: "host writes of SMM",
        guest: "smm",
        evidence: "host writes by __kvm_write_guest_page",
        count: |events| writes(events, "guest-page"),
    },
    Path {
        name: "ring full",
        guest: "ring-full",
        evidence: "KVM_RUN returns with KVM_EXIT_DIRTY_RING_FULL",
        count: |events| {
            of(events, "run-end").filter(|e| number(e, "exit_reason") == RING_FULL).count()
        },
    },
];

/// The guests; on shadow paging those that take other paths there.
pub fn guests(mmu: Mmu) -> impl Iterator<Item = Guest> {
    let is_wanted = move |name: &str| mmu == Mmu::Tdp || ["zap", "emulated"].contains(&name);
    GUESTS.iter().filter(move |(name, ..)| is_wanted(name)).map(|&(name, mode, flags)| Guest {
        name,
        mode,
        vcpus: 2,
        flags,
        is_recorded: true,
    })
}

/// One line per path: its guest, its evidence, and the count for each of the rows' cells.
///
/// # Errors
///
/// A recording cannot be read.
pub fn lines(rows: &[Row]) -> Result<(Vec<String>, Vec<String>)> {
    let tool = payload::static_tool()?;
    let mut cells: Vec<String> = Vec::new();
    let mut counts: Vec<Vec<String>> = PATHS.iter().map(|_| Vec::new()).collect();
    for row in rows.iter().filter(|row| row.guest.is_recorded) {
        let cell = super::mmu_name(row.cell.mmu).to_owned();
        if !cells.contains(&cell) {
            cells.push(cell);
            counts.iter_mut().for_each(|counts| counts.push("-".to_owned()));
        }
        let file = row.cell.folder().join("out").join(format!("{}.kdt", row.guest.file()));
        if !file.is_file() {
            continue;
        }
        let mut export = std::process::Command::new(&tool);
        export.arg("export").arg(&file).args(["--format", "jsonl"]);
        let events: Vec<Value> = process::output(&mut export)?
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &Value| line["type"] == "event")
            .collect();
        for (path, counts) in PATHS.iter().zip(&mut counts) {
            if path.guest == row.guest.name
                && let Some(last) = counts.last_mut()
            {
                *last = (path.count)(&events).to_string();
            }
        }
    }
    let line = |(path, counts): (&Path, &Vec<String>)| {
        format!("| {} | {} | {} | {} |", path.name, path.guest, path.evidence, counts.join(" | "))
    };
    Ok((cells, PATHS.iter().zip(&counts).map(line).collect()))
}

fn of<'a>(events: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["kind"] == kind)
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}

fn number(event: &Value, field: &str) -> u64 {
    event[field].as_u64().unwrap_or_default()
}

fn flag(event: &Value, name: &str) -> bool {
    event["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == name))
}

fn hex(event: &Value, field: &str) -> u64 {
    let digits = text(event, field).trim_start_matches("0x");
    u64::from_str_radix(digits, 16).unwrap_or_default()
}

fn writes(events: &[Value], writer: &str) -> usize {
    of(events, "host-write").filter(|event| event["writer"] == writer).count()
}

fn ioctls(events: &[Value], op: &str) -> usize {
    of(events, "ioctl-begin").filter(|event| event["op"] == op).count()
}

fn distinct(events: &[Value], kind: &str, field: &str) -> usize {
    let values = of(events, kind).map(|event| text(event, field));
    values.collect::<std::collections::BTreeSet<_>>().len()
}

/// SPTEs that were nothing before and are writable now, after the first harvested word.
fn made_after_harvest(events: &[Value]) -> usize {
    let after = events.iter().skip_while(|event| event["kind"] != "harvest-word");
    let made = after.filter(|event| {
        // KVM fills empty SPTEs with bit 63 where it can (`SHADOW_NONPRESENT_VALUE`, since 6.10).
        let (old, new) = (hex(event, "old_spte"), hex(event, "new_spte"));
        event["kind"] == "spte-change" && old << 1 == 0 && new & 2 != 0
    });
    made.filter(|event| number(event, "level") == 1).count()
}

fn splits(events: &[Value]) -> usize {
    let huge = of(events, "spte-change").filter(|event| 1 < number(event, "level"));
    let closed =
        huge.filter(|event| hex(event, "old_spte") & 2 != 0 && hex(event, "new_spte") & 2 == 0);
    closed.count() + of(events, "split").count()
}

fn moved(events: &[Value]) -> usize {
    let mut bases = std::collections::BTreeMap::new();
    let commits = of(events, "slot-state").filter(|event| number(event, "npages") != 0);
    commits
        .filter(|event| {
            let key = (text(event, "vm").to_owned(), text(event, "slot").to_owned());
            let base = number(event, "gfn");
            bases.insert(key, base).is_some_and(|before| before != base)
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_names_a_guest_and_every_guest_has_a_path() {
        for path in &PATHS {
            assert!(GUESTS.iter().any(|(name, ..)| *name == path.guest), "{}", path.name);
        }
        for (name, ..) in &GUESTS {
            assert!(PATHS.iter().any(|path| path.guest == *name), "{name}");
        }
    }

    #[test]
    fn a_slot_that_comes_back_elsewhere_has_moved() {
        let commit = |gfn| serde_json::json!({"kind": "slot-state", "vm": "0x1", "slot": "0:1", "gfn": gfn, "npages": 8});
        assert_eq!(moved(&[commit(1), commit(1)]), 0);
        assert_eq!(moved(&[commit(1), commit(9)]), 1);
    }
}
