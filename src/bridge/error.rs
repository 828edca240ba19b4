//! What can go wrong with a call, by what the caller does next.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// Why a call has no answer. `api::error` gives each its status, type, code and `Retry-After`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BridgeError {
    /// The request itself cannot be served: 400.
    #[error("{message}")]
    InvalidRequest {
        /// For the client.
        message: String,
        /// The field at fault, in the words of the Responses API.
        param: Option<String>,
        /// A machine-readable code where one is official.
        code: Option<String>,
    },
    /// No such model in the catalogue: 404.
    #[error("The model '{model}' does not exist or you do not have access to it.")]
    ModelNotFound {
        /// As the client named it.
        model: String,
    },
    /// The response to continue is not (or no longer) there, or not this caller's: 400.
    #[error("Previous response with id '{id}' not found.")]
    PreviousNotFound {
        /// As the client named it.
        id: String,
    },
    /// The response to continue was made under another login: 400.
    #[error("Previous response with id '{id}' was made with another account and cannot be continued.")]
    AccountMismatch {
        /// As the client named it.
        id: String,
    },
    /// The chain has more items than are kept of one: 400.
    #[error("The conversation has {items} items with this request; at most {limit} can be continued.")]
    ChainTooLong {
        /// The request's own included.
        items: usize,
        /// `continuation.max_chain_items`.
        limit: usize,
    },
    /// The response to continue may be in the store, which is down: 503.
    #[error(
        "The response store is not available, and the previous response is not in memory. Try again later."
    )]
    StoreUnavailable,
    /// The input does not fit the model: 400.
    #[error("{message}")]
    ContextLengthExceeded {
        /// The backend's words.
        message: String,
    },
    /// Nobody is logged in, or the login has expired: 401.
    #[error("{message}")]
    LoginRequired {
        /// Says `codex login`.
        message: String,
    },
    /// Our queue is full or the wait in it was too long: 429.
    #[error("All slots are busy and the queue is full. Try again later.")]
    Busy {
        /// When a slot is likely to be free.
        retry_after: Duration,
    },
    /// The account's usage window is used up: 429.
    #[error("{message}")]
    UsageLimit {
        /// The backend's words.
        message: String,
        /// When the window starts anew, where known.
        resets_at: Option<SystemTime>,
    },
    /// The backend refuses the rate: 429.
    #[error("{message}")]
    RateLimited {
        /// The backend's words.
        message: String,
        /// Where known.
        retry_after: Option<Duration>,
    },
    /// The backend or the app-server has too much to do: 503.
    #[error("{message}")]
    Overloaded {
        /// Whose words they are.
        message: String,
        /// Where known.
        retry_after: Option<Duration>,
    },
    /// No app-server to ask, for now: 503.
    #[error("The app-server is not available: {reason}")]
    Unavailable {
        /// What the supervisor knows.
        reason: String,
    },
    /// The backend has failed too often of late, and is left alone for a while: 503.
    #[error("The backend has failed too often of late; the bridge does not ask it for now (`breaker.mode`).")]
    BreakerOpen {
        /// Until it is asked again.
        retry_after: Duration,
    },
    /// The bridge is stopping: 503.
    #[error("The bridge is shutting down.")]
    Draining,
    /// A time limit of ours passed: 504.
    #[error("{what} took longer than {limit:?}.")]
    Timeout {
        /// Which limit: "The turn", "The model's silence", …
        what: &'static str,
        /// How long it was.
        limit: Duration,
    },
    /// The answer was larger than the limit: 502.
    #[error("The answer is larger than {limit} bytes.")]
    AnswerTooLarge {
        /// The limit, bytes.
        limit: usize,
    },
    /// The backend failed: 502.
    #[error("{message}")]
    Upstream {
        /// The backend's words.
        message: String,
        /// The status the app-server got, where it tells.
        status: Option<u16>,
        /// Our name for the failure, a code of the error table: `upstream_error`, `lost_turn`, …
        code: &'static str,
    },
    /// The connection to the app-server was lost under the call: 502.
    #[error("The connection to the app-server was lost: {reason}")]
    ConnectionLost {
        /// Kept from the disconnect.
        reason: String,
    },
    /// The turn was interrupted, by us on the way down or by somebody else: 503.
    #[error("The turn was interrupted.")]
    Interrupted,
}

impl BridgeError {
    /// What a log may say of it. The words of the backend and of clients may quote what was asked or answered: of them
    /// there is only what kind of failure they stand for.
    pub(super) fn for_log(&self) -> Cow<'static, str> {
        match self {
            Self::InvalidRequest { .. } => "invalid_request".into(),
            Self::ModelNotFound { .. } => "model_not_found".into(),
            Self::PreviousNotFound { .. } => "previous_response_not_found".into(),
            Self::AccountMismatch { .. } => "account_mismatch".into(),
            Self::ContextLengthExceeded { .. } => "context_length_exceeded".into(),
            Self::LoginRequired { .. } => "login_required".into(),
            Self::UsageLimit { .. } => "usage_limit_reached".into(),
            Self::RateLimited { .. } => "rate_limit_exceeded".into(),
            Self::Overloaded { .. } => "server_overloaded".into(),
            Self::Upstream { status: Some(status), code, .. } => format!("{code} ({status})").into(),
            Self::Upstream { status: None, code, .. } => (*code).into(),
            Self::ChainTooLong { .. }
            | Self::StoreUnavailable
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::BreakerOpen { .. }
            | Self::Draining
            | Self::Timeout { .. }
            | Self::AnswerTooLarge { .. }
            | Self::ConnectionLost { .. }
            | Self::Interrupted => self.to_string().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_the_kind_of_a_failure_in_place_of_words_that_are_not_ours() {
        let message = String::from("Unknown value 'what the client wrote'.");
        for (error, logged) in [
            (
                BridgeError::InvalidRequest { message: message.clone(), param: None, code: None },
                "invalid_request",
            ),
            (
                BridgeError::Upstream { message: message.clone(), status: Some(500), code: "upstream_error" },
                "upstream_error (500)",
            ),
            (BridgeError::RateLimited { message, retry_after: None }, "rate_limit_exceeded"),
            (BridgeError::Interrupted, "The turn was interrupted."),
        ] {
            assert_eq!(error.for_log(), logged);
        }
    }
}
