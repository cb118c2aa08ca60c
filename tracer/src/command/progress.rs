//! Progress on standard error, for a person who waits: nothing is printed where there is no terminal.

use std::io::IsTerminal as _;

/// A percentage that is overwritten in place.
#[derive(Debug)]
pub struct Progress {
    is_shown: bool,
    percent: Option<u64>,
}

impl Progress {
    /// Shows on standard error if that is a terminal.
    #[must_use]
    pub fn to_terminal() -> Self {
        Self { is_shown: std::io::stderr().is_terminal(), percent: None }
    }

    /// So many bytes of so many are done.
    pub fn show(&mut self, (done, total): (u64, u64)) {
        let percent = (u128::from(done) * 100 / u128::from(total.max(1))) as u64;
        if self.is_shown && self.percent != Some(percent) {
            self.percent = Some(percent);
            eprint!("\r{percent:3} %");
        }
    }

    /// Takes the percentage off the screen.
    pub fn clear(&mut self) {
        if self.is_shown && self.percent.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
