//! For tests: an edge over an engine that refuses every call, asked in process.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::openapi::{self, described};
use super::{Edge, router, spec};
use crate::app_server::AppServer;
use crate::bridge::Bridge;
use crate::config::{Config, EncryptionKey, NamedToken};
use crate::store::testing::Shelf;
use crate::store::{Documents, Seal};
use crate::tasks::Tasks;

/// The key of [`config`].
pub(crate) const KEY: &str = "test-key";

/// One key named `tester`, and one origin.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.auth.tokens = vec![NamedToken { name: "tester".into(), token: KEY.into() }];
    config.server.allowed_origins = vec!["https://app.example".into()];
    config
}

/// An engine that is on its way down.
fn refusing_on(store: Shelf) -> Bridge {
    let tasks = Tasks::new();
    let config = Config::default();
    let nowhere =
        || std::future::ready(Err::<tokio::io::DuplexStream, _>(std::io::ErrorKind::NotFound.into()));
    let cwd = std::path::Path::new("/");
    let app_server = AppServer::over_streams(&config.app_server, cwd, None, nowhere, &tasks);
    let bridge = Bridge::new(app_server, Arc::new(store), &config, &tasks);
    bridge.begin_drain();
    bridge
}

/// An edge over [`refusing_on`], with documents in memory.
pub(crate) fn edge(config: &Config) -> Edge {
    edge_on(Shelf::default(), Documents::in_memory(), config)
}

/// The same, with what is kept.
pub(crate) fn edge_on(store: Shelf, documents: Documents, config: &Config) -> Edge {
    let seal = Seal::new(&EncryptionKey::new([7; 32]));
    Edge::new(refusing_on(store), Arc::new(documents), seal, config, &Tasks::new()).expect("an edge")
}

/// All routes, over [`refusing_on`].
pub(crate) fn routes(config: &Config) -> Router {
    router(edge(config))
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The code of an error in the official shape; fails on any other body.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        spec::assert_valid("ErrorResponse", &body);
        assert_eq!(self.headers["content-type"], "application/json");
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

/// Sends one request through the routes. The answer is one that the OpenAPI document has, and an official one.
pub(crate) async fn send(router: Router, request: Request<Body>) -> Answer {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let response = router.oneshot(request).await.expect("routes never fail");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("UTF-8");
    let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body };
    let kind = answer.header("content-type").unwrap_or_default();
    let official =
        described::assert_described(openapi::document(), &method, &path, answer.status, kind, &answer.body);
    if let Some(official) = official {
        spec::assert_official(&official, &answer.json());
    }
    if kind.starts_with("text/event-stream") {
        let official =
            described::official_events(openapi::document(), &method, &path).expect("a stream's path");
        let told = answer.body.lines().filter_map(|line| line.strip_prefix("data: "));
        for event in told.filter(|data| *data != "[DONE]") {
            spec::assert_official_event(official, &serde_json::from_str(event).expect("JSON"));
        }
    }
    answer
}

/// A POST of JSON with the key.
pub(crate) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header("host", "localhost:8787")
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .body(body.into())
        .expect("a request")
}

/// A GET with the key.
pub(crate) fn get(path: &str) -> Request<Body> {
    let request =
        Request::get(path).header("host", "localhost").header("authorization", format!("Bearer {KEY}"));
    request.body(Body::empty()).expect("a request")
}
