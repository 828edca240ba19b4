//! Both faces over real sockets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

async fn started(face: Face) -> (StandIn, Tasks) {
    let tasks = Tasks::new();
    let options = StandInOptions { face, ..StandInOptions::default() };
    (StandIn::start(options, &tasks).await.unwrap(), tasks)
}

/// Everything that comes back until the connection closes.
async fn exchange(mut socket: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &[u8]) -> String {
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A cut connection ends in an error; what came before is what counts.
    let _ =
        tokio::time::timeout(LIMIT, socket.read_to_end(&mut answer)).await.expect("the connection closes");
    String::from_utf8(answer).unwrap()
}

fn request(method: &str, path: &str, head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}content-length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend(body);
    request
}

async fn plain(stand_in: &StandIn, method: &str, path: &str, body: &Value) -> String {
    let socket = TcpStream::connect(stand_in.addr()).await.unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    exchange(socket, &request(method, path, "authorization: Bearer secret\r\n", body.as_bytes())).await
}

/// The events of a chunked answer, each checked to be a frame of its own.
fn events(answer: &str) -> Vec<Value> {
    let events = answer.split("event: ").skip(1).map(|frame| {
        let (kind, rest) = frame.split_once('\n').unwrap();
        let (data, _) = rest.strip_prefix("data: ").unwrap().split_once("\n\n").unwrap();
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!(event["type"], kind);
        event
    });
    events.collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn the_plain_face_streams_events_and_keeps_what_it_was_asked() {
    let (stand_in, tasks) = started(Face::Plain).await;
    let body = json!({"model": "m", "stream": true, "input": [{"role": "user", "content": "hello there"}]});
    let answer = plain(&stand_in, "POST", "/v1/responses", &body).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-type: text/event-stream"), "{answer}");
    let events = events(&answer);
    let deltas: Vec<&str> = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(deltas, ["echo: ", "hello ", "there"]);
    assert_eq!(events.last().unwrap()["response"]["usage"]["output_tokens"], 3);

    let seen = plain(&stand_in, "GET", "/requests", &Value::Null).await;
    let seen: Value = serde_json::from_str(seen.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&seen[0]["body"], &seen[0]["input"]), (&body, &body["input"]));
    assert_eq!((&seen[0]["transport"], &seen[0]["path"]), (&json!("http"), &json!("/v1/responses")));
    assert_eq!(seen[0]["bytes"], body.to_string().len());
    assert_eq!(seen[0]["headers"]["authorization"], "***");
    assert_eq!(stand_in.requests().len(), 1);
    assert!(plain(&stand_in, "DELETE", "/requests", &Value::Null).await.starts_with("HTTP/1.1 204"));
    assert!(stand_in.requests().is_empty());
    assert!(tasks.shut_down(LIMIT).await);
}

#[tokio::test]
async fn the_plain_face_fails_as_asked() {
    let (stand_in, _tasks) = started(Face::Plain).await;
    let ask = async |text: &str| plain(&stand_in, "POST", "/v1/responses", &json!({"input": text})).await;
    let limited = ask("FAIL 429 7").await;
    assert!(limited.starts_with("HTTP/1.1 429") && limited.contains("retry-after: 7\r\n"), "{limited}");
    let used_up = ask("FAIL usage").await;
    assert!(used_up.starts_with("HTTP/1.1 429") && used_up.contains("usage_limit_reached"), "{used_up}");
    let cut = ask("FAIL stream SAY one two three").await;
    assert_eq!(kinds(&events(&cut))[4..], ["response.output_text.delta"; 2]);
    assert!(!cut.ends_with("0\r\n\r\n"), "the body must not end well: {cut}");
    for body in ["{", "[]"] {
        let socket = TcpStream::connect(stand_in.addr()).await.unwrap();
        let broken = exchange(socket, &request("POST", "/v1/responses", "", body.as_bytes())).await;
        assert!(broken.starts_with("HTTP/1.1 400") && broken.contains("invalid_request_error"), "{broken}");
    }
}

#[tokio::test]
async fn stopping_drops_a_stalled_stream() {
    let (stand_in, tasks) = started(Face::Plain).await;
    let mut socket = TcpStream::connect(stand_in.addr()).await.unwrap();
    socket.write_all(&request("POST", "/v1/responses", "", br#"{"input":"FAIL stall"}"#)).await.unwrap();
    let mut first = [0_u8; 12];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stand_in.stop();
    assert!(exchange(socket, b"").await.contains("output_text.delta"));
    assert!(tasks.shut_down(LIMIT).await);
}

async fn tls(stand_in: &StandIn, folder: &Path) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let socket = TcpStream::connect(stand_in.addr()).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), socket)
        .await
        .unwrap()
}

struct Socket(WebSocketStream<TlsStream<TcpStream>>);

impl Socket {
    async fn open(stand_in: &StandIn, folder: &Path) -> Self {
        let stream = tls(stand_in, folder).await;
        let address = format!("wss://localhost:{}/backend-api/codex/responses", stand_in.addr().port());
        Self(tokio_tungstenite::client_async(address, stream).await.unwrap().0)
    }

    /// Sends one request and gives its events up to the terminal one, or up to the end of the connection.
    async fn ask(&mut self, body: Value) -> Vec<Value> {
        let mut body = body;
        body["type"] = "response.create".into();
        self.0.send(Message::text(body.to_string())).await.unwrap();
        let mut events = Vec::new();
        loop {
            match tokio::time::timeout(LIMIT, self.0.next()).await.expect("an event in time") {
                Some(Ok(Message::Text(text))) => events.push(serde_json::from_str::<Value>(&text).unwrap()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return events,
            }
            let kind = events.last().and_then(|event| event["type"].as_str()).unwrap_or_default();
            if matches!(kind, "response.completed" | "response.failed" | "response.incomplete" | "error") {
                return events;
            }
        }
    }
}

fn response_id(events: &[Value]) -> Value {
    events.last().unwrap()["response"]["id"].clone()
}

fn text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["delta"].as_str()).collect()
}

fn user(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
}

#[tokio::test]
async fn a_socket_is_warmed_up_and_continued_by_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let (stand_in, tasks) = started(Face::Chatgpt { folder: folder.path().to_owned() }).await;
    let mut socket = Socket::open(&stand_in, folder.path()).await;
    let developer = json!({"type": "message", "role": "developer", "content": "be brief"});
    let warm = socket.ask(json!({"input": [developer], "generate": false})).await;
    assert_eq!(kinds(&warm), ["response.created", "response.in_progress", "response.completed"]);

    let first =
        socket.ask(json!({"input": [user("I am Ada")], "previous_response_id": response_id(&warm)})).await;
    assert_eq!(first[0]["type"], "codex.rate_limits");
    assert_eq!(first[0]["rate_limits"]["primary"]["used_percent"], 42);
    assert_eq!(text(&first), "echo: I am Ada");
    let next = |question| json!({"input": [user(question)], "previous_response_id": response_id(&first)});
    let second = socket.ask(next("what is my name?")).await;
    assert_eq!(text(&second), "you said: I am Ada");
    let stale = socket.ask(next("and now?")).await;
    assert_eq!(stale.last().unwrap()["error"]["code"], "previous_response_not_found");
    assert_eq!(text(&socket.ask(json!({"input": [user("anew")]})).await), "echo: anew");

    let seen = stand_in.requests();
    let sizes = |seen: &SeenRequest| {
        (seen.body["input"].as_array().unwrap().len(), seen.input.as_array().unwrap().len())
    };
    assert_eq!(seen.iter().map(sizes).collect::<Vec<_>>(), [(1, 1), (1, 2), (1, 4), (1, 1), (1, 1)]);
    assert!(seen.iter().all(|seen| seen.transport == Transport::Ws));
    assert_eq!(
        *seen[2].input,
        json!([developer, user("I am Ada"), seen[2].input[2], user("what is my name?")])
    );
    assert_eq!(seen[2].input[2]["role"], "assistant");
    // The same port tells it without encryption too.
    assert!(plain(&stand_in, "GET", "/requests", &Value::Null).await.contains("I am Ada"));
    assert!(tasks.shut_down(LIMIT).await);
}

#[tokio::test]
async fn a_socket_fails_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (stand_in, _tasks) = started(Face::Chatgpt { folder: folder.path().to_owned() }).await;
    let mut socket = Socket::open(&stand_in, folder.path()).await;
    let used_up = socket.ask(json!({"input": "FAIL usage"})).await;
    let [error] = used_up.as_slice() else { panic!("{used_up:?}") };
    assert_eq!((&error["status"], &error["error"]["type"]), (&json!(429), &json!("usage_limit_reached")));
    let limited = socket.ask(json!({"input": "FAIL 429 3"})).await;
    assert_eq!((&limited[0]["status"], &limited[0]["headers"]["retry-after"]), (&json!(429), &json!("3")));
    let context = socket.ask(json!({"input": "FAIL context"})).await;
    assert_eq!(context.last().unwrap()["response"]["error"]["code"], "context_length_exceeded");
    let cut = socket.ask(json!({"input": "FAIL stream SAY one two three"})).await;
    assert_eq!(text(&cut), "one two ");
    assert_eq!(kinds(&cut).last(), Some(&"response.output_text.delta"));
}

#[tokio::test]
async fn the_backend_knows_its_account_and_reads_compressed_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let (stand_in, _tasks) = started(Face::Chatgpt { folder: folder.path().to_owned() }).await;
    let get = async |path: &str| {
        exchange(tls(&stand_in, folder.path()).await, &request("GET", path, "", b"")).await
    };
    let accounts = get("/backend-api/wham/accounts/check").await;
    let usage = get("/backend-api/wham/usage").await;
    assert!(accounts.contains(r#""default_account_id":"stand-in-account""#), "{accounts}");
    assert!(usage.contains(r#""used_percent":42"#), "{usage}");
    assert!(get("/backend-api/elsewhere").await.starts_with("HTTP/1.1 404"));

    let body = json!({"input": "hello ".repeat(100)}).to_string();
    let packed = zstd::bulk::compress(body.as_bytes(), 3).unwrap();
    let post = request("POST", "/backend-api/codex/responses", "content-encoding: zstd\r\n", &packed);
    let answer = exchange(tls(&stand_in, folder.path()).await, &post).await;
    assert!(answer.contains("x-codex-primary-used-percent: 42"), "{answer}");
    assert_eq!(events(&answer).iter().filter(|event| event["delta"].is_string()).count(), 101);
    let seen = stand_in.requests();
    assert_eq!((seen[0].bytes, &seen[0].input), (packed.len(), &Arc::new(json!("hello ".repeat(100)))));
}

#[tokio::test]
async fn each_face_tells_how_it_is_reached() {
    let (stand_in, _tasks) = started(Face::Plain).await;
    let port = stand_in.addr().port();
    assert_eq!(stand_in.base_url(), format!("http://127.0.0.1:{port}/v1"));
    assert!(stand_in.codex_config().contains(&r#"model_provider="standin""#.to_owned()));
    let taken = StandInOptions { port, ..StandInOptions::default() };
    assert!(matches!(StandIn::start(taken, &Tasks::new()).await, Err(StandInError::Bind { .. })));

    let folder = tempfile::tempdir().unwrap();
    let (stand_in, _tasks) = started(Face::Chatgpt { folder: folder.path().to_owned() }).await;
    let base = format!("https://localhost:{}/backend-api", stand_in.addr().port());
    assert_eq!(stand_in.base_url(), base);
    assert!(stand_in.codex_config().contains(&format!(r#"chatgpt_base_url="{base}""#)));
    let ca = &stand_in.child_environment()["SSL_CERT_FILE"];
    assert!(std::fs::read_to_string(ca).unwrap().contains("BEGIN CERTIFICATE"));
}
