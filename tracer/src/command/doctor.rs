//! `doctor`: what a trace of this host would see, without a guest and without attaching anything.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use serde::Serialize;

use super::report::print;
use crate::cli::JsonArgs;
use crate::event::{Evidence, Plan};
use crate::live::kernel::Kernel;
use crate::live::plan::{Blueprint, PlanKind, Refused};
use crate::live::{LiveError, attach, privilege};
use crate::outcome::Outcome;
use crate::verdict::RuleId;
use crate::verdict::rule::{Reach, RuleSet};

/// What `doctor` found; the JSON document.
#[derive(Serialize)]
struct Findings {
    kernel: String,
    kvm: &'static str,
    /// KVM's types are published: by `vmlinux`, or by the module itself.
    has_kvm_btf: bool,
    has_kprobes: bool,
    /// The mode in force of the lockdown policy, where the kernel tells.
    lockdown: Option<String>,
    plan: Plan,
    /// Every program of the plan was loaded to see whether the kernel takes it.
    is_rehearsed: bool,
    /// Why it was not.
    rehearsal: Option<String>,
    /// Better plans this kernel does not allow, with the reason.
    plans_refused: Vec<PlanRefused>,
    privileges: Vec<Privilege>,
    capabilities_missing: Vec<&'static str>,
    rules: Vec<RuleState>,
    rules_off: Vec<RuleState>,
}

#[derive(Serialize)]
struct PlanRefused {
    plan: &'static str,
    reason: String,
}

#[derive(Serialize)]
struct Privilege {
    capability: &'static str,
    purpose: &'static str,
    is_held: bool,
}

/// A rule on the plan.
#[derive(Clone, Serialize)]
struct RuleState {
    rule: &'static str,
    name: &'static str,
    /// `on`, `half` or `off`.
    state: &'static str,
    /// The operation it misses.
    operation: Option<&'static str>,
    /// How that operation is observed.
    evidence: Option<&'static str>,
}

/// Runs `doctor`.
///
/// # Errors
/// Nothing can be traced on this host; the text says what is missing.
pub fn run(args: &JsonArgs) -> Result<Outcome> {
    let findings = look()?;
    if args.json {
        print(&(serde_json::to_string_pretty(&findings)? + "\n"))?;
    } else {
        print(&text(&findings))?;
    }
    Ok(Outcome::Clean)
}

fn look() -> Result<Findings> {
    let kernel = Kernel::running()?;
    let missing = privilege::missing();
    let mut plans_refused = Vec::new();
    for kind in [PlanKind::Kprobe, PlanKind::Tracepoint] {
        let blueprint = Blueprint::new(kind, &kernel, &Refused::new());
        if let Some(reason) = blueprint.obstacle() {
            plans_refused.push(PlanRefused { plan: kind.name(), reason: reason.to_owned() });
            continue;
        }
        let rehearsed = if missing.is_empty() {
            attach::rehearse(kind, &kernel)
        } else {
            Err(LiveError::NotPermitted {
                action: "load BPF programs",
                missing: privilege::missing_text(),
                source: None,
            })
        };
        let (plan, rehearsal) = match rehearsed {
            Ok(plan) => (plan, None),
            Err(LiveError::NoPlan { reason }) => {
                plans_refused.push(PlanRefused { plan: kind.name(), reason });
                continue;
            }
            Err(error) => (blueprint.plan, Some(error.to_string())),
        };
        return Ok(findings(&kernel, plan, rehearsal, plans_refused));
    }
    let reasons: Vec<_> = plans_refused
        .iter()
        .map(|refused| format!("{}: {}", refused.plan, refused.reason))
        .collect();
    bail!("nothing to attach to on kernel {} ({})", kernel.release, reasons.join("; "))
}

fn findings(
    kernel: &Kernel,
    plan: Plan,
    rehearsal: Option<String>,
    plans_refused: Vec<PlanRefused>,
) -> Findings {
    let missing: Vec<_> = privilege::missing().iter().map(|capability| capability.name).collect();
    let rules: Vec<_> = rules(&plan);
    Findings {
        kernel: kernel.release.clone(),
        kvm: if kernel.is_kvm_module { "module" } else { "built-in" },
        has_kvm_btf: kernel.btf.size("kvm").is_some(),
        has_kprobes: kernel.has_kprobes,
        lockdown: lockdown(),
        is_rehearsed: rehearsal.is_none(),
        rehearsal,
        plans_refused,
        privileges: privilege::NEEDED
            .iter()
            .map(|capability| Privilege {
                capability: capability.name,
                purpose: capability.purpose,
                is_held: !missing.contains(&capability.name),
            })
            .collect(),
        capabilities_missing: missing,
        rules_off: rules.iter().filter(|rule| rule.state != "on").cloned().collect(),
        rules,
        plan,
    }
}

fn rules(plan: &Plan) -> Vec<RuleState> {
    let set = RuleSet::new(plan);
    RuleId::ALL
        .into_iter()
        .map(|rule| {
            let (state, missing) = match set.reach(rule) {
                Reach::On => ("on", None),
                Reach::Half(operation, evidence) => ("half", Some((operation, evidence))),
                Reach::Off(operation, evidence) => ("off", Some((operation, evidence))),
            };
            RuleState {
                rule: rule.name(),
                name: rule.rule().name,
                state,
                operation: missing.map(|(operation, _)| operation.name()),
                evidence: missing.map(|(_, evidence)| evidence_word(evidence)),
            }
        })
        .collect()
}

const fn evidence_word(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::None => "none",
        Evidence::Nearest => "nearest",
        Evidence::Direct => "direct",
    }
}

/// `none [integrity] confidentiality` is integrity.
fn lockdown() -> Option<String> {
    let modes = std::fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = modes.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn text(findings: &Findings) -> String {
    let mut text = String::new();
    let mut line = |head: &str, rest: &str| {
        let _ = writeln!(text, "{}", format!("{head:<20} {rest}").trim_end());
    };
    let btf = if findings.has_kvm_btf { "with BTF" } else { "without BTF" };
    line("kernel", &format!("{}, KVM {} {btf}", findings.kernel, findings.kvm));
    line("kprobes", if findings.has_kprobes { "yes" } else { "no" });
    line("lockdown", findings.lockdown.as_deref().unwrap_or("not told"));
    line("plan", &findings.plan.name);
    for refused in &findings.plans_refused {
        line("", &format!("no {} plan: {}", refused.plan, refused.reason));
    }
    line(
        "rehearsal",
        findings.rehearsal.as_deref().unwrap_or("the kernel takes every program of the plan"),
    );
    line("", "");
    for privilege in &findings.privileges {
        let state = if privilege.is_held { "held" } else { "missing" };
        line(privilege.capability, &format!("{state:<8} to {}", privilege.purpose));
    }
    if !findings.capabilities_missing.is_empty() {
        line("", privilege::GRANT);
    }
    line("", "");
    for entry in &findings.plan.entries {
        let evidence = evidence_word(entry.evidence);
        line(entry.operation.name(), &format!("{evidence:<8} {}", entry.points.join(", ")));
        if !entry.note.is_empty() {
            line("", &format!("{:<8} {}", "", entry.note));
        }
    }
    line("", "");
    for rule in &findings.rules {
        line(&format!("{} {}", rule.rule, rule.state), &explain(rule));
    }
    text
}

fn explain(rule: &RuleState) -> String {
    let (Some(operation), Some(evidence)) = (rule.operation, rule.evidence) else {
        return rule.name.to_owned();
    };
    let how = if evidence == "none" { "not observed" } else { "observed only by its traces" };
    let effect =
        if rule.state == "half" { "; it names hazards and vouches for nothing" } else { "" };
    format!("{}: {operation} is {how}{effect}", rule.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_told_with_what_it_misses() {
        let rules = rules(&Plan::named("tracepoint"));
        assert_eq!(rules.len(), RuleId::ALL.len());
        let k05 = rules.iter().find(|rule| rule.rule == "K05").unwrap();
        assert_eq!((k05.state, k05.operation), ("half", Some("flush")));
        assert!(explain(k05).contains("flush is not observed"), "{}", explain(k05));
        assert!(rules.iter().any(|rule| rule.state == "on" && rule.operation.is_none()));
    }
}
