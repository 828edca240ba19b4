//! What a connection beyond the limit gets: our health, or the word that there is no room.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::error::ApiError;

/// Beside a request whose connection has no seat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Full;

/// What is answered all the same: who watches over us must not take a full house for a dead one.
const ALWAYS: [&str; 3] = ["/healthz", "/readyz", "/v1/health"];

/// Refuses what comes over a connection beyond the limit.
pub(crate) async fn refuse_if_full(request: Request, next: Next) -> Response {
    if request.extensions().get::<Full>().is_none() || ALWAYS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    ApiError::new(
        "too_many_connections",
        "The bridge has as many connections as `server.max_connections` allows.",
    )
    .into_response()
}
