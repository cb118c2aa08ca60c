//! Commands that look and change nothing: `list`, `explain`, `schema`, `completions`, `man`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use super::report::print;
use crate::cli::{Cli, CompletionsArgs, ExplainArgs, JsonArgs, SchemaArgs, SchemaDocument};
use crate::live::target::{Listing, all_vmms};
use crate::outcome::Outcome;
use crate::verdict::{RuleId, rule};

/// `list`.
///
/// # Errors
/// Standard output is gone.
pub fn list(args: &JsonArgs) -> Result<Outcome> {
    let Listing { vmms, hidden } = all_vmms();
    if 0 < hidden {
        eprintln!(
            "{hidden} processes of other users could not be looked at: run as root, or grant CAP_SYS_PTRACE"
        );
    }
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
        SchemaDocument::Report => crate::export::report::schema::json_schema(),
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
