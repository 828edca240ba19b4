//! One row: a call like any other of its key's, made again until it is the row's own fault that it fails.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::ServiceExt;

use super::line::{Answered, Row};
use crate::api::access::X_PRIORITY;
use crate::api::auth::Key;
use crate::api::classes::X_TASK_CLASS;
use crate::api::error::X_SHOULD_RETRY;
use crate::api::request_id::X_REQUEST_ID;
use crate::model::Priority;

/// How often a row is tried whose call fails for another's reason, one after another.
const TRIES: u32 = 4;
/// Between two of them, doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
/// Waits, where nobody says how long: for a turn, for a person. And the longest before it is looked at again: windows may open sooner than was
/// told.
const WAIT: Duration = Duration::from_secs(5);
const LONG_WAIT: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Nothing is asked for sooner.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// When a batch may ask again: what holds for one of its rows holds for all.
#[derive(Debug, Default)]
pub(super) struct Pause(Mutex<Option<Instant>>);

impl Pause {
    /// Nothing is asked before this time has passed.
    pub(super) fn extend(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(held.map_or(until, |held| held.max(until)));
    }

    pub(super) async fn over(&self) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| Instant::now() < *until) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|until| until <= Instant::now())
    }
}

/// What an answer means for its row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the row's result.
    Result,
    /// No fault of the row's: the whole batch waits, and it is tried again.
    Wait(Duration),
    /// Perhaps no fault of the row's: it alone is tried again, a few times.
    Again(Duration),
}

/// The answer to a call.
pub(super) struct Answer {
    pub(super) answered: Answered,
    pub(super) verdict: Verdict,
}

/// Calls as `owner`, for the `tried`th time.
pub(super) async fn call(
    service: Router,
    owner: Arc<Key>,
    row: &Row,
    task_class: Option<&str>,
    tried: u32,
) -> Answer {
    let body = row.body.get().as_bytes().to_vec();
    let mut request = Request::post(&row.url)
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, body.len())
        .header(X_PRIORITY, Priority::Batch.as_str());
    if let Some(class) = task_class {
        request = request.header(X_TASK_CLASS, class);
    }
    // Its parts were checked: they make a request.
    let mut request = request.body(Body::from(body)).unwrap_or_default();
    request.extensions_mut().insert(owner);
    let Ok(response) = service.oneshot(request).await;
    let (head, body) = response.into_parts();
    let request_id = text(&head.headers, X_REQUEST_ID.as_str()).unwrap_or_default().to_owned();
    let verdict = verdict(head.status, &head.headers, tried);
    let body = match body.collect().await {
        Ok(body) => serde_json::from_slice(&body.to_bytes()).ok(),
        Err(_) => None,
    };
    let Some(body) = body else {
        // An answer of the fallback's that broke off, or is none.
        let answered =
            Answered { status_code: StatusCode::BAD_GATEWAY.as_u16(), request_id, body: broken_off() };
        let verdict = again(tried);
        return Answer { answered, verdict };
    };
    Answer { answered: Answered { status_code: head.status.as_u16(), request_id, body }, verdict }
}

fn verdict(status: StatusCode, headers: &HeaderMap, tried: u32) -> Verdict {
    let told = text(headers, RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok());
    let may_succeed = text(headers, X_SHOULD_RETRY.as_str()) == Some("true");
    let untold = if may_succeed { WAIT } else { LONG_WAIT };
    let wait = told.map_or(untold, Duration::from_secs).clamp(SHORTEST_WAIT, LONGEST_WAIT);
    match status {
        // Whose turn it is, whether the account's window is open, whether somebody is logged in: no row's fault.
        StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED => Verdict::Wait(wait),
        StatusCode::SERVICE_UNAVAILABLE if may_succeed => Verdict::Wait(wait),
        _ if status.is_success() => Verdict::Result,
        _ if may_succeed => again(tried),
        _ => Verdict::Result,
    }
}

fn again(tried: u32) -> Verdict {
    if tried < TRIES { Verdict::Again(PAUSE * 2_u32.pow(tried.saturating_sub(1))) } else { Verdict::Result }
}

fn broken_off() -> serde_json::Value {
    serde_json::json!({ "error": {
        "message": "The answer broke off.", "type": "server_error", "param": null, "code": "stream_disconnected",
    } })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, headers: &[(&'static str, &str)], tried: u32) -> Verdict {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        verdict(StatusCode::from_u16(status).unwrap(), &headers.collect(), tried)
    }

    #[test]
    fn a_row_fails_by_its_own_fault_alone() {
        let (retry, seconds) = (("x-should-retry", "true"), Duration::from_secs);
        assert_eq!(of(200, &[], 1), Verdict::Result);
        for status in [400, 403, 404, 413, 502] {
            assert_eq!(of(status, &[("x-should-retry", "false")], 1), Verdict::Result, "{status}");
        }
        for status in [401, 429] {
            assert_eq!(of(status, &[("retry-after", "7")], 100), Verdict::Wait(seconds(7)), "{status}");
        }
        assert_eq!(of(503, &[retry], 100), Verdict::Wait(WAIT));
        assert_eq!(of(503, &[("x-should-retry", "false")], 1), Verdict::Result, "a store that is full");
        assert_eq!(
            of(401, &[("x-should-retry", "false")], 1),
            Verdict::Wait(LONG_WAIT),
            "nobody is logged in"
        );
        assert_eq!(of(429, &[("retry-after", "90000")], 1), Verdict::Wait(LONGEST_WAIT));
        assert_eq!(of(502, &[retry], 1), Verdict::Again(seconds(1)));
        assert_eq!(of(504, &[retry], 3), Verdict::Again(seconds(4)));
        assert_eq!(of(500, &[retry], TRIES), Verdict::Result);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_for_the_longest_wait() {
        let (pause, began) = (Pause::default(), Instant::now());
        assert!(pause.is_over());
        pause.extend(Duration::from_secs(9));
        pause.extend(Duration::from_secs(3));
        assert!(!pause.is_over());
        pause.over().await;
        assert_eq!(began.elapsed(), Duration::from_secs(9));
    }
}
