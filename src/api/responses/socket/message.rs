//! What a client sends: `response.create`, the fields of the request beside it.

use serde_json::{Map, Value, json};

use super::lanes::Lane;
use crate::api::error::ApiError;
use crate::api::extract;
use crate::api::read::wrong_type;

/// Longest `stream_id`, as the official bound.
const MAX_STREAM_ID: usize = 256;

/// A message, read.
#[derive(Debug)]
pub(super) enum Message {
    /// The body is that of a POST.
    Create { lane: Lane, body: Map<String, Value> },
    /// Input for an answer that runs, which cannot be had here: what to say instead.
    Steer(Value),
    /// None of them.
    Wrong { lane: Lane, error: ApiError },
}

/// Reads one.
pub(super) fn read(text: &[u8]) -> Message {
    let wrong = |error| Message::Wrong { lane: Lane::default(), error };
    let mut body = match extract::parse(text) {
        Ok(body) => body,
        Err(error) => return wrong(error),
    };
    let kind = body.shift_remove("type").unwrap_or_default();
    if kind == "response.steer" {
        return Message::Steer(cannot_steer(&body));
    }
    match stream_id(&mut body) {
        Ok(lane) => match checked(&kind, &mut body) {
            Ok(()) => Message::Create { lane, body },
            Err(error) => Message::Wrong { lane, error },
        },
        Err(error) => wrong(error),
    }
}

fn stream_id(body: &mut Map<String, Value>) -> Result<Lane, ApiError> {
    let given = match body.shift_remove("stream_id") {
        None | Some(Value::Null) => return Ok(Lane::default()),
        Some(given) => given,
    };
    let fits = |name: &&str| {
        let may = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        (1..=MAX_STREAM_ID).contains(&name.len()) && name.bytes().all(may)
    };
    given.as_str().filter(fits).map(Lane::named).ok_or_else(|| {
        let message = format!(
            "Invalid 'stream_id': expected a string of 1 to {MAX_STREAM_ID} letters, digits, '_', '-' and '.'."
        );
        ApiError::new("invalid_stream_id", message)
    })
}

/// Checks what is the socket's own, and takes it out.
fn checked(kind: &Value, body: &mut Map<String, Value>) -> Result<(), ApiError> {
    match kind {
        Value::String(kind) if kind == "response.create" => {}
        Value::Null => {
            let message = "Missing required parameter: 'type'.";
            return Err(ApiError::invalid("type", message).with_code("missing_required_parameter"));
        }
        Value::String(_) => {
            let message = "Invalid 'type': the one event a client sends is 'response.create'.";
            return Err(ApiError::invalid("type", message).with_code("invalid_value"));
        }
        other => return Err(wrong_type("type", "a string", other)),
    }
    // Every answer is a stream here, whatever is said.
    body.shift_remove("stream");
    match body.shift_remove("background") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(()),
        Some(Value::Bool(true)) => {
            let message = "Unsupported parameter: 'background' cannot be had over a WebSocket.";
            Err(ApiError::unsupported("background", message))
        }
        Some(other) => Err(wrong_type("background", "a boolean", &other)),
    }
}

/// The official event for it, with what was sent.
fn cannot_steer(body: &Map<String, Value>) -> Value {
    let sent = |name: &str| body.get(name).cloned().unwrap_or_default();
    json!({
        "type": "response.steer.failed",
        "sequence_number": 0,
        "steer": {"previous_response_id": sent("previous_response_id"), "input": sent("input")},
        "error": {
            "type": "invalid_request_error",
            "code": "steering_not_supported",
            "message": "A response that runs takes no further input here: send it with the next 'response.create'.",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(text: &str) -> (Option<String>, Value) {
        match read(text.as_bytes()) {
            Message::Create { lane, body } => (lane.name().map(ToString::to_string), Value::Object(body)),
            other => panic!("no request: {other:?}"),
        }
    }

    fn refused(text: &str) -> (Option<String>, String, Option<String>) {
        let Message::Wrong { lane, error } = read(text.as_bytes()) else { panic!("not wrong: {text}") };
        (lane.name().map(ToString::to_string), error.code.unwrap(), error.param)
    }

    #[test]
    fn the_body_is_what_is_not_the_sockets_own() {
        let sent = r#"{"type": "response.create", "stream_id": "a.b-c_1", "stream": true, "background": false,
                       "input": "hi", "generate": false, "unknown": 1}"#;
        let (lane, body) = create(sent);
        assert_eq!(lane.as_deref(), Some("a.b-c_1"));
        assert_eq!(body, json!({"input": "hi", "generate": false, "unknown": 1}));
        assert_eq!(
            create(r#"{"type": "response.create", "stream_id": null, "background": null}"#),
            (None, json!({}))
        );
    }

    #[test]
    fn anything_else_is_refused_and_named() {
        let of = |code: &str, param: Option<&str>| (None, code.to_owned(), param.map(str::to_owned));
        for (text, expected) in [
            ("", of("invalid_json", None)),
            ("[1]", of("invalid_json", None)),
            ("{\"type\": ", of("invalid_json", None)),
            ("{}", of("missing_required_parameter", Some("type"))),
            (r#"{"type": 1}"#, of("invalid_type", Some("type"))),
            (r#"{"type": "response.cancel"}"#, of("invalid_value", Some("type"))),
            (
                r#"{"type": "response.create", "background": true}"#,
                of("unsupported_parameter", Some("background")),
            ),
            (r#"{"type": "response.create", "background": "x"}"#, of("invalid_type", Some("background"))),
        ] {
            assert_eq!(refused(text), expected, "{text}");
        }
        let long = "x".repeat(MAX_STREAM_ID + 1);
        for name in [json!(""), json!(1), json!("a b"), json!("é"), json!(long)] {
            let text = json!({"type": "response.create", "stream_id": name}).to_string();
            assert_eq!(refused(&text), of("invalid_stream_id", Some("stream_id")), "{text}");
        }
        // Of a lane that is known.
        let (lane, code, _) = refused(r#"{"type": "other", "stream_id": "a"}"#);
        assert_eq!((lane.as_deref(), code.as_str()), (Some("a"), "invalid_value"));
    }

    #[test]
    fn input_for_an_answer_that_runs_is_given_back() {
        let sent = r#"{"type": "response.steer", "previous_response_id": "resp_1", "input": "also this"}"#;
        let Message::Steer(told) = read(sent.as_bytes()) else { panic!("not steered") };
        assert_eq!(told["steer"], json!({"previous_response_id": "resp_1", "input": "also this"}));
        assert_eq!(told["error"]["code"], "steering_not_supported");
    }
}
