//! `replay FILE`: the dashboard over a recording, with time travel.

use anyhow::{Context as _, Result};

use super::recording::Overrides;
use super::screen;
use crate::cli::ReplayArgs;
use crate::feed::Facts;
use crate::outcome::Outcome;
use crate::player;
use crate::trace::{Reader, Vmm};

/// Runs the command.
///
/// # Errors
/// The recording cannot be read, or there is no terminal.
pub fn run(args: &ReplayArgs) -> Result<Outcome> {
    let settings = screen::settings(&args.screen)?;
    let name = args.file.display().to_string();
    let reader = Reader::open(&args.file).with_context(|| name.clone())?;
    let mut setup = reader.header().setup.clone();
    Overrides { is_final: args.is_final, epsilon_ns: None }.apply(&mut setup);
    let vmm = reader.header().vmm.clone();
    let (pid, command) = vmm.map_or((0, String::new()), |Vmm { pid, command }| {
        (pid, command.into_iter().next().unwrap_or_default())
    });
    let facts = Facts { pid, command, mmu: String::new(), file: name };
    let (feed, thread) = player::play(reader, setup, facts);
    let closing = screen::show(feed, settings)?;
    screen::after(&closing);
    thread.join().expect("the player does not panic");
    Ok(Outcome::of(&closing.summary))
}
