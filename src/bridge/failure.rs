//! What the app-server's failures mean to a caller.

mod named_times;

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, Zoned};
use serde_json::Value;

use self::named_times::{named_pause, named_time};

use super::BridgeError;
use crate::app_server::{AppServerError, FailureKind, RateLimits, TurnFailure};
use crate::model::IncompleteReason;

const LOGIN: &str =
    "The Codex login is missing or has expired. Run `codex login` on the machine of the bridge.";

/// What an attempt's cause begins with where the app-server, which tries again, tells no kind.
const CAUSES: [(&str, FailureKind); 2] = [
    ("rate limit exceeded", FailureKind::RateLimitExceeded),
    ("We\u{2019}re currently experiencing high demand", FailureKind::InternalServerError),
];

/// What is known of a failed turn beside the failure's own words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) model: &'a str,
    /// The account's usage windows as last heard: they know when a used-up one starts anew; else the backend's
    /// sentence names the time.
    pub(super) limits: Option<&'a RateLimits>,
    /// The app-server's last pause between two attempts: it keeps to a `retry-after` that it does not pass on.
    pub(super) pause: Option<Duration>,
}

/// The app-server would try again, and is not to.
pub(super) fn of_retry(retry: TurnFailure, known: Known<'_>) -> BridgeError {
    let TurnFailure { kind, message, details, status } = retry;
    let message = details.unwrap_or(message);
    let told = CAUSES.iter().find(|(beginning, _)| message.starts_with(beginning));
    let kind = told.map_or(kind, |(_, kind)| kind.clone());
    of_turn(TurnFailure { kind, message, details: None, status }, known)
}

/// A failed turn.
pub(super) fn of_turn(failure: TurnFailure, known: Known<'_>) -> BridgeError {
    let TurnFailure { kind, message, status, .. } = failure;
    match kind {
        FailureKind::ContextWindowExceeded => BridgeError::ContextLengthExceeded { message },
        FailureKind::UsageLimitExceeded | FailureKind::SessionBudgetExceeded => used_up(message, known),
        FailureKind::RateLimitExceeded => rate_limited(message, known),
        FailureKind::ServerOverloaded
        | FailureKind::FlexUnavailable
        | FailureKind::PolicyCapacityUnavailable => overloaded(message, known),
        FailureKind::ModelNotFound => BridgeError::ModelNotFound { model: known.model.to_owned() },
        FailureKind::Unauthorized => BridgeError::LoginRequired { message: LOGIN.into() },
        FailureKind::BadRequest => invalid(message),
        FailureKind::InferenceHookDenied
        | FailureKind::CyberPolicy
        | FailureKind::MisalignmentPolicyViolation
        | FailureKind::TooManyDenials => BridgeError::InvalidRequest {
            message,
            param: None,
            code: Some("content_policy_violation".into()),
        },
        FailureKind::HttpConnectionFailed
        | FailureKind::ResponseStreamConnectionFailed
        | FailureKind::ResponseTooManyFailedAttempts
        | FailureKind::ResponseStreamDisconnected => of_status(status, message, known),
        FailureKind::InternalServerError
        | FailureKind::ThreadRollbackFailed
        | FailureKind::SandboxError
        | FailureKind::ActiveTurnNotSteerable
        | FailureKind::Unknown(_) => upstream(message, status, "upstream_error"),
        // The app-server's word for what it does not try again and has no word for.
        FailureKind::Other => {
            refused_by_backend(&message).unwrap_or_else(|| upstream(message, status, "upstream_refused"))
        }
    }
}

/// Why the answer of a failed turn, or of an attempt that failed, is merely not whole.
pub(super) fn incomplete(failure: &TurnFailure) -> Option<IncompleteReason> {
    if !matches!(failure.kind, FailureKind::Other | FailureKind::ResponseStreamDisconnected) {
        return None;
    }
    let cause = failure.details.as_deref().unwrap_or(&failure.message);
    let cause = cause.strip_prefix("stream disconnected before completion: ").unwrap_or(cause);
    match cause.strip_prefix("Incomplete response returned, reason: ")?.trim() {
        "max_output_tokens" => Some(IncompleteReason::MaxOutputTokens),
        "content_filter" => Some(IncompleteReason::ContentFilter),
        _ => None,
    }
}

/// What was sent cannot be served.
const INVALID_REQUEST: i32 = -32600;
/// What was sent is not known there.
const METHOD_NOT_FOUND: i32 = -32601;
/// What was sent cannot be served.
const INVALID_PARAMS: i32 = -32602;

/// A request to the app-server that failed before a turn ran.
pub(super) fn of_request(error: AppServerError) -> BridgeError {
    match error {
        AppServerError::Unavailable { reason } => BridgeError::Unavailable { reason },
        AppServerError::Connect { .. } | AppServerError::Handshake { .. } => {
            BridgeError::Unavailable { reason: error.to_string() }
        }
        AppServerError::Disconnected(reason) => BridgeError::ConnectionLost { reason: reason.to_string() },
        AppServerError::Timeout { limit, .. } => {
            BridgeError::Timeout { what: "The app-server's answer", limit }
        }
        AppServerError::Overloaded { .. } => {
            BridgeError::Overloaded { message: error.to_string(), retry_after: None }
        }
        AppServerError::TooLarge { .. } => too_long(error.to_string()),
        AppServerError::Refused { input_error: Some(code), message, .. } if code == "input_too_large" => {
            too_long(message)
        }
        AppServerError::Refused { code: INVALID_REQUEST | INVALID_PARAMS, message, .. } => invalid(message),
        AppServerError::Refused { code: METHOD_NOT_FOUND, .. } => {
            upstream(error.to_string(), None, "app_server_unreadable")
        }
        AppServerError::Refused { message, .. } => upstream(message, None, "upstream_error"),
        AppServerError::Unreadable { .. } => upstream(error.to_string(), None, "app_server_unreadable"),
    }
}

/// A request that the backend refused as wrong: the app-server passes its body on as the message, and no kind.
fn refused_by_backend(message: &str) -> Option<BridgeError> {
    let body: Value = serde_json::from_str(message).ok()?;
    if let Some(detail) = body["detail"].as_str() {
        return Some(invalid(detail.to_owned()));
    }
    let error = &body["error"];
    let text = |field: &str| error[field].as_str().map(str::to_owned);
    Some(BridgeError::InvalidRequest { message: text("message")?, param: text("param"), code: text("code") })
}

/// Every retry failed, or there was no connection: the last status says what to do.
fn of_status(status: Option<u16>, message: String, known: Known<'_>) -> BridgeError {
    match status {
        Some(401 | 403) => BridgeError::LoginRequired { message: LOGIN.into() },
        Some(402) => used_up(message, known),
        Some(429) => rate_limited(message, known),
        Some(503 | 529) => overloaded(message, known),
        Some(400 | 413 | 422) => invalid(message),
        None => upstream(message, None, "stream_disconnected"),
        Some(_) => upstream(message, status, "upstream_error"),
    }
}

/// Says when there is more, to the second and in everybody's zone, where that is known.
fn used_up(mut message: String, known: Known<'_>) -> BridgeError {
    let now = Zoned::now();
    let full = known.limits.and_then(|limits| limits.full(100.0, SystemTime::now()));
    let resets_at = full.map(|window| window.resets_at).or_else(|| named_time(&message, &now));
    if let Some(at) = resets_at.and_then(|at| Timestamp::try_from(at).ok()) {
        message = format!("{message} The limit resets at {}.", at.strftime("%Y-%m-%dT%H:%M:%SZ"));
    }
    BridgeError::UsageLimit { message, resets_at }
}

fn rate_limited(message: String, known: Known<'_>) -> BridgeError {
    let retry_after = named_pause(&message).or(known.pause);
    BridgeError::RateLimited { message, retry_after }
}

fn overloaded(message: String, known: Known<'_>) -> BridgeError {
    let retry_after = named_pause(&message).or(known.pause);
    BridgeError::Overloaded { message, retry_after }
}

fn invalid(message: String) -> BridgeError {
    BridgeError::InvalidRequest { message, param: None, code: None }
}

fn too_long(message: String) -> BridgeError {
    BridgeError::ContextLengthExceeded { message }
}

pub(super) fn upstream(message: String, status: Option<u16>, code: &'static str) -> BridgeError {
    BridgeError::Upstream { message, status, code }
}

/// Each word of the app-server's for a failure, with what it comes to.
#[cfg(test)]
pub(crate) fn meanings() -> Vec<(String, BridgeError)> {
    use FailureKind as Kind;
    let known = Known { model: "m", limits: None, pause: None };
    let plain = [
        Kind::ContextWindowExceeded,
        Kind::SessionBudgetExceeded,
        Kind::UsageLimitExceeded,
        Kind::RateLimitExceeded,
        Kind::FlexUnavailable,
        Kind::ServerOverloaded,
        Kind::ModelNotFound,
        Kind::PolicyCapacityUnavailable,
        Kind::InferenceHookDenied,
        Kind::CyberPolicy,
        Kind::MisalignmentPolicyViolation,
        Kind::TooManyDenials,
        Kind::InternalServerError,
        Kind::Unauthorized,
        Kind::BadRequest,
        Kind::ThreadRollbackFailed,
        Kind::SandboxError,
        Kind::ActiveTurnNotSteerable,
        Kind::Other,
    ];
    let with_status = [
        Kind::HttpConnectionFailed,
        Kind::ResponseStreamConnectionFailed,
        Kind::ResponseStreamDisconnected,
        Kind::ResponseTooManyFailedAttempts,
    ];
    let failed = |kind: &Kind, status, message: &str| {
        let (kind, message) = (kind.clone(), message.to_owned());
        of_turn(TurnFailure { kind, message, details: None, status }, known)
    };
    // As on the wire: the variant's name in camel case.
    let word = |kind: &Kind| {
        let name = format!("{kind:?}");
        format!("`{}{}`", name[..1].to_lowercase(), &name[1..])
    };
    let mut meanings: Vec<_> = plain.iter().map(|kind| (word(kind), failed(kind, None, "No."))).collect();
    let refused = r#"{"error": {"message": "No."}}"#;
    if let Some((word, _)) = meanings.last_mut() {
        word.push_str(", or none");
    }
    meanings.push(("`other`, with the body of a 400".into(), failed(&Kind::Other, None, refused)));
    meanings.push(("a word that is not known here".into(), failed(&Kind::Unknown("x".into()), None, "No.")));
    let statuses = with_status.iter().map(word).collect::<Vec<_>>().join(", ");
    for (status, said) in [
        (Some(400), "400, 413 or 422"),
        (Some(401), "401 or 403"),
        (Some(402), "402"),
        (Some(429), "429"),
        (Some(503), "503 or 529"),
        (Some(500), "any other status"),
        (None, "no status"),
    ] {
        for kind in &with_status {
            assert_eq!(
                format!("{:?}", failed(kind, status, "No.")),
                format!("{:?}", failed(&with_status[0], status, "No."))
            );
        }
        meanings.push((format!("{statuses} with {said}"), failed(&with_status[0], status, "No.")));
    }
    let refused = |code, input_error: Option<&str>| {
        let (message, input_error) = ("No.".to_owned(), input_error.map(str::to_owned));
        of_request(AppServerError::Refused { method: "turn/start", code, message, input_error })
    };
    meanings.extend([
        ("JSON-RPC -32001".to_owned(), of_request(AppServerError::Overloaded { method: "turn/start" })),
        ("JSON-RPC -32600, -32602".to_owned(), refused(INVALID_PARAMS, None)),
        ("JSON-RPC -32602, `input_too_large`".to_owned(), refused(INVALID_PARAMS, Some("input_too_large"))),
        ("JSON-RPC -32601".to_owned(), refused(METHOD_NOT_FOUND, None)),
        ("JSON-RPC, any other".to_owned(), refused(-32603, None)),
    ]);
    meanings
}
