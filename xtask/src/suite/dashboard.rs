//! Steps that use the dashboard as a person does: in a terminal, by its keys, reading the screen.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::{report::Tally, terminal::Terminal};
use crate::{process, workspace};

/// A hazard a person can write down: the second interleaving of the 2013 discussion.
const HAZARD: &str = "\
# 2013, second diagram: the mark is taken by a harvest before the SPTE becomes writable
setup      epsilon=0
harvester  slot-state    base=0x0 npages=64 slot=0:0+log+map
vcpu0      begin fault
vcpu0      mark          gfn=0x7 word=0x80 spte=ro in_fast
harvester  ioctl-begin   op=get-dirty-log
harvester  harvest-word  gfns=0x7
harvester  flush         before=1 after=1
harvester  ioctl-end     op=get-dirty-log
vcpu0      fast-fault    @fault.. gfn=0x7 old=ro ret=4 fixed
expect     lost K02 gfn=0x7
";

/// A recording: every screen, every way through time, every size.
pub fn of_a_recording() -> Result<Tally> {
    let stage = Stage::set("recording")?;
    let recording = workspace::root().join("tracer/assets/demo.kdt");
    let recording = recording.to_string_lossy();
    let terminal = stage.start(&["replay", &recording], &[])?;
    let mut checks = Checks::default();
    checks.add(terminal.wait_for(&["paused", "harvests 50"]), "it is read")?;
    let overview = terminal.screen()?;
    for text in ["safe", "activity per second", "windows", "harvests 50", "hazards and exposures"] {
        checks
            .that(overview.contains(text), &format!("the overview shows {text:?}\n{overview}"))?;
    }
    screens(&terminal, &mut checks)?;
    time_travel(&terminal, &mut checks)?;
    sizes(&terminal, &mut checks)?;
    terminal.press(&["q"])?;
    checks.add(terminal.wait_for_end(0), "q leaves the terminal as it was")?;
    Ok(checks.tally())
}

/// One key per screen, and what must be on it.
fn screens(terminal: &Terminal, checks: &mut Checks) -> Result<()> {
    for (key, texts) in [
        ("2", ["guest memory", "slot 0:1"]),
        ("3", ["kprobe plan on 6.12", "harvest-word"]),
        ("4", ["waits for mmu_lock", "faults beside a harvest"]),
        ("5", ["struct kvm", "bitmap"]),
        ("?", ["keys, everywhere", "more lines"]),
        ("1", ["activity per second", "harvests 50"]),
        ("w", ["fast-fault:", "p50 <"]),
        ("Escape", ["activity per second", "harvests 50"]),
    ] {
        terminal.press(&[key])?;
        checks.add(terminal.wait_for(&texts), &format!("key {key}"))?;
    }
    // From the map to a range, to a page, and back.
    terminal.press(&["2"])?;
    terminal.wait_for(&["guest memory"])?;
    terminal.press(&["G", "Enter"])?;
    checks.add(terminal.wait_for(&["one per cell", "protected"]), "Enter zooms into the map")?;
    terminal.press(&["Enter"])?;
    // The list follows its end while it is read, and stands still once the end of the VM is there.
    terminal.wait_for(&["page 0x", "zap 0x0 level 3"])?;
    terminal.press(&["PPage"])?;
    checks.add(terminal.wait_for(&["page 0x", "GET_DIRTY_LOG"]), "Enter lists a page's events")?;
    terminal.press(&["Escape", "Escape", "1", "/"])?;
    terminal.wait_for(&["filter:"])?;
    terminal.press(&["n", "o", "-", "s", "u", "c", "h", "Enter"])?;
    checks.add(terminal.wait_for(&["filter \"no-such\""]), "a filter stays on screen")?;
    terminal.press(&["Escape"])?;
    Ok(())
}

fn time_travel(terminal: &Terminal, checks: &mut Checks) -> Result<()> {
    let end = "2.268023 of 2.268023";
    checks.add(terminal.wait_for(&[end]), "a recording opens at its end")?;
    terminal.press(&[",", ","])?;
    let is_before = |screen: &str| screen.contains("2.240355 of") && screen.contains("harvests 49");
    checks.add(terminal.wait("the harvest before", is_before), "two steps back by harvests")?;
    terminal.press(&["."])?;
    checks.add(terminal.wait_for(&["2.241084 of", "harvests 50"]), "and one on")?;
    terminal.press(&["t", "5", "0", "%", "Enter"])?;
    checks.add(terminal.wait_for(&["1.134011 of"]), "a jump to half of it")?;
    terminal.press(&["n"])?;
    checks.add(terminal.wait_for(&["no hazard after this moment"]), "no hazard to go to")?;
    terminal.press(&["+", "+", "Space"])?;
    checks.add(terminal.wait_for(&["playing 4x"]), "it plays")?;
    checks.add(terminal.wait_for(&[end, "paused"]), "and stops at its end")?;
    terminal.press(&["0"])?;
    checks.add(terminal.wait_for(&["0.000 us of"]), "to the begin")?;
    terminal.press(&["$"])?;
    checks.add(terminal.wait_for(&[end]), "to the end")
}

fn sizes(terminal: &Terminal, checks: &mut Checks) -> Result<()> {
    terminal.resize(160, 50)?;
    checks.add(terminal.wait_for(&["newest harvests", "x2 per bar"]), "a wide terminal")?;
    terminal.resize(40, 10)?;
    checks.add(terminal.wait_for(&["too small", "lost 0"]), "a small one says so")?;
    terminal.resize(80, 24)?;
    checks.add(terminal.wait_for(&["activity per second"]), "and recovers")
}

/// A hazard: its witness, its rule, its export; and all ways to end the dashboard.
pub fn of_a_hazard() -> Result<Tally> {
    let stage = Stage::set("hazard")?;
    fs::write(stage.folder.join("two.litmus"), HAZARD).context("write two.litmus")?;
    let start = |env: &[(&str, &str)]| -> Result<Terminal> {
        let terminal = stage.start(&["replay", "two.litmus"], env)?;
        terminal.wait_for(&["lost 1", "K02", "paused"])?;
        Ok(terminal)
    };
    let mut checks = Checks::default();
    let terminal = start(&[])?;
    terminal.press(&["Enter"])?;
    let columns = ["witness", "harvester", "vcpu0", "takes the bit", "more lines"];
    checks.add(terminal.wait_for(&columns), "the witness has a column per thread")?;
    terminal.press(&["G"])?;
    let orders = ["order known", "either may come first", "the page is lost"];
    checks.add(terminal.wait_for(&orders), "its end says what is ordered, and what is not")?;
    terminal.press(&["x"])?;
    checks.add(terminal.wait_for(&["mark-before-writable", "Kernel:"]), "x explains the rule")?;
    terminal.press(&["Escape", "e"])?;
    checks.add(terminal.wait_for(&["wrote k02-0x7"]), "e exports")?;
    terminal.press(&["E"])?;
    checks.add(terminal.wait_for(&["wrote k02-0x7", ".json"]), "E exports JSON")?;
    stage.check_export(&mut checks)?;
    suspension(&terminal, &mut checks)?;
    terminal.press(&["q"])?;
    checks.add(terminal.wait_for_end(1), "q ends with the status of a hazard")?;
    drop(terminal);

    for signal in ["TERM", "HUP", "INT"] {
        let terminal = start(&[])?;
        terminal.signal(signal)?;
        checks.add(terminal.wait_for_end(1), &format!("SIG{signal} leaves the terminal right"))?;
    }
    for (place, status) in [("screen", 101), ("thread", 2)] {
        let terminal = start(&[("KVMDIRTY_TEST_PANIC", place)])?;
        terminal.press(&["e"])?;
        let said = terminal.wait_for_end(status);
        let said = checks.take(said, &format!("a panic ({place}) leaves the terminal right"))?;
        checks.that(said.contains("asked to panic"), &format!("its message is lost:\n{said}"))?;
    }
    let terminal = start(&[("NO_COLOR", "1"), ("KVMDIRTY_THEME", "ascii")])?;
    checks.that(terminal.screen()?.is_ascii(), "the ASCII theme draws other characters")?;
    Ok(checks.tally())
}

/// Ctrl-Z gives the terminal back, SIGCONT takes it again.
fn suspension(terminal: &Terminal, checks: &mut Checks) -> Result<()> {
    terminal.press(&["C-z"])?;
    let stopped = terminal.wait("the ordinary screen", |screen| {
        screen.contains("before the dashboard") && !screen.contains("dropped 0")
    });
    checks.add(stopped, "Ctrl-Z gives the terminal back")?;
    terminal.signal("CONT")?;
    checks.add(terminal.wait_for(&["dropped 0", "x rule"]), "SIGCONT draws anew")
}

/// A live guest: figures move, the screen can be frozen, a page be followed.
pub fn of_a_live_guest() -> Result<Tally> {
    let stage = Stage::set("live")?;
    let terminal = stage.start(&["demo", "--seconds", "6", "--output", "live.kdt"], &[])?;
    let mut checks = Checks::default();
    checks.add(terminal.wait_for(&["live ", "2 logging for"]), "the guest is watched")?;
    let has_harvests = |screen: &str| {
        screen.contains("GET: words")
            && !screen.contains("harvests 0")
            && screen.contains("iteration")
    };
    checks.add(terminal.wait("harvests", has_harvests), "harvests are seen")?;
    terminal.press(&["Space"])?;
    checks.add(terminal.wait_for(&["FROZEN"]), "the screen freezes")?;
    let before = terminal.screen()?;
    let line = |screen: &str| screen.lines().nth(3).unwrap_or_default().to_owned();
    terminal.wait("time pass", |screen| !screen.contains("FROZEN 0 ns") && screen != before)?;
    checks.that(line(&terminal.screen()?) == line(&before), "verdicts move on a frozen screen")?;
    terminal.press(&["Space", ":", "0", "x", "4", "0", "0", "Enter"])?;
    checks
        .add(terminal.wait_for(&["page 0x400", "GET_DIRTY_LOG 0:1"]), "a page is followed live")?;
    terminal.press(&["Escape", "3"])?;
    checks.add(terminal.wait_for(&["clock uncertainty", "attached"]), "coverage of this host")?;
    terminal.press(&["1"])?;
    checks.add(terminal.wait_for(&["the VMM has exited", "ended"]), "its end is told")?;
    terminal.press(&["q"])?;
    let said = checks.take(terminal.wait_for_end(0), "the demo ends clean")?;
    checks.that(said.contains("oracle     0 of"), "the oracle's report is on the screen")?;
    drop(terminal);

    let terminal = stage.start(&["replay", "live.kdt"], &[])?;
    checks.add(terminal.wait_for(&["paused", "playing live.kdt"]), "its recording replays")?;
    terminal.press(&["0", "."])?;
    checks.add(terminal.wait_for(&["harvests 1:"]), "from its first harvest on")?;
    Ok(checks.tally())
}

/// A folder of its own and the tool as the tests build it: with the trigger of the panic.
struct Stage {
    folder: PathBuf,
    tool: PathBuf,
}

impl Stage {
    fn set(name: &str) -> Result<Self> {
        let target = workspace::root().join("target");
        let mut cargo = process::cargo();
        cargo.args(["build", "--quiet", "--package", "kvmdirty-trace", "--target-dir"]);
        process::run(cargo.arg(&target))?;
        let folder = workspace::make_empty(target.join("dashboard").join(name))?;
        Ok(Self { folder, tool: target.join("debug/kvmdirty-trace") })
    }

    fn start(&self, words: &[&str], env: &[(&str, &str)]) -> Result<Terminal> {
        let tool = self.tool.to_string_lossy();
        Terminal::run(&self.folder, &[&[tool.as_ref()], words].concat(), env)
    }

    /// The exported litmus file gets the verdict it expects, and the JSON names the rule.
    fn check_export(&self, checks: &mut Checks) -> Result<()> {
        let find = |end: &str| -> Result<PathBuf> {
            let entries = fs::read_dir(&self.folder).context("list exports")?;
            let found = entries.flatten().map(|entry| entry.path()).find(|path| {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                name.is_some_and(|name| name.starts_with("k02") && name.ends_with(end))
            });
            found.with_context(|| format!("no file k02*{end} was written"))
        };
        let litmus = find(".litmus")?;
        let verdict = self.check(&litmus)?;
        checks.that(verdict.contains("K02"), &format!("the export is judged\n{verdict}"))?;
        let json = fs::read_to_string(find(".json")?).context("read the JSON export")?;
        checks.that(json.contains("K02"), &format!("the JSON names the rule\n{json}"))
    }

    fn check(&self, file: &Path) -> Result<String> {
        let output = std::process::Command::new(&self.tool).arg("check").arg(file).output();
        let output = output.context("run check")?;
        ensure!(output.status.code() == Some(1), "check ends with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Counts what held; the first thing that does not ends the step.
#[derive(Default)]
struct Checks {
    passed: u32,
}

impl Checks {
    fn take(&mut self, result: Result<String>, what: &str) -> Result<String> {
        let screen = result.with_context(|| what.to_owned())?;
        self.passed += 1;
        Ok(screen)
    }

    fn add(&mut self, result: Result<String>, what: &str) -> Result<()> {
        self.take(result, what).map(drop)
    }

    fn that(&mut self, holds: bool, what: &str) -> Result<()> {
        ensure!(holds, "{what}");
        self.passed += 1;
        Ok(())
    }

    fn tally(&self) -> Tally {
        Tally { passed: self.passed, ..Tally::default() }
    }
}
