use std::sync::LazyLock;

use http::StatusCode;
use serde_json::{Value, json};

use super::*;
use crate::api::testing::{config, post, routes, send};

const PATH: &str = "/v1/chat/completions";

/// The least a request can be.
pub(super) static PLAIN: LazyLock<Value> =
    LazyLock::new(|| json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}));

/// The plan for a request without images.
pub(super) fn plan(body: Value) -> Plan {
    let Value::Object(body) = body else { panic!("not an object") };
    let decoded = decode::decode(body, crate::config::RequestsConfig::default()).unwrap();
    Plan::new(Call::for_tests(), Vec::new(), decoded.settings, decoded.n, &mut Ignored::default())
}

#[test]
fn a_plan_keeps_nothing_upstream() {
    let mut body = PLAIN.clone();
    body["n"] = json!(3);
    body["metadata"] = json!({"a": "b"});
    body["reasoning_effort"] = json!("low");
    let plan = plan(body);
    assert_eq!(plan.others.len(), 2);
    assert!(plan.id.starts_with("chatcmpl-") && plan.first.as_str().ends_with(&plan.id["chatcmpl-".len()..]));
    let turn = plan.turn(&plan.first);
    assert_eq!(turn.retention, Retention::Nothing);
    assert_eq!((turn.model.as_deref(), turn.effort.as_deref()), (Some("m"), Some("low")));
    assert_eq!(turn.client_metadata["a"], "b");
    assert_eq!(turn.response_id, plan.first);
}

#[test]
fn the_engines_fields_are_named_as_this_api_does() {
    for (theirs, ours) in [
        ("input", "messages"),
        ("input[3]", "messages"),
        ("reasoning.effort", "reasoning_effort"),
        ("text.format", "response_format"),
        ("model", "model"),
    ] {
        assert_eq!(in_our_words(ApiError::invalid(theirs, "")).param.as_deref(), Some(ours));
    }
    let error = ApiError::request(StatusCode::BAD_REQUEST, "");
    assert_eq!(in_our_words(error).param, None);
}

#[tokio::test]
async fn mistakes_are_found_before_the_engine_is_asked() {
    for (body, param) in [
        (json!({"model": "m"}), "messages"),
        (json!({"messages": [{"role": "user", "content": 1}]}), "messages[0].content"),
        (
            json!({"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]}),
            "messages[0].content[0].image_url.url",
        ),
    ] {
        let answer = send(routes(&config()), post(PATH, body.to_string())).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json()["error"]["param"], param);
    }
}

#[tokio::test]
async fn a_full_house_is_a_status_and_not_a_stream() {
    for stream in [false, true] {
        let mut body = PLAIN.clone();
        body["stream"] = json!(stream);
        body["n"] = json!(2);
        let answer = send(routes(&config()), post(PATH, body.to_string())).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "shutting_down"));
    }
}
