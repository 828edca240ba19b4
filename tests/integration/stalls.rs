//! A client that takes nothing: what it costs it, and that it costs nobody else anything.

use std::time::Duration;

use codex_bridge::config::Config;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::daemon::{Daemon, deltas_of, terminal_of};
use crate::http::PATIENCE;
use crate::peer::Turn;

const OTHERS: usize = 199;
/// More than the kernel's buffers and ours hold of one stream, and less than the answer and the app-server's side
/// may take.
const PIECES: usize = 128;
const PIECE: usize = 64 * 1024;

/// Starts a stream over a socket that takes little, and that nobody reads.
async fn stalled(daemon: &mut Daemon) -> (TcpStream, Turn) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut socket = socket.connect(daemon.client.address()).await.expect("a connection");
    let body = json!({"input": "hi", "stream": true}).to_string();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.expect("the request is taken");
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m");
    (socket, turn)
}

fn pour(turn: &Turn) {
    let piece = "x".repeat(PIECE);
    for _ in 0..PIECES {
        turn.delta("m", &piece);
    }
}

fn numbers(count: usize) -> String {
    (0..count).map(|n| n.to_string() + " ").collect()
}

fn small_buffer(config: &mut Config) {
    config.stream.buffer_bytes = PIECE;
    config.turn.max_output_bytes = 2 * PIECES * PIECE;
}

#[tokio::test]
async fn one_stalled_client_among_two_hundred_delays_no_other() {
    let mut daemon = Daemon::start(|config| {
        small_buffer(config);
        config.admission.slots = OTHERS + 1;
        // Far past the end of the test: it is stalled all the while.
        config.stream.stall_timeout = PATIENCE * 10;
        config.server.write_timeout = PATIENCE * 10;
    })
    .await;
    let (socket, turn) = stalled(&mut daemon).await;
    pour(&turn);
    let mut others = Vec::new();
    for n in 0..OTHERS {
        others.push((n, daemon.streaming(&format!("{n}: ")).await));
    }
    for word in 0..20 {
        for (_, (_, other)) in &others {
            other.delta("m", &format!("{word} "));
        }
        // The stalled one's model goes on as well.
        turn.delta("m", "y");
    }
    let mut reading = JoinSet::new();
    for (n, (events, other)) in others {
        let text = format!("{n}: {}", numbers(20));
        other.message("m", &text).response(1, 1).completed();
        reading.spawn(async move {
            let events = events.rest().await;
            assert_eq!(terminal_of(&events)["type"], "response.completed");
            assert_eq!(deltas_of(&events), text);
        });
    }
    while let Some(read) = reading.join_next().await {
        read.expect("each of the others is whole");
    }
    daemon.until_load((1, 0)).await;
    assert!(daemon.peer.seen("turn/interrupt").is_empty(), "the stalled one still stalls");
    drop(socket);
    daemon.until_interrupted(&turn).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_client_that_stalls_for_too_long_loses_its_turn_and_its_connection() {
    let mut daemon = Daemon::start(|config| {
        small_buffer(config);
        config.stream.stall_timeout = Duration::from_millis(100);
        config.server.write_timeout = Duration::from_millis(500);
    })
    .await;
    let (mut socket, turn) = stalled(&mut daemon).await;
    pour(&turn);
    daemon.until_interrupted(&turn).await;
    turn.interrupted();
    daemon.until_idle().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut taken = Vec::new();
    // A reset is as good an end as any.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut taken)).await.expect("its connection is closed");
    assert!(taken.len() < PIECES * PIECE, "it took everything");
    assert!(!taken.windows(6).any(|end| end == b"[DONE]"), "it is told a whole stream");
    daemon.finish().await;
}

/// What is told of a turn before its own reply names it belongs to it all the same.
#[tokio::test]
async fn what_comes_before_the_turn_has_its_id_is_kept() {
    let mut daemon = Daemon::start(|_| {}).await;
    let client = daemon.client.clone();
    let body = json!({"input": "hi"});
    let (events, ()) =
        tokio::join!(async { client.stream("/v1/responses", &body).await.rest().await }, async {
            let turn = daemon.peer.turn().await;
            turn.tell("turn/started", json!({"turn": {"id": turn.id, "items": [], "status": "inProgress"}}));
            turn.item_started("agentMessage", "m");
            for n in 0..100 {
                turn.delta("m", &format!("{n} "));
            }
            turn.reply();
            let text = numbers(100);
            turn.message("m", &text).response(1, 1).completed();
        });
    assert_eq!(terminal_of(&events)["type"], "response.completed");
    assert_eq!(deltas_of(&events), numbers(100));
    daemon.finish().await;
}
