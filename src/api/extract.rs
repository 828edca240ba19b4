//! Request bodies: bounded in size and time, JSON, and refused in the official shape.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};

use super::edge::Edge;
use super::error::ApiError;

/// The body as a JSON object.
#[derive(Debug)]
pub(crate) struct JsonBody(pub(crate) Map<String, Value>);

impl FromRequest<Edge> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, edge: &Edge) -> Result<Self, ApiError> {
        check_head(request.headers(), edge.max_body_bytes)?;
        let read = read(request.into_body(), edge.max_body_bytes);
        let body = tokio::time::timeout(edge.body_timeout, read).await.map_err(|_| {
            let limit = edge.body_timeout;
            let message = format!("The request body was not complete after {limit:?}.");
            ApiError::request(StatusCode::REQUEST_TIMEOUT, message).with_code("request_timeout")
        })??;
        parse(&body).map(Self)
    }
}

/// What the head alone tells. A body without a type is taken for JSON.
fn check_head(headers: &HeaderMap, max_bytes: usize) -> Result<(), ApiError> {
    if let Some(kind) = headers.get(CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or_default();
        if !is_json(kind) {
            return Err(unsupported("Send the request body as `Content-Type: application/json`."));
        }
    }
    let encoding = headers.get(CONTENT_ENCODING).map(|encoding| encoding.as_bytes().trim_ascii());
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        return Err(unsupported("Send the request body without a `Content-Encoding`."));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > max_bytes)) {
        return Err(too_large(max_bytes));
    }
    Ok(())
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn read(body: Body, max_bytes: usize) -> Result<Bytes, ApiError> {
    match Limited::new(body, max_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(max_bytes)),
        Err(_) => Err(bad_json("The request body ended before it was complete.")),
    }
}

/// Says where the mistake is, never what stands there.
fn parse(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(bad_json("The request has no body: send a JSON object."));
    }
    if let Err(error) = std::str::from_utf8(body) {
        return Err(bad_json(format!("The request body is not UTF-8 (byte {}).", error.valid_up_to())));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(bad_json("The request body must be a JSON object.")),
        Err(error) => {
            let what = match error.classify() {
                serde_json::error::Category::Eof => "ends too early",
                _ => "is not valid",
            };
            let (line, column) = (error.line(), error.column());
            Err(bad_json(format!(
                "We could not parse the JSON body of your request: it {what} at line {line}, column {column}."
            )))
        }
    }
}

fn bad_json(message: impl Into<String>) -> ApiError {
    ApiError::request(StatusCode::BAD_REQUEST, message).with_code("invalid_json")
}

fn unsupported(message: &str) -> ApiError {
    ApiError::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).with_code("unsupported_media_type")
}

fn too_large(max_bytes: usize) -> ApiError {
    let message = format!("The request body is larger than {max_bytes} bytes (`server.max_body_bytes`).");
    ApiError::request(StatusCode::PAYLOAD_TOO_LARGE, message).with_code("request_too_large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_types_are_json() {
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            assert!(is_json(kind), "{kind}");
        }
        for kind in ["", "text/plain", "application/x-www-form-urlencoded", "text/json", "application/jsonp"]
        {
            assert!(!is_json(kind), "{kind}");
        }
    }

    #[test]
    fn mistakes_are_placed_and_never_quoted() {
        let message = |body: &[u8]| parse(body).unwrap_err().message;
        assert!(message(b"{\"secret\": nope}").contains("line 1, column"));
        assert!(!message(b"{\"secret\": nope}").contains("secret"));
        assert!(message(b"{\"a\": [1, 2").contains("ends too early"));
        assert!(message(b"[1]").contains("object"));
        assert!(message(b" \n").contains("no body"));
        assert!(message(b"{\"a\": \"\xff\"}").contains("not UTF-8 (byte 7)"));
        assert!(message("[".repeat(1000).as_bytes()).contains("not valid"));
    }
}
