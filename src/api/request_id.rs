//! `x-request-id`: the caller's if it is safe to repeat, else one of ours.

use http::{HeaderMap, HeaderName};

use crate::model::RequestId;

/// Both ways.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id is not taken over, bytes.
const MAX_LENGTH: usize = 128;

/// The request's id. One that could break a log line or a header is replaced, not mended.
pub(crate) fn of(headers: &HeaderMap) -> RequestId {
    let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_safe(id));
    given.map_or_else(RequestId::generate, RequestId::new)
}

/// Whether a caller's id may be repeated in headers and log lines.
pub(crate) fn is_safe(id: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
    (1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_given(id: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, http::HeaderValue::from_bytes(id).unwrap());
        of(&headers).to_string()
    }

    #[test]
    fn a_safe_id_is_kept_and_any_other_replaced() {
        assert_eq!(of_given(b"trace-1/span:2"), "trace-1/span:2");
        let long = "x".repeat(MAX_LENGTH + 1);
        for bad in ["", "a b", "a\tb", "\"", "a,b", &long] {
            assert!(of_given(bad.as_bytes()).starts_with("req_"), "{bad:?}");
        }
        assert!(of_given(b"\xff").starts_with("req_"));
        assert!(of(&HeaderMap::new()).as_str().starts_with("req_"));
    }
}
