//! The table plan x log mode x rule of verdicts that the corpus reaches, as `docs/reach.md` shows it.
//!
//! The rule's own reach on a plan comes from the engine; the verdicts come from judging the corpus. Files of the kprobe
//! plan in bitmap mode are also carried over to the other bitmap modes, see [`Mode::carry`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use kvmdirty_trace::event::{
    Event, EventKind, IoctlOp, IoctlRef, MarkWord, Nanos, Plan, RawEvent, Span, Spte, decode,
    encode,
};
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::trace::litmus::Litmus;
use kvmdirty_trace::verdict::rule::{self, Reach, RuleSet};
use kvmdirty_trace::verdict::{RuleId, Verdict};

use super::corpus::{File, judge};

/// How a VM logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Bitmap,
    Manual,
    InitiallySet,
    Ring,
    Pml,
}

/// D of the carried-over files.
const DIRTY: u64 = 1 << 9;

impl Mode {
    pub const ALL: [Self; 5] =
        [Self::Bitmap, Self::Manual, Self::InitiallySet, Self::Ring, Self::Pml];

    const fn name(self) -> &'static str {
        match self {
            Self::Bitmap => "bitmap",
            Self::Manual => "manual protect",
            Self::InitiallySet => "initially set",
            Self::Ring => "ring",
            Self::Pml => "PML",
        }
    }

    /// The mode of a file's first VM.
    pub fn of(litmus: &Litmus) -> Self {
        let mut events = litmus.batch.records.iter().filter_map(|raw| decode(raw).ok());
        let seen = events.find_map(|event| match event.kind {
            EventKind::VmSeen { manual_protect, ring_bytes, .. } => {
                Some((manual_protect, ring_bytes))
            }
            _ => None,
        });
        match seen.unwrap_or_default() {
            (_, 1..) => Self::Ring,
            (protect, _) if protect & 2 != 0 => Self::InitiallySet,
            (protect, _) if protect & 1 != 0 => Self::Manual,
            _ if litmus.setup.masks.pml => Self::Pml,
            _ => Self::Bitmap,
        }
    }

    /// The same race in this mode: under manual protect each GET that takes bits becomes a GET that reads and a CLEAR
    /// that takes; under PML each SPTE with W has D as well. `None`: the race does not exist in this mode.
    pub fn carry(self, litmus: &Litmus) -> Option<Litmus> {
        let events: Vec<Event> =
            litmus.batch.records.iter().filter_map(|raw| decode(raw).ok()).collect();
        let has_fast = events.iter().any(|event| {
            matches!(
                event.kind,
                EventKind::FastFault { .. } | EventKind::Mark { in_fast: true, .. }
            )
        });
        let mut carried = litmus.clone();
        let events = match self {
            Self::Bitmap | Self::Ring => return None,
            Self::Pml if has_fast => return None,
            Self::Pml => {
                carried.setup.masks.pml = true;
                carried.setup.masks.dirty = DIRTY;
                let writable = litmus.setup.masks.writable;
                events.into_iter().map(|event| with_dirty(event, writable)).collect()
            }
            Self::Manual => with_clear(&events, 1),
            Self::InitiallySet => with_clear(&events, 3),
        };
        carried.batch.records = numbered(events);
        carried.notes.clear();
        Some(carried)
    }
}

fn with_dirty(mut event: Event, writable: u64) -> Event {
    let set = |spte: &mut Spte| {
        if spte.0 & writable != 0 {
            spte.0 |= DIRTY;
        }
    };
    match &mut event.kind {
        EventKind::SpteChange { old, new, .. } => {
            old.iter_mut().for_each(set);
            set(new);
        }
        EventKind::Mark { spte, .. } => spte.iter_mut().for_each(set),
        EventKind::Split { old, .. } => set(old),
        _ => {}
    }
    event
}

fn with_clear(events: &[Event], protect: u32) -> Vec<Event> {
    let takes = |begin: usize| {
        let tid = events[begin].tid;
        let own = events[begin + 1..].iter().filter(|event| event.tid == tid);
        let mut bracket = own.take_while(|event| !matches!(event.kind, EventKind::IoctlEnd { .. }));
        bracket.any(|event| matches!(event.kind, EventKind::HarvestWord { mask: 1.., .. }))
    };
    let mut taking = BTreeSet::new();
    let mut carried = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let mut event = *event;
        let before = Nanos(event.span.lo.0.saturating_sub(1));
        match &mut event.kind {
            EventKind::VmSeen { manual_protect, .. } => *manual_protect = protect,
            EventKind::IoctlBegin { op, .. } if is_get(*op) && takes(index) => {
                let span = Span::at(before);
                let end =
                    EventKind::IoctlEnd { op: *op, ret: 0, flushes: 0, words: 0, words_cut: false };
                carried.push(Event { span, ..events[index] });
                carried.push(Event { span, kind: end, ..events[index] });
                op.op = IoctlOp::ClearDirtyLog;
                taking.insert(event.tid);
            }
            EventKind::IoctlEnd { op, .. } if is_get(*op) && taking.remove(&event.tid) => {
                op.op = IoctlOp::ClearDirtyLog;
            }
            _ => {}
        }
        carried.push(event);
    }
    carried
}

fn is_get(op: IoctlRef) -> bool {
    op.op == IoctlOp::GetDirtyLog
}

/// The records, numbered anew per lane in order of time.
fn numbered(mut events: Vec<Event>) -> Vec<RawEvent> {
    events.sort_by_key(|event| event.span.hi);
    let mut next = BTreeMap::new();
    let number = |mut event: Event| {
        let seq = next.entry(event.lane).or_insert(0);
        event.seq = *seq;
        *seq += 1;
        encode(&event)
    };
    events.into_iter().map(number).collect()
}

/// The file's lanes have no jump and it has no gap: it can be numbered anew.
pub fn is_complete(file: &File) -> bool {
    let summary = judge(&file.litmus);
    let has_unread_ring = file
        .litmus
        .batch
        .records
        .iter()
        .filter_map(|raw| decode(raw).ok())
        .any(|event| matches!(event.kind, EventKind::Mark { word: MarkWord::Ring(_), .. }));
    summary.gaps_total == 0 && !has_unread_ring
}

/// What the corpus reached.
#[derive(Default)]
pub struct Reached {
    rules: BTreeMap<(String, Mode, RuleId), BTreeSet<Verdict>>,
    safe: BTreeMap<(String, Mode), u64>,
    causes: BTreeMap<(String, Mode), BTreeSet<&'static str>>,
}

impl Reached {
    pub fn of(files: &[File]) -> Self {
        let mut reached = Self::default();
        for file in files {
            let plan = &file.litmus.setup.plan.name;
            let mode = Mode::of(&file.litmus);
            reached.add(plan, mode, &judge(&file.litmus));
            if plan != "kprobe" || mode != Mode::Bitmap || !is_complete(file) {
                continue;
            }
            for mode in Mode::ALL {
                if let Some(carried) = mode.carry(&file.litmus) {
                    reached.add(plan, mode, &judge(&carried));
                }
            }
        }
        reached
    }

    fn add(&mut self, plan: &str, mode: Mode, summary: &Summary) {
        let key = (plan.to_owned(), mode);
        *self.safe.entry(key.clone()).or_default() += summary.verdicts.safe;
        for finding in &summary.findings {
            let key = (plan.to_owned(), mode, finding.rule);
            self.rules.entry(key).or_default().insert(finding.verdict);
        }
        let causes = self.causes.entry(key).or_default();
        causes
            .extend(summary.unknown_causes.iter().filter(|(_, n)| 0 < **n).map(|(c, _)| c.name()));
    }

    /// `docs/reach.md`.
    pub fn page(&self) -> String {
        let mut page = String::from(HEAD);
        for plan in ["kprobe", "tracepoint"] {
            self.write_plan(&mut page, plan);
        }
        page
    }

    fn write_plan(&self, page: &mut String, plan: &str) {
        let rules = RuleSet::new(&Plan::named(plan));
        let modes = Mode::ALL.map(Mode::name).join(" | ");
        let _ = write!(page, "\n## {plan} plan\n\n| rule | on this plan | {modes} |\n");
        page.push_str("|---|---|---|---|---|---|---|\n");
        for rule in RuleId::ALL {
            let reach = match rules.reach(rule) {
                Reach::On => String::from("on"),
                Reach::Half(missing, _) => format!("half: {missing}"),
                Reach::Off(missing, _) => format!("off: {missing}"),
            };
            let _ = write!(page, "| {} {} | {reach} |", rule.name(), rule::ALL[rule as usize].name);
            for mode in Mode::ALL {
                let key = (plan.to_owned(), mode, rule);
                let verdicts = self.rules.get(&key).cloned().unwrap_or_default();
                let names: Vec<_> = verdicts.iter().rev().map(|verdict| verdict.name()).collect();
                let _ = write!(page, " {} |", names.join(", "));
            }
            page.push('\n');
        }
        self.write_row(page, plan, "judged safe", |key| {
            String::from(if self.safe.get(key).is_some_and(|n| 0 < *n) { "yes" } else { "" })
        });
        self.write_row(page, plan, "causes of unknown", |key| {
            let causes = self.causes.get(key).cloned().unwrap_or_default();
            causes.into_iter().collect::<Vec<_>>().join(", ")
        });
    }

    fn write_row(
        &self,
        page: &mut String,
        plan: &str,
        name: &str,
        cell: impl Fn(&(String, Mode)) -> String,
    ) {
        let _ = write!(page, "| *{name}* | |");
        for mode in Mode::ALL {
            let _ = write!(page, " {} |", cell(&(plan.to_owned(), mode)));
        }
        page.push('\n');
    }
}

const HEAD: &str = "# Which verdicts each combination can reach

Made by `KVMDIRTY_UPDATE=1 cargo test --test litmus`; that test fails when it is stale.

The second column is the engine's own statement: what the rule needs against what the attach plan observes at best. *on*:
fully; *half*: it names hazards and vouches for nothing, for want of the operation named; *off*: not at all. The other
columns are the verdicts that the litmus corpus reached, one column per log mode. Files of the kprobe plan in bitmap mode
are also judged carried over to manual protect (each GET that takes bits becomes a GET that reads and a CLEAR that takes)
and to PML (each SPTE with W has D as well). An empty cell: no trace of the corpus reached a finding there, which proves
nothing. `unknown` as a rule's verdict is an integrity violation; what else is unknown stands in the row of causes.
";
