//! The form of an operation: the records that one thread leaves between its entry and its return, in their order, and
//! which lies inside which.
//!
//! ```text
//! fault(w)[fast-fault(ro,fixed)[mark(fast,ro)]]      a lockless write fault: the mark lies inside fast_page_fault()
//! fault(w)[mark spte(ro>rw)]                         one under mmu_lock: marked, then stored
//! get-dirty-log[begin word+ flush]                   a harvest
//! ```
//!
//! Forms are read off records alone, the same way from the model's and from a recording's. They say nothing of times,
//! pages and values, except for what an SPTE was before and after.

use std::collections::BTreeMap;

use kvmdirty_common::kind::writer;
use kvmdirty_trace::event::{
    Event, EventKind, IoctlOp, IoctlRef, Kind, MarkWord, PageRef, RawEvent, SlotRef, Span, Spte,
    SpteMasks, decode,
};
use kvmdirty_trace::export::event_row::writer_name;

/// How often each form was seen, by operation.
pub type Forms = BTreeMap<String, BTreeMap<String, u64>>;

/// A page-table entry above level 1 that maps a page.
const LARGE: u64 = 1 << 7;

/// A record and those of its thread that lie inside it.
struct Node {
    event: Event,
    inner: Vec<Self>,
}

/// Counts the forms of these records.
pub fn count(masks: &SpteMasks, records: &[RawEvent], forms: &mut Forms) {
    let mut threads: BTreeMap<u32, Vec<Event>> = BTreeMap::new();
    for event in records.iter().filter_map(|raw| decode(raw).ok()) {
        if has_form(&event.kind) {
            threads.entry(event.tid.0).or_default().push(event);
        }
    }
    for mut events in threads.into_values() {
        events.sort_by_key(|event| event.span.hi);
        let (roots, lifted) = nest(events);
        for root in roots.into_iter().chain(lifted) {
            let known = forms.entry(operation(&root.event.kind)).or_default();
            for form in alternatives(&(Pen { masks }).whole(&root)) {
                *known.entry(form).or_default() += 1;
            }
        }
    }
}

/// Pairs that come again, `a b a b`, are told once: one huge page after the other is split.
fn once(mut told: Vec<String>) -> Vec<String> {
    let mut at = 0;
    while at + 4 <= told.len() {
        if told[at..at + 2] == told[at + 2..at + 4] {
            told.drain(at..at + 2);
        } else {
            at += 1;
        }
    }
    told
}

/// `{a|b}+` is two forms: how many of each come, and in what order, depends on the pages.
fn alternatives(form: &str) -> Vec<String> {
    let parts = form.split_once('{').and_then(|(before, rest)| {
        let (inside, after) = rest.split_once("}+")?;
        Some((before, inside, after))
    });
    let Some((before, inside, after)) = parts else { return vec![form.to_owned()] };
    let one = |part: &str| alternatives(&format!("{before}{part}+{after}"));
    inside.split('|').flat_map(one).collect()
}

/// Not the inventory, not the run of a vCPU as a whole, and not waits for locks, which come where others hold them.
fn has_form(kind: &EventKind) -> bool {
    let is_inventory = matches!(kind, EventKind::SlotState { commit: false, .. });
    let is_left_out = matches!(
        kind.kind(),
        Kind::VmSeen | Kind::VmGone | Kind::RunBegin | Kind::RunEnd | Kind::LockWait
    );
    !is_inventory && !is_left_out
}

/// The record spans an operation of its own, and what ended inside it belongs to it.
///
/// An SPTE change of the TDP MMU begins, for the probe, with its fault, and so before everything in it.
fn is_bracket(event: &Event) -> bool {
    let is_ioctl = matches!(event.kind, EventKind::IoctlEnd { .. });
    let is_tdp_change = matches!(event.kind, EventKind::SpteChange { shadow: false, .. });
    is_ioctl || !is_tdp_change && event.span.lo < event.span.hi
}

/// A vCPU leaves its CPU wherever it is: what the host writes then interrupts other operations.
fn is_interruption(event: &Event) -> bool {
    matches!(event.kind, EventKind::HostWrite { writer: writer::STEAL_TIME_PREEMPTED, .. })
}

/// The records of a thread, by their ends, as a forest; and those that only interrupted others.
fn nest(events: Vec<Event>) -> (Vec<Node>, Vec<Node>) {
    let (mut open, mut lifted) = (Vec::<Node>::new(), Vec::new());
    for event in events {
        let mut from = open.len();
        let is_ioctl = matches!(event.kind, EventKind::IoctlEnd { .. });
        while is_bracket(&event) && 0 < from && event.span.lo <= open[from - 1].event.span.lo {
            from -= 1;
            // An ioctl holds what came since its begin, whatever the clock says.
            if is_ioctl && matches!(open[from].event.kind, EventKind::IoctlBegin { .. }) {
                break;
            }
        }
        let inner = open.split_off(from);
        let node = Node { event, inner };
        if is_interruption(&event) { lifted.push(node) } else { open.push(node) }
    }
    (open, lifted)
}

/// The operation a record is the whole of.
fn operation(kind: &EventKind) -> String {
    match kind {
        EventKind::IoctlEnd { op, .. } => ioctl_name(op),
        EventKind::HostWrite { writer, .. } => format!("host-write {}", writer_name(*writer)),
        EventKind::SpteChange { .. } => String::from("spte change alone"),
        other => other.kind().name().to_owned(),
    }
}

fn ioctl_name(op: &IoctlRef) -> String {
    let name = match op.op {
        IoctlOp::GetDirtyLog => "get-dirty-log",
        IoctlOp::ClearDirtyLog => "clear-dirty-log",
        IoctlOp::ResetDirtyRings => "reset-dirty-rings",
        IoctlOp::SetMemory if op.mem_flags & 1 != 0 => "set-memory(log)",
        IoctlOp::SetMemory => "set-memory",
        IoctlOp::EnableCap => "enable-cap",
    };
    name.to_owned()
}

/// Writes forms.
struct Pen<'a> {
    masks: &'a SpteMasks,
}

impl Pen<'_> {
    fn whole(&self, node: &Node) -> String {
        self.form(node, Span::default())
    }

    fn form(&self, node: &Node, outer: Span) -> String {
        let mut text = self.token(&node.event, outer);
        if !node.inner.is_empty() {
            let inner = self.siblings(&node.inner, node.event.span);
            text.push_str(&format!("[{}]", inner.join(" ")));
        }
        text
    }

    /// Neighbours of one kind that come in any number are one: `word+`, `(a|b)+`.
    fn siblings(&self, nodes: &[Node], outer: Span) -> Vec<String> {
        let runs = nodes.chunk_by(|one, next| {
            let (one, next) = (&one.event.kind, &next.event.kind);
            one.kind() == next.kind() && (is_repeated(one) || self.is_zap(one) && self.is_zap(next))
        });
        let told = runs.map(|run| {
            let mut forms: Vec<String> = run.iter().map(|node| self.form(node, outer)).collect();
            if self.is_zap(&run[0].event.kind) {
                return String::from("zapped+");
            }
            if !is_repeated(&run[0].event.kind) {
                return forms.remove(0);
            }
            forms.sort();
            forms.dedup();
            if let [only] = forms.as_slice() {
                return format!("{only}+");
            }
            format!("{{{}}}+", forms.join("|"))
        });
        once(told.collect())
    }

    fn token(&self, event: &Event, outer: Span) -> String {
        match &event.kind {
            EventKind::IoctlBegin { .. } => String::from("begin"),
            EventKind::IoctlEnd { op, .. } => ioctl_name(op),
            EventKind::SlotState { slot, npages, .. } => slot_token(slot, *npages),
            EventKind::Mark { slot, word, spte, has_vcpu, in_fast, .. } => {
                let marks = [
                    (*in_fast, "fast"),
                    (spte.is_some_and(|spte| spte.0 & self.masks.writable == 0), "ro"),
                    (spte.is_some_and(|spte| spte.0 & self.masks.writable != 0), "rw"),
                    (matches!(word, MarkWord::Ring(_)), "ring"),
                    (matches!(word, MarkWord::Unread), "unread"),
                    (!has_vcpu, "no-vcpu"),
                    (!slot.logging, "no-log"),
                ];
                with("mark", marks)
            }
            EventKind::SpteChange { page, old, new, .. } => {
                let old = old.map_or("?", |old| self.state(page, old));
                let since = match event.span {
                    Span { lo, hi } if lo == hi => "@",
                    Span { lo, .. } if lo == outer.lo => "",
                    _ => "~",
                };
                format!("spte({}{old}>{}){since}", level(page), self.state(page, *new))
            }
            EventKind::FastFault { page, old, fixed, .. } => {
                let how = if *fixed { "fixed" } else { "not" };
                format!("fast-fault({}{},{how})", level(page), self.state(page, *old))
            }
            EventKind::Fault { error_code, .. } => {
                String::from(if error_code & 2 == 0 { "fault(r)" } else { "fault(w)" })
            }
            EventKind::HarvestWord { mask, .. } => {
                String::from(if *mask == 0 { "folded" } else { "word" })
            }
            EventKind::Flush { npages, .. } => with("flush", [(*npages != 0, "range")]),
            EventKind::HostWrite { writer, failed, data_at_mark, .. } => {
                let name = format!("host-write {}", writer_name(*writer));
                let marks = [
                    (*failed, "failed"),
                    (*data_at_mark == Some(true), "data"),
                    (*data_at_mark == Some(false), "no-data"),
                ];
                with(&name, marks)
            }
            EventKind::SpteSet { page, word, logging, ring, .. } => {
                let marks = [
                    (1 < page.level, "huge"),
                    (*logging, "log"),
                    (word.is_some(), "word"),
                    (*ring, "ring"),
                ];
                with("set", marks)
            }
            EventKind::Split { errno, .. } => with("split", [(*errno != 0, "failed")]),
            other => other.kind().name().to_owned(),
        }
    }

    /// An SPTE is emptied. How many are, and what they were, depends on what was mapped.
    fn is_zap(&self, kind: &EventKind) -> bool {
        matches!(kind, EventKind::SpteChange { new, .. } if !self.masks.is_present(*new))
    }

    fn state(&self, page: &PageRef, spte: Spte) -> &'static str {
        if !self.masks.is_present(spte) {
            "none"
        } else if 1 < page.level && spte.0 & LARGE == 0 {
            "table"
        } else if spte.0 & self.masks.writable == 0 {
            "ro"
        } else {
            "rw"
        }
    }
}

/// Words, rings and shadow pages come in any number.
fn is_repeated(kind: &EventKind) -> bool {
    matches!(kind.kind(), Kind::HarvestWord | Kind::UserWord | Kind::RingReset | Kind::Zap)
}

fn level(page: &PageRef) -> &'static str {
    match page.level {
        0 | 1 => "",
        2 => "2M ",
        _ => "up ",
    }
}

fn slot_token(slot: &SlotRef, npages: u64) -> String {
    let marks = [(npages == 0, "gone"), (slot.logging, "log"), (slot.has_bitmap, "bitmap")];
    with("slot", marks)
}

/// `name(mark,mark)` of the marks that are set.
fn with<const N: usize>(name: &str, marks: [(bool, &str); N]) -> String {
    let set: Vec<&str> =
        marks.iter().filter(|(is_set, _)| *is_set).map(|(_, mark)| *mark).collect();
    if set.is_empty() { name.to_owned() } else { format!("{name}({})", set.join(",")) }
}
