//! Time values of RFC 3659 section 2.3: `YYYYMMDDHHMMSS[.fraction]`, UTC. The proleptic Gregorian
//! calendar is all it knows: no clock, no time zones.

use std::time::{Duration, SystemTime};

const DAY: i64 = 86_400;
/// The years that a time-val can carry and that we believe.
const YEARS: std::ops::RangeInclusive<i64> = 1601..=9999;

/// Parses a time-val. Years 1601..=9999; the Y2K slip `19100...` (a server that prints "19" and
/// then the years since 1900) is read as 2000. Second 60, a leap second, is the second after.
/// `None` when malformed.
pub fn parse_time(bytes: &[u8]) -> Option<SystemTime> {
    let dot = bytes.iter().position(|&b| b == b'.');
    let (whole, fraction) = match dot {
        Some(dot) => (&bytes[..dot], Some(&bytes[dot + 1..])),
        None => (bytes, None),
    };
    let (year, rest) = match whole.len() {
        14 => (number(&whole[..4])?, &whole[4..]),
        15 if whole.starts_with(b"191") => (1900 + number(&whole[2..5])?, &whole[5..]),
        _ => return None,
    };
    let civil = Civil {
        year,
        month: number(&rest[..2])?,
        day: number(&rest[2..4])?,
        hour: number(&rest[4..6])?,
        minute: number(&rest[6..8])?,
        second: number(&rest[8..])?,
    };
    civil
        .to_time()?
        .checked_add(Duration::from_nanos(fraction.map_or(Some(0), nanoseconds)?))
}

/// Formats a time-val in whole seconds (rounded down). Times outside the years 1601..=9999 become
/// the first or the last second of them.
pub fn format_time(time: SystemTime) -> String {
    let mut civil = Civil::from_time(time);
    if civil.year < *YEARS.start() {
        civil = Civil {
            year: *YEARS.start(),
            ..Civil::FIRST
        };
    } else if civil.year > *YEARS.end() {
        civil = Civil {
            year: *YEARS.end(),
            ..Civil::LAST
        };
    }
    let Civil {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = civil;
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

/// A date and time of day, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Civil {
    pub year: i64,
    pub month: i64,
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
}

impl Civil {
    const FIRST: Self = Self {
        year: 0,
        month: 1,
        day: 1,
        hour: 0,
        minute: 0,
        second: 0,
    };
    const LAST: Self = Self {
        year: 0,
        month: 12,
        day: 31,
        hour: 23,
        minute: 59,
        second: 59,
    };

    /// `None` for a date or time that does not exist, or a year outside 1601..=9999.
    pub fn to_time(self) -> Option<SystemTime> {
        let valid = YEARS.contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=days_in_month(self.year, self.month)).contains(&self.day)
            && (0..24).contains(&self.hour)
            && (0..60).contains(&self.minute)
            && (0..=60).contains(&self.second);
        if !valid {
            return None;
        }
        let days = days_from_civil(self.year, self.month, self.day);
        let seconds = days * DAY + self.hour * 3600 + self.minute * 60 + self.second;
        at(seconds)
    }

    /// The second in which `time` lies.
    pub fn from_time(time: SystemTime) -> Self {
        let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => {
                let before = before.duration();
                let up = u64::from(before.subsec_nanos() > 0);
                i64::try_from(before.as_secs().saturating_add(up)).map_or(i64::MIN, |s| -s)
            }
        };
        let (year, month, day) = civil_from_days(seconds.div_euclid(DAY));
        let of_day = seconds.rem_euclid(DAY);
        Self {
            year,
            month,
            day,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }
}

/// Seconds since 1970 as a time; `None` where the system cannot hold it.
pub(super) fn at(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
}

/// Decimal digits only, at most nine of them.
pub(super) fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |n, &d| n * 10 + i64::from(d - b'0')))
}

/// `.5` is half a second; digits below the nanosecond are dropped.
fn nanoseconds(fraction: &[u8]) -> Option<u64> {
    if fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(9);
    Some(digits.fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

// Both conversions count in years that begin in March, so that the leap day comes last, and in
// eras of 400 years (146,097 days). 719,468 days lie between 0000-03-01 and 1970-01-01.

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn epoch_plus(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn time_values() {
        for (text, seconds) in [
            ("19700101000000", 0.0),
            ("20000229235959", 951_868_799.0),
            ("20240102030405", 1_704_164_645.0),
            ("20240102030405.5", 1_704_164_645.5),
            ("20240102030405.250000000999", 1_704_164_645.25),
            // A leap second.
            ("20161231235960", 1_483_228_800.0),
            // The Y2K slip: 19 and then 100, 124.
            ("191000229235959", 951_868_799.0),
            ("191240102030405", 1_704_164_645.0),
        ] {
            assert_eq!(
                parse_time(text.as_bytes()),
                Some(epoch_plus(seconds)),
                "{text}"
            );
        }
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(parse_time(b"19691231235959"), Some(before_1970));
        let half_past = SystemTime::UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(parse_time(b"19691231235959.5"), Some(half_past));
        assert_eq!(format_time(half_past), "19691231235959");
    }

    #[test]
    fn malformed_time_values() {
        for text in [
            "",
            "2024",
            "20240102030405.",
            "20240102030405.x",
            "20240102030405 ",
            "2024010203040x",
            "20241302030405",
            "20240002030405",
            "20230229000000",
            "21000229000000",
            "20240100000000",
            "20240102240000",
            "20240102036000",
            "20240102030461",
            "16001231235959",
            "192240102030405",
            "+0240102030405",
        ] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn times_beyond_the_format_are_clamped() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(format_time(far), "99991231235959");
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 40);
        assert_eq!(format_time(early), "16010101000000");
    }

    proptest! {
        #[test]
        fn format_and_parse_are_inverses(seconds in -11_644_473_600i64..253_402_300_800) {
            let time = at(seconds).expect("within range");
            prop_assert_eq!(parse_time(format_time(time).as_bytes()), Some(time));
        }

        #[test]
        fn consecutive_days_are_consecutive(days in -134_774i64..2_932_896) {
            let (year, month, day) = civil_from_days(days);
            prop_assert_eq!(days_from_civil(year, month, day), days);
            let next = civil_from_days(days + 1);
            let expected = if day < days_in_month(year, month) {
                (year, month, day + 1)
            } else if month < 12 {
                (year, month + 1, 1)
            } else {
                (year + 1, 1, 1)
            };
            prop_assert_eq!(next, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parse_time(&bytes);
        }
    }
}
