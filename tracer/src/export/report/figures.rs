//! Numbers of a report.

use crate::summary::{HISTOGRAM_BUCKETS, WindowStats};

/// Upper bound of the histogram bucket that holds the `percent`th percentile; `None` without windows.
#[must_use]
pub fn percentile(stats: &WindowStats, percent: u64) -> Option<u64> {
    let total: u64 = stats.histogram.iter().sum();
    let wanted = (total * percent).div_ceil(100);
    let mut seen = 0;
    for (bucket, count) in stats.histogram.iter().enumerate().take(HISTOGRAM_BUCKETS) {
        seen += count;
        if 0 < wanted && wanted <= seen {
            return Some((2_u64 << bucket) - 1);
        }
    }
    None
}

/// The smallest of sorted values that `percent` in a hundred do not exceed.
#[must_use]
pub fn nth_percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).map(|index| sorted[index])
}

/// Nanoseconds as microseconds, `-` if there are none.
#[must_use]
pub fn micro(ns: Option<u64>) -> String {
    ns.map_or(String::from("-"), |ns| format!("{:.1}", ns as f64 / 1e3))
}

/// Seconds since 1970 as `2026-01-31 12:00:00 UTC`.
#[must_use]
pub fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years: March-based years end with the leap day [1].
    //
    // [1]: https://howardhinnant.github.io/date_algorithms.html#civil_from_days
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_upper_bounds_of_buckets() {
        let mut stats =
            WindowStats { histogram: vec![0; HISTOGRAM_BUCKETS], ..WindowStats::default() };
        assert_eq!(percentile(&stats, 50), None);
        stats.histogram[10] = 99;
        stats.histogram[20] = 1;
        assert_eq!(percentile(&stats, 50), Some(2047));
        assert_eq!(percentile(&stats, 99), Some(2047));
        assert_eq!(percentile(&stats, 100), Some((2 << 20) - 1));
    }

    #[test]
    fn dates_are_those_of_date_1() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_798_761_599), "2026-12-31 23:59:59 UTC");
    }
}
