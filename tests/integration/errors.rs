//! The error table, row by row: both APIs, whole and streamed, a failure before the first word and after it.

mod cases;

use codex_bridge::config::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::cases::{Case, Play, cases};
use crate::daemon::{Daemon, terminal_of};
use crate::http::{Answer, PATIENCE, until};
use crate::peer::{Instead, Turn};
use crate::table::{Param, ROWS, Row};

const RESPONSES: &str = "/v1/responses";
const CHAT: &str = "/v1/chat/completions";

/// A row that somebody adds wants a case.
#[test]
fn every_row_of_the_table_has_a_case() {
    let cases = cases();
    for row in ROWS {
        assert!(cases.iter().any(|case| case.code == row.code), "no case for {:?}", row.code);
    }
    for case in &cases {
        assert!(ROWS.iter().any(|row| row.code == case.code), "{:?} is not in the table", case.code);
        if let Play::Test { file, name } = &case.play {
            assert!(file.contains(&format!("fn {name}(")), "{:?}: there is no {name}", case.code);
        }
    }
}

#[tokio::test]
async fn each_row_is_as_the_table_says() {
    let mut shared = start(|_| {}).await;
    for case in cases() {
        match case.configure {
            None => play(&case, &mut shared).await,
            Some(configure) => {
                let mut own = start(configure).await;
                play(&case, &mut own).await;
                own.finish().await;
            }
        }
    }
    shared.finish().await;
}

async fn play(case: &Case, daemon: &mut Daemon) {
    let row = ROWS.iter().find(|row| row.code == case.code).expect("a row");
    match &case.play {
        Play::Body { responses, chat } => {
            for (path, body) in [(RESPONSES, responses), (CHAT, chat)] {
                let Some(body) = body else { continue };
                for stream in [false, true] {
                    let mut body = body.clone();
                    body["stream"] = stream.into();
                    check(row, path, &daemon.client.post(path, &body).await);
                }
            }
        }
        Play::Headers(headers) => {
            for path in [RESPONSES, CHAT] {
                check(row, path, &daemon.client.post_with(path, headers, &good(path)).await);
            }
        }
        Play::Raw(request) => check(row, "", &raw(daemon, request.as_bytes()).await),
        Play::Refused { method, code } => {
            for path in [RESPONSES, CHAT] {
                for stream in [false, true] {
                    daemon.peer.instead(method, Instead::Refusal { code: *code, message: "No." });
                    check(row, path, &asked(daemon, path, stream, |_, _| {}).await);
                }
            }
        }
        Play::Turn(turn_goes) => {
            for path in [RESPONSES, CHAT] {
                for stream in [false, true] {
                    let answer = asked(daemon, path, stream, |daemon, turn| turn_goes(daemon, turn.begin()));
                    check(row, path, &answer.await);
                    settled(daemon).await;
                }
                let (events, turn) = daemon.streaming_at(path, good(path), "half ").await;
                turn_goes(daemon, &turn);
                check_stream(row, path, &events.rest().await);
                settled(daemon).await;
            }
        }
        Play::Lost => {
            for path in [RESPONSES, CHAT] {
                let asking = daemon.post(path, good(path));
                // The first time it is run again.
                for _ in 0..2 {
                    daemon.peer.turn().await.begin();
                    daemon.peer.cut();
                }
                check(row, path, &asking.answer().await);
                settled(daemon).await;
                let (events, _turn) = daemon.streaming_at(path, good(path), "half ").await;
                daemon.peer.cut();
                check_stream(row, path, &events.rest().await);
                settled(daemon).await;
            }
        }
        Play::Answered { responses, chat, text } => {
            for (path, body) in [(RESPONSES, responses), (CHAT, chat)] {
                for stream in [false, true] {
                    let mut body = body.clone();
                    body["stream"] = stream.into();
                    let asking = daemon.post(path, body);
                    for _ in 0..2 {
                        daemon.peer.turn().await.answer(text);
                    }
                    check(row, path, &asking.answer().await);
                }
            }
        }
        Play::Test { .. } => {}
    }
}

/// Ready for the next one: after a lost connection that is another daemon, for this one is wary of the next.
async fn settled(daemon: &mut Daemon) {
    daemon.until_load((0, 0)).await;
    daemon.peer.status("active");
    if daemon.peer.is_cut() || daemon.peer.connections() > 1 {
        std::mem::replace(daemon, start(|_| {}).await).end().await;
    }
}

/// The wait that is told is the best that is known.
#[tokio::test]
async fn retry_after_is_what_the_backend_names_or_what_the_app_server_waited() {
    let mut daemon = Daemon::start(|_| {}).await;
    let limited = json!("rateLimitExceeded");
    let asking = daemon.ask("named");
    let words = "Rate limit reached. Please try again in 6.5s. Visit us.";
    daemon.peer.turn().await.begin().failed(&limited, words);
    assert_eq!(asking.answer().await.header("retry-after"), Some("7"));

    let asking = daemon.ask("measured");
    let turn = daemon.peer.turn().await;
    let cause = json!({"responseStreamDisconnected": {"httpStatusCode": 429}});
    turn.begin().retrying(&cause, "Reconnecting... 1/5", "exceeded retry limit");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    turn.failed(&json!({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}), "exceeded retry limit");
    let wait: u64 = asking.answer().await.header("retry-after").expect("a wait").parse().expect("seconds");
    assert!((2..5).contains(&wait), "{wait}");

    let asking = daemon.ask("unknown");
    daemon.peer.turn().await.begin().failed(&json!("serverOverloaded"), "busy");
    assert_eq!(asking.answer().await.header("retry-after"), Some("5"));
    daemon.finish().await;
}

#[tokio::test]
async fn a_response_of_another_login_is_not_continued() {
    let mut daemon = Daemon::start(|_| {}).await;
    let login = |user: &str| json!({"type": "chatgpt", "email": user, "planType": "plus"});
    daemon.peer.account(&login("one@example.com"));
    reconnected(&daemon).await;
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.answer("hello");
    let first = asking.answer().await.ok();

    daemon.peer.account(&login("other@example.com"));
    reconnected(&daemon).await;
    let body = json!({"input": "and now?", "previous_response_id": first["id"]});
    let answer = daemon.client.post(RESPONSES, &body).await;
    let row = ROWS.iter().find(|row| row.code == "continuation_account_mismatch").expect("a row");
    check(row, RESPONSES, &answer);
    daemon.finish().await;
}

/// Drops the connection, and waits until there is another one.
async fn reconnected(daemon: &Daemon) {
    daemon.bridge.models().await.expect("connected");
    let before = daemon.peer.connections();
    daemon.peer.cut();
    until("another connection", async || (daemon.peer.connections() > before).then_some(())).await;
    until("it serves", async || daemon.bridge.models().await.ok().map(drop)).await;
}

/// A client that takes nothing for as long, so that the bridge cannot hand on what it gets.
#[tokio::test]
async fn an_answer_that_comes_too_fast_is_a_named_failure() {
    let mut daemon = Daemon::start(|config| {
        config.stream.buffer_bytes = 1;
        config.turn.max_output_bytes = usize::MAX;
    })
    .await;
    let row = ROWS.iter().find(|row| row.code == "events_overrun").expect("a row");
    let (events, turn) = daemon.streaming_at(CHAT, good(CHAT), "half ").await;
    let mebibyte = "x".repeat(1024 * 1024);
    for _ in 0..48 {
        turn.delta("m", &mebibyte);
    }
    // An answer to a later request says that all of them have been read.
    daemon.peer.ask(7, "item/tool/requestUserInput", json!({})).await;
    check_stream(row, CHAT, &events.rest().await);
    daemon.until_load((0, 0)).await;
    daemon.finish().await;
}

async fn start(configure: fn(&mut Config)) -> Daemon {
    Daemon::start(|config| {
        // Early failures are played at once, but not within milliseconds on a busy machine.
        config.stream.head_timeout = PATIENCE;
        configure(config);
    })
    .await
}

fn good(path: &str) -> Value {
    if path == RESPONSES {
        json!({"input": "hi"})
    } else {
        json!({"messages": [{"role": "user", "content": "hi"}]})
    }
}

/// A good request, its turn played.
async fn asked(
    daemon: &mut Daemon,
    path: &'static str,
    stream: bool,
    play: impl FnOnce(&Daemon, &Turn),
) -> Answer {
    let mut body = good(path);
    body["stream"] = stream.into();
    let asking = daemon.post(path, body);
    let mut answer = Box::pin(asking.answer());
    tokio::select! {
        answer = &mut answer => return answer,
        turn = daemon.peer.turn() => play(daemon, &turn),
    }
    answer.await
}

/// Status, type, code, param, `Retry-After` and whether to retry.
#[track_caller]
fn check(row: &Row, path: &str, answer: &Answer) {
    let place = format!("{:?} at {path}: {}", row.code, answer.text);
    let error = answer.error();
    assert_eq!(answer.status, row.status, "{place}");
    check_fields(row, path, &error, &place);
    assert_eq!(answer.header("x-should-retry"), Some(if row.retry { "true" } else { "false" }), "{place}");
    let expected = row.retry_after.and_then(|wait| wait.otherwise);
    let wait = answer.header("retry-after").map(|wait| wait.parse().expect("seconds"));
    assert_eq!(wait, expected, "{place}");
}

#[track_caller]
fn check_fields(row: &Row, path: &str, error: &Value, place: &str) {
    assert_eq!(error["type"], row.kind, "{place}");
    assert_eq!(error["code"].as_str().unwrap_or_default(), row.code, "{place}");
    match row.param {
        Param::Null => assert_eq!(error["param"], Value::Null, "{place}"),
        Param::Is("input") if path == CHAT => assert_eq!(error["param"], "messages", "{place}"),
        Param::Is(field) => assert_eq!(error["param"], field, "{place}"),
        // The backend may name none.
        Param::Field => assert!(error["param"].is_string() || row.code.is_empty(), "{place}"),
    }
}

/// One end, which says what failed, and the terminator after it.
#[track_caller]
fn check_stream(row: &Row, path: &str, events: &[Value]) {
    let place = format!("{:?} in {path}: {events:#?}", row.code);
    if path == RESPONSES {
        let terminal = terminal_of(events);
        assert_eq!(terminal["type"], "response.failed", "{place}");
        let error = &terminal["response"]["error"];
        let expected = match row.status {
            429 => "rate_limit_exceeded",
            401 | 500.. => "server_error",
            _ => "invalid_prompt",
        };
        assert_eq!(error["code"], expected, "{place}");
        let named = row.code.is_empty() || row.code == expected;
        assert!(
            named || error["message"].as_str().is_some_and(|told| told.ends_with(&format!("({})", row.code))),
            "{place}"
        );
        return;
    }
    let [before @ .., error, done] = events else { panic!("{place}") };
    assert_eq!(done, "[DONE]", "{place}");
    crate::http::assert_error_shape(error);
    check_fields(row, path, &error["error"], &place);
    for chunk in before {
        assert!(chunk.get("error").is_none() && chunk["choices"][0]["finish_reason"].is_null(), "{place}");
    }
}

/// Writes `request` as it is, and reads the answer until the connection closes.
pub(crate) async fn raw(daemon: &Daemon, request: &[u8]) -> Answer {
    let mut client = TcpStream::connect(daemon.client.address()).await.expect("a connection");
    // The bridge may answer before it has all.
    let _ = client.write_all(request).await;
    let mut answer = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("an end in time").expect("an answer");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| {
        (name.parse().expect("a header's name"), value.parse().expect("a header's value"))
    });
    Answer { status: status.expect("a status"), headers: headers.collect(), text: body.to_owned() }
}
