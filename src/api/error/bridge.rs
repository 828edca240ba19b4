//! What the engine's failures are over HTTP.

use std::time::{Duration, SystemTime};

use http::StatusCode;

use super::ApiError;
use crate::bridge::BridgeError;
use crate::store::StoreError;

impl From<BridgeError> for ApiError {
    fn from(error: BridgeError) -> Self {
        let message = error.to_string();
        let mut retry_after = None;
        let code = match error {
            BridgeError::InvalidRequest { message, param, code } => {
                let error = Self::request(StatusCode::BAD_REQUEST, message);
                return Self { code, param, ..error };
            }
            BridgeError::ModelNotFound { .. } => "model_not_found",
            BridgeError::PreviousNotFound { .. } => "previous_response_not_found",
            BridgeError::AccountMismatch { .. } => "continuation_account_mismatch",
            BridgeError::ContextLengthExceeded { .. } => "context_length_exceeded",
            BridgeError::LoginRequired { .. } => "login_required",
            BridgeError::Busy { retry_after: wait } => {
                retry_after = Some(wait);
                "rate_limit_exceeded"
            }
            BridgeError::ChainTooLong { .. } => "chain_too_long",
            BridgeError::StoreUnavailable => "store_unavailable",
            BridgeError::UsageLimit { resets_at, .. } => {
                retry_after = resets_at.map(from_now);
                "usage_limit_reached"
            }
            BridgeError::RateLimited { retry_after: wait, .. } => {
                retry_after = wait;
                "rate_limit_exceeded"
            }
            BridgeError::Overloaded { retry_after: wait, .. } => {
                retry_after = wait;
                "server_overloaded"
            }
            BridgeError::Unavailable { .. } => "app_server_unavailable",
            BridgeError::BreakerOpen { retry_after: wait } => {
                retry_after = Some(wait);
                "upstream_unavailable"
            }
            BridgeError::Draining => "shutting_down",
            BridgeError::Interrupted => "interrupted",
            BridgeError::Timeout { .. } => "timeout",
            BridgeError::AnswerTooLarge { .. } => "answer_too_large",
            BridgeError::Upstream { code, .. } => code,
            BridgeError::ConnectionLost { .. } => "app_server_connection_lost",
        };
        Self { retry_after, ..Self::new(code, message) }
    }
}

/// Of the documents; what of the responses' store fails, the engine tells.
impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let (code, message) = match &error {
            StoreError::Unavailable { .. } => ("store_unavailable", "The store is not available now."),
            StoreError::Refused { .. } | StoreError::TooLarge { .. } => {
                ("store_full", "The store takes nothing more now.")
            }
            StoreError::Unreadable { .. } => ("internal_error", "What is stored cannot be read."),
        };
        tracing::warn!(%error, "the documents could not be used");
        Self::new(code, message)
    }
}

/// Nothing if that time has passed already.
fn from_now(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::now()).unwrap_or_default()
}
