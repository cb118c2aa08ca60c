//! `diff`: two recordings compared.

use std::path::Path;

use anyhow::Result;

use super::recording::{self, Overrides};
use super::report::print;
use crate::cli::DiffArgs;
use crate::export::diff::{Diff, Side};
use crate::outcome::Outcome;
use crate::pipeline::Pipeline;

/// Runs `diff`.
///
/// # Errors
/// One of the files cannot be read.
pub fn run(args: &DiffArgs) -> Result<Outcome> {
    let overrides = Overrides { is_final: args.is_final, epsilon_ns: None };
    let judge =
        |path: &Path| Ok::<_, anyhow::Error>((name(path), recording::judge(path, overrides)?));
    let (before, after) = (judge(&args.before)?, judge(&args.after)?);
    let diff = Diff::new(&side(&before), &side(&after));
    if args.json {
        print(&(serde_json::to_string_pretty(&diff)? + "\n"))?;
    } else {
        print(&diff.text())?;
    }
    Ok(diff.conclusion().outcome())
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn side((name, pipeline): &(String, Pipeline)) -> Side<'_> {
    Side { name, summary: pipeline.summary(), setup: pipeline.setup() }
}
