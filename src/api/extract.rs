//! Request bodies: bounded in size, number and time, JSON, and refused in the official shape.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::BytesMut;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::edge::Edge;
use super::error::ApiError;
use super::intake::Room;
use super::observe::Call;
use crate::model::KeyId;

/// How long a client is told to wait when there was no room for its body.
const NO_ROOM_RETRY: Duration = Duration::from_secs(1);

/// The body as a JSON object.
#[derive(Debug)]
pub(crate) struct JsonBody(pub(crate) Map<String, Value>);

impl FromRequest<Edge> for JsonBody {
    type Rejection = ApiError;

    /// The body's room is kept until the call has ended: what was read from it lives as long.
    async fn from_request(request: Request, edge: &Edge) -> Result<Self, ApiError> {
        let length = check_head(request.headers(), edge.max_body_bytes)?;
        let call = request.extensions().get::<Call>().cloned();
        let deadline = Instant::now() + edge.body_timeout;
        let key = call.as_ref().map_or_else(KeyId::anonymous, Call::key);
        let mut room = edge.room(&key, length.unwrap_or_default()).await.ok_or_else(no_room)?;
        let mut body = BytesMut::with_capacity(length.unwrap_or_default());
        read(request.into_body(), edge.max_body_bytes, &mut body, &mut room, deadline).await?;
        let body = body.freeze();
        if let Some(call) = call {
            call.keep_room(room);
            if edge.fallback.is_some() {
                call.keep_body(body.clone());
            }
        }
        parse(&body).map(Self)
    }
}

/// What the head alone tells, the body's length among it. A body without a type is taken for JSON.
fn check_head(headers: &HeaderMap, max_bytes: usize) -> Result<Option<usize>, ApiError> {
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
    let Some(length) = length else { return Ok(None) };
    let length = usize::try_from(length).ok().filter(|length| *length <= max_bytes);
    length.map(Some).ok_or_else(|| too_large(max_bytes))
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn read(
    body: Body,
    max_bytes: usize,
    into: &mut BytesMut,
    room: &mut Room,
    deadline: Instant,
) -> Result<(), ApiError> {
    let mut body = Limited::new(body, max_bytes);
    loop {
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| too_slow())?;
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                too_large(max_bytes)
            } else {
                bad_json("The request body ended before it was complete.")
            }
        })?;
        if let Ok(data) = frame.into_data() {
            timeout_at(deadline, room.grow(into.len() + data.len())).await.map_err(|_| no_room())?;
            into.extend_from_slice(&data);
        }
    }
}

/// A JSON object. Says where the mistake is, never what stands there.
pub(crate) fn parse(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
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
    ApiError::new("invalid_json", message)
}

fn unsupported(message: &str) -> ApiError {
    ApiError::new("unsupported_media_type", message)
}

fn too_slow() -> ApiError {
    let message = "The request body was not complete in time (`server.body_timeout`).";
    ApiError::new("request_timeout", message)
}

pub(crate) fn no_room() -> ApiError {
    let message = "Too many request bodies are held at once (`server.body_memory`); try again.";
    let mut error = ApiError::new("server_overloaded", message);
    error.retry_after = Some(NO_ROOM_RETRY);
    error
}

fn too_large(max_bytes: usize) -> ApiError {
    let message = format!("The request body is larger than {max_bytes} bytes (`server.max_body_bytes`).");
    ApiError::new("request_too_large", message)
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
