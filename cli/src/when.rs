//! Moments as people write them: RFC 3339, local `2026-11-21 14:05[:30]`, `14:05[:30]` (the last
//! time the clock showed that), `2h ago`, `now`. The present is handed in.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use proto_types::LogTime;

/// What `--at` accepts, for messages and help.
pub const EXPECTED: &str = "RFC 3339 (2026-11-21T14:05:30Z), local time (2026-11-21 14:05), a time \
                            of day (14:05), or an age (2h ago)";

/// Parses a moment. Tables print whole seconds, so a moment given without a fraction means the end
/// of its second: what a table shows as 14:05:30 is found by 14:05:30.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse(text: &str, now: &Zoned) -> Result<LogTime, String> {
    let trimmed = text.trim();
    let wrong = || format!("{text:?} is not a moment: expected {EXPECTED}");
    let millis = if trimmed == "now" {
        now.timestamp().as_millisecond()
    } else if let Some(age) = trimmed.strip_suffix("ago") {
        let span: Span = age.trim().parse().map_err(|_| wrong())?;
        if span.is_negative() {
            return Err(wrong());
        }
        now.checked_sub(span).map_err(|_| wrong())?.timestamp().as_millisecond()
    } else {
        let moment = absolute(trimmed, now).ok_or_else(wrong)?;
        let has_fraction = trimmed.contains('.');
        moment.as_millisecond() + if has_fraction { 0 } else { 999 }
    };
    u64::try_from(millis)
        .map(LogTime::from_millis)
        .map_err(|_| format!("{text:?} lies before 1970: no backup is that old"))
}

/// Parses a length of time as people write it (`90s`, `2h`, `7d`), in milliseconds.
///
/// # Errors
/// A sentence that says what is expected.
pub fn length_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no length of time: expected one as in 90s, 2h or 7d");
    let span: Span = text.trim().parse().map_err(|_| wrong())?;
    let total = span.total((jiff::Unit::Millisecond, jiff::SpanRelativeTo::days_are_24_hours()));
    // Whole seconds at least, and far from where a float is not exact.
    match total {
        Ok(total) if (1000.0..1e14).contains(&total) => {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let millis = total as u64;
            Ok(millis)
        }
        Ok(_) | Err(_) => Err(wrong()),
    }
}

fn absolute(text: &str, now: &Zoned) -> Option<Timestamp> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp);
    }
    let zone = now.time_zone();
    // jiff's civil types ignore an offset they find; a text that has one was meant as RFC 3339.
    if !text.bytes().all(|b| b.is_ascii_digit() || b"-: T.".contains(&b)) {
        return None;
    }
    if let Ok(time) = text.parse::<Time>() {
        let today = in_zone(now.date().to_datetime(time), zone)?;
        if today <= now.timestamp() {
            return Some(today);
        }
        return in_zone(now.date().yesterday().ok()?.to_datetime(time), zone);
    }
    if let Ok(date_time) = text.parse::<DateTime>() {
        // A date alone would parse as its midnight, which few mean.
        if text.parse::<Date>().is_ok() && !text.contains(':') {
            return None;
        }
        return in_zone(date_time, zone);
    }
    None
}

fn in_zone(moment: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    moment.to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp())
}

/// A moment for tables, in local time.
#[must_use]
pub fn local(time: LogTime, zone: &TimeZone) -> String {
    match timestamp(time) {
        Some(moment) => moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => "-".to_owned(),
    }
}

/// A moment for JSON: RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn rfc3339(time: LogTime) -> String {
    match timestamp(time) {
        Some(moment) => {
            moment.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
        }
        None => "1970-01-01T00:00:00.000Z".to_owned(),
    }
}

fn timestamp(time: LogTime) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(time.as_millis()).ok()?).ok()
}

/// How long ago, in the largest unit that fits.
#[must_use]
pub fn age(then: LogTime, now: LogTime) -> String {
    let seconds = now.millis_since(then) / 1000;
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}min", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21 15:00:00.250 in a zone one hour east of UTC.
    fn now() -> Zoned {
        "2026-11-21T14:00:00.250Z"
            .parse::<Timestamp>()
            .unwrap()
            .to_zoned(TimeZone::fixed(jiff::tz::offset(1)))
    }

    #[test]
    fn lengths_table() {
        for (text, expected) in [
            ("90s", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("7d", Some(604_800_000)),
            (" 1w ", Some(604_800_000)),
            ("2h30m", Some(9_000_000)),
            ("0s", None),
            ("-1h", None),
            ("1 month", None),
            ("60", None),
            ("", None),
        ] {
            assert_eq!(length_ms(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn moments_table() {
        for (text, expected) in [
            ("2026-11-21T14:05:30Z", "2026-11-21T14:05:30.999Z"),
            ("2026-11-21T14:05:30.125Z", "2026-11-21T14:05:30.125Z"),
            ("2026-11-21T14:05:30+01:00", "2026-11-21T13:05:30.999Z"),
            ("2026-11-21 14:05", "2026-11-21T13:05:00.999Z"),
            ("2026-11-21 14:05:30", "2026-11-21T13:05:30.999Z"),
            ("2026-11-21T14:05:30", "2026-11-21T13:05:30.999Z"),
            ("2026-11-20 23:59", "2026-11-20T22:59:00.999Z"),
            ("14:05", "2026-11-21T13:05:00.999Z"),
            ("14:05:30", "2026-11-21T13:05:30.999Z"),
            // Not yet reached today: yesterday's.
            ("23:30", "2026-11-20T22:30:00.999Z"),
            ("2h ago", "2026-11-21T12:00:00.250Z"),
            ("90 minutes ago", "2026-11-21T12:30:00.250Z"),
            ("1 day 2 hours ago", "2026-11-20T12:00:00.250Z"),
            ("now", "2026-11-21T14:00:00.250Z"),
        ] {
            let moment = parse(text, &now()).unwrap();
            assert_eq!(rfc3339(moment), expected, "{text}");
        }
        for bad in [
            "",
            "yesterday",
            "25:00",
            "2026-11-21",
            "2026-13-01 10:00",
            "ago",
            "-2h ago",
            "1969-12-31T00:00:00Z",
        ] {
            assert!(parse(bad, &now()).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_print_in_local_time_and_utc() {
        let time = LogTime::from_millis(1_795_269_930_125);
        assert_eq!(local(time, &TimeZone::fixed(jiff::tz::offset(1))), "2026-11-21 15:05:30");
        assert_eq!(rfc3339(time), "2026-11-21T14:05:30.125Z");
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (120, "2min"), (7_200, "2h"), (200_000, "2d")]
        {
            assert_eq!(age(LogTime::ZERO, LogTime::from_millis(seconds * 1000)), text);
        }
    }
}
