//! The terminal: taken over at the start, given back at the end - at a panic, a signal, a suspension too.

use std::fs::File;
use std::io::{self, IsTerminal as _, Stdout, Write as _};
use std::os::fd::AsFd;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::clipboard::CopyToClipboard;
use crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use crossterm::{cursor, execute, terminal};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP};

/// Whether clicks and the wheel are ours; without it the terminal's own selection works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mouse {
    /// Left to the terminal.
    #[default]
    Ignored,
    /// Captured.
    Captured,
}

/// The terminal is ours now; leaving twice would move the cursor back over what was printed in between.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);

/// A thread panicked while the terminal was ours.
static HAS_PANICKED: AtomicBool = AtomicBool::new(false);

/// The terminal while it is ours. Dropping it gives it back.
pub struct Screen {
    /// What is drawn on.
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
    mouse: Mouse,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When stdout is no terminal, or refuses raw mode.
    pub fn open(mouse: Mouse) -> io::Result<Self> {
        restore_on_panic();
        enter(mouse)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()));
        match terminal {
            Ok(terminal) => Ok(Self { terminal, mouse }),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }

    /// Stops this process as Ctrl-Z does, and takes the terminal over again when the shell continues it.
    ///
    /// # Errors
    /// When the terminal cannot be taken over again.
    pub fn suspend(&mut self) -> io::Result<()> {
        leave();
        // SIGSTOP rather than SIGTSTP: the latter is ours to notice (see `Signals`), and a shell treats both alike.
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)?;
        self.take_again()
    }

    /// Takes the terminal over again after somebody else used it.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn take_again(&mut self) -> io::Result<()> {
        enter(self.mouse)?;
        self.terminal.clear()
    }

    /// Puts text into the clipboard, where the terminal knows OSC 52.
    ///
    /// # Errors
    /// When writing to the terminal fails.
    pub fn copy(&mut self, text: &str) -> io::Result<()> {
        execute!(io::stdout(), CopyToClipboard::to_clipboard_from(text))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn enter(mouse: Mouse) -> io::Result<()> {
    terminal::enable_raw_mode()?;
    IS_ENTERED.store(true, Ordering::SeqCst);
    let entered =
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide).and_then(|()| {
            match mouse {
                Mouse::Captured => execute!(io::stdout(), EnableMouseCapture),
                Mouse::Ignored => Ok(()),
            }
        });
    if entered.is_err() {
        leave();
    }
    entered
}

/// Gives the terminal back. Errors are of no use here: there is nobody left to tell, and each step is tried.
fn leave() {
    if !IS_ENTERED.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut stdout = io::stdout();
    let _ = execute!(stdout, DisableMouseCapture);
    let _ = execute!(stdout, terminal::LeaveAlternateScreen, cursor::Show);
    let _ = terminal::disable_raw_mode();
    let _ = stdout.flush();
}

/// Some thread panicked; its message is on the ordinary screen, and nothing may be drawn over it.
#[must_use]
pub fn has_panicked() -> bool {
    HAS_PANICKED.load(Ordering::SeqCst)
}

/// Lets a panic's message appear on the ordinary screen.
fn restore_on_panic() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        HAS_PANICKED.store(true, Ordering::SeqCst);
        leave();
        before(info);
    }));
}

/// What became of a wait for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Something can be read, or a signal came (a resize among them).
    Waiting,
    /// Nothing happened.
    Quiet,
    /// The terminal is gone: its window was closed, its connection lost.
    Gone,
}

/// The terminal as a file that can be waited for.
///
/// crossterm's own wait does not return once the terminal has hung up, and takes a whole CPU for it, so the hang-up is
/// looked for first.
#[derive(Debug)]
pub struct Keyboard(Option<File>);

impl Keyboard {
    /// The terminal crossterm reads: standard input, or the controlling terminal.
    #[must_use]
    pub fn open() -> Self {
        let is_terminal = io::stdin().is_terminal();
        Self(if is_terminal { None } else { File::open("/dev/tty").ok() })
    }

    /// Waits for the user.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Input {
        let stdin = io::stdin();
        let file = self.0.as_ref().map_or(stdin.as_fd(), AsFd::as_fd);
        let mut files = [PollFd::new(file, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        match nix::poll::poll(&mut files, timeout) {
            Ok(0) => Input::Quiet,
            // Interrupted by a signal.
            Err(_) => Input::Waiting,
            Ok(_) => {
                let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
                let is_gone = files[0].revents().is_some_and(|events| events.intersects(hung_up));
                if is_gone { Input::Gone } else { Input::Waiting }
            }
        }
    }
}

/// Signals, noticed between two frames.
#[derive(Debug)]
pub struct Signals {
    ended: Arc<AtomicBool>,
    suspended: Arc<AtomicBool>,
    continued: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to notice SIGTERM, SIGINT, SIGHUP (end), SIGTSTP (suspend) and SIGCONT (draw anew).
    ///
    /// # Errors
    /// When a handler cannot be registered.
    pub fn register() -> io::Result<Self> {
        let signals =
            Self { ended: Arc::default(), suspended: Arc::default(), continued: Arc::default() };
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&signals.ended))?;
        }
        signal_hook::flag::register(SIGTSTP, Arc::clone(&signals.suspended))?;
        signal_hook::flag::register(SIGCONT, Arc::clone(&signals.continued))?;
        Ok(signals)
    }

    /// The process was asked to end.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The process was asked to stop; asked once per signal.
    #[must_use]
    pub fn take_suspended(&self) -> bool {
        self.suspended.swap(false, Ordering::Relaxed)
    }

    /// The process was continued; asked once per signal.
    #[must_use]
    pub fn take_continued(&self) -> bool {
        self.continued.swap(false, Ordering::Relaxed)
    }
}
