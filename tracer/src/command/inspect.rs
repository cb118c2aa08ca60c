//! Commands that look and change nothing: `doctor`, `list`, `explain`, `schema`, `completions`, `man`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use clap::CommandFactory as _;

use super::report::print;
use crate::cli::{Cli, CompletionsArgs, ExplainArgs, JsonArgs, SchemaArgs, SchemaDocument};
use crate::event::Evidence;
use crate::live::kernel::Kernel;
use crate::live::plan::{Blueprint, PlanKind, Refused};
use crate::live::privilege::missing_text;
use crate::live::target::all_vmms;
use crate::outcome::Outcome;
use crate::verdict::rule::RuleSet;
use crate::verdict::{RuleId, rule};

/// `list`.
///
/// # Errors
/// Standard output is gone.
pub fn list(args: &JsonArgs) -> Result<Outcome> {
    let vmms = all_vmms();
    if args.json {
        let rows: Vec<_> = vmms
            .iter()
            .map(|vmm| serde_json::json!({"pid": vmm.pid, "name": vmm.name, "vms": vmm.vm_fds.len(), "vcpus": vmm.vcpus}))
            .collect();
        print(&(serde_json::to_string_pretty(&rows)? + "\n"))?;
        return Ok(Outcome::Clean);
    }
    let mut text = format!("{:>8} {:>4} {:>6}  NAME\n", "PID", "VMS", "VCPUS");
    for vmm in &vmms {
        let _ =
            writeln!(text, "{:>8} {:>4} {:>6}  {}", vmm.pid, vmm.vm_fds.len(), vmm.vcpus, vmm.name);
    }
    print(&text)?;
    Ok(Outcome::Clean)
}

/// `doctor`: what would be attached here, without a guest and without attaching anything.
///
/// # Errors
/// Nothing can be traced on this host; the text says what is missing.
pub fn doctor(args: &JsonArgs) -> Result<Outcome> {
    let kernel = Kernel::running()?;
    let refused = Refused::new();
    let mut plans = [PlanKind::Kprobe, PlanKind::Tracepoint]
        .map(|kind| Blueprint::new(kind, &kernel, &refused))
        .into_iter();
    let best = plans.find(|plan| plan.obstacle().is_none());
    let Some(Blueprint { plan, .. }) = best else {
        bail!(
            "nothing to attach to on kernel {}: ioctls or slots cannot be observed",
            kernel.release
        );
    };
    let rules_off = RuleSet::new(&plan).off();
    let missing = missing_text();
    if args.json {
        let off: Vec<_> = rules_off
            .iter()
            .map(|(rule, operation, evidence)| {
                serde_json::json!({"rule": rule.name(), "operation": operation.name(), "evidence": evidence})
            })
            .collect();
        let document = serde_json::json!({
            "kernel": kernel.release,
            "plan": plan,
            "rules_off": off,
            "capabilities_missing": missing,
        });
        print(&(serde_json::to_string_pretty(&document)? + "\n"))?;
        return Ok(Outcome::Clean);
    }
    let mut text = format!("kernel {}, {} plan\n\n", kernel.release, plan.name);
    for entry in &plan.entries {
        let evidence = match entry.evidence {
            Evidence::None => "none",
            Evidence::Nearest => "nearest",
            Evidence::Direct => "direct",
        };
        let _ = writeln!(
            text,
            "{:<20} {evidence:<8} {}",
            entry.operation.name(),
            entry.points.join(", ")
        );
        if !entry.note.is_empty() {
            let _ = writeln!(text, "{:<29} {}", "", entry.note);
        }
    }
    text.push('\n');
    for (rule, operation, _) in &rules_off {
        let _ = writeln!(text, "{} is off: {operation} is not observed well enough", rule.name());
    }
    if !missing.is_empty() {
        let _ = writeln!(text, "capabilities missing: {missing}");
    }
    print(&text)?;
    Ok(Outcome::Clean)
}

/// `explain`.
///
/// # Errors
/// No such rule.
pub fn explain(args: &ExplainArgs) -> Result<Outcome> {
    let text = match &args.rule {
        Some(name) => RuleId::from_name(name)
            .with_context(|| format!("`{name}` is no rule: K01 to K15"))?
            .rule()
            .page(),
        None => rule::ALL
            .iter()
            .map(|rule| format!("{}  {:<28} {}\n", rule.id.name(), rule.name, rule.sentence))
            .collect(),
    };
    print(&text)?;
    Ok(Outcome::Clean)
}

/// `schema`.
///
/// # Errors
/// Standard output is gone.
pub fn schema(args: &SchemaArgs) -> Result<Outcome> {
    let schema = match args.document {
        SchemaDocument::Jsonl => crate::export::schema::json_schema(),
    };
    print(&(serde_json::to_string_pretty(&schema)? + "\n"))?;
    Ok(Outcome::Clean)
}

/// `completions`.
///
/// # Errors
/// Never; the shape is that of the other commands.
pub fn completions(args: &CompletionsArgs) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kvmdirty-trace", &mut script);
    print(&String::from_utf8(script).context("the completion script is text")?)?;
    Ok(Outcome::Clean)
}

/// `man`.
///
/// # Errors
/// Standard output is gone.
pub fn man() -> Result<Outcome> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).context("write the man page")?;
    print(&String::from_utf8(page).context("the man page is text")?)?;
    Ok(Outcome::Clean)
}
