//! `/v1/conversations`: what was said, kept under one id, and gone on with by `conversation` on `/v1/responses`.

mod documents;
mod turn;

use axum::Json;
use axum::extract::Path;
use axum::extract::State;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use self::documents::{Clash, Conversation, Named, named};
pub(crate) use self::documents::{Conversations, locked};
pub(crate) use self::turn::{Appending, Joined, not_kept};
use super::edge::Edge;
use super::error::ApiError;
use super::extract::JsonBody;
use super::fields::{Check, Field};
use super::ignored::Ignored;
use super::items::Draft;
use super::list::{AFTER, Deletion, INCLUDE, LIMIT, List, ORDER, Paging};
use super::observe::Call;
use super::openapi::Parameter;
use super::query::Query;
use super::read::{self, Fields, missing};
use super::responses::{Form, decode_items, given, wants_encrypted};
use crate::model::{Item, KeyId};
use crate::store::Page;

/// Most items that one request adds, as the official bound.
const MOST_ADDED: usize = 20;

const METADATA: Field = Field::honoured("metadata").is(Check::Metadata);
const ITEMS: Field = Field::honoured("items")
    .is(Check::List(&Check::Object))
    .note("up to 20; each as an entry of a response's `input`, with an id of its own where it has one");
pub(crate) const CREATE_FIELDS: &[Field] = &[ITEMS, METADATA];
pub(crate) const UPDATE_FIELDS: &[Field] = &[METADATA.required()];
pub(crate) const ITEMS_FIELDS: &[Field] = &[ITEMS.required()];
pub(crate) const LIST_QUERY: &[Parameter] = &[INCLUDE, AFTER, LIMIT, ORDER];
pub(crate) const ITEM_QUERY: &[Parameter] = &[INCLUDE];

type Id = Result<Path<String>, PathRejection>;
type Ids = Result<Path<(String, String)>, PathRejection>;

/// `POST /v1/conversations`.
pub(crate) async fn create(
    State(edge): State<Edge>,
    call: Call,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let mut body = Fields::new("", body);
    let mut ignored = Ignored::default();
    let metadata = read::metadata(&mut body)?;
    let items = take_items(&edge, &call.key(), &mut body, &mut ignored).await?.unwrap_or_default();
    finish(&edge, body, &mut ignored)?;
    let made = edge.conversations.create(&call.key(), metadata, items).await?;
    Ok(reported(Json(Resource::of(&made)), &ignored))
}

/// `GET /v1/conversations/{id}`.
pub(crate) async fn retrieve(
    State(edge): State<Edge>,
    call: Call,
    id: Id,
) -> Result<Json<Resource>, ApiError> {
    let found = edge.conversations.find(&conversation_id(id)?, &call.key()).await?;
    Ok(Json(Resource::of(&found)))
}

/// `POST /v1/conversations/{id}`: other metadata.
pub(crate) async fn update(
    State(edge): State<Edge>,
    call: Call,
    id: Id,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let mut body = Fields::new("", body);
    let mut ignored = Ignored::default();
    if !body.has("metadata") {
        return Err(missing("metadata"));
    }
    let metadata = read::metadata(&mut body)?;
    finish(&edge, body, &mut ignored)?;
    let changed = edge.conversations.update(&conversation_id(id)?, &call.key(), metadata).await?;
    Ok(reported(Json(Resource::of(&changed)), &ignored))
}

/// `DELETE /v1/conversations/{id}`. What responses of it have stored stays theirs.
pub(crate) async fn delete(State(edge): State<Edge>, call: Call, id: Id) -> Result<Json<Deletion>, ApiError> {
    let id = conversation_id(id)?;
    edge.conversations.delete(&id, &call.key()).await?;
    Ok(Json(Deletion { id, object: "conversation.deleted", deleted: true }))
}

/// `GET /v1/conversations/{id}/items`.
pub(crate) async fn list_items(
    State(edge): State<Edge>,
    call: Call,
    id: Id,
    query: Query,
) -> Result<Json<List>, ApiError> {
    let id = conversation_id(id)?;
    let paging = Paging::of(&query, "desc")?;
    let page = Page { after: paging.after.as_deref(), limit: paging.limit, descending: paging.descending };
    let encrypted = wants_encrypted(&query)?;
    let shown = |item: &Named| shown(item, encrypted);
    let listed = edge.conversations.page(&id, &call.key(), page, shown).await?;
    let listed = listed.ok_or_else(|| paging.unknown_after())?;
    Ok(Json(List::new(listed.found, listed.has_more)))
}

/// `POST /v1/conversations/{id}/items`.
pub(crate) async fn create_items(
    State(edge): State<Edge>,
    call: Call,
    id: Id,
    query: Query,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let id = conversation_id(id)?;
    let encrypted = wants_encrypted(&query)?;
    // Before anything is fetched for it.
    edge.conversations.find(&id, &call.key()).await?;
    let mut body = Fields::new("", body);
    let mut ignored = Ignored::default();
    let items =
        take_items(&edge, &call.key(), &mut body, &mut ignored).await?.ok_or_else(|| missing("items"))?;
    finish(&edge, body, &mut ignored)?;
    let added = edge.conversations.append(&id, &call.key(), named(items), Clash::Refuse).await?;
    let shown = added.iter().filter_map(|item| shown(item, encrypted)).collect();
    Ok(reported(Json(List::new(shown, false)), &ignored))
}

/// `GET /v1/conversations/{id}/items/{item_id}`.
pub(crate) async fn retrieve_item(
    State(edge): State<Edge>,
    call: Call,
    ids: Ids,
    query: Query,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let (id, item) = item_ids(ids)?;
    let found = edge.conversations.item(&id, &call.key(), &item).await?;
    let form = shown(&found, wants_encrypted(&query)?);
    form.map(Json).ok_or_else(|| ApiError::new("item_not_found", "The item has no official form."))
}

/// `DELETE /v1/conversations/{id}/items/{item_id}`.
pub(crate) async fn delete_item(
    State(edge): State<Edge>,
    call: Call,
    ids: Ids,
) -> Result<Json<Resource>, ApiError> {
    let (id, item) = item_ids(ids)?;
    let left = edge.conversations.remove(&id, &call.key(), &item).await?;
    Ok(Json(Resource::of(&left)))
}

/// The official object.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Resource {
    id: String,
    object: &'static str,
    created_at: u64,
    metadata: std::collections::BTreeMap<String, String>,
}

impl Resource {
    fn of(conversation: &Conversation) -> Self {
        let Conversation { id, head } = conversation.clone();
        Self { id, object: "conversation", created_at: head.created_at, metadata: head.metadata }
    }
}

/// What a request adds, in the form that goes to the model.
async fn take_items(
    edge: &Edge,
    owner: &KeyId,
    body: &mut Fields,
    ignored: &mut Ignored,
) -> Result<Option<Vec<Item>>, ApiError> {
    let Some(items) = body.array("items")? else { return Ok(None) };
    if items.len() > MOST_ADDED {
        let message = format!(
            "Invalid 'items': array too long. Expected an array with maximum length {MOST_ADDED}, but got an \
             array with length {} instead.",
            items.len()
        );
        return Err(ApiError::invalid("items", message).with_code("array_above_max_length"));
    }
    let mut draft = Draft::default();
    decode_items("items", items, &mut draft, ignored)?;
    draft.check_no_references("items")?;
    let mut items = draft.finish(&edge.media).await?;
    edge.compactions.open(owner, "items", &mut items)?;
    Ok(Some(items))
}

/// What nobody took has no effect.
fn finish(edge: &Edge, body: Fields, ignored: &mut Ignored) -> Result<(), ApiError> {
    for (name, _) in body.rest().into_iter().filter(|(_, value)| !value.is_null()) {
        ignored.add(name);
    }
    ignored.refuse_if(edge.requests.strict_params)
}

fn reported(answer: impl IntoResponse, ignored: &Ignored) -> Response {
    let mut response = answer.into_response();
    ignored.report(&mut response);
    response
}

/// The official form of an item; `None` if it has none.
fn shown((id, item): &Named, encrypted_reasoning: bool) -> Option<Map<String, Value>> {
    let mut fields = item.fields().clone();
    fields.insert("id".into(), id.as_str().into());
    let mut shown = given(&Item::new(fields), 0, Form { id, encrypted_reasoning })?;
    if item.kind().starts_with("custom_tool_call") {
        shown.shift_remove("status");
    }
    Some(shown)
}

fn conversation_id(id: Id) -> Result<String, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("conversation_id", "The id is not UTF-8."))?;
    Ok(id)
}

fn item_ids(ids: Ids) -> Result<(String, String), ApiError> {
    let Path(ids) = ids.map_err(|_| ApiError::invalid("item_id", "The id is not UTF-8."))?;
    Ok(ids)
}

#[cfg(test)]
mod tests;
