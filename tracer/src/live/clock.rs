//! The probe's clock, read from user space.

use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in nanoseconds, which `bpf_ktime_get_ns` reads too.
#[must_use]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC always exists");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Uncertainty of the probe's clock between two CPUs, in nanoseconds, measured now and never stated as less than
/// [`FLOOR_NS`].
///
/// Two threads hand a reading back and forth; the receiver's next reading must not be older. What it is older by at
/// most is the uncertainty. The measurement runs for [`MEASURE_NS`] on whatever CPUs the scheduler chooses.
#[must_use]
pub fn uncertainty() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};

    let baton = AtomicU64::new(0);
    let end = now() + MEASURE_NS;
    let run = |parity: u64| {
        let mut worst = 0;
        let mut last = 0;
        while last < end {
            let received = baton.load(Ordering::Acquire);
            // The lowest bit says whose turn it is; a reading loses at most 1 ns by that.
            if received & 1 == parity {
                last = now();
                worst = worst.max(received.saturating_sub(last | 1));
                baton.store(last & !1 | (1 - parity), Ordering::Release);
            } else if end < now() {
                break;
            }
        }
        worst
    };
    let worst = std::thread::scope(|scope| {
        let other = scope.spawn(|| run(1));
        run(0).max(other.join().unwrap_or(u64::MAX))
    });
    worst.max(FLOOR_NS)
}

/// `bpf_ktime_get_ns` uses the kernel's NMI-safe reader, which may step back by some nanoseconds while the timekeeper
/// is updated (kernel/time/timekeeping.c, `__ktime_get_fast_ns`).
const FLOOR_NS: u64 = 100;

const MEASURE_NS: u64 = 3_000_000;
