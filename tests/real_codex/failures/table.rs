//! The rows of the error table that the real app-server can be made to give: both faces, both APIs, whole and
//! streamed. The others are played by `tests/integration/errors.rs`.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::http::{Answer, assert_error_shape};
use crate::table::{Param, ROWS, Row};
use crate::world::{On, World};

/// What the model is told, and the code that comes of it.
const CASES: &[(&str, &str)] = &[
    ("FAIL 400", ""),
    ("FAIL 422", ""),
    ("FAIL cyber_policy", "content_policy_violation"),
    ("FAIL misalignment_policy_violation", "content_policy_violation"),
    ("FAIL inference_hook_denied", "content_policy_violation"),
    ("FAIL context", "context_length_exceeded"),
    ("FAIL 400 context_length_exceeded", "context_length_exceeded"),
    ("FAIL 401", "login_required"),
    ("FAIL 403", "login_required"),
    ("FAIL 404", "model_not_found"),
    ("FAIL model_not_found", "model_not_found"),
    ("FAIL 429", "rate_limit_exceeded"),
    ("FAIL 429 1", "rate_limit_exceeded"),
    ("FAIL 503 slow_down", "rate_limit_exceeded"),
    ("FAIL slow_down", "rate_limit_exceeded"),
    ("FAIL rate_limit_exceeded 1", "rate_limit_exceeded"),
    ("FAIL usage", "usage_limit_reached"),
    ("FAIL 429 insufficient_quota", "usage_limit_reached"),
    ("FAIL insufficient_quota", "usage_limit_reached"),
    ("FAIL usage_not_included", "usage_limit_reached"),
    ("FAIL 500", "upstream_error"),
    ("FAIL 502", "upstream_error"),
    ("FAIL invalid_prompt", "upstream_refused"),
    ("FAIL bio_policy", "upstream_refused"),
    ("FAIL content_policy_violation", "upstream_refused"),
    ("REFUSE to say it", "answer_not_passed_on"),
    ("FAIL server_error", "stream_disconnected"),
    ("FAIL stream SAY one two three", "stream_disconnected"),
    ("FAIL 503", "server_overloaded"),
    ("FAIL 503 server_is_overloaded", "server_overloaded"),
    ("FAIL server_is_overloaded", "server_overloaded"),
    ("FAIL flex_unavailable", "server_overloaded"),
    ("FAIL policy_capacity_unavailable", "server_overloaded"),
    ("FAIL late cyber_policy SAY one two three", "content_policy_violation"),
    ("FAIL late context_length_exceeded SAY one two three", "context_length_exceeded"),
    ("FAIL late rate_limit_exceeded SAY one two three", "rate_limit_exceeded"),
    ("FAIL late usage_not_included SAY one two three", "usage_limit_reached"),
    ("FAIL late server_error SAY one two three", "stream_disconnected"),
    ("FAIL late server_is_overloaded SAY one two three", "server_overloaded"),
    ("FAIL late invalid_prompt SAY one two three", "upstream_refused"),
];

/// Rows that come about before the model is asked, or by what the app-server cannot be made to do.
const SCRIPTED: &[&str] = &[
    "invalid_http",
    "invalid_json",
    "missing_required_parameter",
    "invalid_type",
    "invalid_value",
    "invalid_parameter_combination",
    "empty_array",
    "array_above_max_length",
    "object_above_max_properties",
    "string_above_max_length",
    "string_below_min_length",
    "integer_above_max_value",
    "integer_below_min_value",
    "decimal_above_max_value",
    "decimal_below_min_value",
    "unknown_task_class",
    "unsupported_parameter",
    "unsupported_value",
    "unsupported_tool",
    "invalid_json_schema",
    "invalid_image_url",
    "failed_to_download_image",
    "invalid_base64_image",
    "empty_image_file",
    "image_file_too_large",
    "unsupported_image_media_type",
    "image_parse_error",
    "invalid_file_url",
    "failed_to_download_file",
    "invalid_base64_file",
    "empty_file",
    "file_too_large",
    "unsupported_file",
    "encrypted_file",
    "file_without_text",
    "file_parse_error",
    "invalid_base64_audio",
    "invalid_audio",
    "audio_file_too_large",
    "previous_response_not_found",
    "continuation_account_mismatch",
    "chain_too_long",
    "response_not_found",
    "invalid_api_key",
    "origin_not_allowed",
    "host_not_allowed",
    "too_many_failed_keys",
    "too_many_connections",
    "unknown_url",
    "endpoint_not_served",
    "method_not_supported",
    "request_timeout",
    "request_too_large",
    "uri_too_long",
    "unsupported_media_type",
    "upgrade_required",
    "request_header_fields_too_large",
    "internal_error",
    "retry_diverged",
    "context_compacted",
    "lost_turn",
    "events_overrun",
    "answer_too_large",
    "tool_choice_not_honoured",
    // In `tool_types.rs`: `what_a_grammar_or_a_strict_schema_does_not_allow_is_no_call`.
    "invalid_tool_input",
    "invalid_structured_output",
    "app_server_connection_lost",
    "app_server_unreadable",
    "app_server_unavailable",
    // In `tests/integration/upstream.rs`: `an_open_breaker_refuses_until_a_probe_is_answered`.
    "upstream_unavailable",
    // In `continuation.rs`.
    "store_unavailable",
    "store_full",
    // These and the last say nothing of the app-server: `tests/integration/conversations.rs`.
    "conversation_not_found",
    "bridge_restarted",
    "invalid_stream_id",
    "websocket_stream_limit_reached",
    "websocket_connection_limit_reached",
    "stream_expired",
    "previous_response_in_progress",
    "completion_not_found",
    // Likewise: `tests/integration/files.rs` and `batches.rs`.
    "file_not_found",
    "batch_not_found",
    "batch_not_cancellable",
    "mutually_exclusive_parameters",
    "duplicate_item",
    "item_not_found",
    "conversation_too_long",
    "conversation_locked",
    // In `compact.rs`.
    "invalid_encrypted_content",
    "compaction_lost",
    "file_reader_unavailable",
    "shutting_down",
    "interrupted",
    // In `failures.rs`: `a_silent_model_is_given_up`.
    "timeout",
];

#[test]
fn every_row_is_had_from_the_real_app_server_or_known_not_to_be() {
    for row in ROWS {
        let real = CASES.iter().any(|(_, code)| *code == row.code);
        assert_ne!(real, SCRIPTED.contains(&row.code), "{:?}", row.code);
    }
}

#[tokio::test]
async fn each_row_on_the_plain_face() {
    each_row(On::Plain).await;
}

#[tokio::test]
async fn each_row_on_the_logged_in_face() {
    each_row(On::LoggedIn).await;
}

async fn each_row(face: On) {
    let world = World::configured(face, |config, _| {
        config.admission.slots = 16;
        if face == On::Plain {
            // Of a provider's own retries one is enough; the built-in provider's cannot be set.
            let settings = ["request_max_retries=0", "stream_max_retries=1"];
            let settings = settings.map(|setting| format!("model_providers.standin.{setting}"));
            config.app_server.codex_config.extend(settings);
        }
    })
    .await;
    let headers: &[(&str, &str)] = match face {
        On::Plain => &[],
        // The first retry of a row is not told there, and its cause is not known: the second one's is.
        On::LoggedIn => &[("x-codex-bridge-max-wait", "1ms")],
    };
    let mut asked = Vec::new();
    for (text, code) in CASES {
        for path in ["/v1/responses", "/v1/chat/completions"] {
            asked.extend([false, true].map(|stream| (*text, *code, path, stream)));
        }
    }
    let world = &world;
    let answers = join_all(asked.iter().map(async |(text, _, path, stream)| {
        let mut body = if *path == "/v1/responses" {
            json!({"input": text})
        } else {
            json!({"messages": [{"role": "user", "content": text}]})
        };
        body["stream"] = (*stream).into();
        world.client.post_with(path, headers, &body).await
    }))
    .await;
    for ((text, code, path, stream), answer) in asked.into_iter().zip(answers) {
        let row = ROWS.iter().find(|row| row.code == code).expect("a row");
        let place = format!("{face:?} {text} at {path}, streamed: {stream}: {}", answer.text);
        if answer.status == 200 && stream {
            // Something had been said, or at least begun.
            let said = if text.contains("SAY") { "one two " } else { "" };
            assert!(!said.is_empty() || text.starts_with("REFUSE"), "{place}");
            check_stream(row, path, said, &answer, &place);
        } else {
            check(row, path, text, &answer, &place);
        }
    }
    world.ask("SAY still serving").await.ok();
    world.until_idle().await;
}

fn check(row: &Row, path: &str, text: &str, answer: &Answer, place: &str) {
    let error = answer.error();
    assert_eq!(answer.status, row.status, "{place}");
    check_fields(row, path, &error, place);
    let message = error["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty() && !message.starts_with('{'), "{place}");
    assert_eq!(answer.header("x-should-retry"), Some(if row.retry { "true" } else { "false" }), "{place}");
    let wait = answer.header("retry-after").map(|wait| wait.parse::<u64>().expect("seconds"));
    match row.retry_after {
        None => assert_eq!(wait, None, "{place}"),
        // The reset is an hour away; the plain face names it to the minute only.
        Some(_) if text == "FAIL usage" => {
            assert!(wait.is_some_and(|wait| (3500..=3600).contains(&wait)), "{place}");
            assert!(message.contains("The limit resets at 2"), "{place}");
        }
        Some(known) if known.otherwise.is_none() => assert_eq!(wait, None, "{place}"),
        Some(_) => assert!(wait.is_some_and(|wait| (1..=60).contains(&wait)), "{place}"),
    }
    if row.code == "login_required" {
        assert!(message.contains("codex login"), "{place}");
    }
}

fn check_fields(row: &Row, path: &str, error: &Value, place: &str) {
    assert_eq!(error["type"], row.kind, "{place}");
    assert_eq!(error["code"].as_str().unwrap_or_default(), row.code, "{place}");
    match row.param {
        Param::Is("input") if path == "/v1/chat/completions" => {
            assert_eq!(error["param"], "messages", "{place}");
        }
        Param::Is(field) => assert_eq!(error["param"], field, "{place}"),
        // The stand-in names none.
        Param::Null | Param::Field => assert_eq!(error["param"], Value::Null, "{place}"),
    }
}

/// What was said is there once, however often it was tried; one end; the terminator.
fn check_stream(row: &Row, path: &str, expected: &str, answer: &Answer, place: &str) {
    let events: Vec<Value> = answer
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| if data == "[DONE]" { data.into() } else { serde_json::from_str(data).expect("JSON") })
        .collect();
    let [before @ .., end, done] = &events[..] else { panic!("{place}") };
    assert_eq!(done, "[DONE]", "{place}");
    let said: String = before
        .iter()
        .filter_map(|event| match path {
            "/v1/responses" => event["delta"].as_str(),
            _ => event["choices"][0]["delta"]["content"].as_str(),
        })
        .collect();
    assert_eq!(said, expected, "{place}");
    if path == "/v1/responses" {
        assert_eq!(end["type"], "response.failed", "{place}");
        let told = end["response"]["error"]["message"].as_str().unwrap_or_default();
        let listed = end["response"]["error"]["code"] == row.code;
        assert!(listed || told.ends_with(&format!("({})", row.code)), "{place}");
        let ends = ["response.completed", "response.failed", "response.incomplete", "error"];
        assert!(before.iter().all(|event| !ends.iter().any(|end| event["type"] == *end)), "{place}");
    } else {
        assert_error_shape(end);
        check_fields(row, path, &end["error"], place);
        let open =
            |chunk: &Value| chunk.get("error").is_none() && chunk["choices"][0]["finish_reason"].is_null();
        assert!(before.iter().all(open), "{place}");
    }
}
