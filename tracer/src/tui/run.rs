//! The loop: waits for a key or the next beat, asks `update`, does its effects, draws.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossterm::event::{
    self, Event as TerminalEvent, KeyEvent, KeyEventKind, MouseEvent, MouseEventKind,
};
use thiserror::Error;

use crate::feed::Feed;
use crate::summary::Summary;
use crate::tui::keys;
use crate::tui::model::Model;
use crate::tui::msg::{Effect, ExportFormat, Msg};
use crate::tui::settings::Settings;
use crate::tui::terminal::{Input, Keyboard, Screen, Signals, has_panicked};
use crate::tui::update::update;
use crate::tui::view::view;
use crate::verdict::Finding;

/// Time between two frames of data; keys are drawn at once.
const BEAT: Duration = Duration::from_millis(100);

/// What the dashboard needs besides data.
pub struct Options {
    /// How it looks.
    pub settings: Settings,
    /// What is done outside for us.
    pub host: Box<dyn Host>,
}

/// What is done outside for the dashboard.
pub trait Host {
    /// Writes one finding to a file and returns the file's name.
    ///
    /// # Errors
    /// Why it could not be written, as text for the last line of the screen.
    fn export(&mut self, finding: &Finding, format: ExportFormat) -> Result<String, String>;
}

/// How the dashboard ended.
#[derive(Debug)]
pub struct Closing {
    /// What was known at the end.
    pub summary: Arc<Summary>,
    /// What was copied: to be printed, for terminals without a clipboard.
    pub copied: Vec<String>,
}

/// Why the dashboard could not run.
#[derive(Debug, Error)]
pub enum TuiError {
    /// Taking the terminal over.
    #[error("take over the terminal")]
    Open(#[source] io::Error),
    /// Registering signal handlers.
    #[error("register signal handlers")]
    Signals(#[source] io::Error),
    /// Reading keys.
    #[error("read keys")]
    Keys(#[source] io::Error),
    /// Drawing.
    #[error("draw")]
    Draw(#[source] io::Error),
    /// The analysis thread panicked; its message stands above.
    #[error("a thread of the analysis panicked")]
    Panicked,
    /// Suspending.
    #[error("suspend")]
    Suspend(#[source] io::Error),
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Continue,
    End,
}

/// Shows `feed` until the user quits or a signal ends the process.
///
/// # Errors
/// When the terminal cannot be used; it is given back in every case.
pub fn run(feed: Feed, options: Options) -> Result<Closing, TuiError> {
    let signals = Signals::register().map_err(TuiError::Signals)?;
    let screen = Screen::open(options.settings.mouse).map_err(TuiError::Open)?;
    let first = Arc::clone(feed.seen());
    let model =
        Model::new(Arc::clone(&feed.setup), feed.facts.clone(), first, options.settings.theme);
    Loop { feed, model, screen, host: options.host, copied: Vec::new() }.run(&signals)
}

struct Loop {
    feed: Feed,
    model: Model,
    screen: Screen,
    host: Box<dyn Host>,
    copied: Vec<String>,
}

impl Loop {
    fn run(mut self, signals: &Signals) -> Result<Closing, TuiError> {
        let size = self.screen.terminal.size().map_err(TuiError::Draw)?;
        update(&mut self.model, Msg::Resize(size.width, size.height));
        self.draw()?;
        let keyboard = Keyboard::open();
        let mut beat = now();
        while !signals.is_ended() {
            if has_panicked() {
                return Err(TuiError::Panicked);
            }
            if signals.take_suspended() {
                self.effect(Effect::Suspend)?;
            }
            if signals.take_continued() {
                self.screen.take_again().map_err(TuiError::Suspend)?;
                self.draw()?;
            }
            match keyboard.wait(BEAT.saturating_sub(now().duration_since(beat))) {
                Input::Gone => break,
                // A resize that came between two waits is known to crossterm only.
                Input::Quiet | Input::Waiting => {
                    let is_event = event::poll(Duration::ZERO).map_err(TuiError::Keys)?;
                    if is_event && self.take_events()? == Next::End {
                        break;
                    }
                }
            }
            if BEAT <= now().duration_since(beat) {
                beat = now();
                if let Some(snapshot) = self.feed.newest() {
                    update(&mut self.model, Msg::Snapshot(snapshot));
                    self.draw()?;
                }
            }
        }
        let newest = self.feed.newest().unwrap_or_else(|| Arc::clone(self.feed.seen()));
        Ok(Closing { summary: Arc::clone(&newest.summary), copied: self.copied })
    }

    /// Takes every event that waits, then draws once: a held key must not queue up frames.
    fn take_events(&mut self) -> Result<Next, TuiError> {
        loop {
            let next = match event::read().map_err(TuiError::Keys)? {
                TerminalEvent::Key(key) if key.kind != KeyEventKind::Release => {
                    self.take_key(key)?
                }
                TerminalEvent::Resize(columns, rows) => {
                    self.take(Some(Msg::Resize(columns, rows)))?
                }
                TerminalEvent::Mouse(mouse) => self.take(self.mouse(mouse))?,
                TerminalEvent::Key(_)
                | TerminalEvent::FocusGained
                | TerminalEvent::FocusLost
                | TerminalEvent::Paste(_) => Next::Continue,
            };
            if next == Next::End {
                return Ok(Next::End);
            }
            if !event::poll(Duration::ZERO).map_err(TuiError::Keys)? {
                break;
            }
        }
        self.draw()?;
        Ok(Next::Continue)
    }

    fn take_key(&mut self, key: KeyEvent) -> Result<Next, TuiError> {
        let (escape, key) = keys::apart(key);
        let msg = escape.and_then(|escape| keys::message(escape, &self.model));
        if self.take(msg)? == Next::End {
            return Ok(Next::End);
        }
        self.take(keys::message(key, &self.model))
    }

    fn mouse(&self, mouse: MouseEvent) -> Option<Msg> {
        match mouse.kind {
            MouseEventKind::ScrollDown => Some(Msg::Scroll(3)),
            MouseEventKind::ScrollUp => Some(Msg::Scroll(-3)),
            MouseEventKind::Down(_) => {
                crate::tui::view::click(&self.model, mouse.column, mouse.row)
            }
            MouseEventKind::Up(_)
            | MouseEventKind::Drag(_)
            | MouseEventKind::Moved
            | MouseEventKind::ScrollLeft
            | MouseEventKind::ScrollRight => None,
        }
    }

    fn take(&mut self, msg: Option<Msg>) -> Result<Next, TuiError> {
        match msg.and_then(|msg| update(&mut self.model, msg)) {
            Some(effect) => self.effect(effect),
            None => Ok(Next::Continue),
        }
    }

    fn effect(&mut self, effect: Effect) -> Result<Next, TuiError> {
        match effect {
            Effect::Quit => return Ok(Next::End),
            Effect::Suspend => self.screen.suspend().map_err(TuiError::Suspend)?,
            Effect::Redraw => self.screen.terminal.clear().map_err(TuiError::Draw)?,
            Effect::Ask(request) => self.feed.send(request),
            Effect::Export(finding, format) => {
                let told = match self.host.export(&finding, format) {
                    Ok(file) => format!("wrote {file}"),
                    Err(why) => format!("export failed: {why}"),
                };
                update(&mut self.model, Msg::Told(told));
            }
            Effect::Copy(text) => {
                self.screen.copy(&text).map_err(TuiError::Draw)?;
                let told = "copied (if the terminal allows it); printed again at the end";
                update(&mut self.model, Msg::Told(String::from(told)));
                self.copied.push(text);
            }
        }
        Ok(Next::Continue)
    }

    fn draw(&mut self) -> Result<(), TuiError> {
        let model = &self.model;
        self.screen.terminal.draw(|frame| view(frame, model)).map_err(TuiError::Draw)?;
        Ok(())
    }
}

/// The only clock of the dashboard: it paces frames and nothing else.
fn now() -> Instant {
    Instant::now()
}
