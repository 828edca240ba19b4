//! What the app-server's failures mean to a caller.

use std::time::SystemTime;

use jiff::civil::{DateTime, Time};
use jiff::{ToSpan, Zoned};
use serde_json::Value;

use super::BridgeError;
use crate::app_server::{AppServerError, FailureKind, RateLimits, TurnFailure};
use crate::model::IncompleteReason;

const LOGIN: &str =
    "The Codex login is missing or has expired. Run `codex login` on the machine of the bridge.";

/// A failed turn of `model`. `limits` are the account's usage windows as last heard: they know when a used-up
/// one starts anew; else the backend's sentence names the time.
pub(super) fn of_turn(failure: TurnFailure, model: &str, limits: Option<&RateLimits>) -> BridgeError {
    let TurnFailure { kind, message, status, .. } = failure;
    match kind {
        FailureKind::ContextWindowExceeded => BridgeError::ContextLengthExceeded { message },
        FailureKind::UsageLimitExceeded | FailureKind::SessionBudgetExceeded => {
            let resets_at = limits.and_then(used_up_until).or_else(|| named_time(&message, &Zoned::now()));
            BridgeError::UsageLimit { message, resets_at }
        }
        FailureKind::RateLimitExceeded => BridgeError::RateLimited { message, retry_after: None },
        FailureKind::ServerOverloaded
        | FailureKind::FlexUnavailable
        | FailureKind::PolicyCapacityUnavailable => BridgeError::Overloaded { message },
        FailureKind::ModelNotFound => BridgeError::ModelNotFound { model: model.to_owned() },
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
        | FailureKind::ResponseStreamDisconnected => of_status(status, message),
        FailureKind::InternalServerError
        | FailureKind::ThreadRollbackFailed
        | FailureKind::SandboxError
        | FailureKind::ActiveTurnNotSteerable => upstream(message, status, "upstream_error"),
        FailureKind::Other | FailureKind::Unknown(_) => {
            refused_by_backend(&message).unwrap_or_else(|| upstream(message, status, "upstream_error"))
        }
    }
}

/// Why a failed turn's answer is merely not whole.
pub(super) fn incomplete(failure: &TurnFailure) -> Option<IncompleteReason> {
    if failure.kind != FailureKind::Other {
        return None;
    }
    match failure.message.strip_prefix("Incomplete response returned, reason: ")?.trim() {
        "max_output_tokens" => Some(IncompleteReason::MaxOutputTokens),
        "content_filter" => Some(IncompleteReason::ContentFilter),
        _ => None,
    }
}

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
        AppServerError::Overloaded { .. } => BridgeError::Overloaded { message: error.to_string() },
        AppServerError::TooLarge { .. } => too_long(error.to_string()),
        AppServerError::Refused { input_error: Some(code), message, .. } if code == "input_too_large" => {
            too_long(message)
        }
        AppServerError::Refused { message, .. } => invalid(message),
        AppServerError::Unreadable { .. } => upstream(error.to_string(), None, "app_server_unreadable"),
    }
}

/// A request that the backend refused as wrong: the app-server passes its body on as the message, and no kind.
fn refused_by_backend(message: &str) -> Option<BridgeError> {
    let body: Value = serde_json::from_str(message).ok()?;
    let error = &body["error"];
    let text = |field: &str| error[field].as_str().map(str::to_owned);
    if error["type"] != "invalid_request_error" {
        return None;
    }
    Some(BridgeError::InvalidRequest { message: text("message")?, param: text("param"), code: text("code") })
}

/// Every retry failed, or there was no connection: the last status says what to do.
fn of_status(status: Option<u16>, message: String) -> BridgeError {
    match status {
        Some(401 | 403) => BridgeError::LoginRequired { message: LOGIN.into() },
        Some(429) => BridgeError::RateLimited { message, retry_after: None },
        Some(503) => BridgeError::Overloaded { message },
        Some(400 | 422) => invalid(message),
        None => upstream(message, None, "stream_disconnected"),
        Some(_) => upstream(message, status, "upstream_error"),
    }
}

/// When the window that is used up starts anew: the later one, if both are.
fn used_up_until(limits: &RateLimits) -> Option<SystemTime> {
    let windows = [limits.primary.as_ref(), limits.secondary.as_ref()];
    let full = windows.into_iter().flatten().filter(|window| window.used_percent >= 100.0);
    full.filter_map(|window| window.resets_at).max()
}

/// The time in "... try again at 2:26 AM." or "... at Nov 22nd, 2026 2:26 AM.", in the zone of `now`, which is
/// the app-server's too. Without a date it is the next such time.
fn named_time(message: &str, now: &Zoned) -> Option<SystemTime> {
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

fn invalid(message: String) -> BridgeError {
    BridgeError::InvalidRequest { message, param: None, code: None }
}

fn too_long(message: String) -> BridgeError {
    BridgeError::ContextLengthExceeded { message }
}

fn upstream(message: String, status: Option<u16>, code: &'static str) -> BridgeError {
    BridgeError::Upstream { message, status, code }
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
    fn a_used_up_window_knows_best_when_it_starts_anew() {
        let later = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5_000_000_000);
        let window = |used_percent, resets_at| {
            Some(crate::app_server::RateLimitWindow { used_percent, minutes: None, resets_at })
        };
        let limits = RateLimits {
            primary: window(100.0, Some(later)),
            secondary: window(50.0, Some(SystemTime::UNIX_EPOCH)),
            ..RateLimits::default()
        };
        assert_eq!(used_up_until(&limits), Some(later));
    }
}
