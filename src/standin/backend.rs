//! The backend that a logged-in Codex talks to: account, usage windows, settings, and the model's two doors.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State, WebSocketUpgrade};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use serde_json::{Value, json};

use super::account::PLAN;
use super::engine::{Engine, Refusal};
use super::http::{MAX_BODY_BYTES, control, models, refused, responses};
use super::login::{self, ACCOUNT};
use super::unix_seconds;
use super::ws;

/// A PNG of one pixel.
const IMAGE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// What an encrypted connection reaches.
pub(crate) fn routes(engine: Arc<Engine>) -> Router {
    Router::new()
        .route("/backend-api/codex/responses", get(upgrade).post(responses_with_windows))
        .route("/backend-api/codex/models", get(models))
        .route("/backend-api/codex/images/generations", post(image))
        .route("/backend-api/codex/alpha/search", post(search))
        .route("/backend-api/wham/accounts/check", get(accounts))
        .route("/backend-api/wham/usage", get(usage))
        .route("/backend-api/wham/settings/user", get(settings))
        .route_layer(from_fn_with_state(Arc::clone(&engine), check_token))
        .route("/oauth/token", post(refresh))
        .route("/oauth/revoke", post(settings))
        .merge(control())
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(engine)
}

/// What a plain connection to the same port reaches.
pub(crate) fn plain_routes(engine: Arc<Engine>) -> Router {
    control().with_state(engine)
}

/// Turns everything away whose token is good no more.
async fn check_token(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    if engine.account.is_revoked() {
        return refused(&Refusal::revoked());
    }
    next.run(request).await
}

async fn upgrade(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    socket: WebSocketUpgrade,
) -> Response {
    engine.travel().await;
    ws::accept(socket, &engine, uri.path(), &headers)
}

/// Over HTTP the windows are headers.
async fn responses_with_windows(
    State(engine): State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    let mut response = responses(State(Arc::clone(&engine)), uri, headers, body).await;
    for (name, value) in engine.account.headers() {
        if let Ok(name) = HeaderName::try_from(name) {
            response.headers_mut().insert(name, HeaderValue::from(value));
        }
    }
    response
}

/// What Codex's own image tool asks for.
async fn image(State(engine): State<Arc<Engine>>) -> Json<Value> {
    engine.travel().await;
    Json(json!({"created": unix_seconds(), "data": [{"b64_json": IMAGE}]}))
}

/// What Codex's own search tool asks for.
async fn search(State(engine): State<Arc<Engine>>) -> Json<Value> {
    engine.travel().await;
    Json(json!({"output": "found it (example.com)"}))
}

async fn accounts(State(engine): State<Arc<Engine>>) -> Json<Value> {
    engine.travel().await;
    Json(json!({
        "accounts": [{
            "id": ACCOUNT,
            "plan_type": PLAN,
            "workspace_backend_origin": "NO_CONSTRAINT",
            "account_routing_override": "NO_CONSTRAINT",
            "structure": "personal",
        }],
        "account_ordering": [ACCOUNT],
        "default_account_id": ACCOUNT,
    }))
}

async fn usage(State(engine): State<Arc<Engine>>) -> Json<Value> {
    engine.travel().await;
    Json(engine.account.usage())
}

async fn settings(State(engine): State<Arc<Engine>>) -> Json<Value> {
    engine.travel().await;
    Json(json!({}))
}

async fn refresh(State(engine): State<Arc<Engine>>) -> Response {
    if engine.account.is_revoked() {
        let error = json!({
            "message": "Your refresh token has been invalidated.", "type": "invalid_request_error", "param": null,
            "code": "refresh_token_invalidated",
        });
        return refused(&Refusal { status: 401, retry_after: None, error });
    }
    Json(login::tokens()).into_response()
}

async fn unknown(uri: Uri) -> Response {
    tracing::debug!(path = uri.path(), "the stand-in backend was asked for something it does not know");
    (StatusCode::NOT_FOUND, Json(json!({"detail": "Not Found"}))).into_response()
}
