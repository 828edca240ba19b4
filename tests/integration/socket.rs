//! `GET /v1/responses` as a WebSocket: the same answers as over HTTP, one request after the other, lanes side by side.

use std::time::Duration;

use codex_bridge::config::{Config, KeyLimits, NamedToken};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::daemon::{Daemon, deltas_of};
use crate::http::{Client, until};
use crate::keys::{client, keys_command, reloaded};
use crate::socket_client::Socket;

fn token(config: &mut Config, name: &str, limits: KeyLimits) {
    config.auth.tokens.push(NamedToken { name: name.into(), token: format!("secret-{name}").into() });
    config.auth.limits.insert(name.into(), limits);
}

/// Asks, and has the turn answer `text`. Gives the events.
async fn answered(daemon: &mut Daemon, socket: &mut Socket, fields: Value, text: &str) -> Vec<Value> {
    socket.create(fields).await;
    daemon.peer.turn().await.answer(text);
    socket.response().await
}

fn id_of(events: &[Value]) -> Value {
    events.last().expect("a terminal event")["response"]["id"].clone()
}

async fn open_sockets(client: &Client) -> Value {
    client.get("/v1/health").await.ok()["websockets"]["open"].clone()
}

#[tokio::test]
async fn one_request_after_the_other_gets_the_events_of_a_stream() {
    let mut daemon = Daemon::start(|_| {}).await;
    let mut socket = Socket::connect(&daemon.client).await;
    for text in ["first", "second"] {
        let events = answered(&mut daemon, &mut socket, json!({"input": "hi", "stream": true}), text).await;
        assert_eq!(deltas_of(&events), text);
        let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
        let terminal = events.last().unwrap();
        assert_eq!(
            (&terminal["type"], &terminal["response"]["status"]),
            (&json!("response.completed"), &json!("completed"))
        );
        assert!(events.iter().all(|event| event.get("stream_id").is_none()), "{events:#?}");
    }
    // The same over HTTP, but for ids and times.
    let kinds = |events: &[Value]| events.iter().map(|event| event["type"].clone()).collect::<Vec<_>>();
    let over_socket = answered(&mut daemon, &mut socket, json!({"input": "hi"}), "third").await;
    let (events, turn) = daemon.streaming("th").await;
    turn.delta("m", "ird").message("m", "third").response(12, 3).completed();
    let over_http = events.rest().await;
    let mut once = kinds(&over_http[..over_http.len() - 1]);
    once.dedup();
    let mut other = kinds(&over_socket);
    other.dedup();
    assert_eq!(other, once);
    assert_eq!(open_sockets(&daemon.client).await, 1);
    drop(socket);
    until("the socket is gone", async || (open_sockets(&daemon.client).await == 0).then_some(())).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_second_request_waits_for_the_first_and_another_lane_does_not() {
    let mut daemon = Daemon::start(|_| {}).await;
    let mut socket = Socket::connect(&daemon.client).await;
    for (lane, input) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
        socket.create(json!({"input": input, "stream_id": lane})).await;
    }
    let (first, other) = (daemon.peer.turn().await, daemon.peer.turn().await);
    daemon.until_load((2, 0)).await;
    let said = |turn: &crate::peer::Turn| turn.items.last().unwrap()["content"][0]["text"].clone();
    let (first, other) = if said(&first) == "a1" { (first, other) } else { (other, first) };
    assert_eq!((said(&first), said(&other)), (json!("a1"), json!("b1")));
    other.answer("to b1");
    let events = socket.response().await;
    assert!(events.iter().all(|event| event["stream_id"] == "b"), "{events:#?}");
    first.answer("to a1");
    let events = socket.response().await;
    assert_eq!((deltas_of(&events), &events[0]["stream_id"]), ("to a1".into(), &json!("a")));
    let second = daemon.peer.turn().await;
    assert_eq!(said(&second), "a2");
    second.answer("to a2");
    assert_eq!(deltas_of(&socket.response().await), "to a2");
    drop(socket);
    daemon.finish().await;
}

#[tokio::test]
async fn what_is_not_stored_is_continued_here_and_lost_with_the_socket() {
    let mut daemon = Daemon::start(|config| config.continuation.keep_unstored = false).await;
    let mut socket = Socket::connect(&daemon.client).await;
    let first = answered(&mut daemon, &mut socket, json!({"input": "one", "store": false}), "1").await;
    let stored = answered(&mut daemon, &mut socket, json!({"input": "kept"}), "2").await;
    let next = json!({"input": "two", "store": false, "previous_response_id": id_of(&first)});
    socket.create(next.clone()).await;
    let turn = daemon.peer.turn().await;
    let said: Vec<_> = turn.items.iter().map(|item| item["content"][0]["text"].clone()).collect();
    assert_eq!(said, ["one", "1", "two"]);
    turn.answer("3");
    socket.response().await;
    drop(socket);
    until("the socket is gone", async || (open_sockets(&daemon.client).await == 0).then_some(())).await;
    let mut socket = Socket::connect(&daemon.client).await;
    socket.create(next).await;
    let not_found = (400, "previous_response_not_found".to_owned(), json!("previous_response_id"));
    assert_eq!(socket.refusal().await, not_found);
    // What is stored goes on, and so does the socket.
    let next = json!({"input": "more", "previous_response_id": id_of(&stored)});
    answered(&mut daemon, &mut socket, next, "4").await;
    drop(socket);
    daemon.finish().await;
}

#[tokio::test]
async fn a_failed_continuation_cannot_be_tried_again_but_on_another_lane() {
    let mut daemon = Daemon::start(|_| {}).await;
    let mut socket = Socket::connect(&daemon.client).await;
    let first = answered(&mut daemon, &mut socket, json!({"input": "one", "store": false}), "1").await;
    let output = json!([{"type": "function_call_output", "call_id": "call_none", "output": "x"}]);
    let wrong = json!({"input": output, "store": false, "previous_response_id": id_of(&first)});
    let right = json!({"input": "two", "store": false, "previous_response_id": id_of(&first)});
    let on = |lane: &str, fields: &Value| {
        let mut fields = fields.clone();
        fields["stream_id"] = lane.into();
        fields
    };
    // A fork that fails leaves it to its own lane.
    socket.create(on("fork", &wrong)).await;
    let event = socket.next().await;
    assert_eq!((&event["status"], &event["stream_id"]), (&json!(400), &json!("fork")));
    answered(&mut daemon, &mut socket, on("fork", &right), "2").await;
    socket.create(wrong).await;
    assert_eq!(socket.refusal().await.0, 400);
    socket.create(right).await;
    assert_eq!(socket.refusal().await.1, "previous_response_not_found");
    // One that fails in mid-answer likewise.
    let next = answered(&mut daemon, &mut socket, json!({"input": "three", "store": false}), "3").await;
    let further = json!({"input": "four", "store": false, "previous_response_id": id_of(&next)});
    socket.create(further.clone()).await;
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half ");
    turn.failed(&json!("internalServerError"), "no more");
    assert_eq!(socket.response().await.last().unwrap()["type"], "response.failed");
    socket.create(further).await;
    assert_eq!(socket.refusal().await.1, "previous_response_not_found");
    drop(socket);
    daemon.finish().await;
}

#[tokio::test]
async fn a_warm_up_asks_no_model_and_is_continued() {
    for store in [true, false] {
        let mut daemon = Daemon::start(|config| config.continuation.warm_threads = 4).await;
        let mut socket = Socket::connect(&daemon.client).await;
        let fields =
            json!({"input": "the code is 7", "instructions": "be brief", "generate": false, "store": store});
        socket.create(fields).await;
        let events = socket.response().await;
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["response.created", "response.in_progress", "response.completed"]);
        let response = &events[2]["response"];
        assert_eq!((&response["output"], &response["usage"]["total_tokens"]), (&json!([]), &json!(0)));
        assert_eq!(daemon.peer.seen("turn/start").len(), 0);
        let (threads, injected) = (daemon.peer.threads(), daemon.peer.seen("thread/inject_items").len());
        assert_eq!((threads.len(), injected), (1, 1));
        let next = json!({
            "input": "what is it?", "instructions": "be brief", "previous_response_id": id_of(&events), "store": store,
        });
        socket.create(next).await;
        let turn = daemon.peer.turn().await;
        assert_eq!(vec![turn.thread.clone()], threads, "the thread was ready");
        let said: Vec<_> = turn.items.iter().map(|item| item["content"][0]["text"].clone()).collect();
        assert_eq!(said, ["be brief", "the code is 7", "what is it?"]);
        turn.answer("7");
        socket.response().await;
        let read = daemon.client.get(&format!("/v1/responses/{}", id_of(&events).as_str().unwrap())).await;
        assert_eq!(read.status, if store { 200 } else { 404 });
        // Tools and instructions alone may be warmed up too.
        socket.create(json!({"generate": false, "instructions": "x", "store": store})).await;
        assert_eq!(socket.response().await.len(), 3);
        socket.create(json!({"generate": false, "input": "x", "conversation": "conv_1"})).await;
        assert_eq!(socket.refusal().await.1, "invalid_parameter_combination");
        let over_http = daemon.client.post("/v1/responses", &json!({"input": "x", "generate": false})).await;
        assert_eq!(over_http.failure(), (400, "unsupported_parameter".into()));
        drop(socket);
        daemon.until_load((0, 0)).await;
        daemon.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_interrupts_its_turns() {
    let mut daemon = Daemon::start(|_| {}).await;
    for politely in [true, false] {
        let mut socket = Socket::connect(&daemon.client).await;
        socket.create(json!({"input": "one"})).await;
        socket.create(json!({"input": "two", "stream_id": "b"})).await;
        let turns = [daemon.peer.turn().await, daemon.peer.turn().await];
        turns[0].begin().item_started("agentMessage", "m").delta("m", "half ");
        turns[1].begin();
        socket.until("response.output_text.delta").await;
        if politely {
            socket.stream.close(None).await.expect("closed");
        }
        drop(socket);
        for turn in &turns {
            daemon.until_interrupted(turn).await;
        }
        daemon.until_idle().await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn mistakes_are_told_and_the_socket_goes_on() {
    let mut daemon = Daemon::start(|config| config.requests.strict_params = true).await;
    let mut socket = Socket::connect(&daemon.client).await;
    let texts = [
        ("no json", "invalid_json", Value::Null),
        ("[]", "invalid_json", Value::Null),
        ("{}", "missing_required_parameter", json!("type")),
        (r#"{"type": "response.cancel"}"#, "invalid_value", json!("type")),
        (
            r#"{"type": "response.create", "input": "x", "stream_id": "a b"}"#,
            "invalid_stream_id",
            json!("stream_id"),
        ),
        (
            r#"{"type": "response.create", "input": "x", "background": true}"#,
            "unsupported_parameter",
            json!("background"),
        ),
        (r#"{"type": "response.create", "input": "x", "what": 1}"#, "unsupported_parameter", json!("what")),
        (r#"{"type": "response.create"}"#, "missing_required_parameter", json!("input")),
        (r#"{"type": "response.create", "input": 7}"#, "invalid_type", json!("input")),
    ];
    for (text, code, param) in texts {
        socket.send(Message::text(text)).await;
        assert_eq!(socket.refusal().await, (400, code.to_owned(), param), "{text}");
    }
    socket.send(Message::binary(b"{}".to_vec())).await;
    assert_eq!(socket.refusal().await.1, "invalid_json");
    socket
        .send(Message::text(r#"{"type": "response.steer", "previous_response_id": "resp_1", "input": "x"}"#))
        .await;
    assert_eq!(socket.next().await["error"]["code"], "steering_not_supported");
    socket.send(Message::Ping(b"hi".to_vec().into())).await;
    answered(&mut daemon, &mut socket, json!({"input": "hi"}), "yes").await;
    // The model is told as over HTTP, with what a head would say.
    socket.create(json!({"input": "hi", "model": "none", "stream_id": "a"})).await;
    let event = socket.next().await;
    assert_eq!((&event["status"], &event["stream_id"]), (&json!(404), &json!("a")));
    assert_eq!(event["error"]["headers"]["x-should-retry"], "false");
    assert!(event["error"]["headers"]["x-request-id"].as_str().unwrap().starts_with("req_"));
    drop(socket);
    daemon.finish().await;
}

#[tokio::test]
async fn lanes_are_bounded() {
    let mut daemon = Daemon::start(|_| {}).await;
    let mut socket = Socket::connect(&daemon.client).await;
    for n in 0..33 {
        // Refused at once, so that nothing has to be answered.
        socket.create(json!({"input": 7, "stream_id": format!("lane-{n}")})).await;
        let event = socket.next().await;
        let expected = if n < 32 { "invalid_type" } else { "websocket_stream_limit_reached" };
        assert_eq!(event["error"]["code"], expected);
    }
    answered(&mut daemon, &mut socket, json!({"input": "hi"}), "the default lane is there").await;
    drop(socket);
    daemon.finish().await;
}

#[tokio::test]
async fn a_message_past_the_limit_ends_the_socket() {
    let mut daemon = Daemon::start(|config| config.server.max_body_bytes = 100_000).await;
    let mut socket = Socket::connect(&daemon.client).await;
    answered(&mut daemon, &mut socket, json!({"input": "x".repeat(99_000)}), "yes").await;
    socket.create(json!({"input": "x".repeat(200_000)})).await;
    assert_eq!(socket.refusal().await, (413, "request_too_large".to_owned(), Value::Null));
    assert_eq!(socket.closed().await, 1009);
    daemon.finish().await;
}

#[tokio::test]
async fn a_message_that_does_not_end_is_not_waited_for() {
    let daemon = Daemon::start(|config| config.server.body_timeout = Duration::from_millis(200)).await;
    let mut socket = Socket::connect(&daemon.client).await;
    // The head of a frame of 100 bytes, and one of them.
    socket.stream.get_mut().write_all(&[0x81, 0x80 | 0x64, 0, 0, 0, 0, b'{']).await.expect("taken");
    assert_eq!(socket.refusal().await.1, "request_timeout");
    assert_eq!(socket.closed().await, 1008);
    daemon.finish().await;
}

#[tokio::test]
async fn what_is_no_frame_ends_the_socket() {
    let daemon = Daemon::start(|_| {}).await;
    for (bytes, code) in [
        // Unmasked, and text that is no UTF-8.
        (&[0x81, 2, b'{', b'}'][..], 1002),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
    ] {
        let mut socket = Socket::connect(&daemon.client).await;
        socket.stream.get_mut().write_all(bytes).await.expect("taken");
        assert_eq!(socket.closed().await, code);
    }
    daemon.finish().await;
}

#[tokio::test]
async fn the_key_counts_each_request_and_is_asked_for_each() {
    let mut daemon = Daemon::start(|config| {
        token(config, "rated", KeyLimits { requests_per_minute: Some(2), ..KeyLimits::default() });
    })
    .await;
    let address = daemon.client.address();
    assert_eq!(Socket::with(address, &[]).await.err(), Some(401));
    assert_eq!(Socket::with(address, &[("authorization", "Bearer wrong")]).await.err(), Some(401));
    let page = [("authorization", "Bearer secret-rated"), ("origin", "https://page.example")];
    assert_eq!(Socket::with(address, &page).await.err(), Some(403));

    let rated = [("authorization", "Bearer secret-rated")];
    let mut socket = Socket::with(address, &rated).await.expect("a socket");
    assert_eq!(socket.headers["x-ratelimit-remaining-requests"], "2", "the socket itself counts for nothing");
    for _ in 0..2 {
        answered(&mut daemon, &mut socket, json!({"input": "hi"}), "yes").await;
    }
    socket.create(json!({"input": "hi"})).await;
    let event = socket.next().await;
    assert_eq!((&event["status"], &event["error"]["code"]), (&json!(429), &json!("rate_limit_exceeded")));
    let headers = &event["error"]["headers"];
    assert_eq!(headers["x-ratelimit-remaining-requests"], "0");
    assert!(headers["retry-after"].as_str().is_some_and(|wait| wait.parse::<u64>().is_ok()), "{event}");

    drop(socket);
    daemon.finish().await;
}

#[tokio::test]
async fn a_key_that_is_taken_back_ends_its_socket_at_the_next_request() {
    let mut daemon = Daemon::start(|_| {}).await;
    let key = keys_command(&daemon, &["add", "alice"]).1;
    assert!(keys_command(&daemon, &["add", "bob"]).0);
    reloaded(&daemon, &client(&daemon, &key), "ok", 2).await;
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", &*authorization)];
    let mut socket = Socket::with(daemon.client.address(), &headers).await.expect("a socket");
    answered(&mut daemon, &mut socket, json!({"input": "hi"}), "yes").await;
    assert!(keys_command(&daemon, &["remove", "alice"]).0);
    daemon.reload.send(()).await.expect("it listens");
    let gone = client(&daemon, &key);
    until("the key is gone", async || (gone.get("/v1/models").await.status == 401).then_some(())).await;
    socket.create(json!({"input": "hi"})).await;
    assert_eq!(socket.refusal().await, (401, "invalid_api_key".to_owned(), Value::Null));
    assert_eq!(socket.closed().await, 1008);
    daemon.finish().await;
}

#[tokio::test]
async fn an_old_socket_ends_what_runs_and_takes_nothing_new() {
    let mut daemon = Daemon::start(|config| config.websocket.max_age = Duration::from_millis(300)).await;
    let mut socket = Socket::connect(&daemon.client).await;
    socket.create(json!({"input": "one"})).await;
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half ");
    socket.until("response.output_text.delta").await;
    socket.create(json!({"input": "waits"})).await;
    let (_, code, _) = socket.refusal().await;
    assert_eq!(code, "websocket_connection_limit_reached");
    socket.create(json!({"input": "late", "stream_id": "b"})).await;
    let event = socket.next().await;
    assert_eq!((&event["stream_id"], &event["error"]["code"]), (&json!("b"), &json!(code)));
    turn.delta("m", "whole").message("m", "half whole").response(1, 1).completed();
    assert_eq!(socket.response().await.last().unwrap()["type"], "response.completed");
    assert_eq!(socket.refusal().await, (400, code, Value::Null));
    assert_eq!(socket.closed().await, 1001);
    daemon.finish().await;
}

#[tokio::test]
async fn an_idle_socket_is_pinged_and_then_closed() {
    let daemon = Daemon::start(|config| {
        config.websocket.idle_timeout = Duration::from_millis(300);
        config.stream.keep_alive = Duration::from_millis(50);
    })
    .await;
    let mut socket = Socket::connect(&daemon.client).await;
    let mut pings = 0;
    let code = loop {
        match futures_util::StreamExt::next(&mut socket.stream).await {
            Some(Ok(Message::Ping(_))) => pings += 1,
            Some(Ok(Message::Close(frame))) => break frame.map(|frame| u16::from(frame.code)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((code, pings > 0), (Some(1000), true));
    daemon.finish().await;
}

#[tokio::test]
async fn on_the_way_down_what_runs_ends_and_the_socket_closes() {
    let mut daemon = Daemon::start(|_| {}).await;
    let mut idle = Socket::connect(&daemon.client).await;
    let mut socket = Socket::connect(&daemon.client).await;
    socket.create(json!({"input": "one"})).await;
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half ");
    socket.until("response.output_text.delta").await;
    daemon.begin_stop();
    assert_eq!(idle.closed().await, 1012);
    socket.create(json!({"input": "late", "stream_id": "b"})).await;
    let (status, code, _) = socket.refusal().await;
    assert_eq!((status, code.as_str()), (503, "shutting_down"));
    turn.delta("m", "whole").message("m", "half whole").response(1, 1).completed();
    assert_eq!(socket.response().await.last().unwrap()["type"], "response.completed");
    assert_eq!(socket.closed().await, 1012);
    daemon.end().await;
}

#[tokio::test]
async fn past_the_bound_what_runs_is_interrupted_and_told() {
    let mut daemon = Daemon::start(|config| config.shutdown.drain = Duration::from_millis(100)).await;
    let mut socket = Socket::connect(&daemon.client).await;
    socket.create(json!({"input": "one"})).await;
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half ");
    socket.until("response.output_text.delta").await;
    daemon.begin_stop();
    assert_eq!(socket.response().await.last().unwrap()["type"], "response.failed");
    assert_eq!(socket.closed().await, 1012);
    daemon.until_interrupted(&turn).await;
    daemon.end().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let mut daemon = Daemon::start(|config| {
        config.server.write_timeout = Duration::from_millis(300);
        config.stream.buffer_bytes = 100_000;
        config.stream.stall_timeout = Duration::from_millis(300);
    })
    .await;
    let mut socket = Socket::connect(&daemon.client).await;
    socket.create(json!({"input": "one"})).await;
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m");
    let text = "x".repeat(100_000);
    for _ in 0..200 {
        turn.delta("m", &text);
    }
    daemon.until_interrupted(&turn).await;
    daemon.until_load((0, 0)).await;
    drop(socket);
    daemon.finish().await;
}

#[tokio::test]
async fn a_socket_counts_as_a_connection_and_an_idle_one_makes_place() {
    let mut daemon = Daemon::start(|config| config.server.max_connections = 1).await;
    let mut first = Socket::connect(&daemon.client).await;
    first.create(json!({"input": "one"})).await;
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half ");
    first.until("response.output_text.delta").await;
    assert_eq!(Socket::with(daemon.client.address(), &[]).await.err(), Some(503));
    turn.delta("m", "whole").message("m", "half whole").response(1, 1).completed();
    first.response().await;
    let second = Socket::connect(&daemon.client).await;
    assert_eq!(first.closed().await, 1013);
    drop((first, second));
    daemon.finish().await;
}

#[tokio::test]
async fn without_an_upgrade_it_says_what_it_is() {
    let daemon = Daemon::start(|_| {}).await;
    let refused = daemon.client.get("/v1/responses").await;
    assert_eq!(refused.failure(), (426, "upgrade_required".into()));
    assert_eq!(
        (refused.header("upgrade"), refused.header("sec-websocket-version")),
        (Some("websocket"), Some("13"))
    );
    daemon.finish().await;
}
