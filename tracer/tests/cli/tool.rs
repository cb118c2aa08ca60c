//! Runs the tool and the demo's guest as processes of their own.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const TOOL: &str = env!("CARGO_BIN_EXE_kvmdirty-trace");

/// What a finished run of the tool said.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub out: String,
    pub errors: String,
}

impl Said {
    /// The one sentence of an error, with exit status 2.
    pub fn refusal(&self) -> &str {
        assert_eq!(self.status, 2, "{self:?}");
        assert_eq!(self.out, "", "a refusal belongs on standard error");
        assert!(self.errors.starts_with("error: "), "{}", self.errors);
        self.errors.trim_end()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command without the settings of whoever runs the tests.
pub fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KVMDIRTY_") {
            command.env_remove(name);
        }
    }
    command.env("COLUMNS", "100").env("NO_COLOR", "1");
    command
}

pub fn run(arguments: &[&str]) -> Said {
    said(command(TOOL, arguments))
}

pub fn said(mut command: Command) -> Said {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said {
        status: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        errors: text(output.stderr),
    }
}

/// A folder of one test, emptied before and left for whoever looks into a failure.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Says what did not run, past the test harness, which would swallow it.
pub fn skipped(what: &str, why: &str) {
    io::stderr().write_all(format!("SKIPPED {what}: {why}\n").as_bytes()).unwrap();
}

/// Tracing works here; says so where it does not.
pub fn can_trace(test: &str) -> bool {
    let said = run(&["doctor", "--json"]);
    let why = match said.status {
        0 if said.json()["is_rehearsed"] == true => return true,
        0 => said.json()["rehearsal"].to_string(),
        _ => said.errors,
    };
    skipped(test, why.trim());
    false
}

/// Waits for a fact, a minute at most.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The demo's guest: a VMM the tool has not started.
pub struct Guest {
    child: Child,
    control: Option<ChildStdin>,
}

impl Guest {
    /// Starts it up to the point where it waits for `go`; none where there is no KVM.
    pub fn start(test: &str, flags: &[&str]) -> Option<Self> {
        let mut child = command(TOOL, &["demo-guest"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let control = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if !line.contains("ready") {
            let output = child.wait_with_output().unwrap();
            skipped(test, String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        // Somebody has to read on, or the guest stands still.
        std::thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
        Some(Self { child, control })
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub fn go(&mut self) {
        writeln!(self.control.as_mut().unwrap(), "go").unwrap();
    }

    /// Ends it as a VMM ends: the final harvest, then the process.
    pub fn stop(&mut self) -> ExitStatus {
        drop(self.control.take());
        self.child.wait().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `record` that runs.
pub struct Recorder {
    pub child: Child,
    pub file: PathBuf,
}

impl Recorder {
    /// Starts it and waits until every hook is attached.
    pub fn start(folder: &Path, pid: &str, flags: &[&str]) -> Self {
        let (file, ready) = (folder.join("trace.kdt"), folder.join("ready"));
        let mut recorder = command(TOOL, &["record", "--pid", pid, "--output"]);
        recorder.arg(&file).arg("--ready-file").arg(&ready).args(flags);
        let child = recorder.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut recorder = Self { child, file };
        wait_for("the probe to be attached", || {
            if let Some(status) = recorder.child.try_wait().unwrap() {
                panic!("record ended with {status}");
            }
            ready.exists().then_some(())
        });
        recorder
    }

    /// Waits until it has written that much.
    pub fn wait_for_bytes(&self, bytes: u64) {
        wait_for("the recording to grow", || {
            std::fs::metadata(&self.file).is_ok_and(|file| bytes <= file.len()).then_some(())
        });
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub fn finish(self) -> (Said, PathBuf) {
        let output = self.child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let status = output.status.code().unwrap_or(-1);
        (Said { status, out: text(output.stdout), errors: text(output.stderr) }, self.file)
    }

    /// Ids of the BPF programs it holds.
    pub fn programs(&self) -> Vec<u32> {
        let folder = format!("/proc/{}/fdinfo", self.child.id());
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
            ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
        }
        ids
    }
}

/// Waits until none of these BPF programs is in the kernel any more: it lets go of them with a delay.
pub fn are_gone(ids: &[u32]) {
    wait_for("the kernel to let go of the programs", || {
        let left =
            aya::programs::loaded_programs().flatten().any(|program| ids.contains(&program.id()));
        (!left).then_some(())
    });
}

/// `check FILE --json`.
pub fn check(file: &Path, flags: &[&str]) -> Said {
    let mut check = command(TOOL, &["check", "--json"]);
    check.arg(file).args(flags);
    said(check)
}
