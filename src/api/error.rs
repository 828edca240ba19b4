//! Errors in OpenAI's shape: the one place that gives each failure its status, type, code and `Retry-After`.

mod bridge;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

/// An error as the client sees it.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error`, `server_error`, …
    pub(crate) kind: &'static str,
    pub(crate) code: Option<String>,
    pub(crate) param: Option<String>,
    pub(crate) message: String,
    /// Sent as `Retry-After`, whole seconds, rounded up.
    pub(crate) retry_after: Option<Duration>,
}

/// The error's code, left in a response's extensions for the request log.
#[derive(Debug, Clone)]
pub(crate) struct ErrorCode(pub(crate) String);

impl ApiError {
    /// An error of the caller's that is about no one field.
    pub(crate) fn request(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: "invalid_request_error",
            code: None,
            param: None,
            message: message.into(),
            retry_after: None,
        }
    }

    /// 400 `invalid_request_error` about one field.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::request(StatusCode::BAD_REQUEST, message);
        error.param = Some(param.into());
        error
    }

    /// 400 `unsupported_parameter`: a field, or a value of it, that cannot be served here.
    pub(crate) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(param, message).with_code("unsupported_parameter")
    }

    /// 401 `invalid_api_key`.
    pub(crate) fn invalid_key(message: impl Into<String>) -> Self {
        Self::request(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key")
    }

    /// A failure that is not the caller's.
    pub(crate) fn server(status: StatusCode, code: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::request(status, message).with_code(code);
        error.kind = "server_error";
        error
    }

    /// The same error with a machine-readable code.
    #[must_use]
    pub(crate) fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// The official body, `{"error": {…}}`: of an error response, and of the event that ends a Chat
    /// Completions stream.
    pub(crate) fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            error: ErrorFields {
                message: &self.message,
                kind: self.kind,
                param: self.param.as_deref(),
                code: self.code.as_deref(),
            },
        }
    }

    /// The word of the closed list of codes that `response.error` takes. The list has none for most
    /// failures; the message and [`ApiError::body`] tell them apart.
    pub(crate) fn response_code(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
            status if status.is_client_error() && status != StatusCode::UNAUTHORIZED => "invalid_prompt",
            _ => "server_error",
        }
    }

    /// For failures that the same request will meet again however soon it is sent: the SDKs would
    /// otherwise send it twice more at once.
    fn is_final(&self) -> bool {
        matches!(
            self.code.as_deref(),
            Some("usage_limit_reached" | "answer_too_large" | super::answer::INVALID_ANSWER)
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if self.is_final() {
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        response.extensions_mut().insert(ErrorCode(self.code.unwrap_or_else(|| self.kind.to_owned())));
        response
    }
}

/// `{"error": {…}}`.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorFields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

/// Rounded up, so that a client that waits exactly this long is not too early; at least 1.
fn whole_seconds(wait: Duration) -> u64 {
    let up = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(up).max(1)
}
