//! Seeds: how many, which one to replay, and what a failure prints.

/// Runs `body` for each seed; a failure names its seed and how to replay it.
///
/// `KVMDIRTY_SEED=n` replays one seed, `KVMDIRTY_SEEDS=n` runs `n` times as many.
pub fn each(test: &str, count: u64, body: impl FnMut(u64) -> Result<(), String>) {
    if let Err(failure) = try_each(test, count, body) {
        panic!("{failure}");
    }
}

/// Like [`each`], but the first failure is the caller's.
pub fn try_each(
    test: &str,
    count: u64,
    mut body: impl FnMut(u64) -> Result<(), String>,
) -> Result<(), String> {
    let seeds = match replayed() {
        Some(seed) => seed..seed + 1,
        None => 1..1 + count * factor(),
    };
    for seed in seeds {
        body(seed).map_err(|what| {
            format!(
                "{what}\nseed={seed:#x} ; replay: KVMDIRTY_SEED={seed:#x} cargo test \
                 -p kvmdirty-trace --test sim -- --exact {test} --nocapture"
            )
        })?;
    }
    Ok(())
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

fn factor() -> u64 {
    std::env::var("KVMDIRTY_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
