//! `replay`: a recording in the dashboard, with time travel.

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::recording::{self, Overrides};
use super::{report, screen};
use crate::cli::{ReplayArgs, ReportFormat};
use crate::event::Setup;
use crate::feed::Facts;
use crate::outcome::Outcome;
use crate::player::{MemoryTape, Tape, play};
use crate::trace::litmus::Litmus;
use crate::trace::{Header, Reader};
use crate::tui::Settings;

/// Runs the command; without a terminal it prints what `check` prints.
///
/// # Errors
/// The file cannot be read, or the terminal not be used.
pub fn run(args: &ReplayArgs) -> Result<Outcome> {
    let overrides = Overrides { is_final: args.is_final, epsilon_ns: None };
    if !std::io::stdout().is_terminal() {
        let file = recording::judge(&args.file, overrides)?;
        report::print(&report::render(&file.judged(), ReportFormat::Text)?)?;
        return Ok(Outcome::of(file.pipeline.summary()));
    }
    let settings = screen::settings(&args.screen)?;
    let name = args.file.display().to_string();
    if args.file.extension() == Some(OsStr::new("litmus")) {
        let text = std::fs::read_to_string(&args.file).with_context(|| format!("read {name}"))?;
        let Litmus { mut setup, batch, threads, .. } = Litmus::read(&text).context(name.clone())?;
        overrides.apply(&mut setup);
        let facts = Facts { file: name, threads, ..Facts::default() };
        return show(MemoryTape::new(vec![batch]), setup, facts, settings);
    }
    let reader = Reader::open(&args.file).with_context(|| name.clone())?;
    let mut setup = reader.header().setup.clone();
    overrides.apply(&mut setup);
    let facts = facts(reader.header(), name);
    show(reader, setup, facts, settings)
}

/// Shows a tape until the user quits; the outcome is that of the whole tape, wherever the user left it.
///
/// # Errors
/// The terminal cannot be used.
pub fn show(tape: impl Tape, setup: Setup, facts: Facts, settings: Settings) -> Result<Outcome> {
    let (feed, player) = play(tape, setup, facts);
    let closing = screen::show(feed, settings)?;
    let whole = player.join().expect("a panic of the player has ended the dashboard before");
    screen::after(&closing);
    Ok(whole.map_or(Outcome::Inconclusive, |summary| Outcome::of(&summary)))
}

/// What a recording says about itself, for the screen.
#[must_use]
pub fn facts(header: &Header, file: String) -> Facts {
    let program = |command: &[String]| {
        let path = command.first().map(Path::new).and_then(Path::file_name);
        path.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    Facts {
        pid: header.vmm.as_ref().map_or(0, |vmm| vmm.pid),
        command: header.vmm.as_ref().map(|vmm| program(&vmm.command)).unwrap_or_default(),
        mmu: header.mmu.clone(),
        file,
        ..Facts::default()
    }
}
