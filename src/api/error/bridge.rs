//! What the engine's failures are over HTTP.

use std::time::{Duration, SystemTime};

use http::StatusCode;

use super::ApiError;
use crate::bridge::BridgeError;

impl From<BridgeError> for ApiError {
    fn from(error: BridgeError) -> Self {
        let message = error.to_string();
        match error {
            BridgeError::InvalidRequest { message, param, code } => {
                let mut error = Self::request(StatusCode::BAD_REQUEST, message);
                error.param = param;
                error.code = code;
                error
            }
            BridgeError::ModelNotFound { .. } => {
                let mut error = Self::request(StatusCode::NOT_FOUND, message).with_code("model_not_found");
                error.param = Some("model".into());
                error
            }
            BridgeError::PreviousNotFound { .. } => {
                Self::invalid("previous_response_id", message).with_code("previous_response_not_found")
            }
            BridgeError::AccountMismatch { .. } => {
                Self::invalid("previous_response_id", message).with_code("continuation_account_mismatch")
            }
            BridgeError::ContextLengthExceeded { .. } => {
                Self::invalid("input", message).with_code("context_length_exceeded")
            }
            BridgeError::LoginRequired { .. } => {
                let mut error = Self::request(StatusCode::UNAUTHORIZED, message).with_code("login_required");
                error.kind = "authentication_error";
                error
            }
            BridgeError::Busy { retry_after } => limited(message, "rate_limit_exceeded", Some(retry_after)),
            BridgeError::UsageLimit { resets_at, .. } => {
                limited(message, "usage_limit_reached", resets_at.map(from_now))
            }
            BridgeError::RateLimited { retry_after, .. } => {
                limited(message, "rate_limit_exceeded", retry_after)
            }
            BridgeError::Overloaded { .. } => {
                Self::server(StatusCode::SERVICE_UNAVAILABLE, "server_overloaded", message)
            }
            BridgeError::Unavailable { .. } => {
                Self::server(StatusCode::SERVICE_UNAVAILABLE, "app_server_unavailable", message)
            }
            BridgeError::Draining => Self::server(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message),
            BridgeError::Interrupted => Self::server(StatusCode::SERVICE_UNAVAILABLE, "interrupted", message),
            BridgeError::Timeout { .. } => Self::server(StatusCode::GATEWAY_TIMEOUT, "timeout", message),
            BridgeError::AnswerTooLarge { .. } => {
                Self::server(StatusCode::BAD_GATEWAY, "answer_too_large", message)
            }
            BridgeError::Upstream { code, .. } => Self::server(StatusCode::BAD_GATEWAY, code, message),
            BridgeError::ConnectionLost { .. } => {
                Self::server(StatusCode::BAD_GATEWAY, "app_server_connection_lost", message)
            }
        }
    }
}

fn limited(message: String, code: &str, retry_after: Option<Duration>) -> ApiError {
    let mut error = ApiError::request(StatusCode::TOO_MANY_REQUESTS, message).with_code(code);
    error.kind = "rate_limit_error";
    error.retry_after = retry_after;
    error
}

/// Nothing if that time has passed already.
fn from_now(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::now()).unwrap_or_default()
}
