//! The upgrade of RFC 6455, as the server sees it.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::api::error::ApiError;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const VERSION: HeaderValue = HeaderValue::from_static("13");
const UPGRADE_CONNECTION: HeaderValue = HeaderValue::from_static("upgrade");

/// The answer to a request that asks for a WebSocket.
pub(super) fn accept(head: &HeaderMap) -> Option<Response> {
    let asked = names(head, &CONNECTION, "upgrade") && names(head, &UPGRADE, "websocket");
    let version = head.get(SEC_WEBSOCKET_VERSION) == Some(&VERSION);
    let key = head.get(SEC_WEBSOCKET_KEY).filter(|_| asked && version);
    let accept = HeaderValue::from_str(&derive_accept_key(key?.as_bytes())).ok()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, UPGRADE_CONNECTION);
    headers.insert(UPGRADE, WEBSOCKET);
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Some(response)
}

/// The answer to any other, which says how to ask.
pub(super) fn refusal() -> Response {
    let message = "GET /v1/responses is a WebSocket: connect with `Upgrade: websocket`, version 13. To create a \
                   response over HTTP, send a POST.";
    let mut response = ApiError::new("upgrade_required", message).into_response();
    response.headers_mut().insert(UPGRADE, WEBSOCKET);
    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, VERSION);
    response
}

/// Whether one of the comma-separated words of a header is `word`.
fn names(head: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lines = head.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&'static str, &'static str)]) -> Option<Response> {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        accept(&pairs.collect())
    }

    const WHOLE: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_example_of_the_standard_is_accepted() {
        let response = asked(&WHOLE).unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn anything_less_is_told_what_is_wanted() {
        for left_out in 0..WHOLE.len() {
            let some: Vec<_> =
                WHOLE.into_iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, one)| one).collect();
            assert!(asked(&some).is_none(), "{some:?}");
            let refusal = refusal();
            assert_eq!(refusal.status(), StatusCode::UPGRADE_REQUIRED, "{some:?}");
            assert_eq!(
                (&refusal.headers()[UPGRADE], &refusal.headers()[SEC_WEBSOCKET_VERSION]),
                (&WEBSOCKET, &VERSION)
            );
        }
        let older = [WHOLE[0], WHOLE[1], ("sec-websocket-version", "8"), WHOLE[3]];
        assert!(asked(&older).is_none());
    }
}
