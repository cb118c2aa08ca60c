//! Seeds: how many, which one to replay, and what a failure prints.

/// Failures shown one by one.
const SHOWN_MAX: usize = 6;

/// Runs `body` for each seed; a failure names its seed and how to replay it.
///
/// `KVMDIRTY_SEED=n` replays one seed, `KVMDIRTY_SEEDS=n` runs `n` times as many.
pub fn each(test: &str, count: u64, body: impl FnMut(u64) -> Result<(), String>) {
    let mut failures = Failures::new(test);
    failures.run(count, body);
    failures.settle();
}

/// The failures of a test over several groups of seeds.
pub struct Failures<'a> {
    test: &'a str,
    shown: Vec<String>,
    failed: u64,
    runs: u64,
}

impl<'a> Failures<'a> {
    pub fn new(test: &'a str) -> Self {
        Self { test, shown: Vec::new(), failed: 0, runs: 0 }
    }

    /// Runs `body` for each seed.
    pub fn run(&mut self, count: u64, mut body: impl FnMut(u64) -> Result<(), String>) {
        let seeds = match replayed() {
            Some(seed) => seed..seed + 1,
            None => 1..1 + count * factor(),
        };
        for seed in seeds {
            self.runs += 1;
            let Err(what) = body(seed) else { continue };
            self.failed += 1;
            if self.shown.len() < SHOWN_MAX {
                self.shown.push(format!(
                    "{what}\nseed={seed:#x} ; replay: KVMDIRTY_SEED={seed:#x} cargo test \
                     -p kvmdirty-trace --test sim -- --exact {} --nocapture",
                    self.test
                ));
            }
        }
    }

    /// Fails if anything did.
    pub fn settle(self) {
        let Self { shown, failed, runs, .. } = self;
        assert!(failed == 0, "{failed} of {runs} runs failed\n\n{}", shown.join("\n\n"));
    }
}

/// All default seeds run, so that statements about their union hold.
pub fn are_all() -> bool {
    replayed().is_none()
}

/// A claim about one run.
pub fn claim(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn replayed() -> Option<u64> {
    let text = std::env::var("KVMDIRTY_SEED").ok()?;
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(number.expect("KVMDIRTY_SEED is a number"))
}

pub fn factor() -> u64 {
    std::env::var("KVMDIRTY_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
