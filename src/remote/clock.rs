//! The server's clocks. Facts of MLSx are UTC, and so is MDTM by RFC 3659; LIST and STAT tell the
//! time of the server's zone, and some servers' MDTM does so too (vsftpd with `use_localtime`).
//! What each must be moved by to be UTC is learned by comparing them, and learned anew whenever
//! files say otherwise: zones change twice a year. Where MLSx is missing and MDTM is in the
//! server's zone, only the user can know (`time_offset=`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::Profile;
use crate::proto::{Modify, Precision, Reply, parse_time};

use super::text_of_213;

/// Zones differ from UTC by whole quarters of an hour,
const QUARTER: i64 = 15 * 60;
/// and by no more than that.
const MOST: i64 = 14 * 3600;
/// Two clocks of one server are further apart only where one of them tells no time at all.
const SLIP_MOST: i64 = 26 * 3600;
/// A file that was changed so recently may have been changed between its listing and its MDTM.
const YOUNG: Duration = Duration::from_secs(120);

/// The time of an MDTM reply, UTC as far as that is known.
pub(super) fn told(reply: &Reply, profile: &Profile) -> Option<SystemTime> {
    let time = parse_time(text_of_213(reply)?.as_bytes())?;
    Some(shifted(time, profile.mdtm_offset.unwrap_or(0)))
}

/// What MDTM would show of that time.
pub(super) fn as_mdtm(time: SystemTime, profile: &Profile) -> SystemTime {
    shifted(time, -profile.mdtm_offset.unwrap_or(0))
}

/// What MFMT and SITE UTIME would make of that time: where there is MLSx they are of its age, and UTC.
pub(super) fn as_mfmt(time: SystemTime, profile: &Profile) -> SystemTime {
    match profile.mlst_missing {
        true => as_mdtm(time, profile),
        false => time,
    }
}

/// Whether MDTM alone tells what time it is: the user has named the server's zone, and no listing has
/// shown yet whether MDTM is in it.
pub(super) fn is_uncertain(profile: &Profile) -> bool {
    profile.time_offset.is_some() && profile.mlst_missing && profile.mdtm_offset.is_none()
}

/// What files' times in a listing, and by MDTM as [`told`] gives it, teach.
pub(super) fn learn(profile: &mut Profile, pairs: &[(Modify, SystemTime)], now: SystemTime) {
    let pairs = pairs
        .iter()
        .filter(|(listed, _)| listed.precision == Precision::Minute);
    let Some(ahead) = profile.time_offset else {
        let is_old = |told| now.duration_since(told).is_ok_and(|age| age > YOUNG);
        let zones = pairs
            .filter(|(_, told)| is_old(*told))
            .filter_map(|(listed, told)| quarters(listed.time, *told));
        if let Some(zone) = most(zones, profile.listing_offset) {
            profile.listing_offset = Some(zone);
        }
        return;
    };
    // It is in UTC or in that zone. A file that was changed in between hardly ever seems to say so.
    let so_far = profile.mdtm_offset.unwrap_or(0);
    let offsets = pairs
        .filter_map(|(listed, told)| quarters(*told, shifted(listed.time, -ahead)))
        .map(|slip| so_far + slip)
        .filter(|offset| [0, -ahead].contains(offset));
    if let Some(offset) = most(offsets, profile.mdtm_offset) {
        profile.mdtm_offset = Some(offset);
    }
}

/// MDTM tells `told` of a file of which MLSx has told `true_time` before it and since.
pub(super) fn learn_slip(profile: &mut Profile, told: SystemTime, true_time: SystemTime) -> bool {
    let slip = seconds(true_time) - seconds(told);
    let believable = !profile.mlst_missing && slip != 0 && slip.abs() <= SLIP_MOST;
    if believable {
        profile.mdtm_offset = Some(profile.mdtm_offset.unwrap_or(0) + slip);
    }
    believable
}

/// The seconds from one time to another, where they differ by a time zone to the minute.
fn quarters(from: SystemTime, to: SystemTime) -> Option<i64> {
    let minutes = seconds(to).div_euclid(60) - seconds(from).div_euclid(60);
    let seconds = minutes * 60;
    (seconds % QUARTER == 0 && seconds.abs() <= MOST).then_some(seconds)
}

/// What most files say; what was known before where as many say that.
fn most(votes: impl Iterator<Item = i64>, known: Option<i64>) -> Option<i64> {
    let mut counts = std::collections::BTreeMap::<i64, usize>::new();
    for vote in votes {
        *counts.entry(vote).or_default() += 1;
    }
    let rank = |(vote, count): &(i64, usize)| (*count, Some(*vote) == known);
    counts.into_iter().max_by_key(rank).map(|(vote, _)| vote)
}

/// Since 1970, rounded down.
fn seconds(time: SystemTime) -> i64 {
    let whole = |by: Duration| i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => whole(after),
        Err(before) => {
            let before = before.duration();
            -whole(before) - i64::from(before.subsec_nanos() > 0)
        }
    }
}

/// So many seconds later; the same where the system cannot hold that.
pub(super) fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 {
        time.checked_sub(by)
    } else {
        time.checked_add(by)
    };
    moved.unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const NOW: i64 = 1_700_000_000;

    fn at(seconds: i64) -> SystemTime {
        shifted(UNIX_EPOCH, seconds)
    }

    /// A file of that time (UTC) as LIST in a zone `zone` ahead of UTC shows it, and MDTM `slip` ahead.
    fn file(time: i64, zone: i64, slip: i64) -> (Modify, SystemTime) {
        let minute = (time + zone).div_euclid(60) * 60;
        let listed = Modify {
            time: at(minute),
            precision: Precision::Minute,
        };
        (listed, at(time + slip))
    }

    fn learned(mut profile: Profile, pairs: &[(Modify, SystemTime)]) -> Profile {
        learn(&mut profile, pairs, at(NOW));
        profile
    }

    #[test]
    fn the_zone_of_listings_is_what_most_files_say() {
        let old = NOW - 100_000;
        let auto = Profile::default();
        let zone = |pairs: &[_]| learned(auto.clone(), pairs).listing_offset;
        assert_eq!(zone(&[file(old + 59, 2 * HOUR, 0)]), Some(-2 * HOUR));
        assert_eq!(zone(&[file(old, -HOUR / 4, 0)]), Some(HOUR / 4));
        assert_eq!(zone(&[file(old, 0, 0)]), Some(0));
        let summer = file(old - 9_000_000, 2 * HOUR, 0);
        let winter = file(old, HOUR, 0);
        assert_eq!(zone(&[winter, summer, winter]), Some(-HOUR));
        // No zone, or not sure to be the same content.
        assert_eq!(zone(&[file(old, 0, 7 * 60)]), None);
        assert_eq!(zone(&[file(old, 15 * HOUR, 0)]), None);
        assert_eq!(zone(&[file(NOW - 60, HOUR, 0)]), None);
        assert_eq!(zone(&[file(NOW + 60, HOUR, 0)]), None);
        let (mut day, told) = winter;
        day.precision = Precision::Day;
        assert_eq!(zone(&[(day, told)]), None);
        assert_eq!(zone(&[]), None);
    }

    #[test]
    fn a_zone_is_learned_anew_when_the_clocks_change_and_kept_while_nobody_says_otherwise() {
        let old = NOW - 100_000;
        let summer = learned(Profile::default(), &[file(old, 2 * HOUR, 0)]);
        assert_eq!(learned(summer.clone(), &[]).listing_offset, Some(-2 * HOUR));
        let both = [file(old, HOUR, 0), file(old + 60, 2 * HOUR, 0)];
        assert_eq!(
            learned(summer.clone(), &both).listing_offset,
            Some(-2 * HOUR)
        );
        let winter = learned(summer, &both[..1]);
        assert_eq!(winter.listing_offset, Some(-HOUR));
    }

    #[test]
    fn where_the_zone_is_told_listings_say_whether_mdtm_is_in_it() {
        let told = Profile {
            time_offset: Some(2 * HOUR),
            mlst_missing: true,
            ..Profile::default()
        };
        let old = NOW - 100_000;
        assert!(is_uncertain(&told));
        let local = learned(told.clone(), &[file(old, 2 * HOUR, 2 * HOUR)]);
        assert_eq!(local.listings_to_utc(), Some(-2 * HOUR));
        assert_eq!(local.mdtm_offset, Some(-2 * HOUR));
        assert!(!is_uncertain(&local));
        assert_eq!(as_mdtm(at(old), &local), at(old + 2 * HOUR));
        assert_eq!(as_mfmt(at(old), &local), at(old + 2 * HOUR));
        // From now on its MDTM is corrected, and teaches nothing else.
        let again = learned(local.clone(), &[file(old, 2 * HOUR, 0)]);
        assert_eq!(again.mdtm_offset, local.mdtm_offset);
        let utc = learned(told.clone(), &[file(old, 2 * HOUR, 0)]);
        assert_eq!(utc.mdtm_offset, Some(0));
        assert_eq!(utc.listings_to_utc(), Some(-2 * HOUR));
        // New files do as well, and those that were changed in between say nothing.
        let young = [file(NOW - 5, 2 * HOUR, 2 * HOUR)];
        assert_eq!(learned(told.clone(), &young).mdtm_offset, Some(-2 * HOUR));
        let changed = [file(NOW - 5, 2 * HOUR, HOUR)];
        assert_eq!(learned(told, &changed).mdtm_offset, None);
    }

    #[test]
    fn mdtm_that_differs_from_facts_is_corrected() {
        let mut profile = Profile::default();
        assert!(learn_slip(&mut profile, at(NOW + HOUR), at(NOW)));
        assert_eq!(profile.mdtm_offset, Some(-HOUR));
        assert_eq!(as_mdtm(at(NOW), &profile), at(NOW + HOUR));
        assert_eq!(as_mfmt(at(NOW), &profile), at(NOW));
        assert!(!learn_slip(&mut profile, at(NOW), at(NOW)));
        assert!(!learn_slip(&mut profile, at(NOW), at(NOW + 30 * HOUR)));
        profile.mlst_missing = true;
        assert!(!learn_slip(&mut profile, at(NOW), at(NOW + HOUR)));
    }

    #[test]
    fn times_before_1970_are_compared_as_well() {
        assert_eq!(quarters(at(-7200), at(-1)), None);
        assert_eq!(quarters(at(-7200), at(-3600)), Some(3600));
        let half = UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(seconds(half), -1);
    }
}
