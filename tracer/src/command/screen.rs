//! The dashboard, set up: settings from flags, environment and file; what it asks to be written.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::cli::{ScreenArgs, Theme as ThemeArg};
use crate::event::Setup;
use crate::export::report;
use crate::feed::Feed;
use crate::trace::litmus::Litmus;
use crate::tui::terminal::Mouse;
use crate::tui::{self, Closing, Environment, ExportFormat, Settings, Theme};
use crate::verdict::Finding;

/// Resolves how the dashboard looks.
///
/// # Errors
/// The configuration file cannot be read or says something unknown.
pub fn settings(args: &ScreenArgs) -> Result<Settings> {
    let theme = args.theme.map(|theme| match theme {
        ThemeArg::Dark => Theme::Dark,
        ThemeArg::Light => Theme::Light,
        ThemeArg::Mono => Theme::Mono,
        ThemeArg::Ascii => Theme::Ascii,
    });
    let file = match (&args.config, default_file()) {
        (Some(path), _) => Some(
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?,
        ),
        (None, Some(path)) => std::fs::read_to_string(path).ok(),
        (None, None) => None,
    };
    let environment = Environment {
        no_color: env::var("NO_COLOR").ok(),
        term: env::var("TERM").ok(),
        locale: ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| env::var(name).ok())
            .find(|value| !value.is_empty()),
    };
    let mut settings = Settings::resolve(theme, file.as_deref(), &environment)?;
    if args.mouse {
        settings.mouse = Mouse::Captured;
    }
    Ok(settings)
}

fn default_file() -> Option<PathBuf> {
    let folder = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".config")))?;
    Some(folder.join("kvmdirty-trace").join("config.toml"))
}

/// Shows a feed until the user quits.
///
/// # Errors
/// The terminal cannot be used; it is given back.
pub fn show(feed: Feed, settings: Settings) -> Result<Closing> {
    let host = Box::new(Exporter { setup: Arc::clone(&feed.setup) });
    Ok(tui::run(feed, tui::Options { settings, host })?)
}

/// Prints what was copied on the screen, for terminals without a clipboard.
pub fn after(closing: &Closing) {
    for text in &closing.copied {
        println!("{text}");
    }
}

/// Writes findings into the current folder.
struct Exporter {
    setup: Arc<Setup>,
}

impl tui::Host for Exporter {
    fn export(&mut self, finding: &Finding, format: ExportFormat) -> Result<String, String> {
        #[cfg(debug_assertions)]
        panic_if_asked();
        let gfn = finding.gfn.map_or(String::from("slot"), |gfn| gfn.to_string());
        let stem = format!("{}-{gfn}-{}", finding.rule.name().to_lowercase(), finding.first.0);
        let (name, text) = match format {
            ExportFormat::Litmus => {
                (format!("{stem}.litmus"), Litmus::from_finding(finding, &self.setup).write())
            }
            ExportFormat::Json => (format!("{stem}.json"), report::finding_json(finding)),
        };
        std::fs::write(&name, text).map_err(|error| format!("write {name}: {error}"))?;
        Ok(name)
    }
}

/// Only in builds for tests: `KVMDIRTY_TEST_PANIC=screen` makes an export panic, `=thread` a thread beside the screen,
/// so that what becomes of the terminal can be looked at.
#[cfg(debug_assertions)]
fn panic_if_asked() {
    match env::var("KVMDIRTY_TEST_PANIC").as_deref() {
        Ok("screen") => panic!("asked to panic on the screen's thread"),
        Ok("thread") => {
            let thread = std::thread::spawn(|| panic!("asked to panic beside the screen"));
            // Its panic is the wanted result, and has been reported by the hook.
            let _ = thread.join();
        }
        Ok(_) | Err(_) => {}
    }
}
