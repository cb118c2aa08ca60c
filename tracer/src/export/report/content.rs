//! What a report says, in the order in which a person needs it: verdict, what was covered, hazards with their drawn
//! witnesses, windows, harvests, memory, and what is in doubt.

use std::collections::BTreeMap;

use super::block::{Block, Fact, Section, Table};
use super::drawing::draw;
use super::figures::{micro, nth_percentile, percentile, utc};
use super::json::LIST_MAX;
use super::provenance::{Judged, Provenance};
use crate::event::{Evidence, IoctlOp};
use crate::export::event_row::op_name;
use crate::outcome::Outcome;
use crate::summary::{Harvest, Summary, VmSummary};
use crate::verdict::rule::RuleSet;
use crate::verdict::{Finding, RuleId, UnknownCause, Verdict, Window, WindowKind};

/// Findings told one by one, per section.
const FINDINGS_MAX: usize = 20;

/// Harvests and gaps told one by one.
const ROWS_MAX: usize = 12;

/// The report.
pub(super) fn blocks(judged: &Judged<'_>) -> Vec<Block> {
    let summary = judged.summary;
    let outcome = Outcome::of(summary);
    let mut blocks = vec![Block::Headline(outcome, meaning(outcome)), Block::Facts(facts(judged))];
    findings(&mut blocks, summary, Section::Hazards, Verdict::is_hazard);
    findings(&mut blocks, summary, Section::Exposed, |verdict| verdict == Verdict::Exposed);
    windows(&mut blocks, summary);
    harvests(&mut blocks, summary);
    memory(&mut blocks, summary);
    losses(&mut blocks, judged);
    blocks
}

const fn meaning(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Clean => "no page was lost or at risk in what is covered below",
        Outcome::Hazard => "pages were lost or at risk, see below",
        Outcome::Failed => "the trace could not be judged",
        Outcome::Inconclusive => {
            "no hazard was found, but the trace proves too little: see what was dropped, seen in part or not judged"
        }
    }
}

fn facts(judged: &Judged<'_>) -> Vec<Fact> {
    let Judged { summary, setup, provenance } = *judged;
    let counts =
        Verdict::ALL.map(|verdict| format!("{} {}", verdict.name(), summary.verdicts.get(verdict)));
    let complete = summary.harvests.iter().filter(|harvest| harvest.is_complete).count();
    let seen = summary.harvests.len();
    let mut facts = vec![
        Fact::new("verdicts", counts.join("  ")),
        Fact::new(
            "covered",
            format!(
                "{:.3} s, {} events, {} harvests ({complete} of {} seen completely)",
                summary.covered_ns() as f64 / 1e9,
                summary.events,
                summary.harvests_total,
                if summary.harvests_total == seen as u64 {
                    String::from("them")
                } else {
                    format!("the last {seen}")
                }
            ),
        ),
        Fact::new(
            "dropped",
            format!("{} records in {} gaps", summary.dropped_events, summary.gaps_total),
        ),
        Fact::new(
            "traced",
            format!(
                "kernel {}, {} plan, epsilon {} ns{}",
                setup.kernel,
                setup.plan.name,
                setup.epsilon_ns,
                if setup.is_final { ", the last harvest of every slot is final" } else { "" }
            ),
        ),
    ];
    facts.extend(provenance.into_iter().flat_map(file_facts));
    facts.extend(rule_facts(summary, &RuleSet::new(&setup.plan)));
    facts
}

fn file_facts(file: &Provenance) -> Vec<Fact> {
    let Provenance { file: name, origin, tool, host, vmm, started_s, .. } = file;
    let tool = if tool.is_empty() { String::new() } else { format!(", by kvmdirty-trace {tool}") };
    let on = if host.is_empty() { String::new() } else { format!(" on {host}") };
    let at = if *started_s == 0 { String::new() } else { format!(", {}", utc(*started_s)) };
    let mut facts = vec![Fact::new("recording", format!("{name}: {origin}{on}{at}{tool}"))];
    if !vmm.is_empty() {
        facts.push(Fact::new("vmm", vmm.clone()));
    }
    facts
}

/// Which rules judge; per operation that is not seen well enough, the rules it turns off or that find hazards without
/// it and vouch for nothing.
fn rule_facts(summary: &Summary, rules: &RuleSet) -> Vec<Fact> {
    let limited: Vec<RuleId> = summary.rules_off.iter().map(|&(rule, ..)| rule).collect();
    let on = RuleId::ALL.into_iter().filter(|rule| !limited.contains(rule)).map(RuleId::name);
    let on = on.collect::<Vec<_>>().join(" ");
    let mut facts =
        vec![Fact::new("rules on", if on.is_empty() { String::from("none") } else { on })];
    let mut by_cause: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for &(rule, operation, evidence) in &summary.rules_off {
        let is_half = rules.is_on(rule);
        by_cause.entry((!is_half, operation, evidence)).or_default().push(rule.name());
    }
    let how = |evidence| match evidence {
        Evidence::None => "not at all",
        Evidence::Nearest => "only by its nearest observable",
        Evidence::Direct => "directly",
    };
    facts.extend(by_cause.into_iter().map(|((is_off, operation, evidence), rules)| {
        let name = if is_off { "rules off" } else { "rules half" };
        let text = format!("{}: {operation} is observed {}", rules.join(" "), how(evidence));
        Fact::new(name, text)
    }));
    facts
}

/// Time since the first record.
fn since_begin(summary: &Summary, at: u64) -> String {
    let begin = summary.begin.map_or(0, |begin| begin.0);
    format!("{:.6} s", at.saturating_sub(begin) as f64 / 1e9)
}

fn findings(
    blocks: &mut Vec<Block>,
    summary: &Summary,
    section: Section,
    wanted: fn(Verdict) -> bool,
) {
    let mut found: Vec<_> =
        summary.findings.iter().filter(|finding| wanted(finding.verdict)).collect();
    if found.is_empty() {
        return;
    }
    // Worst first, then as they came.
    found.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    blocks.push(Block::Section(section));
    for finding in found.iter().take(FINDINGS_MAX) {
        finding_blocks(blocks, finding, summary);
    }
    let unlisted = summary.findings_total.saturating_sub(summary.findings.len() as u64);
    let more = found.len().saturating_sub(FINDINGS_MAX);
    if 0 < more {
        let text = format!("... and {more} more (--json lists up to {LIST_MAX})");
        blocks.push(Block::Sentence(text));
    }
    if 0 < unlisted {
        let text = format!("{unlisted} findings were counted and not kept");
        blocks.push(Block::Sentence(text));
    }
}

fn finding_blocks(blocks: &mut Vec<Block>, finding: &Finding, summary: &Summary) {
    let page = finding.gfn.map_or(String::from("whole slot"), |gfn| format!("gfn {gfn}"));
    let times =
        if finding.count == 1 { String::from("once") } else { format!("{} times", finding.count) };
    blocks.push(Block::Title(format!(
        "{} {} {}: {page}, slot {}, vm {}, {times}, first at {}",
        finding.verdict.name(),
        finding.rule.name(),
        finding.rule.rule().name,
        finding.slot,
        finding.vm,
        since_begin(summary, finding.first.0)
    )));
    blocks.push(Block::Sentence(finding.sentence.clone()));
    if let Some(known) = finding.known {
        blocks.push(Block::Sentence(format!("known on this kernel release: {known}")));
    }
    let drawing = draw(&finding.witness, summary);
    if !drawing.is_empty() {
        blocks.push(Block::Drawing(drawing));
    }
}

fn windows(blocks: &mut Vec<Block>, summary: &Summary) {
    let mut table = Table::new(&[
        "kind",
        "#closed",
        "#left open",
        "#with a harvest inside",
        "#p50 us <=",
        "#p99 us <=",
        "#longest us",
    ]);
    for kind in WindowKind::ALL {
        let stats = summary.windows(kind);
        if stats.closed == 0 && stats.open == 0 {
            continue;
        }
        table.row(vec![
            kind.name().to_owned(),
            stats.closed.to_string(),
            stats.open.to_string(),
            stats.with_harvest.to_string(),
            micro(percentile(stats, 50)),
            micro(percentile(stats, 99)),
            micro(stats.longest.first().and_then(Window::open_for_ns)),
        ]);
    }
    if !table.rows.is_empty() {
        blocks.extend([Block::Section(Section::Windows), Block::Table(table)]);
    }
}

fn harvests(blocks: &mut Vec<Block>, summary: &Summary) {
    if summary.harvests.is_empty() {
        return;
    }
    blocks.push(Block::Section(Section::Harvests));
    let mut cost = Table::new(&[
        "ioctl",
        "#harvests",
        "#pages each",
        "#p50 us",
        "#p90 us",
        "#p99 us",
        "#longest us",
    ]);
    for op in [IoctlOp::GetDirtyLog, IoctlOp::ClearDirtyLog, IoctlOp::ResetDirtyRings] {
        let of_op = || summary.harvests.iter().filter(|harvest| harvest.op == op);
        let mut times: Vec<u64> = of_op().map(|harvest| harvest.end.since(harvest.begin)).collect();
        if times.is_empty() {
            continue;
        }
        times.sort_unstable();
        let pages: u64 = of_op().map(|harvest| harvest.pages).sum();
        let mut row = vec![
            op_name(op).to_owned(),
            times.len().to_string(),
            format!("{:.1}", pages as f64 / times.len() as f64),
        ];
        row.extend([50, 90, 99, 100].map(|percent| micro(nth_percentile(&times, percent))));
        cost.row(row);
    }
    blocks.push(Block::Table(cost));
    let last = summary.harvests.len().min(ROWS_MAX);
    blocks.push(Block::Sentence(format!("the last {last} of {}:", summary.harvests_total)));
    blocks.push(Block::Table(last_harvests(summary)));
}

fn last_harvests(summary: &Summary) -> Table {
    let mut table = Table::new(&[
        "#id",
        "slot",
        "ioctl",
        "#pages",
        "#ioctl us",
        "#words us",
        "#flush us",
        "seen",
        "worst",
    ]);
    for harvest in summary.harvests.iter().rev().take(ROWS_MAX).rev() {
        let Harvest { id, slot, op, begin, end, pages, protect_ns, flush_ns, .. } = *harvest;
        let flush = match (flush_ns, harvest.flush_counter_moved) {
            (None, true) => String::from("counted"),
            (ns, _) => micro(ns),
        };
        let is_of_vm = op == IoctlOp::ResetDirtyRings;
        table.row(vec![
            id.to_string(),
            if is_of_vm { String::from("all") } else { slot.to_string() },
            op_name(op).to_owned(),
            pages.to_string(),
            micro(Some(end.since(begin))),
            micro(Some(protect_ns)),
            flush,
            if harvest.is_complete { "completely" } else { "in part" }.to_owned(),
            harvest.worst.map_or("-", Verdict::name).to_owned(),
        ]);
    }
    table
}

fn mode(vm: &VmSummary) -> &'static str {
    match (vm.ring_bytes, vm.manual_protect & 3) {
        (0, 0) => "bitmap",
        (0, 1) => "bitmap, manual-protect",
        (0, _) => "bitmap, manual-protect, initially set",
        _ => "dirty ring",
    }
}

fn memory(blocks: &mut Vec<Block>, summary: &Summary) {
    let mut table = Table::new(&[
        "vm",
        "#process",
        "mode",
        "slot",
        "#first gfn",
        "#pages",
        "logging",
        "#harvests",
        "#pages taken",
    ]);
    for vm in &summary.vms {
        for (id, slot) in vm.slots.iter().filter(|(_, slot)| 0 < slot.harvests || slot.is_logging) {
            table.row(vec![
                vm.vm.to_string(),
                vm.tgid.to_string(),
                mode(vm).to_owned(),
                id.to_string(),
                slot.base.to_string(),
                slot.npages.to_string(),
                if slot.is_logging { "on" } else { "off" }.to_owned(),
                slot.harvests.to_string(),
                slot.pages_harvested.to_string(),
            ]);
        }
    }
    if !table.rows.is_empty() {
        blocks.extend([Block::Section(Section::Memory), Block::Table(table)]);
    }
}

fn losses(blocks: &mut Vec<Block>, judged: &Judged<'_>) {
    let Judged { summary, provenance, .. } = *judged;
    let mut facts = Vec::new();
    for complaint in provenance.iter().flat_map(|file| file.complaints()) {
        facts.push(Fact::new("recording", complaint));
    }
    for (count, name) in [
        (summary.anomalies_total, "records that make no sense"),
        (summary.integrity_total, "integrity violations: what a lock promises did not hold"),
    ] {
        if 0 < count {
            facts.push(Fact::new("doubt", format!("{count} {name}")));
        }
    }
    for (cause, count) in &summary.unknown_causes {
        let what = match cause {
            UnknownCause::NotObserved(operation) => format!("{} {operation}", cause.name()),
            cause => cause.name().to_owned(),
        };
        facts.push(Fact::new("unknown", format!("{count} because: {what}")));
    }
    facts.extend(super::check::silent(summary).map(|sentence| Fact::new("self-check", sentence)));
    for (name, count) in &summary.benign {
        facts.push(Fact::new("benign", format!("{count} {name}")));
    }
    let gaps = gaps(summary);
    if facts.is_empty() && gaps.rows.is_empty() {
        return;
    }
    blocks.push(Block::Section(Section::Losses));
    if !facts.is_empty() {
        blocks.push(Block::Facts(facts));
    }
    if !gaps.rows.is_empty() {
        let told = gaps.rows.len() as u64;
        blocks.push(Block::Table(gaps));
        if told < summary.gaps_total {
            let more = summary.gaps_total - told;
            blocks.push(Block::Sentence(format!("... and {more} gaps more")));
        }
    }
}

fn gaps(summary: &Summary) -> Table {
    let mut table = Table::new(&["cause", "#dropped", "lane", "hook", "#from", "#to"]);
    for gap in summary.gaps.iter().take(ROWS_MAX) {
        table.row(vec![
            gap.cause.name().to_owned(),
            if gap.dropped == 0 { String::from("?") } else { gap.dropped.to_string() },
            gap.lane.map_or(String::from("any"), |lane| lane.to_string()),
            gap.hook.map_or("any", kvmdirty_common::Hook::name).to_owned(),
            since_begin(summary, gap.from.0),
            since_begin(summary, gap.to.0),
        ]);
    }
    table
}
