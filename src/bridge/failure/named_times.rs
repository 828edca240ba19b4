//! Times that stand in the backend's sentences.

use std::time::{Duration, SystemTime};

use jiff::civil::{DateTime, Time};
use jiff::{ToSpan, Zoned};

/// Units of a pause, and their milliseconds.
const UNITS: [(&str, f64); 12] = [
    ("ms", 1.0),
    ("s", 1_000.0),
    ("sec", 1_000.0),
    ("second", 1_000.0),
    ("seconds", 1_000.0),
    ("m", 60_000.0),
    ("min", 60_000.0),
    ("minute", 60_000.0),
    ("minutes", 60_000.0),
    ("h", 3_600_000.0),
    ("hour", 3_600_000.0),
    ("hours", 3_600_000.0),
];
/// A longer pause is no pause but a limit.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// The pause in "... Please try again in 3.5s. ...", "... in 6m0s." or "... in 20 seconds".
pub(super) fn named_pause(message: &str) -> Option<Duration> {
    const BEFORE: &str = "try again in ";
    let at = message.to_ascii_lowercase().rfind(BEFORE)?;
    let mut rest = message[at + BEFORE.len()..].trim_start();
    let mut millis = 0.0;
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let tail = rest[end..].trim_start();
        let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| tail[..end].eq_ignore_ascii_case(name))?;
        millis += number * unit;
        rest = tail[end..].trim_start();
    }
    let pause = Duration::try_from_secs_f64(millis / 1_000.0).ok()?;
    (!pause.is_zero() && pause <= LONGEST_PAUSE).then_some(pause)
}

/// The time in "... try again at 2:26 AM." or "... at Nov 22nd, 2026 2:26 AM.", in the zone of `now`, which is
/// the app-server's too. Without a date it is the next such time.
pub(super) fn named_time(message: &str, now: &Zoned) -> Option<SystemTime> {
    let (_, named) = message.rsplit_once("try again at ")?;
    let named = named.trim_end_matches('.').replace(['\u{202f}', '\u{a0}'], " ");
    let at = if let Ok(time) = Time::strptime("%I:%M %p", &named) {
        let today = now.with().time(time).build().ok()?;
        if today < now.checked_sub(1.minute()).ok()? { today.checked_add(1.day()).ok()? } else { today }
    } else {
        let (day, rest) = named.split_once(',')?;
        let day = day.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let at = DateTime::strptime("%b %d, %Y %I:%M %p", format!("{day},{rest}")).ok()?;
        at.to_zoned(now.time_zone().clone()).ok()?
    };
    Some(SystemTime::from(at.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_a_sentence_names_is_the_next_such_time() {
        let now: Zoned = "2026-11-21T13:30:00[Europe/Berlin]".parse().unwrap();
        let check = |sentence: &str, expected: Option<&str>| {
            let named = named_time(&format!("You've hit your usage limit. Buy more or {sentence}"), &now);
            let expected = expected.map(|at| SystemTime::from(at.parse::<Zoned>().unwrap().timestamp()));
            assert_eq!(named, expected, "{sentence}");
        };
        check("try again at 2:26 PM.", Some("2026-11-21T14:26:00[Europe/Berlin]"));
        check("try again at 2:26 AM.", Some("2026-11-22T02:26:00[Europe/Berlin]"));
        check("try again at Nov 24th, 2026 2:26 AM.", Some("2026-11-24T02:26:00[Europe/Berlin]"));
        check("try again at some time.", None);
        check("try again later.", None);
    }

    #[test]
    fn a_pause_is_read_as_the_backend_writes_it() {
        let check = |named: &str, millis: Option<u64>| {
            let message = format!("Rate limit reached. Limit 30000, Used 1. Please try again in {named}");
            assert_eq!(named_pause(&message), millis.map(Duration::from_millis), "{named}");
        };
        check("3.5s. Visit https://x to learn more.", Some(3_500));
        check("28ms.", Some(28));
        check("6m0s.", Some(360_000));
        check("1h2m3.5s", Some(3_723_500));
        check("20 seconds.", Some(20_000));
        check("2 minutes", Some(120_000));
        check("0s", None);
        check("a while", None);
        check("99999999999999999999 hours", None);
        check("3 days", None);
        assert_eq!(named_pause("try again later"), None);
    }
}
