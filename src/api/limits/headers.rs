//! The official `x-ratelimit-*` headers.

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::bucket::Standing;

type Names = [HeaderName; 3];

pub(crate) const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];

pub(crate) const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

pub(super) fn write(headers: &mut HeaderMap, [limit, remaining, reset]: Names, standing: Standing) {
    headers.insert(limit, HeaderValue::from(standing.limit));
    headers.insert(remaining, HeaderValue::from(standing.remaining));
    if let Ok(value) = HeaderValue::from_str(&span(standing.reset)) {
        headers.insert(reset, value);
    }
}

/// As the official API writes a span: `20ms`, `1s`, `8.64s`, `6m0s`, `1h0m0s`. Whole milliseconds, rounded up.
pub(super) fn span(span: Duration) -> String {
    let all = span.as_nanos().div_ceil(1_000_000);
    let (seconds, millis) = (all / 1000, all % 1000);
    if seconds == 0 && millis > 0 {
        return format!("{millis}ms");
    }
    let mut text = String::new();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if seconds >= 60 {
        let _ = write!(text, "{minutes}m");
    }
    let _ = write!(text, "{rest}");
    if millis > 0 {
        text.push_str(format!(".{millis:03}").trim_end_matches('0'));
    }
    text + "s"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_look_like_the_official_ones() {
        for (nanos, expected) in [
            (0, "0s"),
            (1, "1ms"),
            (20_000_000, "20ms"),
            (1_000_000_000, "1s"),
            (8_640_000_000, "8.64s"),
            (59_999_000_001, "1m0s"),
            (360_000_000_000, "6m0s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(span(Duration::from_nanos(nanos)), expected, "{nanos}");
        }
    }
}
