//! Errors in OpenAI's shape. [`table`] gives each code its status, type, `Retry-After` and whether to retry.

mod bridge;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use super::observe::Envelope;

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

/// Tells the official SDKs whether to send the request again.
pub(crate) const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

impl ApiError {
    /// The error of a code of ours.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self::request(StatusCode::INTERNAL_SERVER_ERROR, message).with_code(code)
    }

    /// An error of the caller's that has no code.
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

    /// The same error with a machine-readable code, and what the table says of it.
    #[must_use]
    pub(crate) fn with_code(mut self, code: impl Into<String>) -> Self {
        let code = code.into();
        if let Some(row) = table::find(&code) {
            self.status = StatusCode::from_u16(row.status).unwrap_or(self.status);
            self.kind = row.kind;
            if let table::Param::Is(field) = row.param {
                self.param = Some(field.to_owned());
            }
        }
        self.code = Some(code);
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
                bridge: None,
            },
        }
    }

    /// The event that tells it over a socket. What it says of the request beside it stands in `headers`.
    pub(crate) fn event<'a>(&'a self, stream_id: Option<&'a str>, headers: &'a HeaderMap) -> ErrorEvent<'a> {
        let text =
            |(name, value): (&'a HeaderName, &'a HeaderValue)| Some((name.as_str(), value.to_str().ok()?));
        let ErrorBody { mut error } = self.body();
        // Its readers want one in any case.
        error.code.get_or_insert(self.kind);
        let error = PayloadFields { error, headers: headers.iter().filter_map(text).collect() };
        ErrorEvent { kind: "error", status: self.status.as_u16(), error, stream_id }
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

    /// The message with our own code, for a place that has no room for it.
    pub(crate) fn named_message(&self) -> String {
        match self.code.as_deref().filter(|code| *code != self.response_code()) {
            Some(code) => format!("{} ({code})", self.message),
            None => self.message.clone(),
        }
    }

    /// What the table says of it. A code of the backend's may have the name of one of ours.
    fn row(&self) -> Option<&'static table::Row> {
        table::find_at(self.code.as_deref().unwrap_or_default(), self.status.as_u16())
    }
}

impl ApiError {
    /// What it says in the response's head.
    pub(crate) fn headers(&self) -> HeaderMap {
        let row = self.row();
        let otherwise = row.and_then(|row| row.retry_after?.otherwise).map(Duration::from_secs);
        let mut headers = HeaderMap::new();
        if let Some(wait) = self.retry_after.or(otherwise) {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        // The SDKs would otherwise go by the status alone, and send what cannot succeed twice more at once.
        let again = if row.is_some_and(|row| row.retry) { "true" } else { "false" };
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static(again));
        headers
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body().to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.headers());
        // For the request log, and the trace.
        response.extensions_mut().insert(self);
        response
    }
}

/// `{"error": {…}}`.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct ErrorFields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
    /// Ours, only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<&'a Envelope>,
}

/// `{"type": "error", …}`.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorEvent<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    status: u16,
    error: PayloadFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct PayloadFields<'a> {
    #[serde(flatten)]
    error: ErrorFields<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, &'a str>,
}

impl<'a> ErrorEvent<'a> {
    /// The same event with the call's trace.
    #[must_use]
    pub(crate) fn with_trace(mut self, trace: Option<&'a Envelope>) -> Self {
        self.error.error.bridge = trace;
        self
    }
}

impl<'a> ErrorBody<'a> {
    /// The same body with the call's trace.
    #[must_use]
    pub(crate) fn with_trace(mut self, trace: Option<&'a Envelope>) -> Self {
        self.error.bridge = trace;
        self
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Rounded up, so that a client that waits exactly this long is not too early; at least 1.
fn whole_seconds(wait: Duration) -> u64 {
    let up = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(up).max(1)
}
