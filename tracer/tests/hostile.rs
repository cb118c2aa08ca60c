//! Hostile input: recordings, litmus files, trace.dat and its text, mutated at random, read and judged; and records that
//! contradict one another. No panic, no endless loop, no memory beyond the declared bounds, and an error that says where.
//!
//! `KVMDIRTY_SEED=N cargo test --test hostile` replays a failure, which prints its N.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kvmdirty_common::kind::{gfnref, slotref};
use kvmdirty_trace::event::{Batch, Kind, Nanos, Plan, RawEvent, Setup};
use kvmdirty_trace::export::{Exporter, Filter, Origin, jsonl};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::frame::{FRAME_HEAD_BYTES, FRAME_MAGIC, FrameHead, FrameKind};
use kvmdirty_trace::trace::import::{Import, ImportError, ImportOptions};
use kvmdirty_trace::trace::litmus::Litmus;
use kvmdirty_trace::trace::{Reader, TraceError};

/// Cases per format; `KVMDIRTY_CASES=N` runs more, and hours belong to the fuzz targets of `tracer/fuzz`.
const CASES: u64 = 120;

/// Numbers that break arithmetic.
const HARD: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX >> 1, u64::MAX];

/// A small generator whose whole state is its seed.
struct Random(u64);

impl Random {
    fn draw(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % below.max(1) as u64) as usize
    }

    /// One to four changes of the bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.draw(4) {
            if bytes.is_empty() {
                bytes.push(self.draw(256) as u8);
            }
            let at = self.draw(bytes.len());
            let end = bytes.len().min(at + 1 + self.draw(64));
            match self.draw(6) {
                0 => bytes[at] ^= 1 << self.draw(8),
                1 => bytes[at] = self.draw(256) as u8,
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                4 => {
                    let width = 1 << self.draw(4);
                    let number = HARD[self.draw(HARD.len())].to_le_bytes();
                    for (byte, new) in bytes[at..].iter_mut().zip(&number[..width]) {
                        *byte = *new;
                    }
                }
                _ => bytes.truncate(at),
            }
        }
    }
}

/// Runs every case with a seed of its own, and prints it if it fails.
fn cases(name: &str, mut case: impl FnMut(&mut Random)) {
    struct OnPanic<'a>(&'a str, u64);
    impl Drop for OnPanic<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{}: KVMDIRTY_SEED={} replays this", self.0, self.1);
            }
        }
    }
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let all = 0..number("KVMDIRTY_CASES").unwrap_or(CASES);
    let seeds = number("KVMDIRTY_SEED").map_or(all, |seed| seed..seed + 1);
    for seed in seeds {
        let _told = OnPanic(name, seed);
        case(&mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed));
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Judges and exports what was read: what a file can make a reader say, the analysis must be able to hear.
fn judge(setup: &Setup, batches: &[Batch]) {
    let mut pipeline = Pipeline::new(setup.clone());
    let origin = Origin { host: String::new(), setup: setup.clone() };
    let mut lines = jsonl::Jsonl::new(std::io::sink());
    let mut exporter = Exporter::begin(&origin, Filter::default(), &mut lines).unwrap();
    for batch in batches {
        pipeline.push(batch);
        exporter.push(batch).unwrap();
    }
    pipeline.finish();
    exporter.finish().unwrap();
}

fn read_recording(bytes: &[u8]) -> Result<(), TraceError> {
    let mut reader = Reader::new(Cursor::new(bytes.to_vec()))?;
    let mut batches = Vec::new();
    let mut batch = Batch::default();
    while reader.next_batch(&mut batch)?.is_some() {
        batches.push(std::mem::take(&mut batch));
        assert!(batches.len() <= bytes.len(), "more batches than bytes: an endless loop");
    }
    let setup = reader.header().setup.clone();
    // Times after 2^63 ns are no clock's; the header's limits are the writer's own.
    judge(&Setup { limits: kvmdirty_trace::event::Limits::STANDARD, ..setup }, &batches);
    reader.index().map(drop)
}

#[test]
fn recordings_with_random_bytes_are_read_or_refused_with_an_offset() {
    let whole = std::fs::read(fixture("fixtures/v1.kdt")).unwrap();
    cases("recording", |random| {
        let mut bytes = whole.clone();
        random.mutate(&mut bytes);
        if let Err(error) = read_recording(&bytes) {
            let text = error.to_string();
            let is_told = ["byte", "not a kvmdirty-trace recording", "is newer", "limit of"];
            assert!(is_told.iter().any(|word| text.contains(word)), "{text}");
        }
    });
}

/// Checksums stop random bytes early. A hostile file has right checksums.
#[test]
fn recordings_with_right_checksums_around_wrong_contents_are_read() {
    let whole = std::fs::read(fixture("fixtures/v1.kdt")).unwrap();
    cases("sealed recording", |random| {
        let bytes = resealed(&whole, random);
        let _ = read_recording(&bytes);
    });
}

/// The recording with the contents of its frames mutated and every checksum made right again.
fn resealed(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let frames_at = whole.windows(4).position(|window| window == FRAME_MAGIC).unwrap();
    let mut json = whole[16..frames_at].to_vec();
    if random.draw(4) == 0 {
        random.mutate(&mut json);
    }
    let mut out = whole[..8].to_vec();
    out.extend_from_slice(&(json.len() as u32).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out);
    crc.update(&json);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&json);
    let mut at = frames_at;
    while whole[at..].starts_with(&FRAME_MAGIC) {
        let (mut head, table) =
            FrameHead::parse(whole[at..at + FRAME_HEAD_BYTES].first_chunk().unwrap()).unwrap();
        let payload_at = at + FRAME_HEAD_BYTES + table.bytes;
        at = payload_at + head.payload_bytes as usize;
        head.lanes = table.parse(&whole[payload_at - table.bytes..payload_at]).unwrap();
        let mut plain = zstd::bulk::decompress(&whole[payload_at..at], 16 << 20).unwrap();
        if head.kind == FrameKind::Records || random.draw(2) == 0 {
            random.mutate(&mut plain);
        }
        if random.draw(4) == 0 {
            head.records = HARD[random.draw(5)] as u32;
        }
        let payload = zstd::bulk::compress(&plain, 1).unwrap();
        (head.payload_bytes, head.plain_bytes) = (payload.len() as u32, plain.len() as u32);
        head.payload_crc = crc32fast::hash(&payload);
        head.put(&mut out);
        out.extend_from_slice(&payload);
    }
    out.extend_from_slice(&whole[at..]);
    out
}

#[test]
fn litmus_files_with_random_words_are_read_or_refused_with_their_line() {
    let folder = fixture("litmus");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "litmus"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    files.sort();
    cases("litmus", |random| {
        let text = mutated_text(&files[random.draw(files.len())], random);
        match Litmus::read(&text) {
            Ok(Litmus { setup, batch, .. }) => judge(&setup, &[batch]),
            Err(error) => assert!(error.to_string().starts_with("line "), "{error}"),
        }
    });
}

/// Words replaced by other words of the file or by hard numbers, lines doubled, dropped and swapped.
fn mutated_text(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<Vec<String>> =
        text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect();
    for _ in 0..=random.draw(5) {
        let (a, b) = (random.draw(lines.len()), random.draw(lines.len()));
        let (of_a, of_b) = (random.draw(lines[a].len()), random.draw(lines[b].len()));
        match random.draw(6) {
            0 => lines.swap(a, b),
            1 => lines.insert(a, lines[b].clone()),
            2 if 1 < lines.len() => drop(lines.remove(a)),
            3 => lines[a][of_a] = lines[b][of_b].clone(),
            4 => {
                let name = lines[a][of_a].split('=').next().unwrap_or_default().to_owned();
                let number = HARD[random.draw(HARD.len())];
                lines[a][of_a] = format!("{name}={number:#x}");
            }
            _ => {
                let mut bytes = lines[a][of_a].clone().into_bytes();
                random.mutate(&mut bytes);
                lines[a][of_a] = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
    }
    lines.iter().map(|line| line.join(" ") + "\n").collect()
}

/// Records that each make sense and together none, with fields that are small or extreme: any kind, in any order, of few
/// VMs, slots and threads, so that they meet.
struct Nonsense<'a> {
    random: &'a mut Random,
    at: u64,
    numbers: BTreeMap<(u8, u16), u32>,
}

impl Nonsense<'_> {
    fn number(&mut self, below: usize) -> u64 {
        match self.random.draw(24) {
            0 => HARD[self.random.draw(HARD.len())],
            1 => HARD[self.random.draw(HARD.len())].wrapping_sub(self.random.draw(600) as u64),
            _ => self.random.draw(below) as u64,
        }
    }

    fn word(&mut self) -> u64 {
        [0, 1, 0x80, 0xff, u64::MAX, 1 << 63][self.random.draw(6)]
    }

    fn spte(&mut self) -> u64 {
        [0, 0xc00, 0xc02, 0xc42, 0xc82, u64::MAX][self.random.draw(6)]
    }

    /// A slot with its flags, or with the ioctl before it.
    fn slot(&mut self) -> u64 {
        self.random.draw(3) as u64 | (self.random.draw(8) as u64 / 7) << 16
    }

    fn slotref(&mut self) -> u64 {
        let flags = if self.random.draw(5) == 0 { 0 } else { slotref::LOGGING };
        self.slot() | flags | (self.random.draw(2) as u64) << 63
    }

    fn page(&mut self) -> u64 {
        let gfn = self.number(200) & gfnref::GFN;
        let level = [1, 1, 1, 1, 2, 3, 0, 255][self.random.draw(8)];
        let known = [0, gfnref::HAS_AS][self.random.draw(2)];
        gfn | level << gfnref::LEVEL_SHIFT
            | (self.random.draw(2) as u64) << gfnref::AS_SHIFT
            | known
    }

    fn args(&mut self, kind: Kind) -> [u64; 4] {
        let op = 1 + self.random.draw(5) as u64;
        let opref = op | (self.random.draw(2) as u64) << 8 | self.slot() << 32;
        match kind {
            Kind::VmSeen => {
                let protect = self.random.draw(4) as u64;
                [1, protect | (self.random.draw(2) as u64) << 44, self.number(3), self.number(3)]
            }
            Kind::SlotState => [self.slotref(), self.number(64), self.number(300), self.number(9)],
            Kind::IoctlBegin => [opref, self.number(64), self.number(64), self.number(3)],
            Kind::IoctlEnd => [opref, self.number(2), self.number(3), self.number(4)],
            Kind::Flush => [self.number(3), self.number(3), self.number(64), self.number(99)],
            Kind::RingReset => {
                let indexes = self.number(8) & 0xffff_ffff | self.number(8) << 32;
                [self.number(2), indexes, self.number(2), self.number(9)]
            }
            Kind::Mark => [self.number(200), self.slotref(), self.word(), self.spte()],
            Kind::SpteChange => [self.page(), self.spte(), self.spte(), self.number(3)],
            Kind::FastFault => [self.page(), self.spte(), self.number(5), self.number(3)],
            Kind::SpteSet => [self.page(), self.spte(), self.word(), self.number(3)],
            Kind::HarvestWord => [self.number(200), self.word(), self.word(), self.slotref()],
            Kind::UserWord => [self.number(200), self.word(), self.word(), self.word()],
            Kind::RmapAdd => [self.number(200), self.number(3), self.slotref(), 0],
            Kind::HostWrite => {
                [self.number(200) << 12, self.number(9000), self.slotref(), self.number(7)]
            }
            Kind::RingPush => [self.number(200), self.slot(), self.number(9), self.number(2)],
            Kind::Split | Kind::Zap => [self.page(), self.spte(), self.number(2), 0],
            Kind::SlotProtect => [self.slotref(), self.number(3), 0, 0],
            _ => [self.number(200), self.number(3), self.number(5), self.number(2)],
        }
    }

    fn record(&mut self) -> RawEvent {
        // What many others refer to comes more often.
        const MORE: [Kind; 9] = [
            Kind::VmSeen,
            Kind::SlotState,
            Kind::IoctlBegin,
            Kind::IoctlEnd,
            Kind::HarvestWord,
            Kind::HarvestWord,
            Kind::UserWord,
            Kind::RingPush,
            Kind::Mark,
        ];
        let more = MORE.get(self.random.draw(2 * MORE.len()));
        let kind = more.copied().unwrap_or(Kind::ALL[self.random.draw(Kind::ALL.len())]);
        let class = [self.random.draw(3) as u8, 0, 0, 0][self.random.draw(4)];
        let cpu = self.random.draw(3) as u16;
        let number = self.numbers.entry((class, cpu)).or_default();
        *number = number.wrapping_add(1);
        let seq = *number;
        self.at = self.at.saturating_add(self.number(20).min(1 << 50));
        RawEvent {
            ts_ns: self.at,
            vm: [1, 1, 1, 2, 3, 0][self.random.draw(6)],
            tid: 1 + self.random.draw(4) as u32,
            seq,
            span_ns: [0, 0, 10, 40, u32::MAX][self.random.draw(5)],
            cpu,
            kind: kind as u8,
            flags: self.random.draw(32) as u8 | class << 6,
            args: self.args(kind),
        }
    }
}

#[test]
fn records_that_contradict_one_another_are_judged() {
    cases("nonsense", |random| {
        let plan = ["complete", "kprobe", "tracepoint"][random.draw(3)];
        let mut setup = Setup { plan: Plan::named(plan), ..Setup::complete(plan) };
        setup.is_final = random.draw(2) == 0;
        setup.masks.pml = random.draw(3) == 0;
        setup.epsilon_ns = [0, 5, u64::MAX][random.draw(3)];
        setup.limits.pages_max = [1 << 20, 1024][random.draw(2)];
        setup.limits.threads_max = [8, 2][random.draw(2)];
        // Witnesses are made minimal by judging them over and over.
        setup.limits.findings_max = [0, 0, 0, 2][random.draw(4)];
        let mut nonsense = Nonsense { random, at: 1_000, numbers: BTreeMap::new() };
        let records: Vec<RawEvent> = (0..400).map(|_| nonsense.record()).collect();
        let watermark = Nanos(records.iter().map(|record| record.ts_ns).max().unwrap_or_default());
        judge(&setup, &[Batch { records, gaps: Vec::new(), watermark }]);
    });
}

#[test]
fn imports_of_random_bytes_end_in_events_or_an_offset() {
    for name in ["ring-v6.dat", "ring-v7.dat", "kprobes-v7.dat", "ring.txt"] {
        let whole = std::fs::read(fixture("import").join(name)).unwrap();
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{name}"));
        cases(name, |random| {
            let mut bytes = whole.clone();
            random.mutate(&mut bytes);
            std::fs::write(&scratch, &bytes).unwrap();
            if let Err(error) = import(&scratch, bytes.len()) {
                let is_named = matches!(
                    error,
                    ImportError::Foreign
                        | ImportError::Empty
                        | ImportError::Version { .. }
                        | ImportError::Compression { .. }
                        | ImportError::Clock { .. }
                );
                assert!(is_named || error.to_string().contains("byte "), "{error}");
            }
        });
        std::fs::remove_file(&scratch).unwrap();
    }
}

fn import(path: &Path, bytes: usize) -> Result<(), ImportError> {
    let mut import = Import::open(path, &ImportOptions::default())?;
    let mut batches = Vec::new();
    let mut batch = Batch::default();
    while import.next_batch(&mut batch)?.is_some() {
        batches.push(std::mem::take(&mut batch));
        assert!(batches.len() <= bytes, "more batches than bytes: an endless loop");
    }
    judge(import.setup(), &batches);
    Ok(())
}

/// Lengths that claim gigabytes, read in a process that may take 400 MB of address space.
#[test]
fn lengths_that_lie_cost_no_memory() {
    let whole = std::fs::read(fixture("fixtures/v1.kdt")).unwrap();
    let frames_at = whole.windows(4).position(|window| window == FRAME_MAGIC).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-lengths");
    std::fs::create_dir_all(&folder).unwrap();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    // The header's JSON, and every length of a frame's header, with its checksum made right.
    let mut header = whole.clone();
    header[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    files.push((String::from("header"), header));
    for (field, value) in
        [(8, 15 << 20), (12, u32::MAX), (12, 15 << 20), (16, 65_536), (20, 16_384), (72, 4_096)]
    {
        let mut frame = whole.clone();
        frame[frames_at + field..frames_at + field + 4].copy_from_slice(&u32::to_le_bytes(value));
        let crc = crc32fast::hash(&frame[frames_at..frames_at + 84]);
        frame[frames_at + 84..frames_at + 88].copy_from_slice(&crc.to_le_bytes());
        files.push((format!("frame-{field}-{value}"), frame));
    }
    // A few hundred bytes that become 15 MB where 16 bytes are announced.
    let bomb = zstd::bulk::compress(&vec![0_u8; 15 << 20], 19).unwrap();
    let mut frame = whole[..frames_at].to_vec();
    let head = FrameHead {
        kind: FrameKind::Records,
        payload_bytes: bomb.len() as u32,
        plain_bytes: 16,
        records: 65_536,
        gaps: 0,
        number: 0,
        records_before: 0,
        first_ts: Default::default(),
        last_ts: Default::default(),
        watermark: Default::default(),
        ts_before: Default::default(),
        payload_crc: crc32fast::hash(&bomb),
        lanes: Vec::new(),
    };
    head.put(&mut frame);
    frame.extend_from_slice(&bomb);
    files.push((String::from("bomb"), frame));
    for (name, bytes) in files {
        let path = folder.join(&name).with_extension("kdt");
        std::fs::write(&path, bytes).unwrap();
        let Some(output) = limited(&["check", "--json"], &path) else { return };
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(2 | 3)), "{name}: {} {errors}", output.status);
        assert!(!errors.contains("memory allocation"), "{name}: {errors}");
        if output.status.code() == Some(3) {
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_ne!(report["recording"]["damages_total"], 0, "{name}: nothing is told");
        }
    }
}

/// Runs the tool on a file where it may take 400 MB of address space; none where that limit cannot be set.
fn limited(arguments: &[&str], file: &Path) -> Option<Output> {
    let tool = env!("CARGO_BIN_EXE_kvmdirty-trace");
    let mut command = Command::new("prlimit");
    let output = command.args(["--as=400000000", tool]).args(arguments).arg(file).output();
    if output.is_err() {
        eprintln!("SKIPPED lengths that lie: prlimit (package util-linux) is missing");
    }
    output.ok()
}

/// The same for imports: every place of a trace.dat's head where a length can stand claims as much as it can hold.
#[test]
fn lengths_that_lie_cost_an_import_no_memory() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-imports");
    std::fs::create_dir_all(&folder).unwrap();
    let mut files: Vec<(String, Vec<u8>)> = vec![(String::from("bomb"), bomb())];
    for (name, marks) in [
        ("ring-v6.dat", &["header_page", "header_event", "options  ", "flyrecord"][..]),
        ("ring-v7.dat", &["zstd"]),
        ("kprobes-v7.dat", &["zstd"]),
    ] {
        let whole = std::fs::read(fixture("import").join(name)).unwrap();
        // Behind every mark, and the last bytes: the options of version 7.
        let find = |mark: &&str| whole.windows(mark.len()).position(|at| at == mark.as_bytes());
        let near = marks.iter().filter_map(find).map(|at| at..at + 64);
        let end = whole.len() - 192..whole.len() - 8;
        for at in near.chain([end]).flatten().step_by(4) {
            let mut bytes = whole.clone();
            bytes[at..at + 4].fill(0xff);
            files.push((format!("{name}-{at}"), bytes));
        }
    }
    let line = format!("a-1 [000] 1.0: kvm_entry: vcpu {}", "1".repeat(70_000));
    files.push((String::from("line.txt"), line.into_bytes()));
    let output = folder.join("out.kdt");
    for (name, bytes) in files {
        let path = folder.join("file");
        std::fs::write(&path, bytes).unwrap();
        let _ = std::fs::remove_file(&output);
        let to = output.to_str().unwrap();
        let Some(imported) = limited(&["import", "--output", to], &path) else { return };
        let errors = String::from_utf8_lossy(&imported.stderr);
        assert!(
            matches!(imported.status.code(), Some(0 | 2)),
            "{name}: {} {errors}",
            imported.status
        );
        assert!(!errors.contains("memory allocation"), "{name}: {errors}");
    }
}

/// A trace.dat of a few kilobytes whose kernel symbols become 64 MB, each byte of which is three as text.
fn bomb() -> Vec<u8> {
    const COMPRESSED: u16 = 1;
    const KALLSYMS: u16 = 19;
    let section = |flags: u16, data: &[u8]| {
        let head = [&[0, 0][..], &flags.to_le_bytes(), &[0; 4], &(data.len() as u64).to_le_bytes()];
        [head.concat(), data.to_vec()].concat()
    };
    let mut symbols = vec![0xff_u8; 64 << 20];
    let n = symbols.len() as u32 - 4;
    symbols[..4].copy_from_slice(&n.to_le_bytes());
    let packed = zstd::bulk::compress(&symbols, 1).unwrap();
    let sizes = [packed.len() as u32, symbols.len() as u32].map(u32::to_le_bytes).concat();
    let mut file = b"\x17\x08\x44tracing7\0\0\x08\0\x10\0\0zstd\x001.5\0".to_vec();
    let symbols_at = file.len() as u64 + 8;
    let symbols = section(COMPRESSED, &[sizes, packed].concat());
    file.extend((symbols_at + symbols.len() as u64).to_le_bytes());
    file.extend(symbols);
    let option = |id: u16, value: u64| {
        [&id.to_le_bytes()[..], &8_u32.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    file.extend(section(0, &[option(KALLSYMS, symbols_at), option(0, 0)].concat()));
    file
}
