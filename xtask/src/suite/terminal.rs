//! A terminal the tests press keys in and read: one tmux server of our own with one window.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{process, tools::tmux::Tmux};

/// How long the screen may take to show what it must: a loaded machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks at the screen.
const LOOK: Duration = Duration::from_millis(50);

/// Runs a program as a shell would, and tells how the terminal was left: the marker stands on the ordinary screen, the
/// modes of the line discipline are compared with those before. The process id is left in a file.
const SCRIPT: &str = r#"
echo "before the dashboard"
modes=$(stty -g)
sh -c 'echo $$ > pid; exec "$@"' sh "$@"
echo "status $?"
if [ "$(stty -g)" = "$modes" ]; then echo "modes as before"; else echo "modes changed"; fi
exec cat
"#;

/// The terminal. Dropping it ends whatever runs in it.
#[derive(Debug)]
pub struct Terminal {
    tmux: Tmux,
    socket: PathBuf,
    folder: PathBuf,
}

impl Terminal {
    /// Runs `words` in a terminal of 80 by 24, with `folder` as its working folder.
    pub fn run(folder: &Path, words: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let script = folder.join("run.sh");
        fs::write(&script, SCRIPT).with_context(|| format!("write {}", script.display()))?;
        let socket = unused_socket();
        let terminal = Self { tmux: Tmux::find()?, socket, folder: folder.to_owned() };
        let mut arguments = vec!["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24"];
        let env: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        for variable in &env {
            arguments.extend(["-e", variable]);
        }
        arguments.extend(["sh", "run.sh"]);
        arguments.extend(words);
        terminal.tmux(&arguments)?;
        Ok(terminal)
    }

    /// Presses keys, by tmux's names: `Enter`, `Escape`, `C-z`, `x`.
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows]).map(drop)
    }

    /// What the screen shows.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen shows all of `texts`, and returns it.
    pub fn wait_for(&self, texts: &[&str]) -> Result<String> {
        let what = texts.join("\" and \"");
        self.wait(&format!("\"{what}\""), |screen| texts.iter().all(|text| screen.contains(text)))
    }

    /// Waits until the screen is as wanted, and returns it.
    pub fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen()?;
            if wanted(&screen) {
                return Ok(screen);
            }
            if deadline < Instant::now() {
                bail!("the screen never shows {what}; it shows\n{}", screen.trim_end());
            }
            thread::sleep(LOOK);
        }
    }

    /// Sends a signal to the program.
    pub fn signal(&self, name: &str) -> Result<()> {
        let path = self.folder.join("pid");
        let pid = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mut kill = std::process::Command::new("kill");
        process::output(kill.args(["-s", name, pid.trim()])).map(drop)
    }

    /// Waits for the program's end and checks that it has left the terminal as it found it.
    pub fn wait_for_end(&self, status: u8) -> Result<String> {
        // The report before it may be long: the last lines are what counts, the rest is history.
        let screen = self.wait_for(&[&format!("status {status}\n"), "modes"])?;
        ensure!(screen.contains("modes as before"), "the terminal's modes differ:\n{screen}");
        let state =
            self.tmux(&["display", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"])?;
        ensure!(state.trim() == "0 1 0", "alternate screen, cursor, mouse are {}", state.trim());
        let all = self.tmux(&["capture-pane", "-p", "-S", "-"])?;
        ensure!(all.contains("before the dashboard"), "what stood there before is gone:\n{all}");
        Ok(all)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.tmux.command();
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8").current_dir(&self.folder);
        process::output(command.args(["-u", "-S"]).arg(&self.socket).args(arguments))
    }
}

/// A path for a socket: short, as socket paths must be, and never used twice, as a server that ends keeps its own for
/// a moment.
fn unused_socket() -> PathBuf {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let n = STARTED.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("kvmdirty-tmux-{}-{n}", std::process::id()))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nothing to end where the server did not start.
        let _ = self.tmux(&["kill-server"]);
        let _ = fs::remove_file(&self.socket);
    }
}
