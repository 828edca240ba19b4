//! Bad input: a 4xx in the official shape, nothing leaked, still serving.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::assert_error_shape;
use crate::support::bounded;
use crate::world::{On, World, chat};

/// Sends bytes as they are, half-closes where told, and gives status and body of what comes back (0 if the
/// connection is closed without a word).
async fn raw(world: &World, bytes: &[u8]) -> (u16, String) {
    let mut socket = TcpStream::connect(world.address).await.expect("a connection");
    // The daemon may answer and close before it has taken everything.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = bounded(socket.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

fn post(path: &str, head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{head}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn broken_bodies_are_refused_in_the_official_shape() {
    let world = World::configured(On::Plain, |config, _| config.server.max_body_bytes = 200_000).await;
    let deep = format!("{{\"input\": {}{}}}", "[".repeat(90_000), "]".repeat(90_000));
    let bodies: [(&str, Vec<u8>); 12] = [
        ("nothing", vec![]),
        ("not JSON", b"hello".to_vec()),
        ("half of it", b"{\"input\": \"hi".to_vec()),
        ("two values", b"{\"input\": \"hi\"} {}".to_vec()),
        ("a list", b"[1]".to_vec()),
        ("a string", b"\"hi\"".to_vec()),
        ("null", b"null".to_vec()),
        ("not UTF-8", b"{\"input\": \"\xff\xfe\"}".to_vec()),
        ("half a surrogate", br#"{"input": "\ud800"}"#.to_vec()),
        ("deep", deep.into_bytes()),
        ("a huge number", br#"{"input": 1e999999}"#.to_vec()),
        ("a wrong type", br#"{"input": {"a": 1}}"#.to_vec()),
    ];
    for path in ["/v1/responses", "/v1/chat/completions"] {
        for (what, body) in &bodies {
            let (status, text) = raw(&world, &post(path, JSON, body)).await;
            assert_eq!(status, 400, "{path} {what}: {text}");
            let error: Value = serde_json::from_str(&text).expect("JSON");
            assert_error_shape(&error);
            assert_eq!(error["error"]["type"], "invalid_request_error", "{path} {what}");
            assert!(!text.contains("src/") && !text.contains("panicked"), "{text}");
        }
    }
    assert!(world.seen().is_empty(), "something reached the model");
    world.ask("SAY still serving").await.ok();
    world.end().await;
}

#[tokio::test]
async fn sizes_types_and_routes_have_their_own_statuses() {
    let world = World::configured(On::Plain, |config, _| config.server.max_body_bytes = 1000).await;
    let large = json!({"input": "x".repeat(2000)}).to_string();
    let chunks = large.as_bytes().chunks(100);
    let chunks = chunks.map(|part| format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)));
    let head = format!("POST /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{JSON}");
    let chunked =
        format!("{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunks.collect::<Vec<_>>().concat());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let cases: [(&str, Vec<u8>, u16); 10] = [
        ("too large", post("/v1/responses", JSON, large.as_bytes()), 413),
        ("too large in chunks", chunked.into_bytes(), 413),
        ("too large for chat", post("/v1/chat/completions", JSON, large.as_bytes()), 413),
        ("announced too large", post_announced(1 << 40), 413),
        ("text", post("/v1/responses", "content-type: text/plain\r\n", b"{\"input\": \"hi\"}"), 415),
        ("an unknown route", get("/v1/nothing").into_bytes(), 404),
        ("a route of no version", get("/chat/completions").into_bytes(), 404),
        ("a wrong method", get("/v1/completions").into_bytes(), 405),
        ("no WebSocket", get("/v1/responses").into_bytes(), 426),
        ("an unknown model", get("/v1/models/none").into_bytes(), 404),
    ];
    for (what, bytes, wanted) in cases {
        let (status, text) = raw(&world, &bytes).await;
        assert_eq!(status, wanted, "{what}: {text}");
        assert_error_shape(&serde_json::from_str(&text).expect("JSON"));
    }
    world.ask("SAY still serving").await.ok();
    world.end().await;
}

/// A head that announces more than it will send.
fn post_announced(length: u64) -> Vec<u8> {
    format!("POST /v1/responses HTTP/1.1\r\nhost: localhost\r\n{JSON}content-length: {length}\r\n\r\n{{")
        .into_bytes()
}

#[tokio::test]
async fn half_a_request_holds_nothing() {
    let world = World::configured(On::Plain, |config, _| {
        config.server.header_timeout = std::time::Duration::from_millis(300);
        config.server.body_timeout = std::time::Duration::from_millis(300);
    })
    .await;
    let (status, _) = raw(&world, b"POST /v1/responses HTTP/1.1\r\nhost: local").await;
    assert!(status == 0 || status == 408, "{status}");
    let (status, text) = raw(&world, &post_announced(100)).await;
    assert_eq!(status, 408, "{text}");
    assert_error_shape(&serde_json::from_str(&text).expect("JSON"));
    let (status, _) = raw(&world, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    assert!(status == 0 || status == 400, "{status}");
    // Left in the middle of its body.
    let mut socket = TcpStream::connect(world.address).await.expect("a connection");
    socket.write_all(&post_announced(100)).await.expect("the head is taken");
    drop(socket);
    assert!(world.seen().is_empty());
    world.ask("SAY still serving").await.ok();
    world.end().await;
}

#[tokio::test]
async fn strange_but_valid_text_comes_through_whole() {
    let world = World::start(On::Plain).await;
    let strange = "\u{0}\u{1}\u{7f}\u{85}\u{2028}\u{feff}\u{202e}\u{1f469}\u{200d}\u{1f4bb}\r\n\tdata: x\n\nevent: y\n\n";
    let text = format!("SAY a{strange}b");
    let answer = world.ask(text.as_str()).await.ok();
    assert_eq!(answer["output"][0]["content"][0]["text"], format!("a{strange}b"));
    assert_eq!(world.seen()[0].input[0]["content"][0]["text"], text);
    let mut events = world.client.stream("/v1/chat/completions", &chat(&text)).await;
    let mut said = String::new();
    while let Some(chunk) = events.next().await {
        said.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    assert_eq!(said, format!("a{strange}b"));
    world.end().await;
}

#[tokio::test]
async fn keys_origins_and_hosts_are_checked() {
    let world = World::configured(On::Plain, |config, _| {
        config.auth.tokens.push(codex_bridge::config::NamedToken { name: "a".into(), token: "right".into() });
    })
    .await;
    let body = br#"{"input": "hi"}"#;
    let with = |head: &str| post("/v1/responses", &format!("{JSON}{head}"), body);
    let right = "authorization: Bearer right\r\n";
    let cases: [(&str, Vec<u8>, u16); 7] = [
        ("no key", with(""), 401),
        ("a wrong key", with("authorization: Bearer wrong\r\n"), 401),
        ("a wrong scheme", with("authorization: Basic cmlnaHQ=\r\n"), 401),
        ("the right key", with(right), 200),
        ("a browser's page", with(&format!("{right}origin: https://evil.example\r\n")), 403),
        ("an unknown route without a key", post("/v1/nothing", JSON, body), 404),
        (
            "a rebound name",
            {
                let bytes = with(right);
                String::from_utf8(bytes)
                    .expect("text")
                    .replace("host: localhost", "host: evil.example")
                    .into_bytes()
            },
            403,
        ),
    ];
    for (what, bytes, wanted) in cases {
        let (status, text) = raw(&world, &bytes).await;
        assert_eq!(status, wanted, "{what}: {text}");
        if wanted >= 400 {
            assert_error_shape(&serde_json::from_str(&text).expect("JSON"));
            assert!(!text.contains("right") && !text.contains("Bearer wrong"), "{text}");
        }
    }
    world.end().await;
}
