//! The demo's guest as a child process: start it, let it go, read what it says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::demo::config::GuestConfig;
use crate::demo::protocol::{GuestReport, Harvest, Line, Ready};

/// How long a guest may take to exist.
const READY_MAX: Duration = Duration::from_secs(60);

/// A guest in a process of its own; it is killed when this is dropped before its report.
#[derive(Debug)]
pub struct GuestProcess {
    child: Child,
    control: ChildStdin,
    lines: Receiver<Line>,
    harvests: Option<Receiver<Harvest>>,
    report: Option<GuestReport>,
}

impl GuestProcess {
    /// Starts the guest and waits until it waits for `go`.
    ///
    /// # Errors
    /// The guest could not be built here; the text is the guest's own sentence, with the remedy.
    pub fn start(config: &GuestConfig) -> Result<(Self, Ready)> {
        let tool = std::env::current_exe().context("find this program's own file")?;
        let mut child = Command::new(tool)
            .arg("demo-guest")
            .args(config.to_flags())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the tool, which then asks the guest to make its final harvest.
            .process_group(0)
            .spawn()
            .context("start the demo guest")?;
        let control = child.stdin.take().expect("stdin was piped");
        let stdout = child.stdout.take().expect("stdout was piped");
        let (send, lines) = channel();
        let (tell, harvests) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else { continue };
                if let Line::Harvest(harvest) = line {
                    // Most callers do not ask for harvests.
                    let _ = tell.send(harvest);
                } else if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut guest = Self { child, control, lines, harvests: Some(harvests), report: None };
        match guest.lines.recv_timeout(READY_MAX) {
            Ok(Line::Ready(ready)) => Ok((guest, ready)),
            Ok(line) => bail!("the demo guest spoke out of turn: {line:?}"),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the demo guest is not ready after {READY_MAX:?}")
            }
            Err(RecvTimeoutError::Disconnected) => Err(guest.failure()),
        }
    }

    /// The harvests the guest makes, in its own words; once.
    pub fn take_harvests(&mut self) -> Option<Receiver<Harvest>> {
        self.harvests.take()
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn go(&mut self) -> Result<()> {
        self.say("go")
    }

    /// Asks the guest to end early; it still makes its final harvest.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn stop(&mut self) -> Result<()> {
        self.say("stop")
    }

    fn say(&mut self, word: &str) -> Result<()> {
        writeln!(self.control, "{word}").with_context(|| format!("say {word} to the demo guest"))
    }

    /// Waits up to `patience` for the guest's report; `None`: it still runs.
    ///
    /// # Errors
    /// The guest ended without a report; the text is its own sentence.
    pub fn poll_report(&mut self, patience: Duration) -> Result<Option<&GuestReport>> {
        if self.report.is_none() {
            match self.lines.recv_timeout(patience) {
                Ok(Line::Report(report)) => self.report = Some(report),
                Ok(Line::Ready(_) | Line::Vm(_) | Line::Phase(_) | Line::Harvest(_))
                | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.failure()),
            }
        }
        Ok(self.report.as_ref())
    }

    /// Waits for the report and the end of the process.
    ///
    /// # Errors
    /// As [`Self::poll_report`].
    pub fn finish(mut self) -> Result<GuestReport> {
        while self.poll_report(Duration::from_secs(1))?.is_none() {}
        self.child.wait().context("wait for the demo guest")?;
        Ok(self.report.take().expect("the loop ends with a report"))
    }

    /// The guest's own last sentence, from its stderr.
    fn failure(&mut self) -> anyhow::Error {
        let mut text = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                text = line;
            }
        }
        let text = text.trim_start_matches("error: ");
        if text.is_empty() {
            anyhow!("the demo guest ended without a word")
        } else {
            anyhow!("{text}")
        }
    }
}

impl Drop for GuestProcess {
    fn drop(&mut self) {
        // Both fail only when the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
