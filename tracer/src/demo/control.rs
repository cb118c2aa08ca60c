//! The two ends of the protocol in the guest's process: commands in, lines out.

use std::io::{BufRead, Write};

use crate::demo::DemoError;
use crate::demo::bell::Bell;
use crate::demo::protocol::Line;

/// Starts to listen for commands; the end of the channel counts as `stop`.
///
/// The thread is not joined: it may wait for a line that never comes, and ends with the process.
///
/// # Errors
///
/// [`DemoError::Thread`] if no thread can be made.
pub fn listen(control: impl BufRead + Send + 'static, bell: Bell) -> Result<(), DemoError> {
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            for line in control.lines() {
                match line.as_deref().map(str::trim) {
                    Ok("go") => bell.go(),
                    Ok("") => {}
                    Ok("stop") | Err(_) => break,
                    Ok(other) => {
                        bell.fail(DemoError::UnknownCommand { line: other.to_owned() });
                        break;
                    }
                }
            }
            bell.stop();
        })
        .map(drop)
        .map_err(|source| DemoError::Thread { call: "clone", source })
}

/// Writes protocol lines, each flushed so that the parent sees it at once.
#[derive(Debug)]
pub struct Teller<W> {
    out: W,
}

impl<W: Write> Teller<W> {
    /// A teller that writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes one line.
    ///
    /// # Errors
    ///
    /// [`DemoError::Output`] if the parent no longer reads.
    pub fn tell(&mut self, line: &Line) -> Result<(), DemoError> {
        let mut text = serde_json::to_string(line).expect("protocol lines have string keys only");
        text.push('\n');
        self.out.write_all(text.as_bytes()).map_err(DemoError::Output)?;
        self.out.flush().map_err(DemoError::Output)
    }
}
