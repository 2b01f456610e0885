//! What is due, what is stale, what is kept: pure rules, times handed in.

use coordinator_core::SnapshotRow;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use proto_types::LogTime;

/// What failed is tried again after this, long before the next one is due.
const RETRY_MS: u64 = 5 * 60_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

const PREFIX: &str = "fleet-";
const SUFFIX: &str = ".snapshot";

/// When snapshots are due: a cron pattern in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

impl Schedule {
    /// Reads a pattern of five fields (or six, the first of them seconds) and the name of a zone.
    ///
    /// # Errors
    /// Which of the two is wrong, and how to write it.
    pub fn parse(pattern: &str, zone: &str) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let cron = parser.parse(pattern).map_err(|error| {
            format!(
                "schedule: {pattern:?}: {error}; write five fields, minute hour day month weekday, \
                 as \"30 2 * * *\""
            )
        })?;
        let zone = if zone == "UTC" {
            TimeZone::UTC
        } else {
            TimeZone::get(zone).map_err(|error| {
                format!("time_zone: {zone:?}: {error}; write UTC or a name as Europe/Berlin")
            })?
        };
        Ok(Self { cron, zone })
    }

    /// The last time at or before `now` that the schedule names; `None` where there is none.
    fn last(&self, now: LogTime) -> Option<LogTime> {
        let now = Timestamp::from_millisecond(i64::try_from(now.as_millis()).ok()?).ok()?;
        let now: Zoned = now.to_zoned(self.zone.clone());
        let last = self.cron.find_previous_occurrence(&now, true).ok()?;
        u64::try_from(last.timestamp().as_millisecond()).ok().map(LogTime::from_millis)
    }
}

/// The snapshot that is to be saved now, named by when it was due. However many were missed, it is
/// one.
pub(super) fn due(
    schedule: &Schedule,
    now: LogTime,
    last: Option<&SnapshotRow>,
) -> Option<LogTime> {
    let slot = schedule.last(now)?;
    match last {
        None => Some(slot),
        Some(last) if last.due < slot => Some(slot),
        Some(last) => {
            let again = !last.is_good() && now.millis_since(last.ended) >= RETRY_MS;
            again.then_some(last.due)
        }
    }
}

/// Whether there was no good snapshot for too long.
pub(super) fn is_stale(
    now: LogTime,
    created: LogTime,
    good: Option<&SnapshotRow>,
    hours: u64,
) -> bool {
    let since = good.map_or(created, |row| row.ended);
    now.millis_since(since) > hours.saturating_mul(HOUR_MS)
}

/// The name of a snapshot: of which index, in which term, due when. Sorts neither by time nor by
/// index; [`read_name`] does.
pub(super) fn name(index: u64, term: u64, due: LogTime) -> String {
    let at = Timestamp::from_millisecond(i64::try_from(due.as_millis()).unwrap_or(i64::MAX))
        .unwrap_or(Timestamp::MAX);
    format!("{PREFIX}{index}-{term}-{}{SUFFIX}", at.strftime("%Y%m%dT%H%M%SZ"))
}

/// When a snapshot of this name was due, and its index; `None` where it is not a name of ours.
fn read_name(name: &str) -> Option<(LogTime, u64)> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let mut parts = rest.split('-');
    let (index, term, at) = (parts.next()?, parts.next()?, parts.next()?);
    let (index, term): (u64, u64) = (index.parse().ok()?, term.parse().ok()?);
    let civil = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", at).ok()?;
    let at = civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond();
    let due = LogTime::from_millis(u64::try_from(at).ok()?);
    // Only what we would write ourselves: everything else is somebody's.
    (parts.next().is_none() && self::name(index, term, due) == name).then_some((due, index))
}

/// Whether a name is one that [`name`] gives.
pub(super) fn is_ours(name: &str) -> bool {
    read_name(name).is_some()
}

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// So many of the newest.
    pub(super) last: u32,
    /// And those of so many days.
    pub(super) days: u32,
}

/// The names that may be removed. Never `good`, the last one that was read back; never a name that
/// is not ours.
pub(super) fn surplus(names: &[String], keep: Keep, now: LogTime, good: &str) -> Vec<String> {
    let ours = names.iter().filter_map(|name| Some((read_name(name)?, name)));
    let mut ours: Vec<((LogTime, u64), &String)> = ours.collect();
    ours.sort_by(|a, b| b.cmp(a));
    let days_ms = u64::from(keep.days) * DAY_MS;
    ours.into_iter()
        .skip(usize::try_from(keep.last.max(1)).unwrap_or(usize::MAX))
        .filter(|((due, _), name)| now.millis_since(*due) >= days_ms && *name != good)
        .map(|(_, name)| name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    fn at(text: &str) -> LogTime {
        LogTime::from_millis(ms(text))
    }

    fn row(due: &str, ended: &str, is_good: bool) -> SnapshotRow {
        SnapshotRow {
            due: at(due),
            ended: at(ended),
            sha256: is_good.then_some([1; 32]),
            ..SnapshotRow::default()
        }
    }

    #[test]
    fn snapshots_are_due_once_per_slot_missed_ones_once_and_failed_ones_again() {
        let nightly = Schedule::parse("30 2 * * *", "UTC").unwrap();
        let now = at("2026-11-21T14:05:00Z");
        let today = Some(at("2026-11-21T02:30:00Z"));
        let of = |last: Option<SnapshotRow>| due(&nightly, now, last.as_ref());
        assert_eq!(of(None), today);
        assert_eq!(of(Some(row("2026-11-20T02:30:00Z", "2026-11-20T02:31:00Z", true))), today);
        assert_eq!(of(Some(row("2026-10-01T02:30:00Z", "2026-10-01T02:31:00Z", true))), today);
        assert_eq!(of(Some(row("2026-11-21T02:30:00Z", "2026-11-21T02:31:00Z", true))), None);
        assert_eq!(of(Some(row("2026-11-21T02:30:00Z", "2026-11-21T14:00:00Z", false))), today);
        assert_eq!(of(Some(row("2026-11-21T02:30:00Z", "2026-11-21T14:00:01Z", false))), None);
        // A clock that went back saves nothing twice.
        assert_eq!(of(Some(row("2026-11-22T02:30:00Z", "2026-11-22T02:31:00Z", true))), None);
    }

    #[test]
    fn schedules_follow_their_time_zone_through_its_changes() {
        let zoned = Schedule::parse("30 2 * * *", "Europe/Berlin").unwrap();
        let last = |now: &str| zoned.last(at(now)).map(LogTime::as_millis);
        assert_eq!(last("2026-07-01T12:00:00Z"), Some(ms("2026-07-01T00:30:00Z")));
        assert_eq!(last("2026-12-01T12:00:00Z"), Some(ms("2026-12-01T01:30:00Z")));
        // At its very minute it is due.
        assert_eq!(last("2026-12-01T01:30:00Z"), Some(ms("2026-12-01T01:30:00Z")));
        let weekly = Schedule::parse("0 4 * * SUN", "UTC").unwrap();
        assert_eq!(weekly.last(at("2026-11-21T14:05:00Z")), Some(at("2026-11-15T04:00:00Z")));
        for (pattern, zone, key) in [
            ("every day", "UTC", "schedule: "),
            ("61 * * * *", "UTC", "schedule: "),
            ("* * * * *", "Mars/Base", "time_zone: "),
        ] {
            let problem = Schedule::parse(pattern, zone).unwrap_err();
            assert!(problem.starts_with(key) && problem.contains("write"), "{problem}");
        }
    }

    #[test]
    fn a_fleet_without_a_good_snapshot_is_stale_after_a_while() {
        let created = at("2026-11-01T00:00:00Z");
        let good = row("2026-11-20T02:30:00Z", "2026-11-20T02:31:00Z", true);
        for (now, good, stale) in [
            ("2026-11-02T23:59:00Z", None, false),
            ("2026-11-03T00:00:01Z", None, true),
            ("2026-11-22T02:30:00Z", Some(&good), false),
            ("2026-11-22T02:31:01Z", Some(&good), true),
        ] {
            assert_eq!(is_stale(at(now), created, good, 48), stale, "{now}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written_and_no_others() {
        let due = at("2026-11-21T02:30:00Z");
        assert_eq!(name(77, 3, due), "fleet-77-3-20261121T023000Z.snapshot");
        assert_eq!(read_name(&name(77, 3, due)), Some((due, 77)));
        for stranger in [
            "fleet-77-3-20261121T023000Z.snapshot.partial",
            "fleet-077-3-20261121T023000Z.snapshot",
            "fleet-77-3-20261121.snapshot",
            "fleet-77-3-4-20261121T023000Z.snapshot",
            "my-fleet-77-3-20261121T023000Z.snapshot",
            "strongroom.json",
        ] {
            assert_eq!(read_name(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn retention_keeps_the_newest_those_of_days_the_last_good_one_and_what_is_not_ours() {
        let day = |day: u64| name(1000 + day, 2, at(&format!("2026-11-{day:02}T02:30:00Z")));
        let mut names: Vec<String> = (10..=20).map(day).collect();
        names.extend(["notes.txt".to_owned(), "fleet-old.snapshot".to_owned()]);
        let now = at("2026-11-20T02:31:00Z");
        let removed = |last, days, good: &str| {
            let mut removed = surplus(&names, Keep { last, days }, now, good);
            removed.sort();
            removed
        };
        let days = |range: std::ops::RangeInclusive<u64>| range.map(day).collect::<Vec<_>>();
        for (last, kept_days, good, expect) in [
            (3, 0, day(20), days(10..=17)),
            (3, 5, day(20), days(10..=15)),
            (8, 5, day(20), days(10..=12)),
            (100, 0, day(20), vec![]),
            (1, 0, day(20), days(10..=19)),
            // Newer ones that were never read back do not push the good one out.
            (2, 0, day(11), [days(10..=10), days(12..=18)].concat()),
            (0, 0, day(20), days(10..=19)),
        ] {
            assert_eq!(removed(last, kept_days, &good), expect, "{last} {kept_days} {good}");
        }
    }
}
