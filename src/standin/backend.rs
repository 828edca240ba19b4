//! The backend that a logged-in Codex talks to: account, usage windows, settings, and the model's two doors.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use serde_json::{Value, json};

use super::engine::{Engine, PLAN, RESETS_IN};
use super::http::{MAX_BODY_BYTES, control, models, responses};
use super::login::{self, ACCOUNT};
use super::unix_seconds;
use super::ws;

/// The first window: what share is used, and how long it is.
const PRIMARY: (u64, u64) = (42, 5 * 3600);
/// The second window.
const SECONDARY: (u64, u64) = (17, 7 * 24 * 3600);

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

/// The windows as the event that comes before an answer.
pub(crate) fn rate_limits_event() -> Value {
    let window = |(used, seconds): (u64, u64)| json!({"used_percent": used, "window_minutes": seconds / 60, "reset_at": unix_seconds() + RESETS_IN});
    json!({
        "type": "codex.rate_limits",
        "plan_type": PLAN,
        "rate_limits": {
            "allowed": true, "limit_reached": false, "primary": window(PRIMARY), "secondary": window(SECONDARY),
        },
    })
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
    engine: State<Arc<Engine>>,
    uri: Uri,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    let mut response = responses(engine, uri, headers, body).await;
    let reset = unix_seconds() + RESETS_IN;
    let windows = [
        ("x-codex-primary-used-percent", PRIMARY.0),
        ("x-codex-primary-window-minutes", PRIMARY.1 / 60),
        ("x-codex-primary-reset-at", reset),
        ("x-codex-secondary-used-percent", SECONDARY.0),
        ("x-codex-secondary-window-minutes", SECONDARY.1 / 60),
        ("x-codex-secondary-reset-at", reset),
    ];
    for (name, value) in windows {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from(value));
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
    let window = |(used, seconds): (u64, u64)| {
        json!({
            "used_percent": used, "limit_window_seconds": seconds, "reset_after_seconds": RESETS_IN,
            "reset_at": unix_seconds() + RESETS_IN,
        })
    };
    Json(json!({
        "plan_type": PLAN,
        "rate_limit": {
            "allowed": true, "limit_reached": false, "primary_window": window(PRIMARY), "secondary_window": window(SECONDARY),
        },
        "credits": {"has_credits": false, "unlimited": false, "balance": "0"},
    }))
}

async fn settings(State(engine): State<Arc<Engine>>) -> Json<Value> {
    engine.travel().await;
    Json(json!({}))
}

async fn refresh() -> Json<Value> {
    Json(login::tokens())
}

async fn unknown(uri: Uri) -> Response {
    tracing::debug!(path = uri.path(), "the stand-in backend was asked for something it does not know");
    (StatusCode::NOT_FOUND, Json(json!({"detail": "Not Found"}))).into_response()
}
