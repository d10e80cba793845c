//! Sizes, times and shares as people read them. Knows nothing of what they measure.

use std::time::Duration;

/// `12.3 MB`.
pub fn size(bytes: u64) -> String {
    let (unit, divisor) = match bytes {
        0..1_000 => return format!("{bytes} B"),
        1_000..1_000_000 => ("kB", 1e3),
        1_000_000..1_000_000_000 => ("MB", 1e6),
        1_000_000_000..1_000_000_000_000 => ("GB", 1e9),
        _ => ("TB", 1e12),
    };
    format!("{:.1} {unit}", bytes as f64 / divisor)
}

/// `3 h 12 min`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// `97 %`; never 100 where something is missing.
pub fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_string(),
        _ => format!(
            "{} %",
            (u128::from(part) * 100 / u128::from(whole)).min(100)
        ),
    }
}

/// `1 file`, `3 files`.
pub fn count(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}

/// `2026-11-28 20:15:00Z`, from seconds since 1970.
pub fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or("-".to_string(), |time| time.strftime("%F %TZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let sizes = [0, 999, 1000, 12_345_678, 2_000_000_000, 3 << 50].map(size);
        assert_eq!(
            sizes,
            ["0 B", "999 B", "1.0 kB", "12.3 MB", "2.0 GB", "3377.7 TB"]
        );
        let spans = [0, 61, 3720, 90_000].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["0 s", "1 min 1 s", "1 h 2 min", "1 d 1 h"]);
        let shares = [(0, 0), (999, 1000), (5, 5), (7, 5)].map(|(part, whole)| share(part, whole));
        assert_eq!(shares, ["-", "99 %", "100 %", "100 %"]);
        assert_eq!([count(1, "file"), count(0, "file")], ["1 file", "0 files"]);
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
    }
}
