//! Data that stands in the request itself: base64, by itself or in a `data:` URL.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why data cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Not base64.
    Base64,
    /// Over the limit.
    TooLarge,
}

/// A `data:` URL with base64 data, taken apart.
#[derive(Debug)]
pub(crate) struct DataUrl<'a> {
    /// As it stands there; may be empty.
    pub(crate) media_type: &'a str,
    /// Whether the head says nothing but the media type, in the usual letters.
    pub(crate) plain: bool,
    /// The base64.
    pub(crate) data: &'a str,
}

/// Whether `url` is a `data:` URL of any kind.
pub(crate) fn is_data_url(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

impl<'a> DataUrl<'a> {
    /// `None` for what is none, and for one whose data is not base64.
    pub(crate) fn parse(url: &'a str) -> Option<Self> {
        let (head, data) = url.split_once(',').filter(|_| is_data_url(url))?;
        let mut parameters = head["data:".len()..].split(';').map(str::trim);
        let media_type = parameters.next().unwrap_or_default();
        if !parameters.any(|parameter| parameter.eq_ignore_ascii_case("base64")) {
            return None;
        }
        let plain = head.strip_prefix("data:").and_then(|head| head.strip_suffix(";base64"));
        Some(Self { media_type, plain: plain == Some(media_type), data })
    }
}

/// The bytes behind base64, line breaks allowed; at most `max_bytes`.
pub(crate) fn decode(data: &str, max_bytes: usize) -> Result<Vec<u8>, Unreadable> {
    // Before decoding, and with room for line breaks and padding.
    if data.len() / 4 * 3 > max_bytes.saturating_add(max_bytes / 16 + 4) {
        return Err(Unreadable::TooLarge);
    }
    let bytes = BASE64.decode(&*without_breaks(data)).map_err(|_| Unreadable::Base64)?;
    if bytes.len() > max_bytes { Err(Unreadable::TooLarge) } else { Ok(bytes) }
}

/// Base64 as one line.
fn without_breaks(data: &str) -> Cow<'_, [u8]> {
    if data.bytes().any(|byte| byte.is_ascii_whitespace()) {
        data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect()
    } else {
        data.as_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_urls_are_taken_apart() {
        let parsed = DataUrl::parse("data:image/png;base64,AA").unwrap();
        assert_eq!((parsed.media_type, parsed.plain, parsed.data), ("image/png", true, "AA"));
        let parsed = DataUrl::parse("DATA:text/plain;charset=utf-8;BASE64,AA").unwrap();
        assert_eq!((parsed.media_type, parsed.plain, parsed.data), ("text/plain", false, "AA"));
        for other in ["", "data", "data:", "data:,x", "data:text/plain,x", "AA", "https://a/;base64,AA", "é"]
        {
            assert!(DataUrl::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn base64_is_read_as_clients_write_it() {
        for data in ["aGVsbG8=", "aGVsbG8", "aGVs\r\nbG8=\n"] {
            assert_eq!(decode(data, 5).unwrap(), b"hello", "{data}");
        }
        assert_eq!(decode("aGVsbG8=", 4), Err(Unreadable::TooLarge));
        assert_eq!(decode(&"A".repeat(1000), 4), Err(Unreadable::TooLarge));
        assert_eq!(decode("a-_=", 10), Err(Unreadable::Base64));
        assert_eq!(decode("%%%%", 10), Err(Unreadable::Base64));
    }
}
