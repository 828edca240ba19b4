//! Every route, on one screen.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use super::edge::Edge;
use super::{auth, chat_completions, health, models, not_found, observe, origin, responses};

/// The whole HTTP side. From the outside in: log line and panics, host and origin, route (404, 405), key,
/// handler.
pub fn router(edge: Edge) -> Router {
    let keyed = Router::new()
        .route("/v1/responses", post(responses::create))
        .route("/v1/chat/completions", post(chat_completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/v1/health", get(health::report))
        .route_layer(from_fn_with_state(edge.clone(), auth::require_key));
    let open = Router::new().route("/healthz", get(health::alive)).route("/readyz", get(health::ready));
    keyed
        .merge(open)
        .fallback(not_found::not_found)
        .method_not_allowed_fallback(not_found::method_not_allowed)
        .layer(from_fn_with_state(edge.clone(), origin::guard))
        .layer(from_fn(observe::observe))
        .with_state(edge)
}

#[cfg(test)]
mod tests;
