//! Durations and sizes as people write them.

use std::time::Duration;

/// Longest duration taken: far beyond any use, and safe to add to a clock.
pub(super) const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// Largest size taken, 1 TiB.
pub(super) const LARGEST: u64 = 1 << 40;

const DURATIONS: [(&str, u64); 5] =
    [("d", 24 * 3_600_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// `"250ms"`, `"30s"`, `"5m"`, `"1h30m"`, `"2d"`; a bare number is seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return Some(Duration::from_secs(seconds)).filter(|duration| *duration <= LONGEST);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, unit, tail) = number_and_unit(rest)?;
        let (_, millis) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.checked_mul(*millis)?)?;
        rest = tail.trim_start();
    }
    Some(Duration::from_millis(total)).filter(|duration| !text.trim().is_empty() && *duration <= LONGEST)
}

/// `"48MiB"`, `"500 kB"`; a bare number is bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(bytes) = text.parse::<u64>() {
        return Some(bytes).filter(|bytes| *bytes <= LARGEST);
    }
    let (number, unit, rest) = number_and_unit(text)?;
    let (_, bytes) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*bytes).filter(|bytes| rest.is_empty() && *bytes <= LARGEST)
}

/// The duration in the largest unit that shows it exactly.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    DURATIONS
        .iter()
        .find(|(_, unit)| millis.is_multiple_of(*unit))
        .map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

/// The size in the largest binary unit that shows it exactly.
pub(super) fn show_size(bytes: usize) -> String {
    let bytes = bytes as u64;
    SIZES
        .iter()
        .take(3)
        .find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit))
        .map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// `"90 s…"` is 90, `"s"` and what follows.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(end);
    Some((number.parse().ok()?, unit, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let check = |text, millis: Option<u64>| {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text:?}");
        };
        check("30", Some(30_000));
        check("30s", Some(30_000));
        check("250ms", Some(250));
        check(" 5 m ", Some(300_000));
        check("1h30m", Some(5_400_000));
        check("2d", Some(172_800_000));
        check("0", Some(0));
        check("", None);
        check("s", None);
        check("5 minutes", None);
        check("-5s", None);
        check("1.5h", None);
        check("400d", None);
        check("99999999999999999999s", None);
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let check = |text, bytes| assert_eq!(size(text), bytes, "{text:?}");
        check("1024", Some(1024));
        check("48MiB", Some(48 << 20));
        check("48 mib", Some(48 << 20));
        check("2GB", Some(2_000_000_000));
        check("5 kB", Some(5_000));
        check("7B", Some(7));
        check("2TiB", None);
        check("1MiB1KiB", None);
        check("lots", None);
        check("99999999GiB", None);
    }

    #[test]
    fn what_is_shown_reads_back_the_same() {
        for millis in [0, 1, 250, 1_500, 30_000, 90_000, 600_000, 21_600_000, 86_400_000] {
            let given = Duration::from_millis(millis);
            assert_eq!(duration(&show_duration(given)), Some(given));
        }
        assert_eq!(show_duration(Duration::from_secs(600)), "10m");
        for bytes in [0, 1, 1000, 1024, 48 << 20, (1 << 30) + 1] {
            assert_eq!(size(&show_size(bytes)), Some(bytes as u64));
        }
        assert_eq!(show_size(48 << 20), "48MiB");
    }
}
