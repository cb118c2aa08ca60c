//! `record` on a real guest of this host: rotation, the flight recorder, a killed writer, a full disk; every file is
//! read back.
//!
//! Where the machine has no KVM or forbids BPF, each test says so on standard error and passes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvmdirty_trace::event::{Batch, Gap, Kind, Nanos, RawEvent};
use kvmdirty_trace::trace::{DamageKind, Ending, Reader};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One guest at a time: two on a small machine would make each other drop records.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A guest with a recorder attached to it.
struct Trace {
    guest: Child,
    recorder: Child,
    _turn: MutexGuard<'static, ()>,
}

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kvmdirty-trace"))
}

fn skipped(why: &str) {
    std::io::stderr().write_all(format!("SKIPPED record: {why}\n").as_bytes()).unwrap();
}

fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

impl Trace {
    /// Starts a guest that runs so long, and `record` on it; none where the machine cannot.
    fn start(seconds: &str, output: &Path, flags: &[&str]) -> Option<Self> {
        Self::of(&["--pages=1024", "--vcpus=1", "--seconds", seconds], output, flags)
    }

    /// The same with a guest of any kind.
    fn of(guest: &[&str], output: &Path, flags: &[&str]) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guest = tool()
            .args(["demo-guest", "--interval=20"])
            .args(guest)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(guest.stdout.take().unwrap());
        let mut ready = String::new();
        lines.read_line(&mut ready).unwrap();
        if ready.is_empty() {
            skipped(&said(&guest.wait_with_output().unwrap()));
            return None;
        }
        // The guest must not wait for somebody who reads what it says.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let mark = output.with_extension("ready");
        let recorder = tool()
            .args(["record", "--wait", "--budget=400", "--pid", &guest.id().to_string(), "-o"])
            .arg(output)
            .arg("--ready-file")
            .arg(&mark)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut trace = Self { guest, recorder, _turn: turn };
        if !trace.wait_until(|| mark.exists()) {
            let Self { mut guest, recorder, _turn } = trace;
            guest.kill().unwrap();
            guest.wait().unwrap();
            let output = recorder.wait_with_output().unwrap();
            let reason = said(&output);
            let is_forbidden = ["permitted", "BTF", "KVM", "needs Linux", "addresses"];
            assert!(is_forbidden.iter().any(|word| reason.contains(word)), "{reason}");
            skipped(&reason);
            return None;
        }
        trace.guest.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        Some(trace)
    }

    /// Waits for a fact; `false` if the recorder ends before.
    fn wait_until(&mut self, mut fact: impl FnMut() -> bool) -> bool {
        let begin = Instant::now();
        while !fact() {
            if self.recorder.try_wait().unwrap().is_some() {
                return fact();
            }
            assert!(begin.elapsed() < Duration::from_secs(120), "it never happens");
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.recorder.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for both; the recorder ends when the guest does.
    fn end(self) -> Output {
        let Self { mut guest, recorder, _turn } = self;
        let output = recorder.wait_with_output().unwrap();
        let _ = guest.kill();
        guest.wait().unwrap();
        output
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

struct Read {
    records: Vec<RawEvent>,
    gaps: Vec<Gap>,
    watermark: Nanos,
    ending: Ending,
    damages: Vec<DamageKind>,
}

fn read(path: &Path) -> Read {
    let mut reader = Reader::open(path).unwrap();
    let (mut records, mut gaps, mut watermark) = (Vec::new(), Vec::new(), Nanos(0));
    let mut batch = Batch::default();
    while reader.next_batch(&mut batch).unwrap().is_some() {
        records.extend_from_slice(&batch.records);
        gaps.extend_from_slice(&batch.gaps);
        watermark = batch.watermark;
    }
    let damages = reader.damages().0.iter().map(|damage| damage.kind).collect();
    Read { records, gaps, watermark, ending: reader.ending().unwrap(), damages }
}

fn check(path: &Path) -> serde_json::Value {
    let output = tool().args(["check", "--json"]).arg(path).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
}

fn recordings(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "kdt"))
        .collect();
    paths.sort_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap());
    paths
}

/// Times of the first record that was not carried over, and of the watermark at the end.
fn span(read: &Read) -> (u64, u64) {
    let first = read.records.iter().find(|record| record.cpu != u16::MAX).unwrap();
    (first.ts_ns, read.watermark.0)
}

fn begins_with_the_vm_and_its_slots(read: &Read) {
    let carried: Vec<_> =
        read.records.iter().take_while(|record| record.cpu == u16::MAX).map(|r| r.kind).collect();
    assert!(carried.contains(&(Kind::VmSeen as u8)), "{carried:?}");
    assert!(carried.contains(&(Kind::SlotState as u8)), "{carried:?}");
}

#[test]
fn rotation_keeps_the_newest_files_of_a_real_trace() {
    let folder = folder("record-rotation");
    let output = folder.join("vm.kdt");
    let flags = ["--max-size=64k", "--max-files=3"];
    let Some(trace) = Trace::start("4", &output, &flags) else { return };
    let said = said(&trace.end());
    let files = recordings(&folder);
    assert_eq!(files.len(), 3, "{said}");
    assert!(!output.exists(), "the first file is among the oldest: {said}");
    let mut last = None;
    for path in &files {
        let read = read(path);
        assert_eq!((read.ending, read.damages.len()), (Ending::Finished, 0), "{}", path.display());
        assert_eq!(read.gaps, [], "{}", path.display());
        begins_with_the_vm_and_its_slots(&read);
        let (begin, end) = span(&read);
        // A batch is in one file: the next begins behind the watermark of the one before.
        assert!(last.is_none_or(|last| last < begin), "{last:?} {begin}");
        last = Some(end);
        assert!(said.contains(path.file_name().unwrap().to_str().unwrap()), "{said}");
        assert_eq!(check(path)["outcome"], "clean", "{}", path.display());
    }
}

#[test]
fn the_flight_recorder_writes_when_asked_and_at_the_end() {
    let folder = folder("record-flight");
    let output = folder.join("vm.kdt");
    let Some(mut trace) = Trace::start("4", &output, &["--last=500ms"]) else { return };
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!output.exists(), "nothing is written unasked");
    trace.signal(Signal::SIGUSR1);
    assert!(trace.wait_until(|| output.exists()));
    let said = said(&trace.end());
    assert_eq!(said.matches("recorded: ").count(), 2, "{said}");
    let (first, second) = (read(&output), read(&folder.join("vm.2.kdt")));
    for read in [&first, &second] {
        assert_eq!((read.ending, read.damages.len()), (Ending::Finished, 0));
        assert_eq!(read.gaps, []);
        begins_with_the_vm_and_its_slots(read);
        let (begin, end) = span(read);
        assert!(end - begin < 700_000_000, "{} ms", (end - begin) / 1_000_000);
        assert!(100 < read.records.len());
    }
    assert!(span(&first).1 < span(&second).0);
}

/// Since Linux 6.17 a signal that ends a reset of the dirty rings leaves pages writable (docs/findings): a real hazard,
/// with which the file must appear while the guest still runs, and which the file must name.
#[test]
fn the_flight_recorder_writes_when_a_hazard_appears() {
    let folder = folder("record-hazard");
    let output = folder.join("vm.kdt");
    let guest = [
        "--mode=ring",
        "--vcpus=2",
        "--pages=8192",
        "--ring-entries=65536",
        "--workload=ring-signals",
        "--seconds=20",
    ];
    let Some(mut trace) = Trace::of(&guest, &output, &["--last=30s"]) else { return };
    let is_there = trace.wait_until(|| output.exists());
    // Until here nobody asked; at the end the memory is written in any case, when the guest is gone.
    let is_running = trace.guest.try_wait().unwrap().is_none();
    if is_there && is_running {
        // A file bears its name once it is whole.
        let report = check(&output);
        trace.guest.stdin.as_mut().unwrap().write_all(b"stop\n").unwrap();
        trace.end();
        assert_eq!(report["outcome"], "hazard");
        assert_eq!(report["hazards"][0]["rule"], "K06");
        assert_eq!(read(&output).ending, Ending::Finished);
        return;
    }
    trace.end();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|word| word.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    assert!(version < (6, 17), "Linux {} loses no page any more", release.trim());
    skipped("Linux before 6.17 does not lose pages when a reset of the dirty rings is interrupted");
}

#[test]
fn a_killed_writer_loses_at_most_its_last_frame() {
    let folder = folder("record-killed");
    let output = folder.join("vm.kdt");
    let Some(mut trace) = Trace::start("30", &output, &[]) else { return };
    let size = || std::fs::metadata(&output).map_or(0, |file| file.len());
    assert!(trace.wait_until(|| 200_000 < size()));
    trace.signal(Signal::SIGKILL);
    trace.end();
    let read = read(&output);
    let Ending::Cut { offset } = read.ending else { panic!("{:?}", read.ending) };
    // Frames are written whole: at most the one that was being written is torn.
    assert!(read.damages.is_empty() || read.damages == [DamageKind::Cut], "{:?}", read.damages);
    assert!(10_000 < read.records.len());
    let report = check(&output);
    assert_eq!(report["recording"]["cut_at"], offset);
    assert_eq!(report["events"], read.records.len());
    assert_eq!(report["verdicts"]["lost"], 0, "what is missing accuses nobody");
}

/// A small file system of its own; gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(name: &str) -> Option<Self> {
        let path = folder(name);
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "none"])
            .arg(&path)
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(path)),
            Ok(output) => {
                skipped(&format!("a small disk: {}", said(&output).trim()));
                None
            }
            Err(error) => {
                skipped(&format!("a small disk: mount: {error}"));
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_the_recording_with_one_sentence_and_a_whole_file() {
    let Some(disk) = SmallDisk::new("record-full") else { return };
    let output = disk.0.join("vm.kdt");
    let Some(trace) = Trace::start("30", &output, &[]) else { return };
    let ended = trace.end();
    let said = said(&ended);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("disk full: the recording ends at byte "), "{said}");
    let read = read(&output);
    let Ending::Cut { offset } = read.ending else { panic!("{:?}", read.ending) };
    assert_eq!(offset, std::fs::metadata(&output).unwrap().len());
    assert!(said.contains(&format!("byte {offset}, ")), "{said}");
    assert_eq!((read.damages.len(), read.gaps.len()), (0, 0));
    assert!(10_000 < read.records.len());
}
