//! Stored responses: read again, listed, deleted.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::background::{Background, Found};
use super::decode::{self, INCLUDES};
use super::output::{official, official_items};
use super::wire::{ENCRYPTED_REASONING, Form, OutputItem, ResponseUsage, STREAMED};
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::fields::Check;
use crate::api::list::{AFTER, Deletion, INCLUDE, LIMIT, List, ORDER, Paging};
use crate::api::observe::Call;
use crate::api::openapi::Parameter;
use crate::api::query::Query;
use crate::api::read::not_one_of;
use crate::api::time::unix_seconds;
use crate::model::{Item, KeyId, ResponseId};
use crate::store::{Chain, StoredResponse};

const LAST_EVENT: u32 = u32::MAX;

pub(crate) const RETRIEVE_QUERY: &[Parameter] = &[
    INCLUDE,
    Parameter::new("stream", Check::Flag, "the events again, of a background response made as a stream"),
    Parameter::new(
        "starting_after",
        Check::Integer(0, LAST_EVENT as i64),
        "the sequence number of the event before the stream's first",
    ),
];
pub(crate) const INPUT_ITEMS_QUERY: &[Parameter] = &[INCLUDE, AFTER, LIMIT, ORDER];

/// `GET /v1/responses/{id}`.
pub(crate) async fn retrieve(
    State(edge): State<Edge>,
    call: Call,
    id: Result<Path<String>, PathRejection>,
    query: Query,
) -> Result<Response, ApiError> {
    let (id, key) = (response_id(id)?, call.key());
    let encrypted = wants_encrypted(&query)?;
    if query.flag("stream")? {
        let after = query.integer("starting_after", 0..=LAST_EVENT.into())?;
        let from = after.map_or(0, |after| usize::try_from(after + 1).unwrap_or(usize::MAX));
        return match Background::stream(&edge, &id, &key, from).await? {
            Some(stream) => Ok(stream),
            None => Err(unstreamed(Background::find(&edge, &id, &key).await?.as_ref(), &id)),
        };
    }
    let found = Background::find(&edge, &id, &key).await?;
    let object = found.and_then(|found| shown(&found, encrypted)).ok_or_else(|| not_found(&id))?;
    Ok(Json(object).into_response())
}

/// `DELETE /v1/responses/{id}`.
pub(crate) async fn delete(
    State(edge): State<Edge>,
    call: Call,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Deletion>, ApiError> {
    let (id, key) = (response_id(id)?, call.key());
    // Both: a response that has just ended may be in either place.
    let removed = Background::remove(&edge, &id, &key).await?;
    if edge.bridge.delete_response(&id, &key).await? || removed {
        return Ok(Json(Deletion { id: id.to_string(), object: "response", deleted: true }));
    }
    Err(not_found(&id))
}

/// `GET /v1/responses/{id}/input_items`: what the model was given, the chain before it included.
pub(crate) async fn input_items(
    State(edge): State<Edge>,
    call: Call,
    id: Result<Path<String>, PathRejection>,
    query: Query,
) -> Result<Json<List>, ApiError> {
    let id = response_id(id)?;
    let paging = Paging::of(&query, "desc")?;
    let encrypted = wants_encrypted(&query)?;
    let items = input(&edge, &id, &call.key()).await?.ok_or_else(|| not_found(&id))?;
    let form = Form { id: id.as_str(), encrypted_reasoning: encrypted };
    let given = items.iter().enumerate().filter_map(|(index, item)| given(item, index, form));
    paging.cut(given.collect()).map(Json)
}

/// `POST /v1/responses/{id}/cancel`: of a background response; one that has ended is given as it is.
pub(crate) async fn cancel(
    State(edge): State<Edge>,
    call: Call,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let id = response_id(id)?;
    let key = call.key();
    match Background::find(&edge, &id, &key).await? {
        Some(Found::Record(record)) => match object(&record, false).map(Value::Object) {
            Some(object) if object["background"] == true => Ok(Json(object)),
            _ => Err(ApiError::invalid("response_id", "Cannot cancel a synchronous response.")),
        },
        Some(Found::Job(job)) => Ok(Json(edge.background.cancel(&job).await)),
        Some(Found::Document(kept)) => {
            let found = Background::cancel_elsewhere(&edge, &id, &key, *kept).await?;
            found.and_then(|found| shown(&found, false)).map(Json).ok_or_else(|| not_found(&id))
        }
        None => Err(not_found(&id)),
    }
}

/// What the model was given for it, the chain before it included.
async fn input(edge: &Edge, id: &ResponseId, key: &KeyId) -> Result<Option<Vec<Item>>, ApiError> {
    let whole = |Chain { record, before }: Chain| -> Vec<Item> {
        before.iter().flatten().cloned().chain(record.input).collect()
    };
    if let Some(chain) = edge.bridge.stored_chain(id, key).await? {
        return Ok(Some(whole(chain)));
    }
    if let Some(items) = Background::input(edge, key, id).await? {
        return Ok(Some(items));
    }
    // It may have gone from there to here meanwhile.
    Ok(edge.bridge.stored_chain(id, key).await?.map(whole))
}

/// What a query asks to be shown that is not by itself.
pub(crate) fn wants_encrypted(query: &Query) -> Result<bool, ApiError> {
    let mut wanted = false;
    for entry in query.list("include").filter(|entry| !entry.is_empty()) {
        if !INCLUDES.contains(&entry) {
            return Err(not_one_of("include", INCLUDES));
        }
        wanted |= entry == decode::ENCRYPTED_REASONING;
    }
    Ok(wanted)
}

fn shown(found: &Found, encrypted: bool) -> Option<Value> {
    match found {
        Found::Job(job) => Some(job.object()),
        Found::Record(record) => object(record, encrypted).map(Value::Object),
        Found::Document(kept) => Some(kept.object().clone()),
    }
}

/// Why there is no stream of what was found.
fn unstreamed(found: Option<&Found>, id: &ResponseId) -> ApiError {
    let streamed = match found {
        None => return not_found(id),
        Some(Found::Job(job)) => job.is_streamed(),
        Some(Found::Record(record)) => was_streamed(record),
        Some(Found::Document(kept)) => kept.is_streamed(),
    };
    if streamed {
        let message = "The events of this response are not kept here any more (`background.keep`, \
                       `background.log_bytes`); read it without 'stream'.";
        return ApiError::new("stream_expired", message);
    }
    let message = "Only a response created with 'background' and 'stream' can be streamed again.";
    ApiError::invalid("stream", message).with_code("unsupported_value")
}

fn was_streamed(record: &StoredResponse) -> bool {
    let head: Option<Value> = record.head.as_deref().and_then(|head| serde_json::from_str(head).ok());
    head.is_some_and(|head| head[STREAMED] == true)
}

fn response_id(id: Result<Path<String>, PathRejection>) -> Result<ResponseId, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("response_id", "The response id is not UTF-8."))?;
    Ok(ResponseId::new(id))
}

/// The same for every reason there can be.
fn not_found(id: &ResponseId) -> ApiError {
    ApiError::new("response_not_found", format!("Response with id '{id}' not found."))
}

/// The response object as it was told; `None` for a record without the edge's part.
fn object(record: &StoredResponse, encrypted: bool) -> Option<OutputItem> {
    let Value::Object(mut kept) = serde_json::from_str(record.head.as_deref()?).ok()? else { return None };
    let was_encrypted = kept.shift_remove(ENCRYPTED_REASONING) == Some(Value::Bool(true));
    kept.shift_remove(STREAMED);
    let form = Form { id: record.id.as_str(), encrypted_reasoning: encrypted || was_encrypted };
    let ended = unix_seconds(record.created_at);
    let mut object = Map::new();
    object.insert("id".into(), record.id.as_str().into());
    object.extend(kept);
    match record.incomplete {
        None => {
            object.insert("status".into(), "completed".into());
            object.insert("completed_at".into(), ended.into());
            object.insert("incomplete_details".into(), Value::Null);
        }
        Some(reason) => {
            object.insert("status".into(), "incomplete".into());
            object.insert("completed_at".into(), Value::Null);
            object.insert("incomplete_details".into(), json!({ "reason": reason.as_str() }));
        }
    }
    object.insert("error".into(), Value::Null);
    object.insert("model".into(), record.model.as_str().into());
    let output = official_items(&record.output, form).into_iter().map(Value::Object);
    object.insert("output".into(), output.collect());
    object.insert("usage".into(), serde_json::to_value(record.usage.map(ResponseUsage::from)).ok()?);
    Some(object)
}

/// An item that the model was given, in the official form; `index` is its place in the whole conversation. `None` for
/// what has none.
pub(crate) fn given(item: &Item, index: usize, form: Form<'_>) -> Option<OutputItem> {
    let is_message = item.kind() == "message" && item.str("role") != Some("assistant");
    let is_output = item.kind().ends_with("_output");
    if !is_message && !is_output {
        let mut given = official(item, index, form)?;
        if item.id().is_none() {
            given.insert("id".into(), made_id("item", index, form).into());
        }
        // Which it has here, and has not as output.
        if item.kind() == "custom_tool_call" {
            given.insert("status".into(), "completed".into());
        }
        return Some(given);
    }
    let mut given = Map::new();
    let prefix = if is_message { "msg" } else { "out" };
    given.insert("id".into(), item.id().map_or_else(|| made_id(prefix, index, form), str::to_owned).into());
    let rest = item.fields().iter().filter(|(name, _)| *name != "id");
    given.extend(rest.map(|(name, value)| (name.clone(), value.clone())));
    given.insert("status".into(), "completed".into());
    // Officially no image is without.
    for list in ["content", "output"] {
        let parts = given.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for part in parts.filter(|part| part["type"] == "input_image").filter_map(Value::as_object_mut) {
            part.entry("detail").or_insert_with(|| "auto".into());
        }
    }
    Some(given)
}

/// Apart from those of output items.
fn made_id(prefix: &str, index: usize, form: Form<'_>) -> String {
    let response = form.id.strip_prefix("resp_").unwrap_or(form.id);
    format!("{prefix}_{response}i{index:04x}")
}

#[cfg(test)]
pub(super) mod tests;
