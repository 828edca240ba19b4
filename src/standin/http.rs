//! The plain face: `POST …/responses` over HTTP, answered as server-sent events.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use futures_util::Stream;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::account::AccountChange;
use super::engine::{Engine, Refusal, Reply};
use super::requests::{Arrival, SeenRequest, Transport, shown};
use super::script::{Script, Step};

/// Largest request, compressed or not.
pub(crate) const MAX_BODY_BYTES: usize = 128 * 1024 * 1024;

/// From the last event of a cut stream to the cut: with the error the server throws away what it has not written.
const CUT_DELAY: Duration = Duration::from_millis(50);

/// The plain provider's routes.
pub(crate) fn routes(engine: Arc<Engine>) -> Router {
    Router::new()
        .route("/v1/responses", post(responses))
        .route("/v1/models", get(models))
        .merge(control())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(engine)
}

/// What tests ask, on every face.
pub(crate) fn control() -> Router<Arc<Engine>> {
    Router::new()
        .route("/requests", get(seen_requests).delete(forget_requests))
        .route("/account", put(change_account))
}

/// `POST …/responses`.
pub(crate) async fn responses(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    engine.travel().await;
    let arrival = Arrival {
        transport: Transport::Http,
        path: uri.path().to_owned(),
        headers: shown(&headers),
        bytes: body.len(),
    };
    let body = match read_body(&headers, &body) {
        Ok(body) => Arc::new(body),
        Err(refusal) => return refused(&refusal),
    };
    match engine.reply(arrival, &body, None) {
        Reply::Refused(refusal) => refused(&refusal),
        Reply::Streamed(script) => {
            let head = [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            ];
            (head, Body::from_stream(frames(script, engine))).into_response()
        }
    }
}

/// The models are the asker's own catalogue.
pub(crate) async fn models() -> Json<Value> {
    Json(json!({"object": "list", "data": [], "models": []}))
}

async fn seen_requests(State(engine): State<Arc<Engine>>) -> Json<Vec<SeenRequest>> {
    Json(engine.requests.all())
}

async fn forget_requests(State(engine): State<Arc<Engine>>) -> StatusCode {
    engine.requests.clear();
    StatusCode::NO_CONTENT
}

async fn change_account(State(engine): State<Arc<Engine>>, Json(change): Json<AccountChange>) -> StatusCode {
    engine.account.change(change);
    StatusCode::NO_CONTENT
}

fn read_body(headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
    let malformed = |what: &str| Refusal::malformed(what, None);
    let encoding = headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
    let parsed = match encoding {
        None | Some(b"identity") => serde_json::from_slice(body),
        Some(b"zstd") => {
            let mut plain = Vec::new();
            let decoder = zstd::stream::read::Decoder::new(body);
            let read =
                decoder.and_then(|decoder| decoder.take(MAX_BODY_BYTES as u64).read_to_end(&mut plain));
            read.map_err(|_| malformed("The body is not zstd."))?;
            serde_json::from_slice(&plain)
        }
        Some(_) => return Err(malformed("The content encoding is not known.")),
    };
    parsed.ok().filter(Value::is_object).ok_or_else(|| malformed("The body is not a JSON object."))
}

/// The error as an HTTP answer.
pub(crate) fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(json!({"error": refusal.error}))).into_response();
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(HeaderName::from_static("retry-after"), seconds.into());
    }
    response
}

/// The script as frames; an error makes the server drop the connection.
fn frames(script: Script, engine: Arc<Engine>) -> impl Stream<Item = Result<Bytes, io::Error>> {
    let open = engine.begin();
    stream::unfold((script, engine, open), |(mut script, engine, open)| async move {
        loop {
            match script.next()? {
                Step::Event(event) => return Some((Ok(frame(&event)), (script, engine, open))),
                Step::Pause(pause) => tokio::time::sleep(pause).await,
                Step::Cut => {
                    tokio::time::sleep(CUT_DELAY).await;
                    let cut = io::Error::new(io::ErrorKind::ConnectionReset, "cut as asked");
                    return Some((Err(cut), (script, engine, open)));
                }
                Step::Stall => engine.stop.cancelled().await,
            }
        }
    })
}

fn frame(event: &Value) -> Bytes {
    let kind = event["type"].as_str().unwrap_or_default();
    format!("event: {kind}\ndata: {event}\n\n").into()
}
