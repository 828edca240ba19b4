//! Batches over bridges that are killed: exactly one result for each row, and each its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::http::{Client, until};
use crate::process::{PROGRAM, Process, Stage};
use crate::redis_server::RedisServer;
use crate::support::bounded;
use crate::world::{FACES, On};

/// Rows of the large batch, where nobody says how many.
const ROWS: usize = 300;

fn rows(count: usize) -> Vec<u8> {
    let row = |n| {
        let body = json!({"input": format!("row-{n}."), "store": false});
        let row =
            json!({"custom_id": format!("row-{n}"), "method": "POST", "url": "/v1/responses", "body": body});
        format!("{row}\n").into_bytes()
    };
    (0..count).flat_map(row).collect()
}

async fn begin(client: &Client, content: &[u8]) -> Value {
    let file = client.post_form("/v1/files", &[("purpose", b"batch"), ("file", content)]).await.ok();
    let body = json!({"input_file_id": file["id"], "endpoint": "/v1/responses", "completion_window": "24h"});
    client.post("/v1/batches", &body).await.ok()
}

async fn read(client: &Client, batch: &Value) -> Value {
    client.get(&format!("/v1/batches/{}", batch["id"].as_str().expect("an id"))).await.ok()
}

async fn until_completed(client: &Client, batch: &Value, most: Duration) -> Value {
    let began = Instant::now();
    loop {
        let read = read(client, batch).await;
        if read["status"] == "completed" {
            return read;
        }
        assert!(began.elapsed() < most, "not completed: {read}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn until_done(client: &Client, batch: &Value, count: usize) {
    let done =
        |read: &Value| read["request_counts"]["completed"].as_u64().is_some_and(|done| done >= count as u64);
    until("some rows are done", async || done(&read(client, batch).await).then_some(())).await;
}

/// The text of each row's answer, of which there is one.
async fn answers(client: &Client, batch: &Value) -> BTreeMap<String, String> {
    assert!(batch["error_file_id"].is_null(), "{batch}");
    let id = batch["output_file_id"].as_str().expect("results");
    let content = client.get(&format!("/v1/files/{id}/content")).await;
    let mut answers = BTreeMap::new();
    for line in content.text.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let output = line["response"]["body"]["output"].as_array().expect("output");
        let text = output.last().expect("a message")["content"][0]["text"].as_str().expect("text");
        let id = line["custom_id"].as_str().expect("an id").to_owned();
        assert!(answers.insert(id, text.to_owned()).is_none(), "a second line: {line}");
    }
    answers
}

fn check(answers: &BTreeMap<String, String>, count: usize) {
    assert_eq!(answers.len(), count);
    for n in 0..count {
        assert_eq!(answers[&format!("row-{n}")], format!("echo: row-{n}."));
    }
}

async fn two_kills(face: On, count: usize) {
    let stage = Stage::new(face).await;
    let settings = [("CODEX_BRIDGE_BATCHES__CONCURRENCY", "7")];
    let bridge = stage.serve("one", &settings).await;
    let batch = begin(&bridge.client, &rows(count)).await;
    until_done(&bridge.client, &batch, count / 4).await;
    bridge.kill().await;
    let bridge = stage.serve("one", &settings).await;
    until_done(&bridge.client, &batch, count / 2).await;
    bridge.kill().await;
    let bridge = stage.serve("one", &settings).await;
    let done = until_completed(&bridge.client, &batch, Duration::from_secs(500)).await;
    let counts = json!({"total": count, "completed": count, "failed": 0});
    assert_eq!(done["request_counts"], counts, "{face:?}");
    check(&answers(&bridge.client, &done).await, count);
    bridge.stop().await;
    stage.end().await;
}

/// `BATCH_ROWS` says how many rows.
#[expect(clippy::disallowed_methods, reason = "tests have no configuration layer to read the environment")]
fn wanted_rows() -> usize {
    std::env::var("BATCH_ROWS").ok().and_then(|count| count.parse().ok()).unwrap_or(ROWS)
}

#[tokio::test]
async fn every_row_has_one_result_though_the_bridge_is_killed_twice() {
    for face in FACES {
        two_kills(face, wanted_rows()).await;
    }
}

/// `codex-bridge batch` over the rows of `input`.
fn command(stage: &Stage, bridge: &Process, input: &Path, output: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("batch").arg(input).arg("-o").arg(output).args(flags);
    command.args(["--base-url", &format!("http://{}/v1", bridge.client.address())]);
    let home = stage.place.temp.path();
    command.env("HOME", home).env("XDG_CONFIG_HOME", home.join("config"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn lines(output: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(output).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn until_lines(output: &Path, count: usize) {
    until("some lines are written", async || (lines(output).len() >= count).then_some(())).await;
}

async fn ended(child: Child) -> (Option<i32>, String) {
    let ended = bounded(child.wait_with_output()).await.expect("it ends");
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

fn texts(output: &Path) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for line in lines(output) {
        let line: Value = serde_json::from_str(&line).expect("a whole line");
        let text = line["response"]["body"]["output"]
            .as_array()
            .and_then(|output| output.last())
            .expect("a message");
        let id = line["custom_id"].as_str().expect("an id").to_owned();
        let text = text["content"][0]["text"].as_str().expect("text").to_owned();
        assert!(texts.insert(id, text).is_none(), "a second line: {line}");
    }
    texts
}

#[tokio::test]
async fn a_run_that_is_killed_stopped_and_left_alone_writes_one_line_for_each_row() {
    const COUNT: usize = 200;
    let stage = Stage::new(On::Plain).await;
    let bridge = stage.serve("one", &[]).await;
    let folder = stage.place.temp.path();
    let (input, output) = (folder.join("rows.jsonl"), folder.join("out.jsonl"));
    std::fs::write(&input, rows(COUNT)).expect("the rows");
    let run = |bridge: &Process, flags: &[&str]| {
        command(&stage, bridge, &input, &output, flags).spawn().expect("the binary runs")
    };
    // Killed.
    let mut killed = run(&bridge, &[]);
    until_lines(&output, 20).await;
    killed.kill().await.expect("it is killed");
    let (code, words) = ended(run(&bridge, &[])).await;
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("--resume"), "{words}");
    // Interrupted.
    let stopped = run(&bridge, &["--resume"]);
    until_lines(&output, 60).await;
    let pid = stopped.id().expect("it runs");
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGINT).expect("the signal is sent");
    let (code, words) = ended(stopped).await;
    assert_eq!(code, Some(130), "{words}");
    assert!(words.contains("rows are left: the same command with --resume"), "{words}");
    // Without its bridge.
    let left = run(&bridge, &["--resume", "--retries", "1"]);
    until_lines(&output, 100).await;
    bridge.kill().await;
    let (code, words) = ended(left).await;
    assert_eq!(code, Some(75), "{words}");
    let bridge = stage.serve("one", &[]).await;
    let (code, words) = ended(run(&bridge, &["--resume", "--concurrency", "8"])).await;
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("200 rows done, 0 failed"), "{words}");
    check(&texts(&output), COUNT);
    // Nothing is left to do.
    assert_eq!(ended(run(&bridge, &["--resume"])).await.0, Some(0));
    assert_eq!(lines(&output).len(), COUNT);
    bridge.stop().await;
    stage.end().await;
}

#[tokio::test]
async fn a_table_and_a_template_become_objects() {
    let stage = Stage::new(On::Plain).await;
    let bridge = stage.serve("one", &[]).await;
    let folder = stage.place.temp.path();
    let written = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("a file");
        path
    };
    let input = written("rows.csv", "id,words\nfirst,\"the \"\"first\"\", row\"\nsecond,{{id}}\n");
    let template = written("prompt.txt", "Count {{words}} now\n");
    let schema = json!({"type": "object", "properties": {"kind": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["kind", "count"], "additionalProperties": false});
    let schema = written("the answer.json", &schema.to_string());
    let output = folder.join("out.jsonl");
    let [template, schema] = [template, schema].map(|path| path.display().to_string());
    let flags =
        ["--template", &template, "--schema", &schema, "--instructions", "Be brief.", "--effort", "low"];
    let child = command(&stage, &bridge, &input, &output, &flags).spawn().expect("the binary runs");
    let (code, words) = ended(child).await;
    assert_eq!(code, Some(0), "{words}");
    for line in lines(&output) {
        let line: Value = serde_json::from_str(&line).expect("a line");
        assert!(line["parsed"]["kind"].is_string() && line["parsed"]["count"].is_i64(), "{line}");
        assert_eq!(line["response"]["body"]["text"]["format"]["name"], "the_answer");
    }
    for said in ["Count the \"first\", row now", "Count {{id}} now"] {
        let seen = stage.seen_with(said);
        assert_eq!(seen.len(), 1, "{said}");
        assert!(seen[0].input.to_string().contains("Be brief."));
        assert_eq!(seen[0].body["reasoning"]["effort"], "low");
    }
    // A row that fails, and rows that are wrong before anything is sent.
    let input = written("wrong.jsonl", "{\"words\": \"x\"}\n");
    let failed = folder.join("failed.jsonl");
    let flags = ["--template", &template, "--model", "none"];
    let child = command(&stage, &bridge, &input, &failed, &flags).spawn().expect("the binary runs");
    assert_eq!(ended(child).await.0, Some(1));
    assert_eq!(lines(&failed).len(), 1);
    let input = written("other.csv", "id,text\na,b\n");
    let never = folder.join("never.jsonl");
    let child = command(&stage, &bridge, &input, &never, &flags).spawn().expect("the binary runs");
    let (code, words) = ended(child).await;
    assert!(code == Some(1) && words.contains("`words`, which is no column"), "{words}");
    assert!(!never.exists());
    bridge.stop().await;
    stage.end().await;
}

/// Two bridges on one server: one that is killed leaves its batch to the other.
#[tokio::test]
async fn another_bridge_on_the_same_server_goes_on() {
    const COUNT: usize = 60;
    let (stage, redis) = (Stage::new(On::Plain).await, RedisServer::start());
    let url = redis.url();
    let settings = [
        ("CODEX_BRIDGE_STORE__BACKEND", "redis"),
        ("CODEX_BRIDGE_STORE__REDIS_URL", url.as_str()),
        ("CODEX_BRIDGE_BACKGROUND__LEASE", "2s"),
    ];
    let one = stage.serve("one", &settings).await;
    let two = stage.serve("two", &settings).await;
    let batch = begin(&one.client, &rows(COUNT)).await;
    until_done(&one.client, &batch, 10).await;
    one.kill().await;
    let done = until_completed(&two.client, &batch, Duration::from_secs(50)).await;
    assert_eq!(done["request_counts"]["completed"], COUNT);
    check(&answers(&two.client, &done).await, COUNT);

    // Cancelled at a bridge that has not got it.
    let one = stage.serve("one", &settings).await;
    let slow =
        json!({"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "SLOW 400 50"}});
    let batch = begin(&one.client, format!("{slow}\n").as_bytes()).await;
    let path = format!("/v1/batches/{}", batch["id"].as_str().expect("an id"));
    let status = async |status: &str| (two.client.get(&path).await.ok()["status"] == status).then_some(());
    until("it runs", async || status("in_progress").await).await;
    two.client.post(&format!("{path}/cancel"), &json!({})).await.ok();
    until("it is cancelled", async || status("cancelled").await).await;
    one.stop().await;
    two.stop().await;
    stage.end().await;
    drop(redis);
}
