//! `POST /v1/responses/input_tokens`: how many tokens a request's input is, by the tokenizer.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Asker, Transport, prepare};
use crate::api::access::Access;
use crate::api::answer;
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::extract::JsonBody;
use crate::api::observe::Call;
use crate::api::time::unix_seconds;
use crate::model::ResponseId;

/// The backend's own count is not to be had: what it adds of its own is not in ours.
const X_ESTIMATE: HeaderName = HeaderName::from_static("x-codex-bridge-estimate");

/// The official object.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Counted {
    object: &'static str,
    input_tokens: u64,
}

/// Reads and checks the request as one for a response, which is not made: nothing is taken, started or sent.
pub(crate) async fn count(
    State(edge): State<Edge>,
    call: Call,
    access: Access,
    JsonBody(mut body): JsonBody,
) -> Result<Response, ApiError> {
    // Nothing has to be there to be counted.
    if body.get("input").is_none_or(Value::is_null) {
        body.insert("input".into(), "".into());
    }
    let asker = Asker {
        call: &call,
        access: &access,
        max_wait: None,
        pays: false,
        transport: Transport::Http,
        created_at: unix_seconds(SystemTime::now()),
    };
    let mut prepared = prepare(&edge, asker, ResponseId::generate(), body).await?;
    answer::under(&mut prepared.request, prepared.rule.as_deref());
    let tokens = edge.bridge.count_tokens(prepared.request).await?;
    let counted = Counted { object: "response.input_tokens", input_tokens: tokens };
    let mut response = Json(counted).into_response();
    response.headers_mut().insert(X_ESTIMATE, HeaderValue::from_static("true"));
    prepared.ignored.report(&mut response);
    Ok(response)
}
