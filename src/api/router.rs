//! Every route, on one screen.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use super::chat_completions::kept;
use super::edge::Edge;
use super::{
    auth, auth_backoff, chat_completions, conversations, fallback, health, models, not_found, observe,
    origin, responses, server, usage,
};

/// The whole HTTP side. From the outside in: log line and panics, room for the connection, host and origin,
/// route (404, 405), key and its failures, for calls of a model the account's windows and the fallback, handler.
pub fn router(edge: Edge) -> Router {
    let calls = Router::new()
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/input_tokens", post(responses::count_input_tokens))
        .route("/v1/responses/{id}", get(responses::retrieve).delete(responses::delete))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/chat/completions", post(chat_completions::create).get(kept::list))
        .route("/v1/chat/completions/{id}", get(kept::retrieve).post(kept::update).delete(kept::delete))
        .route("/v1/chat/completions/{id}/messages", get(kept::messages))
        .route("/v1/completions", post(chat_completions::legacy::create))
        .route_layer(from_fn_with_state(edge.clone(), fallback::around))
        .route_layer(from_fn_with_state(edge.clone(), usage::tell));
    let keyed = calls
        .route("/v1/conversations", post(conversations::create))
        .route(
            "/v1/conversations/{id}",
            get(conversations::retrieve).post(conversations::update).delete(conversations::delete),
        )
        .route(
            "/v1/conversations/{id}/items",
            get(conversations::list_items).post(conversations::create_items),
        )
        .route(
            "/v1/conversations/{id}/items/{item}",
            get(conversations::retrieve_item).delete(conversations::delete_item),
        )
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/v1/health", get(health::report))
        .route("/v1/usage", get(usage::report))
        .route_layer(from_fn_with_state(edge.clone(), auth::require_key))
        .route_layer(from_fn_with_state(edge.clone(), auth_backoff::slow_down));
    let open = Router::new().route("/healthz", get(health::alive)).route("/readyz", get(health::ready));
    keyed
        .merge(open)
        .fallback(not_found::not_found)
        .method_not_allowed_fallback(not_found::method_not_allowed)
        .layer(from_fn_with_state(edge.clone(), origin::guard))
        .layer(from_fn(server::refuse_if_full))
        .layer(from_fn(observe::observe))
        .with_state(edge)
}

#[cfg(test)]
mod tests;
