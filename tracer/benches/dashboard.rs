//! How the dashboard behaves under load, measured from outside: the tool runs on a pseudo-terminal of its own.
//!
//! `cargo bench --bench dashboard [EVENTS]`: writes a recording of that many synthetic events (10 million by default),
//! opens it, and prints how long that took, how long keys took to be answered while the analysis was at full speed and
//! while nothing happened, what share of a CPU an idle dashboard takes, and what a frame costs with every list full.
//! Nothing is asserted: a loaded machine is no bug of ours.

mod load;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kvmdirty_trace::event::{Gfn, Nanos, Setup, SlotId, VmId};
use kvmdirty_trace::feed::{Facts, Snapshot};
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::trace::{Header, Origin, Writer};
use kvmdirty_trace::tui::Theme;
use kvmdirty_trace::tui::model::Model;
use kvmdirty_trace::tui::msg::Msg;
use kvmdirty_trace::tui::update::update;
use kvmdirty_trace::tui::view::view;
use kvmdirty_trace::verdict::{Finding, RuleId, Verdict, Witness};
use nix::pty::{Winsize, openpty};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn main() {
    let words = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    let events = words.filter_map(|word| word.parse().ok()).next().unwrap_or(10_000_000);
    let path = std::env::temp_dir().join(format!("kvmdirty-bench-{}.kdt", std::process::id()));
    let written = record(&path, events);
    let bytes = std::fs::metadata(&path).expect("just written").len();
    println!("recording       {written} events, {} MiB", bytes >> 20);

    let begin = Instant::now();
    let mut screen = Screen::open(&path);
    screen.wait_for("1 overview");
    println!("first frame     {:8.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    let mut busy = Vec::new();
    while !screen.has_seen("paused") {
        busy.push(screen.answer_time());
        std::thread::sleep(Duration::from_millis(30));
    }
    let open = begin.elapsed().as_secs_f64();
    println!("open            {open:8.2} s, {:.2} M events/s", written as f64 / open / 1e6);
    print_times("keys, loading", &mut busy);
    let mut idle: Vec<_> = (0..50).map(|_| screen.answer_time()).collect();
    print_times("keys, idle", &mut idle);
    let share = screen.cpu_share(Duration::from_secs(5));
    println!("cpu, idle       {:8.2} % of one CPU", share * 100.0);
    drop(screen);
    let _ = std::fs::remove_file(path);
    measure_frames();
}

/// What `update` and `view` take with as many findings as are kept.
fn measure_frames() {
    let finding = |n: u64| {
        Arc::new(Finding {
            verdict: Verdict::ALL[n as usize % 3],
            rule: RuleId::ALL[n as usize % RuleId::ALL.len()],
            vm: VmId(1),
            slot: SlotId::default(),
            gfn: Some(Gfn(n)),
            first: Nanos(n * 1_000),
            last: Nanos(n * 1_000),
            count: 1 + n % 7,
            sentence: format!("page {n} was harvested and stayed writable"),
            known: None,
            witness: Witness::default(),
        })
    };
    let summary = Summary {
        findings: (0..10_000).map(finding).collect(),
        findings_total: 10_000,
        ..Summary::default()
    };
    let snapshot = Arc::new(Snapshot { summary: Arc::new(summary), ..Snapshot::default() });
    let setup = Arc::new(Setup::complete("bench"));
    let mut model = Model::new(setup, Facts::default(), Arc::clone(&snapshot), Theme::Dark);
    let mut terminal = Terminal::new(TestBackend::new(160, 50)).expect("never fails");
    let mut times: Vec<_> = (0..100)
        .map(|_| {
            let begin = Instant::now();
            update(&mut model, Msg::Snapshot(Arc::clone(&snapshot)));
            terminal.draw(|frame| view(frame, &model)).expect("never fails");
            begin.elapsed()
        })
        .collect();
    print_times("frame, all full", &mut times);
}

/// Writes a recording of at least `events` events and returns how many it has.
fn record(path: &Path, events: usize) -> usize {
    let header = Header::new(Origin::Simulator, Setup::complete("bench"));
    let mut writer = Writer::create(path, &header).expect("a file in the temporary folder");
    let mut random = load::Load::new(7, 4, 1 << 16);
    let mut written = 0;
    while written < events {
        let batch = random.batch();
        written += batch.records.len();
        writer.write(&batch).expect("room for the recording");
    }
    writer.finish().expect("room for the recording");
    written
}

fn print_times(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let ms = |percent: usize| {
        let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    println!(
        "{what:<15} median {:.1} ms, p99 {:.1} ms, longest {:.1} ms of {}",
        ms(50),
        ms(99),
        ms(100),
        times.len()
    );
}

/// The tool on a pseudo-terminal.
struct Screen {
    child: Child,
    keys: File,
    output: Receiver<Vec<u8>>,
    /// Everything drawn since the last key.
    drawn: Vec<u8>,
    is_memory: bool,
    has_paused: bool,
}

impl Screen {
    fn open(path: &Path) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a pseudo-terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let child = Command::new(env!("CARGO_BIN_EXE_kvmdirty-trace"))
            .arg("replay")
            .arg(path)
            .env("KVMDIRTY_THEME", "dark")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("the tool starts");
        drop(pty.slave);
        let keys = File::from(pty.master);
        let mut from = keys.try_clone().expect("a descriptor");
        let (tell, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 1 << 16];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                if tell.send(bytes[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keys, output, drawn: Vec::new(), is_memory: false, has_paused: false }
    }

    /// Waits until `text` has been drawn since the last key.
    fn wait_for(&mut self, text: &str) {
        while !contains(&self.drawn, text) {
            let bytes = self.output.recv_timeout(Duration::from_secs(120)).expect("the tool draws");
            self.drawn.extend(bytes);
        }
        self.has_paused |= contains(&self.drawn, "paused");
    }

    fn has_seen(&mut self, text: &str) -> bool {
        self.drawn.extend(self.output.try_iter().flatten());
        self.has_paused |= contains(&self.drawn, text);
        self.has_paused
    }

    /// Time from a key to its answer. The tabs of the title are drawn anew only when another one is chosen, whatever
    /// data arrives meanwhile.
    fn answer_time(&mut self) -> Duration {
        self.has_seen("paused");
        self.drawn.clear();
        let key = if self.is_memory { b"1" } else { b"2" };
        self.is_memory = !self.is_memory;
        let begin = Instant::now();
        self.keys.write_all(key).expect("the tool reads keys");
        self.wait_for("2 memory");
        begin.elapsed()
    }

    /// Share of one CPU the tool takes while nothing is asked of it.
    fn cpu_share(&self, span: Duration) -> f64 {
        let (begin, before) = (Instant::now(), self.cpu_ticks());
        std::thread::sleep(span);
        let ticks = self.cpu_ticks() - before;
        // USER_HZ is 100 on x86.
        ticks as f64 / 100.0 / begin.elapsed().as_secs_f64()
    }

    fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("the tool runs");
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        // utime and stime, fields 14 and 15 of proc(5).
        fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.keys.write_all(b"q");
        let _ = self.child.wait();
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
