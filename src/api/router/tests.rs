use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use serde_json::json;

use crate::api::observe;
use crate::api::router;
use crate::api::testing::{Answer, KEY, config, edge, get, post, routes, send};
use crate::model::KeyId;

const CHAT: &str = "/v1/chat/completions";

async fn ask(request: Request<Body>) -> Answer {
    send(routes(&config()), request).await
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn without_key(mut request: Request<Body>) -> Request<Body> {
    request.headers_mut().remove("authorization");
    request
}

fn chat() -> String {
    json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

#[tokio::test]
async fn unknown_routes_are_404_before_401() {
    for path in ["/", "/v1", "/v1/", "/v1/nothing", "/nothing"] {
        let answer = ask(without_key(get(path))).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "unknown_url"), "{path}");
    }
    let answer = ask(without_key(post("/v1/embeddings", "{}"))).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "endpoint_not_served"));
    assert!(answer.body.contains("does not serve it"));
}

#[tokio::test]
async fn a_wrong_method_is_405_and_names_the_right_ones() {
    for (request, allow) in [
        (get("/v1/completions"), "POST"),
        (post("/v1/models", "{}"), "GET,HEAD"),
        (post("/v1/models/some/model", "{}"), "GET,HEAD"),
        (post("/healthz", ""), "GET,HEAD"),
    ] {
        let answer = ask(without_key(request)).await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_supported"));
        assert_eq!(answer.header("allow"), Some(allow));
    }
}

#[tokio::test]
async fn everything_under_v1_wants_a_key() {
    for request in [get("/v1/models"), get("/v1/models/m"), get("/v1/health"), post(CHAT, chat())] {
        let path = request.uri().path().to_owned();
        let answer = ask(without_key(request)).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_api_key"), "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    let answer = ask(with(get("/v1/health"), "authorization", "Bearer sk-proj-abcdef")).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_api_key"));
    assert!(answer.body.contains("OpenAI API key") && !answer.body.contains("abcdef"));
    assert_eq!(ask(get("/v1/health")).await.status, 200);
}

#[tokio::test]
async fn without_keys_everyone_may_call() {
    let mut config = config();
    config.auth.tokens.clear();
    let answer = send(routes(&config), without_key(get("/v1/health"))).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn probes_are_open() {
    let answer = ask(without_key(get("/healthz"))).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"status": "ok"})));
    let answer = ask(without_key(get("/readyz"))).await;
    let expected = json!({"status": "not_ready", "reason": "draining"});
    assert_eq!((answer.status, answer.json()), (503, expected));
}

#[tokio::test]
async fn health_tells_how_things_stand() {
    let health = ask(get("/v1/health")).await.json();
    assert_eq!((&health["status"], &health["login"]["state"]), (&json!("draining"), &json!("unknown")));
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    let routes = health["routes"].as_array().unwrap();
    assert!(routes.iter().any(|route| route["route"] == "POST /v1/chat/completions"));
}

/// What health says is served must be.
#[tokio::test]
async fn every_route_in_health_exists() {
    let health = ask(get("/v1/health")).await.json();
    for route in health["routes"].as_array().unwrap() {
        let (method, path) = route["route"].as_str().unwrap().split_once(' ').unwrap();
        let mut request = post(&path.replace("{id}", "x"), "{}");
        *request.method_mut() = method.parse().unwrap();
        let answer = ask(request).await;
        let code = if answer.status == 200 { String::new() } else { answer.code() };
        assert!(!["unknown_url", "endpoint_not_served", "method_not_supported"].contains(&&*code), "{route}");
    }
}

#[tokio::test]
async fn another_host_is_403_even_for_probes_and_unknown_routes() {
    for path in ["/healthz", "/v1/models", "/nothing"] {
        let answer = ask(with(get(path), "host", "evil.example:8787")).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "host_not_allowed"), "{path}");
    }
    // The request line may name a host too.
    let answer = ask(get("http://evil.example/healthz")).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn another_origin_is_403() {
    for origin in ["https://evil.example", "null", "http://localhost:8787"] {
        let answer = ask(with(get("/v1/models"), "origin", origin)).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "origin_not_allowed"), "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[tokio::test]
async fn an_allowed_origin_can_read_the_answer() {
    for request in [get("/v1/health"), without_key(get("/v1/health"))] {
        let answer = ask(with(request, "origin", "https://app.example")).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
        assert!(answer.header("access-control-expose-headers").unwrap().contains("x-request-id"));
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    assert_eq!(ask(get("/v1/health")).await.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_preflight_needs_no_key() {
    let preflight = |origin| {
        Request::options(CHAT)
            .header("host", "localhost")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization, x-stainless-os")
            .header("access-control-request-private-network", "true")
            .body(Body::empty())
            .unwrap()
    };
    let answer = ask(preflight("https://app.example")).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    assert_eq!(answer.header("access-control-allow-headers"), Some("authorization, x-stainless-os"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST, DELETE"));
    assert_eq!(answer.header("access-control-allow-private-network"), Some("true"));
    assert_eq!(ask(preflight("https://evil.example")).await.status, 403);
}

#[tokio::test]
async fn every_answer_has_an_id_a_time_and_a_version() {
    for request in
        [get("/healthz"), get("/nothing"), get("/v1/models"), with(get("/"), "host", "evil.example")]
    {
        let answer = ask(request).await;
        assert!(answer.header("x-request-id").unwrap().starts_with("req_"));
        assert!(answer.header("openai-processing-ms").unwrap().parse::<u64>().is_ok());
        assert_eq!(answer.header("x-codex-bridge-version"), Some(env!("CARGO_PKG_VERSION")));
    }
    let answer = ask(with(get("/healthz"), "x-request-id", "mine-1")).await;
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
}

#[tokio::test]
async fn the_engines_refusal_reaches_the_client() {
    for (request, code) in [
        (post(CHAT, chat()), "shutting_down"),
        (get("/v1/models"), "app_server_unavailable"),
        (get("/v1/models/a/b"), "app_server_unavailable"),
    ] {
        let answer = ask(request).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, code));
    }
}

#[tokio::test]
async fn bad_bodies_are_400() {
    let cases: [&[u8]; 6] =
        [b"", b"{", b"[]", b"\"\xff\"", b"{\"model\": \"\xc3\x28\"}", b"{\"messages\": [}"];
    for body in cases {
        let answer = ask(post(CHAT, Bytes::from_static(body))).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_json"), "{body:?}");
    }
}

#[tokio::test]
async fn other_content_types_are_415() {
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let answer = ask(with(post(CHAT, chat()), "content-type", kind)).await;
        assert_eq!((answer.status, answer.code().as_str()), (415, "unsupported_media_type"), "{kind}");
    }
    let answer = ask(with(post(CHAT, chat()), "content-encoding", "gzip")).await;
    assert_eq!(answer.status, 415);
    let mut untyped = post(CHAT, chat());
    untyped.headers_mut().remove("content-type");
    assert_eq!(ask(untyped).await.code(), "shutting_down");
}

#[tokio::test]
async fn a_large_body_is_413_announced_or_not() {
    let mut config = config();
    config.server.max_body_bytes = 100;
    let announced = with(post(CHAT, "x"), "content-length", "101");
    let chunks = stream::iter([60, 60].map(|size| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; size]))));
    for request in [announced, post(CHAT, Body::from_stream(chunks))] {
        let answer = send(routes(&config), request).await;
        assert_eq!((answer.status, answer.code().as_str()), (413, "request_too_large"));
    }
    let fits = format!("{:100}", chat());
    assert_eq!(fits.len(), 100);
    assert_eq!(send(routes(&config), post(CHAT, fits)).await.code(), "shutting_down");
}

#[tokio::test(start_paused = true)]
async fn a_body_without_room_waits_and_is_then_503() {
    let edge = edge(&config());
    let taken = edge.intake.take(&KeyId::anonymous(), usize::MAX).await;
    let stream = || stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{}"))]);
    for request in [post(CHAT, chat()), post(CHAT, Body::from_stream(stream()))] {
        let answer = send(router(edge.clone()), request).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "server_overloaded"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    drop(taken);
    for _ in 0..3 {
        assert_eq!(send(router(edge.clone()), post(CHAT, chat())).await.code(), "shutting_down");
    }
    let all =
        tokio::time::timeout(Duration::from_secs(1), edge.intake.take(&KeyId::anonymous(), usize::MAX)).await;
    assert!(all.is_ok(), "a call that has ended keeps no room");
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_408() {
    let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]).chain(stream::pending());
    let before = tokio::time::Instant::now();
    let answer = ask(post(CHAT, Body::from_stream(body))).await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
    assert_eq!(before.elapsed(), Duration::from_secs(60));
}

#[tokio::test]
async fn a_broken_body_is_400() {
    let body = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("gone"))]);
    let answer = ask(post(CHAT, Body::from_stream(body))).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_json"));
}

#[tokio::test]
async fn a_panic_is_a_500_that_says_nothing() {
    async fn panics() {
        panic!("with {KEY}");
    }
    let router = Router::new()
        .route("/healthz", axum::routing::get(panics))
        .layer(axum::middleware::from_fn(observe::observe));
    let answer = send(router, get("/healthz")).await;
    assert_eq!((answer.status, answer.code().as_str()), (500, "internal_error"));
    assert!(!answer.body.contains(KEY));
    assert!(answer.header("x-request-id").is_some());
}
