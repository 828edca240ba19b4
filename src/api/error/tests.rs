use std::fmt::Write as _;
use std::time::SystemTime;

use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::table::{Param, Row};
use super::*;
use crate::bridge::BridgeError;
use crate::store::StoreError;

async fn answered(error: impl Into<ApiError>) -> (u16, Option<String>, Value) {
    let response = error.into().into_response();
    let retry = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, retry, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn an_error_has_the_official_shape_with_every_member() {
    let (status, retry, body) = answered(ApiError::invalid("model", "No.")).await;
    assert_eq!((status, retry), (400, None));
    let expected = json!({"message": "No.", "type": "invalid_request_error", "param": "model", "code": null});
    assert_eq!(body, json!({ "error": expected }));
}

#[tokio::test]
async fn every_failure_of_the_engine_has_its_status_and_code() {
    let text = || "words".to_owned();
    let table = [
        (BridgeError::ModelNotFound { model: text() }, 404, "model_not_found", "invalid_prompt"),
        (BridgeError::PreviousNotFound { id: text() }, 400, "previous_response_not_found", "invalid_prompt"),
        (BridgeError::AccountMismatch { id: text() }, 400, "continuation_account_mismatch", "invalid_prompt"),
        (
            BridgeError::ContextLengthExceeded { message: text() },
            400,
            "context_length_exceeded",
            "invalid_prompt",
        ),
        (BridgeError::LoginRequired { message: text() }, 401, "login_required", "server_error"),
        (
            BridgeError::Busy { retry_after: Duration::ZERO },
            429,
            "rate_limit_exceeded",
            "rate_limit_exceeded",
        ),
        (
            BridgeError::UsageLimit { message: text(), resets_at: None },
            429,
            "usage_limit_reached",
            "rate_limit_exceeded",
        ),
        (
            BridgeError::RateLimited { message: text(), retry_after: None },
            429,
            "rate_limit_exceeded",
            "rate_limit_exceeded",
        ),
        (
            BridgeError::Overloaded { message: text(), retry_after: None },
            503,
            "server_overloaded",
            "server_error",
        ),
        (BridgeError::Unavailable { reason: text() }, 503, "app_server_unavailable", "server_error"),
        (BridgeError::Draining, 503, "shutting_down", "server_error"),
        (BridgeError::Interrupted, 503, "interrupted", "server_error"),
        (
            BridgeError::Timeout { what: "The turn", limit: Duration::from_secs(1) },
            504,
            "timeout",
            "server_error",
        ),
        (BridgeError::AnswerTooLarge { limit: 1 }, 502, "answer_too_large", "server_error"),
        (
            BridgeError::Upstream { message: text(), status: Some(500), code: "upstream_error" },
            502,
            "upstream_error",
            "server_error",
        ),
        (BridgeError::ConnectionLost { reason: text() }, 502, "app_server_connection_lost", "server_error"),
    ];
    for (error, status, code, response_code) in table {
        assert_eq!(ApiError::from(error.clone()).response_code(), response_code, "{error:?}");
        let (got, _, body) = answered(error).await;
        assert_eq!((got, body["error"]["code"].as_str()), (status, Some(code)));
    }
}

#[tokio::test]
async fn an_invalid_request_keeps_its_own_param_and_code() {
    let error =
        BridgeError::InvalidRequest { message: "No.".into(), param: Some("input".into()), code: None };
    let (status, _, body) = answered(error).await;
    assert_eq!(
        (status, &body["error"]["param"], &body["error"]["code"]),
        (400, &json!("input"), &Value::Null)
    );
}

#[tokio::test]
async fn retry_after_is_whole_seconds_rounded_up() {
    for (wait, expected) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_999, "60")] {
        let busy = BridgeError::Busy { retry_after: Duration::from_millis(wait) };
        assert_eq!(answered(busy).await.1.as_deref(), Some(expected), "{wait} ms");
    }
}

#[tokio::test]
async fn a_used_up_window_says_when_and_that_a_retry_is_no_use() {
    let resets_at = Some(SystemTime::now() + Duration::from_secs(3600));
    let error = ApiError::from(BridgeError::UsageLimit { message: "Used up.".into(), resets_at });
    let headers = error.into_response().headers().clone();
    assert_eq!(headers["x-should-retry"], "false");
    let wait: u64 = headers[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((3590..=3600).contains(&wait), "{wait}");

    let past = Some(SystemTime::UNIX_EPOCH);
    let error = BridgeError::UsageLimit { message: "Used up.".into(), resets_at: past };
    assert_eq!(answered(error).await.1.as_deref(), Some("1"));
}

#[tokio::test]
async fn what_is_not_known_is_filled_in_from_the_table() {
    let limited = BridgeError::RateLimited { message: "No.".into(), retry_after: None };
    assert_eq!(answered(limited).await.1.as_deref(), Some("5"));
    let used_up = BridgeError::UsageLimit { message: "No.".into(), resets_at: None };
    assert_eq!(answered(used_up).await.1, None);
}

/// The backend's own codes are passed on, also where they look like ours.
#[test]
fn a_code_of_the_backends_is_still_the_requests_fault() {
    let code = Some("rate_limit_exceeded".to_owned());
    let error = ApiError::from(BridgeError::InvalidRequest { message: "No.".into(), param: None, code });
    let response = error.into_response();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-should-retry"]),
        (400, &"false".parse().unwrap())
    );
}

#[test]
fn each_row_is_sound() {
    for (at, row) in table::ROWS.iter().enumerate() {
        let Row { code, status, kind, retry, .. } = *row;
        let twice = |other: &Row| other.code == code && other.status == status;
        assert!(!table::ROWS[..at].iter().any(twice), "{code} is there twice");
        let expected: &[&str] = match status {
            429 => &["rate_limit_error"],
            401 => &["invalid_request_error", "authentication_error"],
            400..500 => &["invalid_request_error"],
            _ => &["server_error"],
        };
        assert!(expected.contains(&kind), "{code}: {kind}");
        // What is the caller's fault is so at every attempt.
        assert!(!retry || matches!(status, 408 | 429 | 500..), "{code}");
        // A code that has several statuses is made with the first.
        let first = table::find(code).unwrap();
        let mut error = ApiError::new(code, "No.");
        assert_eq!((error.status.as_u16(), error.kind), (first.status, kind), "{code}");
        error.status = StatusCode::from_u16(status).unwrap();
        let response = error.into_response();
        assert_eq!(response.headers()["x-should-retry"], retry.to_string(), "{code}");
        let wait = response.headers().get(RETRY_AFTER).map(|wait| wait.to_str().unwrap().to_owned());
        let otherwise = row.retry_after.and_then(|wait| wait.otherwise);
        assert_eq!(wait, otherwise.map(|seconds| seconds.to_string()), "{code}");
    }
}

/// The codes between the quotes that follow each `before` of the source.
fn codes_after<'a>(source: &'a str, before: &str) -> Vec<&'a str> {
    let rests = source.split(before).skip(1);
    let codes = rests.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    codes
        .filter(|code| !code.is_empty() && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .collect()
}

fn source(folder: &std::path::Path, all: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") {
            source(&path, all);
        } else if path.extension().is_some_and(|kind| kind == "rs")
            && !path.ends_with("tests.rs")
            && !path.ends_with("error/table.rs")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            all.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap());
        }
    }
}

/// Codes that are made elsewhere than in a constructor's call are looked for as they stand.
#[test]
fn the_table_has_every_code_that_is_given_and_no_other() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for layer in ["src/api", "src/bridge"] {
        source(&root.join(layer), &mut text);
    }
    let mut given: Vec<&str> = Vec::new();
    for before in ["with_code(", "ApiError::new(", "Self::new(", "code: ", "code: Some("] {
        given.extend(codes_after(&text, before));
    }
    assert!(given.len() > 30, "{given:?}");
    for code in given {
        assert!(table::find(code).is_some(), "{code} is not in the table");
    }
    for row in table::ROWS {
        assert!(text.contains(&format!("\"{}\"", row.code)), "nothing gives {}", row.code);
    }
}

fn markdown() -> String {
    let mut table = String::from(
        "| status | `type` | `code` | `param` | `Retry-After`, seconds | again | when |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in table::ROWS {
        let Row { code, status, kind, when, .. } = *row;
        let code = if code.is_empty() { "null".into() } else { format!("`{code}`") };
        let param = match row.param {
            Param::Null => "",
            Param::Field => "the field",
            Param::Is(field) => &format!("`{field}`"),
        };
        let wait = row.retry_after.map_or("", |wait| wait.how);
        let again = if row.retry { "yes" } else { "no" };
        let _ = writeln!(table, "| {status} | `{kind}` | {code} | {param} | {wait} | {again} | {when} |");
    }
    table
}

/// What each failure of the app-server's comes to.
fn causes() -> String {
    let mut table = String::from("| the app-server's word | code |\n| --- | --- |\n");
    for (word, failure) in crate::bridge::failure_meanings() {
        let error = ApiError::from(failure);
        let code = error.code.map_or("null".into(), |code| format!("`{code}`"));
        let _ = writeln!(table, "| {word} | {} {code} |", error.status.as_u16());
    }
    table
}

#[test]
fn the_readme_tables_are_these() {
    let readme = include_str!("../../../README.md");
    for (name, table) in [("errors", markdown()), ("causes", causes())] {
        let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
        let shown =
            readme.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(shown, _)| shown);
        assert!(shown == Some(&*table), "README.md:\n{begin}{table}{end}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_documents_is_told_without_its_place() {
    let reason = || "/home/me/documents.redb".to_owned();
    for (error, status, code) in [
        (StoreError::Unavailable { reason: reason() }, 503, "store_unavailable"),
        (StoreError::Refused { reason: reason() }, 503, "store_full"),
        (StoreError::Unreadable { reason: reason() }, 500, "internal_error"),
    ] {
        let (told, _, body) = answered(error).await;
        assert_eq!((told, body["error"]["code"].as_str()), (status, Some(code)));
        assert!(!body.to_string().contains("documents.redb"), "{body}");
    }
}
