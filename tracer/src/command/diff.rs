//! `diff`: two recordings compared.

use std::path::Path;

use anyhow::Result;

use super::recording::{self, JudgedFile, Overrides};
use super::report::print;
use crate::cli::DiffArgs;
use crate::export::diff::{Diff, Side};
use crate::outcome::Outcome;

/// Runs `diff`.
///
/// # Errors
/// One of the files cannot be read.
pub fn run(args: &DiffArgs) -> Result<Outcome> {
    let overrides = Overrides { is_final: args.is_final, epsilon_ns: None };
    let judge = |path: &Path| recording::judge(path, overrides);
    let (before, after) = (judge(&args.before)?, judge(&args.after)?);
    let diff = Diff::new(&side(&before), &side(&after));
    if args.json {
        print(&(serde_json::to_string_pretty(&diff)? + "\n"))?;
    } else {
        print(&diff.text())?;
    }
    Ok(diff.conclusion().outcome())
}

fn side(file: &JudgedFile) -> Side<'_> {
    let JudgedFile { pipeline, provenance } = file;
    Side { name: &provenance.file, summary: pipeline.summary(), setup: pipeline.setup() }
}
