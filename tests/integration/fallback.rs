//! The fallback: another server that takes what the native path cannot, and nothing else.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use codex_bridge::config::{Config, FallbackReason, KeyLimits, NamedToken};
use codex_bridge::tasks::Tasks;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::daemon::Daemon;
use crate::http::{Client, PATIENCE, until};
use crate::socket_client::Socket;

/// What a request to the other server looked like.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    headers: HeaderMap,
    body: String,
}

/// How the other server answers.
#[derive(Debug, Clone, Copy)]
enum Answers {
    Whole,
    /// Two frames, and then nothing more until the client leaves.
    Stream,
    Status(u16),
    Redirect,
    Never,
}

#[derive(Debug)]
struct Other {
    seen: Mutex<Vec<Seen>>,
    answers: Answers,
    /// Streams whose client has not left.
    open: AtomicUsize,
}

/// The other server.
struct Server {
    other: Arc<Other>,
    address: SocketAddr,
    tasks: Tasks,
}

const WHOLE: &str = "{ \"id\":\"resp_theirs\",  \"object\" : \"response\" }\n";

impl Server {
    async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let other = Arc::new(Other { seen: Mutex::default(), answers, open: AtomicUsize::new(0) });
        let routes = Router::new()
            .route("/v1/responses", post(answer))
            .route("/v1/chat/completions", post(answer))
            .with_state(Arc::clone(&other));
        let tasks = Tasks::new();
        let stop = tasks.stop_token().clone();
        tasks.spawn("other server", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                served = axum::serve(listener, routes) => served.expect("it serves"),
            }
        });
        Self { other, address, tasks }
    }

    fn seen(&self) -> Vec<Seen> {
        self.other.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(&self) -> usize {
        self.other.open.load(Ordering::SeqCst)
    }

    fn configure(&self, config: &mut Config) {
        config.fallback.base_url = Some(format!("http://{}/v1", self.address).parse().expect("an address"));
        config.fallback.api_key = Some("their-key".into());
        config.fallback.model = Some("theirs".into());
    }

    async fn stop(self) {
        assert!(self.tasks.shut_down(PATIENCE).await);
    }
}

/// Counts a stream as open until it is dropped.
struct Open(Arc<Other>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(State(other): State<Arc<Other>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body = String::from_utf8(body.to_vec()).expect("text");
    let seen = Seen { path: uri.path().to_owned(), headers, body };
    other.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    let response = Response::builder();
    match other.answers {
        Answers::Whole => {
            response.header("content-type", "application/json").header("x-theirs", "1").body(WHOLE.into())
        }
        Answers::Status(status) => response.status(status).body("their words".into()),
        Answers::Redirect => {
            response.status(307).header("location", "http://127.0.0.1:9/v1/responses").body(Body::empty())
        }
        Answers::Never => {
            other.open.fetch_add(1, Ordering::SeqCst);
            let _open = Open(Arc::clone(&other));
            std::future::pending().await
        }
        Answers::Stream => {
            other.open.fetch_add(1, Ordering::SeqCst);
            let open = Open(other);
            let frames = stream::unfold((0, open), |(n, open)| async move {
                if n == 2 {
                    std::future::pending::<()>().await;
                }
                Some((Ok::<_, std::io::Error>(format!("data: {{\"n\":{n}}}\n\n")), (n + 1, open)))
            });
            response.header("content-type", "text/event-stream").body(Body::from_stream(frames))
        }
    }
    .expect("a response")
}

/// A daemon whose account's window is used up, before the other server.
async fn used_up(server: &Server, configure: impl FnOnce(&mut Config)) -> Daemon {
    let daemon = Daemon::start(|config| {
        server.configure(config);
        configure(config);
    })
    .await;
    daemon.bridge.models().await.expect("connected");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let window = json!({"usedPercent": 100, "windowDurationMins": 300, "resetsAt": now + 3600});
    daemon.peer.rate_limits(&json!({"primary": window, "secondary": null}));
    until("the window is heard of", async || daemon.bridge.account_health().block.map(drop)).await;
    daemon
}

/// The same call on both APIs.
const CALLS: [(&str, &str); 2] = [
    ("/v1/responses", r#"{"input": "hi"}"#),
    ("/v1/chat/completions", r#"{"messages": [{"role": "user", "content": "hi"}]}"#),
];

/// A call as one would not write it twice.
const BODY: &str = r#"{"model":"model-a", "metadata":{"a":"\u0062"},"input":"hi","temperature":1.50 }"#;

#[tokio::test]
async fn it_gets_the_clients_own_words_and_nothing_else_of_the_clients() {
    let server = Server::start(Answers::Whole).await;
    let daemon =
        used_up(&server, |config| config.fallback.models = [("model-a".into(), "small".into())].into()).await;
    let headers = [("authorization", "Bearer the-callers"), ("x-session-id", "mine"), ("cookie", "c=1")];
    let client = daemon.client.clone().with_header("user-agent", "theirs");
    let body: Value = serde_json::from_str(BODY).expect("JSON");
    let answer = client.post_with("/v1/responses", &headers, &body).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, WHOLE));
    assert_eq!(answer.header("x-codex-bridge-fallback"), Some("used_up"));
    assert!(answer.header("x-request-id").is_some() && answer.header("x-theirs").is_none());
    let answer = daemon.client.post_bytes("/v1/responses", BODY.into()).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, WHOLE));
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(daemon.client.post("/v1/chat/completions", &chat).await.text, WHOLE);

    let seen = server.seen();
    let paths: Vec<_> = seen.iter().map(|seen| seen.path.as_str()).collect();
    assert_eq!(paths, ["/v1/responses", "/v1/responses", "/v1/chat/completions"]);
    for seen in &seen {
        assert_eq!(seen.headers["authorization"], "Bearer their-key");
        let mut names: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "authorization", "content-length", "content-type", "host", "user-agent"]
        );
        assert!(seen.headers["user-agent"].to_str().is_ok_and(|agent| agent.starts_with("codex-bridge/")));
    }
    assert_eq!(seen[1].body, BODY.replace("model-a", "small"));
    assert!(seen[2].body.contains("\"model\":\"theirs\""), "{}", seen[2].body);

    let health = daemon.client.get("/v1/health").await.ok();
    assert_eq!(health["fallback"]["answered"], json!({"down": 0, "logged_out": 0, "used_up": 3}));
    assert_eq!(health["fallback"]["running"], 0);
    // Nobody can go on with what it said: it is not ours.
    let body = json!({"input": "and?", "previous_response_id": "resp_theirs"});
    let answer = daemon.client.post("/v1/responses", &body).await;
    assert_eq!(answer.failure(), (429, "usage_limit_reached".into()));
    assert_eq!((answer.header("x-codex-bridge-fallback"), server.seen().len()), (None, 3));
    daemon.finish().await;
    server.stop().await;
}

/// Its body is passed on as it came: what there is to tell is beside it.
#[tokio::test]
async fn the_trace_of_its_answer_is_in_a_header_where_it_is_asked_for() {
    let server = Server::start(Answers::Whole).await;
    let daemon = used_up(&server, |_| {}).await;
    for (path, body) in CALLS {
        let body: Value = serde_json::from_str(body).expect("JSON");
        let headers = [("x-codex-bridge-trace", "1"), ("x-request-id", "mine")];
        let answer = daemon.client.post_with(path, &headers, &body).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, WHOLE));
        let trace: Value =
            serde_json::from_str(answer.header("x-codex-bridge-trace").expect("a trace")).expect("JSON");
        assert_eq!(
            trace,
            json!({
                "request": {"id": answer.header("x-request-id"), "target": format!("POST {path}")},
                "fallback": "used_up",
                "error": "usage_limit_reached",
            })
        );
        let answer = daemon.client.post(path, &body).await;
        assert_eq!((answer.status, answer.header("x-codex-bridge-trace")), (200, None));
    }
    daemon.finish().await;
    server.stop().await;
}

#[tokio::test]
async fn a_stream_comes_as_it_arrives_and_a_client_that_leaves_ends_it() {
    let server = Server::start(Answers::Stream).await;
    let daemon = used_up(&server, |config| config.fallback.max_calls = 1).await;
    for path in ["/v1/responses", "/v1/chat/completions"] {
        let body = if path == "/v1/responses" {
            json!({"input": "hi"})
        } else {
            json!({"messages": [{"role": "user", "content": "hi"}]})
        };
        let mut events = daemon.client.stream(path, &body).await;
        for n in 0..2 {
            assert_eq!(events.next().await, Some(json!({"n": n})));
        }
        // There is room for one, and it is told from a failure of the native path by the header alone.
        let full = daemon.client.post(path, &body).await;
        assert_eq!(full.failure(), (429, "usage_limit_reached".into()));
        assert_eq!(full.header("x-codex-bridge-fallback"), Some("failed"));
        drop(events);
        until("the other server is left", async || (server.open() == 0).then_some(())).await;
        let room =
            async || (daemon.client.get("/v1/health").await.ok()["fallback"]["running"] == 0).then_some(());
        until("its place is free", room).await;
    }
    assert_eq!(daemon.client.get("/v1/health").await.ok()["fallback"]["full"], 2);
    daemon.finish().await;
    server.stop().await;
}

#[tokio::test]
async fn over_a_socket_its_events_come_one_a_message_under_the_name_of_the_lane() {
    let server = Server::start(Answers::Stream).await;
    let daemon = used_up(&server, |_| {}).await;
    let mut socket = Socket::connect(&daemon.client).await;
    socket.create(json!({"input": "hi", "stream_id": "a"})).await;
    for n in 0..2 {
        let message = timeout(PATIENCE, socket.stream.next()).await.expect("an event in time");
        let text = message.expect("a message").expect("no error").into_text().expect("text");
        let event: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(event, json!({"n": n, "stream_id": "a"}));
    }
    assert_eq!(server.seen()[0].body, r#"{"model":"theirs","input":"hi","stream":true}"#);
    drop(socket);
    until("the other server is left", async || (server.open() == 0).then_some(())).await;
    daemon.finish().await;
    server.stop().await;
}

#[tokio::test]
async fn a_key_has_no_more_calls_there_than_here() {
    let server = Server::start(Answers::Stream).await;
    let daemon = used_up(&server, |config| {
        for name in ["one", "two"] {
            let token = format!("secret-{name}").into();
            config.auth.tokens.push(NamedToken { name: name.into(), token });
            let limits = KeyLimits { concurrency: Some(1), ..KeyLimits::default() };
            config.auth.limits.insert(name.into(), limits);
        }
    })
    .await;
    let client = |name: &str| Client::new(daemon.client.address(), Some(&format!("secret-{name}")));
    let (one, two, body) = (client("one"), client("two"), json!({"input": "hi"}));
    let mut events = one.stream("/v1/responses", &body).await;
    assert_eq!(events.next().await, Some(json!({"n": 0})));
    let refused = one.post("/v1/responses", &body).await;
    assert_eq!(refused.failure(), (429, "usage_limit_reached".into()));
    assert_eq!(refused.header("x-codex-bridge-fallback"), Some("failed"));
    let mut others = two.stream("/v1/responses", &body).await;
    assert_eq!(others.next().await, Some(json!({"n": 0})), "another key's are its own");
    drop((events, others));
    let room = async || (one.get("/v1/health").await.ok()["fallback"]["running"] == 0).then_some(());
    until("their places are free", room).await;
    let mut events = one.stream("/v1/responses", &body).await;
    assert_eq!(events.next().await, Some(json!({"n": 0})));
    drop(events);
    daemon.end().await;
    server.stop().await;
}

#[tokio::test]
async fn where_it_fails_the_client_gets_the_native_error() {
    for answers in [Answers::Status(500), Answers::Status(401), Answers::Redirect, Answers::Never] {
        let server = Server::start(answers).await;
        let daemon = used_up(&server, |config| config.fallback.timeout = Duration::from_millis(200)).await;
        let traced = [("x-codex-bridge-trace", "1")];
        let answer = daemon.client.post_with("/v1/responses", &traced, &json!({"input": "hi"})).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["code"]), (429, &json!("usage_limit_reached")), "{answers:?}");
        assert_eq!(error["bridge"]["trace"]["fallback"], "failed");
        assert_eq!(answer.header("x-codex-bridge-fallback"), Some("failed"), "{answers:?}");
        assert!(answer.header("retry-after").is_some() && !answer.text.contains("their words"));
        assert_eq!(server.seen().len(), 1, "{answers:?}");
        assert_eq!(daemon.client.get("/v1/health").await.ok()["fallback"]["failed"], 1);
        until("the other server is left", async || (server.open() == 0).then_some(())).await;
        daemon.finish().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn it_takes_nothing_that_the_native_path_can() {
    let server = Server::start(Answers::Whole).await;
    let mut daemon = Daemon::start(|config| server.configure(config)).await;
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.answer("hello");
    assert_eq!(asking.answer().await.header("x-codex-bridge-fallback"), None);
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.begin().failed(&json!("internalServerError"), "No.");
    assert_eq!(asking.answer().await.failure(), (502, "upstream_error".into()));
    let wrong = daemon.client.post("/v1/responses", &json!({"input": []})).await;
    assert_eq!(wrong.failure(), (400, "empty_array".into()));
    // The window turns out to be used up: nothing was said yet.
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.begin().failed(&json!("usageLimitExceeded"), "Used up.");
    assert_eq!(asking.answer().await.header("x-codex-bridge-fallback"), Some("used_up"));
    assert_eq!(server.seen().len(), 1);
    daemon.finish().await;
    server.stop().await;
}

#[tokio::test]
async fn it_takes_only_the_classes_and_reasons_it_is_configured_for() {
    let server = Server::start(Answers::Whole).await;
    let daemon = used_up(&server, |config| config.fallback.task_classes = vec!["normalization".into()]).await;
    let body = json!({"input": "hi"});
    let status = async |headers: &[(&str, &str)], body: &Value| {
        daemon.client.post_with("/v1/responses", headers, body).await.status
    };
    assert_eq!(status(&[], &body).await, 429);
    assert_eq!(status(&[("x-codex-bridge-task-class", "normalization")], &body).await, 200);
    assert_eq!(status(&[], &json!({"input": "hi", "metadata": {"task_class": "normalization"}})).await, 200);
    assert_eq!(server.seen().len(), 2);
    // Answered is answered, whoever did it.
    until("both are counted", async || {
        let figures = daemon.client.get("/v1/health").await.ok()["task_classes"]["normalization"].clone();
        (figures["calls"] == 2).then(|| assert_eq!(figures["failures"], 0))
    })
    .await;
    daemon.finish().await;
    let daemon = used_up(&server, |config| config.fallback.on = vec![FallbackReason::Down]).await;
    assert_eq!(daemon.client.post("/v1/responses", &body).await.status, 429);
    assert_eq!(server.seen().len(), 2);
    daemon.finish().await;
    server.stop().await;
}

#[tokio::test]
async fn it_stands_in_for_an_app_server_that_is_not_there_and_for_a_lost_login() {
    let server = Server::start(Answers::Whole).await;
    let daemon = Daemon::start(|config| server.configure(config)).await;
    daemon.bridge.models().await.expect("connected");
    daemon.peer.logged_out();
    daemon.peer.notify("account/updated", &json!({"authMode": null, "planType": null}));
    until("the logout shows", async || (daemon.client.get("/readyz").await.status == 503).then_some(()))
        .await;
    let answer = daemon.client.post("/v1/responses", &json!({"input": "hi"})).await;
    assert_eq!(answer.header("x-codex-bridge-fallback"), Some("logged_out"));
    daemon.end().await;

    let daemon = Daemon::start(|config| {
        server.configure(config);
        config.app_server.start_timeout = Duration::from_millis(300);
        let nowhere = std::path::PathBuf::from("/nowhere/at/all.sock");
        config.app_server.connect = Some(codex_bridge::config::Endpoint::Unix(nowhere));
    })
    .await;
    let answer = daemon.client.post("/v1/responses", &json!({"input": "hi"})).await;
    assert_eq!(answer.header("x-codex-bridge-fallback"), Some("down"), "{}", answer.text);
    // What calls no model is not for it, and counting needs no app-server.
    let counted = daemon.client.post("/v1/responses/input_tokens", &json!({"input": "hi"})).await;
    assert_eq!(counted.header("x-codex-bridge-fallback"), None);
    assert_eq!(counted.ok()["input_tokens"], 1);
    // A dry run makes no call, there either.
    for (path, body) in CALLS {
        let body: Value = serde_json::from_str(body).expect("JSON");
        for (query, headers) in [("?dry_run=true", &[][..]), ("", &[("x-codex-bridge-dry-run", "full")][..])]
        {
            let answer = daemon.client.post_with(&format!("{path}{query}"), headers, &body).await;
            assert_eq!(answer.failure(), (503, "app_server_unavailable".into()), "{path}{query}");
            assert_eq!(answer.header("x-codex-bridge-fallback"), None);
        }
    }
    assert_eq!(server.seen().len(), 2);
    daemon.end().await;
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_is_refused_as_the_call_would_be_and_counts_for_nothing() {
    let server = Server::start(Answers::Whole).await;
    let daemon = used_up(&server, |_| {}).await;
    for (path, body) in CALLS {
        let body: Value = serde_json::from_str(body).expect("JSON");
        let answer = daemon.client.post(&format!("{path}?dry_run=true"), &body).await;
        assert_eq!(answer.failure(), (429, "usage_limit_reached".into()), "{path}");
    }
    assert_eq!((daemon.bridge.account_health().used_up, server.seen().len()), (0, 0));
    daemon.finish().await;
    server.stop().await;
}

#[tokio::test]
async fn what_a_key_may_do_holds_for_it_too() {
    let server = Server::start(Answers::Whole).await;
    let daemon = Daemon::start(|config| {
        server.configure(config);
        let nowhere = std::path::PathBuf::from("/nowhere/at/all.sock");
        config.app_server.start_timeout = Duration::from_millis(300);
        config.app_server.connect = Some(codex_bridge::config::Endpoint::Unix(nowhere));
        config.models.aliases.insert("mini".into(), "model-b".into());
        let mut token = |name: &str, limits| {
            let secret = format!("secret-{name}").into();
            config.auth.tokens.push(NamedToken { name: name.into(), token: secret });
            config.auth.limits.insert(name.into(), limits);
        };
        let (requests_per_minute, tokens_per_minute) = (Some(2), Some(10_000));
        token("rated", KeyLimits { requests_per_minute, tokens_per_minute, ..KeyLimits::default() });
        token("narrow", KeyLimits { models: Some(vec!["mini".into()]), ..KeyLimits::default() });
    })
    .await;
    let client = |name: &str| Client::new(daemon.client.address(), Some(&format!("secret-{name}")));
    // The effort wants the catalogue, which is not there.
    let body = json!({"input": "hi", "reasoning": {"effort": "low"}, "max_output_tokens": 6000});
    let rated = client("rated");
    let answer = rated.post("/v1/responses", &body).await;
    assert_eq!((answer.status, answer.header("x-codex-bridge-fallback")), (200, Some("down")));
    let left: u32 =
        answer.header("x-ratelimit-remaining-tokens").expect("a header").parse().expect("a number");
    assert!(left < 5000, "what was estimated is used: {left}");
    let refused = rated.post("/v1/responses", &body).await;
    assert!(refused.error()["message"].as_str().is_some_and(|told| told.contains("(TPM)")), "{refused:?}");
    let dry = rated.post("/v1/responses?dry_run=true", &body).await;
    assert_eq!(dry.failure(), (503, "app_server_unavailable".into()));
    let refused = rated.post("/v1/responses?dry_run=true", &body).await;
    assert!(refused.error()["message"].as_str().is_some_and(|told| told.contains("(RPM)")), "{refused:?}");
    assert_eq!(server.seen().len(), 1);

    for (model, expected) in
        [(json!("mini"), 200), (json!("model-b"), 200), (json!("model-a"), 503), (Value::Null, 503)]
    {
        let answer = client("narrow").post("/v1/responses", &json!({"input": "hi", "model": model})).await;
        assert_eq!(answer.status, expected, "{model}");
    }
    assert_eq!(server.seen().len(), 3);
    daemon.end().await;
    server.stop().await;
}
