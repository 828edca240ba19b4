//! A client that leaves interrupts its turn at once and gives its slot back.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::daemon::{Daemon, text_of};

/// Posts over a plain socket, so that it can be dropped at any moment.
async fn post(daemon: &Daemon, path: &str, body: &Value) -> TcpStream {
    let address = daemon.client.address();
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("the head is taken");
    socket.write_all(body.as_bytes()).await.expect("the body is taken");
    socket
}

#[tokio::test]
async fn leaving_a_stream_interrupts_its_turn() {
    let mut daemon = Daemon::start(|_| {}).await;
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    for (path, body) in [("/v1/responses", json!({"input": "hi"})), ("/v1/chat/completions", chat)] {
        let (mut events, turn) = daemon.streaming_at(path, body, "half").await;
        events.next().await.expect("an event");
        drop(events);
        daemon.until_interrupted(&turn).await;
        daemon.until_idle().await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn leaving_before_the_answer_interrupts_its_turn() {
    let mut daemon = Daemon::start(|_| {}).await;
    for path in ["/v1/responses", "/v1/chat/completions"] {
        for stream in [false, true] {
            let messages = json!([{"role": "user", "content": "hi"}]);
            let mut body = json!({"stream": stream});
            body[if path == "/v1/responses" { "input" } else { "messages" }] = messages;
            let socket = post(&daemon, path, &body).await;
            let turn = daemon.peer.turn().await;
            turn.begin();
            drop(socket);
            daemon.until_interrupted(&turn).await;
            daemon.until_idle().await;
        }
    }
    daemon.finish().await;
}

#[tokio::test]
async fn leaving_before_the_turn_has_its_id_stops_it_all_the_same() {
    let mut daemon = Daemon::start(|_| {}).await;
    let socket = post(&daemon, "/v1/responses", &json!({"input": "hi"})).await;
    let turn = daemon.peer.turn().await;
    drop(socket);
    daemon.until_interrupted(&turn).await;
    turn.begin();
    daemon.finish().await;
}

#[tokio::test]
async fn each_of_several_choices_is_interrupted() {
    let mut daemon = Daemon::start(|_| {}).await;
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "n": 3});
    let socket = post(&daemon, "/v1/chat/completions", &body).await;
    let mut turns = Vec::new();
    for _ in 0..3 {
        let turn = daemon.peer.turn().await;
        turn.begin();
        turns.push(turn);
    }
    drop(socket);
    for turn in &turns {
        daemon.until_interrupted(turn).await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_streamed_choice_that_fails_ends_the_others() {
    let mut daemon = Daemon::start(|config| config.admission.slots = 2).await;
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "n": 3});
    let (events, failing) = daemon.streaming_at("/v1/chat/completions", body, "half").await;
    let other = daemon.peer.turn().await;
    other.begin();
    daemon.until_load((2, 1)).await;
    failing.failed(&json!("internalServerError"), "the backend's words");
    let chunks = events.rest().await;
    let [.., error, done] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!((&error["error"]["code"], done), (&json!("upstream_error"), &json!("[DONE]")));
    daemon.until_interrupted(&other).await;
    daemon.until_idle().await;
    assert_eq!(daemon.peer.seen("turn/start").len(), 2, "the one that waited never started");
    daemon.finish().await;
}

#[tokio::test]
async fn leaving_the_queue_never_reaches_the_app_server() {
    let mut daemon = Daemon::start(|config| config.admission.slots = 1).await;
    let first = daemon.ask("first");
    let turn = daemon.peer.turn().await;
    turn.begin();
    let waiting = post(&daemon, "/v1/responses", &json!({"input": "second"})).await;
    daemon.until_load((1, 1)).await;
    drop(waiting);
    daemon.until_load((1, 0)).await;
    turn.message("m", "one").response(1, 1).completed();
    assert_eq!(text_of(&first.answer().await.ok()), "one");
    daemon.until_idle().await;
    assert_eq!(daemon.peer.seen("turn/start").len(), 1);
    daemon.finish().await;
}

#[tokio::test]
async fn an_app_server_that_ignores_the_interrupt_does_not_hold_the_slot() {
    let mut daemon = Daemon::start(|_| {}).await;
    daemon.peer.instead("turn/interrupt", crate::peer::Instead::Silence);
    let (events, _turn) = daemon.streaming("half").await;
    drop(events);
    daemon.finish().await;
}
