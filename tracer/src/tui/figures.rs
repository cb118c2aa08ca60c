//! Numbers as text: counts, durations, times, shares, bars. Pure, and the same width for the same order of magnitude.

use crate::event::Nanos;
use crate::tui::palette::Glyphs;

/// A count in full, in groups of three: `1,203,331`.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if 0 < index && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count in at most five columns: `9999`, `12.3k`, `1.2M`.
#[must_use]
pub fn short(n: u64) -> String {
    const STEPS: [(u64, &str); 5] = [
        (1_000_000_000_000_000, "P"),
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    if n < 10_000 {
        return n.to_string();
    }
    for (size, unit) in STEPS {
        if size <= n {
            let tenths = n / (size / 10);
            return if tenths < 1000 {
                format!("{}.{}{unit}", tenths / 10, tenths % 10)
            } else {
                format!("{}{unit}", tenths / 10)
            };
        }
    }
    n.to_string()
}

/// A duration in at most eight columns: `850 ns`, `1.2 us`, `34 ms`, `1.2 s`, `2.5 min`.
#[must_use]
pub fn duration(ns: u64) -> String {
    const STEPS: [(u64, &str); 4] =
        [(60_000_000_000, "min"), (1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    for (size, unit) in STEPS {
        if size <= ns {
            let tenths = ns / (size / 10);
            return if tenths < 100 {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            } else {
                format!("{} {unit}", tenths / 10)
            };
        }
    }
    format!("{ns} ns")
}

/// Trace time since the first record, to the microsecond: `12.345678`; from 100 s on to the millisecond, `2:05.250`;
/// in the first millisecond, where traces written by hand live, to the nanosecond: `0.060 us`.
#[must_use]
pub fn clock(time: Nanos, begin: Nanos) -> String {
    let ns = time.since(begin);
    let seconds = ns / 1_000_000_000;
    if ns < 1_000_000 {
        format!("{}.{:03} us", ns / 1_000, ns % 1_000)
    } else if seconds < 100 {
        format!("{seconds}.{:06}", ns % 1_000_000_000 / 1_000)
    } else {
        format!("{}:{:02}.{:03}", seconds / 60, seconds % 60, ns % 1_000_000_000 / 1_000_000)
    }
}

/// A span of trace time to the tenth of a second: `2.5 s`, from 100 s on `2:05`, from an hour on `1:02:05`.
#[must_use]
pub fn moment(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    if seconds < 100 {
        format!("{seconds}.{} s", ns % 1_000_000_000 / 100_000_000)
    } else if 3600 <= seconds {
        format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    } else {
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }
}

/// Reads what [`clock`] writes, and whole seconds: time since the first record, in nanoseconds.
#[must_use]
pub fn parse_clock(text: &str) -> Option<u64> {
    if let Some(us) = text.trim().strip_suffix("us") {
        return parse_clock(us).map(|seconds| seconds / 1_000_000);
    }
    let (minutes, seconds) = match text.trim().trim_end_matches('s').split_once(':') {
        Some((minutes, seconds)) => (minutes.trim().parse::<u64>().ok()?, seconds),
        None => (0, text.trim().trim_end_matches('s')),
    };
    let (whole, fraction) = seconds.trim().split_once('.').unwrap_or((seconds.trim(), ""));
    if 9 < fraction.len() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = format!("{fraction:0<9}").parse().ok()?;
    minutes.checked_mul(60)?.checked_add(whole)?.checked_mul(1_000_000_000)?.checked_add(fraction)
}

/// Reads a gfn: hexadecimal with `0x`, decimal without.
#[must_use]
pub fn parse_gfn(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Upper bound of the percentile of a log2 histogram (`histogram[n]` counts `[2^n, 2^(n+1))`), in its unit.
#[must_use]
pub fn percentile(histogram: &[u64], percent: u64) -> Option<u64> {
    let total: u64 = histogram.iter().sum();
    let rank = total.checked_mul(percent)?.div_ceil(100).max(1);
    let mut below = 0;
    for (bucket, n) in histogram.iter().enumerate() {
        below += n;
        if rank <= below {
            return Some(1 << (bucket + 1).min(63));
        }
    }
    None
}

/// Bars for `values`, one column each, the highest full. Zero is a blank, so that silence looks like silence.
#[must_use]
pub fn bars(values: &[u64], glyphs: &Glyphs) -> String {
    let highest = values.iter().copied().max().unwrap_or(0);
    values
        .iter()
        .map(|&value| match value {
            0 => " ",
            value => {
                // Seven eighths and above reach the last bar; u128 because counters use all 64 bits.
                let bar = u128::from(value) * 8 / u128::from(highest);
                glyphs.bars[usize::try_from(bar).unwrap_or(7).min(7)]
            }
        })
        .collect()
}

/// The index of a shade for `value` where `highest` is the darkest: 0 is nothing, anything above is seen.
#[must_use]
pub fn shade(value: u64, highest: u64) -> usize {
    if value == 0 || highest == 0 {
        return 0;
    }
    // A logarithmic scale: dirty rates of one guest span five orders of magnitude.
    let scaled = f64::from(u32::MAX).min(value as f64).ln_1p() / (highest as f64).ln_1p();
    1 + ((scaled * 4.0) as usize).min(3)
}

/// `text` in at most `width` columns, the end cut.
#[must_use]
pub fn cut(text: &str, width: usize, glyphs: &Glyphs) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if 0 < width {
        cut.push_str(glyphs.cut);
    }
    cut
}

/// `text` in lines of at most `width` columns, broken at spaces.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let length = line.chars().count();
        if 0 < length && width < length + 1 + word.chars().count() {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_or_shortened() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_203_331), "1,203,331");
        assert_eq!(short(9_999), "9999");
        assert_eq!(short(10_000), "10.0k");
        assert_eq!(short(999_999), "999k");
        assert_eq!(short(u64::MAX), "18446P");
    }

    #[test]
    fn durations_change_unit() {
        let texts: Vec<_> = [0, 999, 1_000, 12_345, 99_999_999, 1_500_000_000, 150_000_000_000]
            .into_iter()
            .map(duration)
            .collect();
        assert_eq!(texts, ["0 ns", "999 ns", "1.0 us", "12 us", "99 ms", "1.5 s", "2.5 min"]);
    }

    #[test]
    fn clocks_round_trip() {
        for ns in [0, 60, 999_999, 12_345_678_000, 99_999_999_000, 125_250_000_000] {
            let text = clock(Nanos(ns + 7_000), Nanos(7_000));
            assert_eq!(parse_clock(&text), Some(ns), "{text}");
        }
        assert_eq!(parse_clock("3s"), Some(3_000_000_000));
        assert_eq!(parse_clock("x"), None);
        assert_eq!(parse_clock("1.-5"), None);
    }

    #[test]
    fn gfns_are_hexadecimal_with_a_prefix() {
        assert_eq!(parse_gfn("0x400"), Some(0x400));
        assert_eq!(parse_gfn(" 400 "), Some(400));
        assert_eq!(parse_gfn("4x"), None);
    }

    #[test]
    fn percentiles_are_upper_bounds() {
        let mut histogram = [0; 40];
        histogram[9] = 98;
        histogram[20] = 2;
        assert_eq!(percentile(&histogram, 50), Some(1 << 10));
        assert_eq!(percentile(&histogram, 99), Some(1 << 21));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn the_smallest_value_above_zero_is_visible() {
        assert_eq!(bars(&[0, 1, 1000, u64::MAX], &Glyphs::ASCII), " ..#");
        assert_eq!(bars(&[], &Glyphs::ASCII), "");
        assert_eq!(shade(0, 10), 0);
        assert_eq!(shade(1, u64::MAX), 1);
        assert_eq!(shade(10, 10), 4);
    }

    #[test]
    fn text_is_cut_and_wrapped() {
        assert_eq!(cut("abcdef", 4, &Glyphs::ASCII), "abc~");
        assert_eq!(cut("abcd", 4, &Glyphs::ASCII), "abcd");
        assert_eq!(wrap("the rule is broken", 8), ["the rule", "is", "broken"]);
    }
}
