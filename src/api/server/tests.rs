use std::net::SocketAddr;
use std::sync::Mutex;

use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::*;
use crate::api::testing::{KEY, config, routes};

/// Longer than anything here takes; a test that gets this far has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A served router, until it is told to stop.
struct Served {
    address: SocketAddr,
    tasks: Tasks,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Served {
    async fn start(router: Router, config: ServerConfig, limit: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let inner = tasks.clone();
        tasks.spawn("server", async move {
            let shutdown = async move { drop(stopped.await) };
            serve(vec![listener], router, &config, shutdown, limit, &inner).await;
            let _ = end.send(());
        });
        Self { address, tasks, stop: Some(stop), ended: Some(ended) }
    }

    async fn of(router: Router) -> Self {
        Self::start(router, ServerConfig::default(), PATIENCE).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn stop(&mut self) {
        drop(self.stop.take());
    }

    async fn ended(&mut self) {
        if let Some(ended) = self.ended.take() {
            timeout(PATIENCE, ended).await.expect("the server ends").unwrap();
        }
    }

    /// Stops it; nothing may be left running.
    async fn finish(mut self) {
        self.stop();
        self.ended().await;
        assert!(self.tasks.shut_down(PATIENCE).await, "{} tasks are left", self.tasks.running());
    }
}

/// Everything the server sends until it closes.
async fn rest(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("the server closes").unwrap();
    String::from_utf8(answer).unwrap()
}

/// Reads until the answer ends with `end`.
async fn until(client: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let read = timeout(PATIENCE, client.read(&mut byte)).await.expect("an answer").unwrap();
        assert_eq!(read, 1, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend(byte);
    }
    String::from_utf8(answer).unwrap()
}

fn head(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n{more}\r\n")
}

const CHAT: &str = "/v1/chat/completions";

/// Tells when it is dropped.
struct Guard(mpsc::Sender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

/// `/wait` never answers, `/stream` never ends; both tell that they run, and that they were dropped.
fn endless() -> (Router, mpsc::Receiver<()>, mpsc::Receiver<()>) {
    let (started, starts) = mpsc::channel(8);
    let (dropped, drops) = mpsc::channel(8);
    let wait = {
        let (started, dropped) = (started.clone(), dropped.clone());
        get(async move || {
            let _guard = Guard(dropped);
            let _ = started.send(()).await;
            std::future::pending::<()>().await;
        })
    };
    let stream = get(async move || {
        let guard = Guard(dropped);
        let _ = started.send(()).await;
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first"))]);
        let body = first.chain(stream::pending()).map(move |chunk| {
            let _ = &guard;
            chunk
        });
        Body::from_stream(body)
    });
    (Router::new().route("/wait", wait).route("/stream", stream), starts, drops)
}

async fn told(receiver: &mut mpsc::Receiver<()>) {
    timeout(PATIENCE, receiver.recv()).await.expect("told in time");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_handler_before_any_answer() {
    let (router, mut starts, mut drops) = endless();
    let served = Served::of(router).await;
    let mut client = served.connect().await;
    client.write_all(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    told(&mut starts).await;
    drop(client);
    told(&mut drops).await;
    served.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_stream() {
    let (router, mut starts, mut drops) = endless();
    let served = Served::of(router).await;
    let mut client = served.connect().await;
    client.write_all(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    told(&mut starts).await;
    until(&mut client, "first\r\n").await;
    drop(client);
    told(&mut drops).await;
    served.finish().await;
}

#[tokio::test]
async fn a_client_that_resets_its_http2_stream_ends_its_handler() {
    let (router, mut starts, mut drops) = endless();
    let served = Served::of(router).await;
    // Without a TLS provider there is no client, even for cleartext.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let request = client.get(format!("http://{}/wait", served.address)).send();
    tokio::select! {
        _ = request => panic!("it never answers"),
        () = told(&mut starts) => {}
    }
    told(&mut drops).await;
    drop(client);
    served.finish().await;
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let served = Served::of(routes(&config())).await;
    let mut client = served.connect().await;
    for _ in 0..2 {
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let answer = until(&mut client, "{\"status\":\"ok\"}").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    served.finish().await;
}

#[tokio::test]
async fn half_a_body_is_answered_with_400() {
    let served = Served::of(routes(&config())).await;
    let mut client = served.connect().await;
    let request = head(CHAT, "Content-Type: application/json\r\nContent-Length: 100\r\n");
    client.write_all((request + "{\"model\":").as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("\"code\":\"invalid_json\""), "{answer}");
    served.finish().await;
}

#[tokio::test]
async fn half_a_body_that_never_goes_on_is_answered_with_408() {
    let mut config = config();
    config.server.body_timeout = Duration::from_millis(50);
    let served = Served::of(routes(&config)).await;
    let mut client = served.connect().await;
    let request = head(CHAT, "Content-Type: application/json\r\nContent-Length: 100\r\n");
    client.write_all((request + "{").as_bytes()).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
    served.finish().await;
}

#[tokio::test]
async fn half_a_head_is_let_go_in_time() {
    let config = ServerConfig { header_timeout: Duration::from_millis(50), ..ServerConfig::default() };
    let served = Served::start(routes(&self::config()), config, PATIENCE).await;
    for said in ["", "G", "PRI * HTTP/2.0", "GET /healthz HTTP/1.1\r\nHost: lo"] {
        let mut client = served.connect().await;
        client.write_all(said.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        let _ = timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("the server closes");
    }
    served.finish().await;
}

#[tokio::test]
async fn what_is_not_http_is_answered_with_400() {
    let served = Served::of(routes(&config())).await;
    for nonsense in
        ["\x16\x03\x01\x02\x00 hello\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\nbroken header\r\n\r\n"]
    {
        let mut client = served.connect().await;
        client.write_all(nonsense.as_bytes()).await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{nonsense:?}: {answer}");
    }
    let mut client = served.connect().await;
    client.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(rest(&mut client).await.contains("200 OK"));
    served.finish().await;
}

/// What the library refuses before any handler, also after a request that it took.
#[tokio::test]
async fn what_is_refused_before_any_handler_has_the_official_error_too() {
    let server = Served::of(routes(&config())).await;
    let long = |bytes: usize| "x".repeat(bytes);
    let requests = [
        ("GET\u{1}/ HTTP/1.1\r\n\r\n".to_owned(), 400, "invalid_http"),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), 400, "invalid_http"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", long(70_000)), 414, "uri_too_long"),
        (format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", long(1_000_000)), 431, "request_header_fields_too_large"),
    ];
    for (request, status, code) in requests {
        for before in ["", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
            let mut client = server.connect().await;
            client.write_all(before.as_bytes()).await.unwrap();
            if !before.is_empty() {
                until(&mut client, "}").await;
            }
            // It may close while a long head is still on its way.
            let _ = client.write_all(request.as_bytes()).await;
            let answer = rest(&mut client).await;
            let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(head.contains("content-type: application/json"), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["error"]["code"], code, "{body}");
            assert_eq!(body["error"]["type"], "invalid_request_error", "{body}");
        }
    }
    server.finish().await;
}

#[tokio::test]
async fn invalid_utf8_is_answered_with_400_and_the_connection_goes_on() {
    let served = Served::of(routes(&config())).await;
    let mut client = served.connect().await;
    let body = b"{\"model\":\"\xff\"}";
    let request =
        head(CHAT, &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    client.write_all(request.as_bytes()).await.unwrap();
    client.write_all(body).await.unwrap();
    let answer = until(&mut client, "}}").await;
    assert!(answer.contains("400 Bad Request") && answer.contains("not UTF-8"), "{answer}");
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    until(&mut client, "{\"status\":\"ok\"}").await;
    served.finish().await;
}

/// The whole body is sent before the answer is read: a reset on the way would lose the answer.
#[tokio::test]
async fn a_refused_body_does_not_cost_the_client_its_answer() {
    const SIZE: usize = 8 * 1024 * 1024;
    let mut config = config();
    config.server.max_body_bytes = 1000;
    let served = Served::of(routes(&config)).await;
    let chunked = format!("{SIZE:x}\r\n");
    for (more, before) in [
        (format!("Content-Length: {SIZE}\r\n"), ""),
        ("Transfer-Encoding: chunked\r\n".into(), chunked.as_str()),
    ] {
        let mut client = served.connect().await;
        client.write_all((head(CHAT, &more) + before).as_bytes()).await.unwrap();
        client.write_all(&vec![b' '; SIZE]).await.unwrap();
        client.shutdown().await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{more}: {answer}");
        assert!(answer.contains("\"code\":\"request_too_large\""), "{answer}");
    }
    served.finish().await;
}

#[tokio::test]
async fn what_runs_at_shutdown_is_finished_and_nothing_new_begun() {
    let go = Arc::new(Notify::new());
    let (started, mut starts) = mpsc::channel(1);
    let handler = {
        let go = go.clone();
        get(async move || {
            let _ = started.send(()).await;
            go.notified().await;
            "done"
        })
    };
    let mut served = Served::of(Router::new().route("/", handler)).await;
    let mut idle = served.connect().await;
    let idle_that_asks_now = served.connect().await;
    let mut busy = served.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    told(&mut starts).await;
    served.stop();
    // Whose request was on its way is not left without an answer.
    let mut late = idle_that_asks_now;
    late.write_all(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(rest(&mut late).await.starts_with("HTTP/1.1 404"));
    assert_eq!(rest(&mut idle).await, "");
    go.notify_one();
    let answer = rest(&mut busy).await;
    assert!(answer.ends_with("done") && answer.contains("connection: close"), "{answer}");
    served.ended().await;
    assert!(TcpStream::connect(served.address).await.is_err());
    served.finish().await;
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let (router, mut starts, mut drops) = endless();
    let config = ServerConfig::default();
    let mut served = Served::start(router, config, Duration::from_millis(50)).await;
    let mut client = served.connect().await;
    client.write_all(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    told(&mut starts).await;
    served.stop();
    served.ended().await;
    told(&mut drops).await;
    assert_eq!(rest(&mut client).await, "");
    served.finish().await;
}

#[tokio::test]
async fn events_are_sent_one_by_one() {
    let (events, receiver) = mpsc::channel::<&'static str>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let handler = get(move || {
        let receiver = receiver.lock().unwrap().take().unwrap();
        let next = |mut receiver: mpsc::Receiver<&'static str>| async move {
            let event = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(event.as_bytes())), receiver))
        };
        std::future::ready(Body::from_stream(stream::unfold(receiver, next)))
    });
    let served = Served::of(Router::new().route("/", handler)).await;
    let mut client = served.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    for event in ["data: one\n\n", "data: two\n\n"] {
        events.send(event).await.unwrap();
        until(&mut client, &format!("{event}\r\n")).await;
    }
    drop(events);
    until(&mut client, "0\r\n\r\n").await;
    served.finish().await;
}

/// A handler that answers with `bytes` at once, or piece by piece without an end.
fn answering(bytes: usize) -> Router {
    let whole = get(move || std::future::ready(vec![b'x'; bytes]));
    let piece = Bytes::from(vec![b'x'; 1 << 16]);
    let pieces = get(move || {
        std::future::ready(Body::from_stream(stream::repeat_with(move || {
            Ok::<_, std::io::Error>(piece.clone())
        })))
    });
    Router::new().route("/whole", whole).route("/pieces", pieces)
}

/// Waits until the server has closed the client's connection.
async fn closed(client: &mut h2c::Client) {
    let closed = async {
        while client.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("its connection is closed");
}

/// An HTTP/2 client over cleartext that does as the test wants.
mod h2c {
    use hyper::client::conn::http2::{SendRequest, handshake};
    use hyper_util::rt::TokioExecutor;

    use super::*;

    pub(super) type Client = SendRequest<Body>;

    pub(super) async fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        Tasks::new().spawn("client", async move { drop(connection.await) });
        client
    }

    pub(super) fn request(path: &str) -> http::Request<Body> {
        http::Request::get(format!("http://localhost{path}")).body(Body::empty()).unwrap()
    }
}

fn quick(change: impl FnOnce(&mut ServerConfig)) -> ServerConfig {
    let mut config = ServerConfig::default();
    change(&mut config);
    config
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_whole_answer_or_a_stream_is_let_go() {
    let config = quick(|config| config.write_timeout = Duration::from_millis(50));
    let served = Served::start(answering(64 << 20), config, PATIENCE).await;
    for path in ["/whole", "/pieces"] {
        let mut client = served.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        timeout(PATIENCE, async {
            while served.tasks.running() > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("its connection is closed");
    }
    served.finish().await;
}

/// The connection itself is alive and answers every ping: only its stream stands still.
#[tokio::test]
async fn an_http2_client_that_never_opens_its_window_is_let_go() {
    let config = quick(|config| config.write_timeout = Duration::from_millis(50));
    let served = Served::start(answering(64 << 20), config, PATIENCE).await;
    let mut client = h2c::connect(served.address).await;
    let _unread = client.send_request(h2c::request("/pieces")).await.unwrap();
    closed(&mut client).await;
    served.finish().await;
}

/// A proxy has the streams of many on one connection: those who read are not cut off with one who does not.
#[tokio::test]
async fn an_http2_stream_that_nobody_reads_is_reset_and_the_others_go_on() {
    for unread in ["/pieces", "/whole"] {
        let config = quick(|config| config.write_timeout = Duration::from_millis(200));
        let served = Served::start(answering(8 << 20), config, PATIENCE).await;
        let mut client = h2c::connect(served.address).await;
        let mut read = client.send_request(h2c::request("/pieces")).await.unwrap().into_body();
        let mut unread = client.send_request(h2c::request(unread)).await.unwrap().into_body();
        let both = served.tasks.running();
        let going_on = async {
            while served.tasks.running() == both {
                read.frame().await.expect("it goes on").unwrap();
            }
            for _ in 0..100 {
                read.frame().await.expect("it goes on").unwrap();
            }
        };
        timeout(PATIENCE, going_on).await.expect("one of them is ended");
        let reset = async {
            loop {
                if let Err(error) = unread.frame().await.expect("not its end") {
                    return error;
                }
            }
        };
        let error = timeout(PATIENCE, reset).await.expect("it is reset");
        assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
        drop(read);
        served.finish().await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_let_go_on_both_protocols() {
    let config = quick(|config| config.header_timeout = Duration::from_millis(50));
    let served = Served::start(routes(&self::config()), config, PATIENCE).await;
    let mut one = served.connect().await;
    one.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(rest(&mut one).await.ends_with("{\"status\":\"ok\"}"));
    let mut two = h2c::connect(served.address).await;
    assert_eq!(two.send_request(h2c::request("/healthz")).await.unwrap().status(), 200);
    closed(&mut two).await;
    served.finish().await;
}

/// A stream that says nothing for longer than every limit is not the client's fault.
#[tokio::test]
async fn a_model_that_takes_its_time_is_waited_for() {
    let (events, receiver) = mpsc::channel::<&'static str>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let handler = get(move || {
        let receiver = receiver.lock().unwrap().take().unwrap();
        let next = |mut receiver: mpsc::Receiver<&'static str>| async move {
            let event = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(event.as_bytes())), receiver))
        };
        std::future::ready(Body::from_stream(stream::unfold(receiver, next)))
    });
    let config = quick(|config| {
        config.write_timeout = Duration::from_millis(20);
        config.header_timeout = Duration::from_millis(20);
    });
    let served = Served::start(Router::new().route("/", handler), config, PATIENCE).await;
    let mut client = served.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        events.send("on\n").await.unwrap();
        until(&mut client, "on\n\r\n").await;
    }
    drop(events);
    until(&mut client, "0\r\n\r\n").await;
    served.finish().await;
}

#[tokio::test]
async fn slow_heads_keep_nobody_out_and_are_let_go() {
    let config = quick(|config| config.header_timeout = Duration::from_secs(2));
    let served = Served::start(routes(&self::config()), config, PATIENCE).await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut client = served.connect().await;
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: lo").await.unwrap();
        slow.push(client);
    }
    let mut client = served.connect().await;
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    until(&mut client, "{\"status\":\"ok\"}").await;
    // A byte now and then does not help them.
    for client in &mut slow {
        let _ = client.write_all(b"c").await;
    }
    for mut client in slow {
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("the server closes");
        assert_eq!(String::from_utf8_lossy(&answer), "");
    }
    served.finish().await;
}

#[tokio::test]
async fn slow_heads_beyond_the_limit_make_place_for_who_comes() {
    let config = quick(|config| config.max_connections = 8);
    let served = Served::start(routes(&self::config()), config, PATIENCE).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut client = served.connect().await;
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: lo").await.unwrap();
        slow.push(client);
        let mut client = served.connect().await;
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert!(until(&mut client, "{\"status\":\"ok\"}").await.starts_with("HTTP/1.1 200"));
    }
    served.finish().await;
}

#[tokio::test]
async fn a_full_house_is_a_503_and_our_health_is_told_all_the_same() {
    let (endless, mut starts, _drops) = endless();
    let config = quick(|config| config.max_connections = 2);
    let served =
        Served::start(endless.merge(routes(&self::config())), config, Duration::from_millis(50)).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = served.connect().await;
        client.write_all(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        told(&mut starts).await;
        busy.push(client);
    }
    let mut client = served.connect().await;
    client.write_all((head("/v1/models", "Content-Length: 0\r\n")).as_bytes()).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("\"code\":\"too_many_connections\""),
        "{answer}"
    );
    assert!(answer.contains("retry-after: 1") && answer.contains("connection: close"), "{answer}");
    let mut client = served.connect().await;
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 200"));
    // One that leaves makes place for the next.
    drop(busy.pop());
    timeout(PATIENCE, async {
        loop {
            let mut client = served.connect().await;
            client.write_all((head("/v1/models", "Content-Length: 0\r\n")).as_bytes()).await.unwrap();
            if !until(&mut client, "}}").await.contains("too_many_connections") {
                break;
            }
        }
    })
    .await
    .expect("there is room again");
    served.finish().await;
}

#[tokio::test]
async fn many_requests_run_at_once_on_one_http2_connection_up_to_the_limit() {
    let (router, mut starts, mut drops) = endless();
    let served = Served::start(router, ServerConfig::default(), Duration::from_millis(50)).await;
    let client = h2c::connect(served.address).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..MAX_STREAMS + 10 {
        let mut client = client.clone();
        asking.spawn(async move { client.send_request(h2c::request("/wait")).await.map(drop) });
    }
    for _ in 0..MAX_STREAMS {
        told(&mut starts).await;
    }
    let more = timeout(Duration::from_millis(50), starts.recv()).await;
    assert!(more.is_err(), "one too many runs");
    asking.abort_all();
    told(&mut drops).await;
    // The connections of others are not affected.
    served.finish().await;
}

/// Open and reset, as fast as it goes: each costs the client nothing.
#[tokio::test]
async fn a_client_that_resets_one_stream_after_another_is_sent_away() {
    let served = Served::of(routes(&config())).await;
    let mut client = served.connect().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    bytes.extend(frame(4, 0, 0, &[]));
    for n in 0..100_000_u32 {
        // GET http://localhost/, and away with it.
        let headers = [&[0x82, 0x86, 0x84, 0x41, 9][..], b"localhost"].concat();
        bytes.extend(frame(1, 5, 2 * n + 1, &headers));
        bytes.extend(frame(3, 0, 2 * n + 1, &8_u32.to_be_bytes()));
    }
    let (mut reader, mut writer) = client.split();
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(async { writer.write_all(&bytes).await }, async {
        timeout(PATIENCE, reader.read_to_end(&mut answer)).await
    });
    // Told or cut off, before it is through.
    let _ = read.expect("the server closes");
    let goaway = answer.windows(4).any(|code| code == 11_u32.to_be_bytes());
    assert!(goaway || answer.is_empty(), "no ENHANCE_YOUR_CALM in {} bytes", answer.len());
    let mut other = served.connect().await;
    other.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    until(&mut other, "{\"status\":\"ok\"}").await;
    served.finish().await;
}

#[tokio::test]
async fn every_listener_is_served() {
    let (tasks, mut listeners, mut addresses) = (Tasks::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        listeners.push(listener);
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let inner = tasks.clone();
    tasks.spawn("server", async move {
        let shutdown = async move { drop(stopped.await) };
        serve(listeners, routes(&config()), &ServerConfig::default(), shutdown, PATIENCE, &inner).await;
    });
    for address in addresses {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        until(&mut client, "{\"status\":\"ok\"}").await;
    }
    drop(stop);
    assert!(tasks.shut_down(PATIENCE).await);
}
