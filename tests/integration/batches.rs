//! `/v1/batches`: every status, every mistake in the input, cancelled, expired, over a restart, without room.

use std::collections::BTreeMap;
use std::time::Duration;

use codex_bridge::config::KeyLimits;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::files::upload;
use crate::http::{Client, until};
use crate::keys;
use crate::peer::Turn;
use crate::spec::assert_valid;

const RESPONSES: &str = "/v1/responses";
const CHAT: &str = "/v1/chat/completions";

fn line(custom_id: &str, url: &str, body: &Value) -> Value {
    json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body})
}

/// A row whose input is its id.
fn row(custom_id: &str) -> Value {
    line(custom_id, RESPONSES, &json!({"input": custom_id}))
}

fn jsonl(lines: &[Value]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

fn asked(file: &Value, endpoint: &str) -> Value {
    json!({"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h", "metadata": {"a": "b"}})
}

async fn begin_with(client: &Client, content: &[u8], endpoint: &str) -> Value {
    let file = upload(client, content).await;
    let batch = client.post("/v1/batches", &asked(&file, endpoint)).await.ok();
    assert_valid("Batch", &batch);
    batch
}

async fn begin(client: &Client, lines: &[Value]) -> Value {
    begin_with(client, &jsonl(lines), RESPONSES).await
}

fn path(batch: &Value) -> String {
    format!("/v1/batches/{}", batch["id"].as_str().expect("an id"))
}

async fn read(client: &Client, batch: &Value) -> Value {
    let batch = client.get(&path(batch)).await.ok();
    assert_valid("Batch", &batch);
    batch
}

async fn until_status(client: &Client, batch: &Value, status: &str) -> Value {
    until(status, async || Some(read(client, batch).await).filter(|batch| batch["status"] == status)).await
}

/// The lines of a file of results by their `custom_id`, of which there is one each.
async fn results(client: &Client, batch: &Value, file: &str) -> BTreeMap<String, Value> {
    let Some(id) = batch[file].as_str() else { return BTreeMap::new() };
    let head = client.get(&format!("/v1/files/{id}")).await.ok();
    assert_valid("OpenAIFile", &head);
    let content = client.get(&format!("/v1/files/{id}/content")).await;
    assert_eq!(
        (head["bytes"].as_u64(), &head["purpose"]),
        (Some(content.text.len() as u64), &json!("batch_output"))
    );
    let mut results = BTreeMap::new();
    for line in content.text.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(line["id"].as_str().is_some_and(|id| id.starts_with("batch_req_")), "{line}");
        let id = line["custom_id"].as_str().expect("an id").to_owned();
        assert!(results.insert(id, line).is_none(), "a second line");
    }
    results
}

/// What the turn was asked, which of a row of [`row`] is its id.
fn input_of(turn: &Turn) -> String {
    turn.items.iter().filter_map(|item| item["content"][0]["text"].as_str()).collect()
}

/// Plays the next turn: its answer names its input.
async fn echo(daemon: &mut Daemon) -> String {
    let turn = daemon.peer.turn().await;
    let input = input_of(&turn);
    turn.answer(&format!("re: {input}"));
    input
}

fn counts(batch: &Value) -> (u64, u64, u64) {
    let count = |name: &str| batch["request_counts"][name].as_u64().expect("a count");
    (count("total"), count("completed"), count("failed"))
}

#[tokio::test]
async fn a_batch_is_run_to_its_end() {
    let mut daemon = Daemon::start(|_| ()).await;
    let client = daemon.client.clone();
    let bad = line("bad", RESPONSES, &json!({"input": 7}));
    let batch = begin(&client, &[row("one"), bad, row("two")]).await;
    assert_eq!((&batch["status"], &batch["metadata"]), (&json!("validating"), &json!({"a": "b"})));
    let lives = batch["expires_at"].as_u64().zip(batch["created_at"].as_u64());
    assert!(lives.is_some_and(|(end, begin)| (86399..86402).contains(&(end - begin))), "{batch}");
    let running = until_status(&client, &batch, "in_progress").await;
    assert_eq!(running["request_counts"]["total"], 3);
    let mut inputs = [echo(&mut daemon).await, echo(&mut daemon).await];
    inputs.sort();
    assert_eq!(inputs, ["one", "two"]);
    let done = until_status(&client, &batch, "completed").await;
    assert_eq!(counts(&done), (3, 2, 1));
    assert_eq!((&done["usage"]["input_tokens"], &done["usage"]["total_tokens"]), (&json!(24), &json!(30)));
    for time in ["in_progress_at", "finalizing_at", "completed_at"] {
        assert!(done[time].is_u64(), "{time}: {done}");
    }
    let good = results(&client, &done, "output_file_id").await;
    for id in ["one", "two"] {
        let response = &good[id]["response"];
        assert_eq!((&response["status_code"], &good[id]["error"]), (&json!(200), &json!(null)));
        assert!(response["request_id"].as_str().is_some_and(|id| id.starts_with("req_")));
        assert_valid("Response", &response["body"]);
        assert_eq!(crate::daemon::text_of(&response["body"]), format!("re: {id}"));
    }
    let failed = results(&client, &done, "error_file_id").await;
    assert_eq!((good.len(), failed.len(), &failed["bad"]["response"]["status_code"]), (2, 1, &json!(400)));
    assert_valid("ErrorResponse", &failed["bad"]["response"]["body"]);

    let refused = client.post(&format!("{}/cancel", path(&batch)), &json!({})).await;
    assert_eq!(refused.failure(), (409, "batch_not_cancellable".into()));
    let listed = client.get("/v1/batches").await.ok();
    assert_valid("ListBatchesResponse", &listed);
    assert_eq!(listed["data"], json!([done]));
    assert_eq!(daemon.client.get("/v1/health").await.ok()["batches"]["rows_completed"], 2);
    let daemon = Box::pin(daemon.restart()).await;
    assert_eq!(read(&daemon.client, &batch).await, done, "over a restart");
    daemon.finish().await;
}

#[tokio::test]
async fn all_three_endpoints_can_be_called() {
    let mut daemon = Daemon::start(|_| ()).await;
    let client = daemon.client.clone();
    let calls = [
        (CHAT, json!({"messages": [{"role": "user", "content": "hi"}]}), "CreateChatCompletionResponse"),
        ("/v1/completions", json!({"prompt": "hi"}), "CreateCompletionResponse"),
    ];
    for (endpoint, body, schema) in calls {
        let batch = begin_with(&client, &jsonl(&[line("a", endpoint, &body)]), endpoint).await;
        daemon.peer.turn().await.answer("yes");
        let done = until_status(&client, &batch, "completed").await;
        let answered = results(&client, &done, "output_file_id").await;
        assert_valid(schema, &answered["a"]["response"]["body"]);
        assert_eq!(done["usage"]["total_tokens"], 15, "{endpoint}");
    }
    daemon.finish().await;
}

#[tokio::test]
async fn what_the_request_gets_wrong_is_told_at_once() {
    let daemon = Daemon::start(|_| ()).await;
    let client = &daemon.client;
    let file = upload(client, b"{}").await;
    let cases = [
        (json!({"input_file_id": null}), "missing_required_parameter", "input_file_id"),
        (json!({"input_file_id": "file-none"}), "invalid_value", "input_file_id"),
        (json!({"endpoint": null}), "missing_required_parameter", "endpoint"),
        (json!({"endpoint": "/v1/embeddings"}), "invalid_value", "endpoint"),
        (json!({"completion_window": null}), "missing_required_parameter", "completion_window"),
        (json!({"completion_window": "1h"}), "invalid_value", "completion_window"),
        (json!({"metadata": 7}), "invalid_type", "metadata"),
        (
            json!({"output_expires_after": {"anchor": "x", "seconds": 4000}}),
            "invalid_value",
            "output_expires_after.anchor",
        ),
        (
            json!({"output_expires_after": {"anchor": "created_at", "seconds": 1}}),
            "integer_below_min_value",
            "output_expires_after.seconds",
        ),
    ];
    for (more, code, param) in cases {
        let mut body = asked(&file, RESPONSES);
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let refused = client.post("/v1/batches", &body).await;
        assert_eq!(refused.failure(), (400, code.into()), "{more}");
        assert_eq!(refused.json()["error"]["param"], param);
    }
    assert_eq!(client.get("/v1/batches").await.ok()["data"], json!([]));
    daemon.finish().await;
}

#[tokio::test]
async fn an_input_that_is_wrong_fails_with_its_lines() {
    let daemon = Daemon::start(|config| config.batches.max_rows = 7).await;
    let client = &daemon.client;
    let streamed = line("c", RESPONSES, &json!({"input": "x", "stream": true}));
    let mut lines = [row("a"), json!([]), row("a"), line("b", CHAT, &json!({})), streamed].to_vec();
    lines.push(json!({"custom_id": "d", "method": "GET", "url": RESPONSES, "body": {}}));
    let content = [b"\n".as_slice(), &jsonl(&lines), b"\n \n"].concat();
    let batch = begin_with(client, &content, RESPONSES).await;
    let failed = until_status(client, &batch, "failed").await;
    let errors = failed["errors"]["data"].as_array().expect("errors").iter();
    let told: Vec<_> =
        errors.map(|error| (error["line"].as_u64(), error["code"].as_str().expect("a code"))).collect();
    let expected = [
        (Some(3), "invalid_json_line"),
        (Some(4), "duplicate_custom_id"),
        (Some(5), "invalid_url"),
        (Some(6), "unsupported_parameter"),
        (Some(7), "invalid_method"),
    ];
    assert_eq!(told, expected);
    assert!(failed["failed_at"].is_u64() && failed.get("output_file_id").is_none(), "{failed}");

    let rows: Vec<Value> = (0..8).map(|n| row(&n.to_string())).collect();
    for (content, code) in [(jsonl(&rows), "too_many_requests"), (b"\n\n".to_vec(), "empty_file")] {
        let batch = begin_with(client, &content, RESPONSES).await;
        let failed = until_status(client, &batch, "failed").await;
        assert_eq!(failed["errors"]["data"][0]["code"], code);
    }
    let files = client.get("/v1/files?purpose=batch_output").await.ok();
    assert_eq!(files["data"], json!([]));
    daemon.finish().await;
}

#[tokio::test]
async fn rows_leave_a_slot_and_a_cancelled_batch_tells_the_rest() {
    let mut daemon = Daemon::start(|config| {
        config.admission.slots = 3;
        config.batches.concurrency = 100;
    })
    .await;
    let client = daemon.client.clone();
    let rows: Vec<Value> = (0..6).map(|n| row(&format!("row-{n}"))).collect();
    let batch = begin(&client, &rows).await;
    echo(&mut daemon).await;
    let (one, two) = (daemon.peer.turn().await, daemon.peer.turn().await);
    one.begin();
    two.begin();
    daemon.until_load((2, 0)).await;
    until("one result", async || (counts(&read(&client, &batch).await).1 == 1).then_some(())).await;
    let cancelling = client.post(&format!("{}/cancel", path(&batch)), &json!({})).await.ok();
    assert_valid("Batch", &cancelling);
    assert_eq!(cancelling["status"], "cancelling");
    let cancelled = until_status(&client, &batch, "cancelled").await;
    daemon.until_interrupted(&one).await;
    daemon.until_interrupted(&two).await;
    assert_eq!(counts(&cancelled), (6, 1, 5));
    let rest = results(&client, &cancelled, "error_file_id").await;
    assert_eq!((rest.len(), results(&client, &cancelled, "output_file_id").await.len()), (5, 1));
    for line in rest.values() {
        assert_eq!((&line["response"], &line["error"]["code"]), (&json!(null), &json!("batch_cancelled")));
    }
    assert!(cancelled["cancelling_at"].is_u64() && cancelled["cancelled_at"].is_u64(), "{cancelled}");
    one.interrupted();
    two.interrupted();
    daemon.finish().await;
}

#[tokio::test]
async fn a_batch_expires_with_its_window() {
    let mut daemon = Daemon::start(|config| config.batches.window = Duration::from_secs(1)).await;
    let client = daemon.client.clone();
    let batch = begin(&client, &[row("one"), row("two")]).await;
    echo(&mut daemon).await;
    let stuck = daemon.peer.turn().await;
    stuck.begin();
    let expired = until_status(&client, &batch, "expired").await;
    assert_eq!(counts(&expired), (2, 1, 1));
    let rest = results(&client, &expired, "error_file_id").await;
    assert_eq!(rest.values().next().expect("a line")["error"]["code"], "batch_expired");
    assert_eq!(results(&client, &expired, "output_file_id").await.len(), 1);
    assert!(expired["expired_at"].is_u64(), "{expired}");
    daemon.until_interrupted(&stuck).await;
    stuck.interrupted();
    daemon.finish().await;
}

#[tokio::test]
async fn a_restart_goes_on_with_the_rows_that_have_no_result() {
    let mut daemon = Daemon::start(|config| config.batches.concurrency = 2).await;
    let rows: Vec<Value> = (0..5).map(|n| row(&format!("row-{n}"))).collect();
    let batch = begin(&daemon.client, &rows).await;
    echo(&mut daemon).await;
    // One ends on the way down, within the bound.
    let (one, two) = (daemon.peer.turn().await, daemon.peer.turn().await);
    one.begin();
    two.begin();
    daemon.begin_stop();
    until("draining", async || daemon.bridge.health().await.draining.then_some(())).await;
    for turn in [&one, &two] {
        let text = format!("re: {}", input_of(turn));
        turn.message("m", &text).response(12, 3).completed();
    }
    let mut daemon = Box::pin(daemon.restart()).await;
    let client = daemon.client.clone();
    echo(&mut daemon).await;
    echo(&mut daemon).await;
    let done = until_status(&client, &batch, "completed").await;
    assert_eq!((counts(&done), &done["usage"]["output_tokens"]), ((5, 5, 0), &json!(15)));
    let results = results(&client, &done, "output_file_id").await;
    for (id, line) in &results {
        assert_eq!(crate::daemon::text_of(&line["response"]["body"]), format!("re: {id}"));
    }
    assert_eq!(results.len(), 5);
    assert_eq!(daemon.peer.seen("turn/start").len(), 5, "no row was run twice");
    daemon.finish().await;
}

#[tokio::test]
async fn a_row_waits_for_what_is_no_fault_of_its_own() {
    let mut daemon = Daemon::start(|config| {
        let limits = KeyLimits { requests_per_minute: Some(120), ..KeyLimits::default() };
        keys::token(config, "rated", limits);
        config.turn.fail_fast = true;
    })
    .await;
    let client = keys::client(&daemon, "secret-rated");
    let batch = begin(&client, &[row("one")]).await;
    // The backend has too much to do; then it fails for good.
    let turn = daemon.peer.turn().await;
    turn.begin().failed(&json!("serverOverloaded"), "Try again later.");
    echo(&mut daemon).await;
    let done = until_status(&client, &batch, "completed").await;
    assert_eq!(counts(&done), (1, 1, 0));
    assert_eq!(client.get("/v1/health").await.ok()["batches"]["rows_retried"], 1);
    daemon.finish().await;
}

#[tokio::test]
async fn a_batch_waits_for_room_in_the_store() {
    let mut daemon = Daemon::start(|config| config.store.max_document_bytes = 40_000).await;
    let client = daemon.client.clone();
    let batch = begin(&client, &[row("one")]).await;
    let turn = daemon.peer.turn().await;
    let filler = upload(&client, &vec![b'x'; 30_000]).await;
    turn.begin().message("m", &"y".repeat(15_000)).response(12, 3).completed();
    daemon.until_load((0, 0)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(counts(&read(&client, &batch).await), (1, 0, 0), "no result counts before it is written");
    assert_eq!(
        client.delete(&format!("/v1/files/{}", filler["id"].as_str().expect("an id"))).await.status,
        200
    );
    let done = until_status(&client, &batch, "completed").await;
    assert_eq!(results(&client, &done, "output_file_id").await.len(), 1);
    daemon.finish().await;
}

#[tokio::test]
async fn a_batch_whose_input_goes_fails_with_what_it_has() {
    let mut daemon = Daemon::start(|config| config.batches.concurrency = 1).await;
    let client = daemon.client.clone();
    // More than what is read ahead.
    let mut rows: Vec<Value> = (0..3).map(|n| row(&format!("row-{n}"))).collect();
    rows.push(line("large", RESPONSES, &json!({"input": "x", "user": "y".repeat(3_000_000)})));
    rows.push(row("last"));
    let batch = begin(&client, &rows).await;
    let turn = daemon.peer.turn().await;
    let input = batch["input_file_id"].as_str().expect("an id");
    assert_eq!(client.delete(&format!("/v1/files/{input}")).await.status, 200);
    turn.answer("first");
    for _ in 1..3 {
        echo(&mut daemon).await;
    }
    let failed = until_status(&client, &batch, "failed").await;
    assert_eq!(failed["errors"]["data"][0]["code"], "file_not_found");
    assert_eq!((counts(&failed), results(&client, &failed, "output_file_id").await.len()), ((5, 3, 0), 3));
    daemon.finish().await;
}

#[tokio::test]
async fn a_batch_is_its_keys_alone() {
    let mut daemon = Daemon::start(|config| {
        config.batches.max_open = 1;
        for name in ["one", "two"] {
            keys::token(config, name, KeyLimits::default());
        }
    })
    .await;
    let [one, two] = ["secret-one", "secret-two"].map(|secret| keys::client(&daemon, secret));
    let batch = begin(&one, &[row("one")]).await;
    let turn = daemon.peer.turn().await;
    assert_eq!(two.get(&path(&batch)).await.failure(), (404, "batch_not_found".into()));
    let cancel = two.post(&format!("{}/cancel", path(&batch)), &json!({})).await;
    assert_eq!(cancel.failure(), (404, "batch_not_found".into()));
    assert_eq!(two.get("/v1/batches").await.ok()["data"], json!([]));
    let file = upload(&two, &jsonl(&[row("two")])).await;
    let input = json!({"id": batch["input_file_id"]});
    let stolen = two.post("/v1/batches", &asked(&input, RESPONSES)).await;
    assert_eq!(stolen.failure(), (400, "invalid_value".into()));
    let full = two.post("/v1/batches", &asked(&file, RESPONSES)).await;
    assert_eq!(full.failure(), (429, "rate_limit_exceeded".into()));
    turn.answer("re: one");
    let done = until_status(&one, &batch, "completed").await;
    assert_eq!(results(&one, &done, "output_file_id").await.len(), 1);
    let used = one.get("/v1/usage").await.ok();
    assert!(used["by_key"]["one"]["calls"] == 1, "{used}");
    daemon.finish().await;
}
