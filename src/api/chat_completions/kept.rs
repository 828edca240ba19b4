//! Stored chat completions (`store: true`): listed, read again, given other metadata, deleted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Plan;
use super::stream::Start;
use super::whole::Completion;
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::extract::JsonBody;
use crate::api::fields::{Check, Field};
use crate::api::list::{AFTER, Deletion, LIMIT, List, ORDER, Paging};
use crate::api::observe::Call;
use crate::api::openapi::Parameter;
use crate::api::query::Query;
use crate::api::read::{self, Fields, missing};
use crate::api::sse::Steps;
use crate::bridge::TurnStep;
use crate::model::{KeyId, Outcome};
use crate::store::{Document, DocumentKind, Documents, Entry, Page, StoreError};

const KIND: DocumentKind = DocumentKind::Completion;
/// Completions looked at together for those that are wanted.
const BATCH: usize = 64;

pub(crate) const UPDATE_FIELDS: &[Field] = &[Field::honoured("metadata").is(Check::Metadata).required()];
pub(crate) const LIST_QUERY: &[Parameter] = &[
    Parameter::new("model", Check::Text, "only those of this model"),
    Parameter::new("metadata", Check::Object, "only those that have all of these: `metadata[key]=value`"),
    AFTER,
    LIMIT,
    ORDER,
];
pub(crate) const MESSAGES_QUERY: &[Parameter] = &[AFTER, LIMIT, ORDER];

type Id = Result<Path<String>, PathRejection>;
type Object = Map<String, Value>;

/// `GET /v1/chat/completions`: by model and metadata, page by page.
pub(crate) async fn list(State(edge): State<Edge>, call: Call, query: Query) -> Result<Json<List>, ApiError> {
    let paging = Paging::of(&query, "asc")?;
    let (model, owner) = (query.text("model"), call.key());
    let is_wanted = |completion: &Object| {
        let said = |value: Option<&Value>, wanted: &str| value.and_then(Value::as_str) == Some(wanted);
        model.is_none_or(|model| said(completion.get("model"), model))
            && query
                .object("metadata")
                .all(|(key, value)| said(completion.get("metadata").and_then(|all| all.get(key)), value))
    };
    let mut found = Vec::new();
    let mut after = paging.after.clone();
    loop {
        let page = Page { after: after.as_deref(), limit: BATCH, descending: paging.descending };
        let listed = edge.documents.list(KIND, &owner, page).await?.ok_or_else(|| paging.unknown_after())?;
        after = listed.found.last().map(|document| document.id.clone());
        found.extend(listed.found.iter().filter_map(object).filter(is_wanted));
        if found.len() > paging.limit || !listed.has_more {
            let has_more = found.len() > paging.limit;
            found.truncate(paging.limit);
            return Ok(Json(List::new(found, has_more)));
        }
    }
}

/// `GET /v1/chat/completions/{id}`.
pub(crate) async fn retrieve(State(edge): State<Edge>, call: Call, id: Id) -> Result<Json<Object>, ApiError> {
    let document = find(&edge, id, &call.key()).await?;
    object(&document).map(Json).ok_or_else(|| not_found(&document.id))
}

/// `POST /v1/chat/completions/{id}`: other metadata.
pub(crate) async fn update(
    State(edge): State<Edge>,
    call: Call,
    id: Id,
    JsonBody(body): JsonBody,
) -> Result<Json<Object>, ApiError> {
    let mut body = Fields::new("", body);
    if !body.has("metadata") {
        return Err(missing("metadata"));
    }
    let metadata = read::metadata(&mut body)?;
    let mut document = find(&edge, id, &call.key()).await?;
    let mut completion = object(&document).ok_or_else(|| not_found(&document.id))?;
    completion.insert("metadata".into(), json!(metadata));
    document.body = serde_json::to_vec(&completion).unwrap_or_default();
    document.expires_at = SystemTime::now().checked_add(edge.document_ttl);
    // Somebody may have deleted it meanwhile.
    if !edge.documents.replace(KIND, &document).await? {
        return Err(not_found(&document.id));
    }
    Ok(Json(completion))
}

/// `DELETE /v1/chat/completions/{id}`.
pub(crate) async fn delete(State(edge): State<Edge>, call: Call, id: Id) -> Result<Json<Deletion>, ApiError> {
    let document = find(&edge, id, &call.key()).await?;
    edge.documents.delete(KIND, &document.id).await?;
    Ok(Json(Deletion { id: document.id, object: "chat.completion.deleted", deleted: true }))
}

/// `GET /v1/chat/completions/{id}/messages`: what the model was given.
pub(crate) async fn messages(
    State(edge): State<Edge>,
    call: Call,
    id: Id,
    query: Query,
) -> Result<Json<List>, ApiError> {
    let document = find(&edge, id, &call.key()).await?;
    let paging = Paging::of(&query, "asc")?;
    let page = Page { after: paging.after.as_deref(), limit: paging.limit, descending: paging.descending };
    let listed = edge.documents.entries(KIND, &document.id, page).await?;
    let listed = listed.ok_or_else(|| paging.unknown_after())?;
    let messages = listed.found.iter().filter_map(|entry| serde_json::from_slice(&entry.body).ok());
    Ok(Json(List::new(messages.collect(), listed.has_more)))
}

/// A completion as it is kept and read again.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Kept<'a> {
    #[serde(flatten)]
    completion: Completion<'a>,
    metadata: &'a BTreeMap<String, String>,
}

/// Where completions are kept.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    documents: Arc<Documents>,
    /// Each lives this long after its last change.
    ttl: Duration,
}

impl Shelf {
    pub(super) fn of(edge: &Edge) -> Self {
        Self { documents: Arc::clone(&edge.documents), ttl: edge.document_ttl }
    }

    /// Keeps the completion, where that was asked for. One that cannot be kept is told all the same.
    pub(super) async fn keep(&self, plan: &Plan, outcomes: &[Outcome]) {
        let Some(messages) = &plan.to_keep else { return };
        if let Err(error) = self.try_keep(plan, messages, outcomes).await {
            tracing::warn!(id = plan.id, %error, "a chat completion is not stored");
        }
    }

    async fn try_keep(
        &self,
        plan: &Plan,
        messages: &[Value],
        outcomes: &[Outcome],
    ) -> Result<(), StoreError> {
        let completion = Completion::new(plan, outcomes).without_trace();
        let kept = Kept { completion, metadata: &plan.settings.metadata };
        let (id, owner) = (plan.id.clone(), plan.call.key());
        let expires_at = SystemTime::now().checked_add(self.ttl);
        let body = serde_json::to_vec(&kept).unwrap_or_default();
        let document = Document { id, owner, expires_at, body };
        let entry = |(index, message): (usize, &Value)| {
            let id = format!("{}-{index}", plan.id);
            Entry { body: message_of(&id, message).to_string().into_bytes(), id }
        };
        let entries: Vec<_> = messages.iter().enumerate().map(entry).collect();
        self.documents.put_with(KIND, &document, &entries).await
    }
}

/// A message as the list of them has it.
fn message_of(id: &str, given: &Value) -> Value {
    let mut message = Map::new();
    message.insert("id".into(), id.into());
    message.insert("role".into(), given["role"].clone());
    let content = &given["content"];
    message.insert("content".into(), content.as_str().into());
    message.insert("refusal".into(), given["refusal"].as_str().into());
    for name in ["tool_calls", "function_call"] {
        if let Some(value) = given.get(name).filter(|value| !value.is_null()) {
            message.insert(name.into(), value.clone());
        }
    }
    // Of files and audio there is no official form here.
    let is_told = |part: &&Value| part["type"] == "text" || part["type"] == "image_url";
    let parts = content.as_array().map(|parts| parts.iter().filter(is_told).cloned().collect::<Vec<_>>());
    message.insert("content_parts".into(), parts.into());
    Value::Object(message)
}

/// The choices of a stream as they end: the last one keeps them all before its end is told.
pub(super) struct Record {
    shelf: Shelf,
    plan: Arc<Plan>,
    /// By choice. Never held across an await.
    outcomes: Mutex<Vec<Option<Outcome>>>,
}

impl Record {
    pub(super) fn new(shelf: Shelf, plan: &Arc<Plan>) -> Self {
        let outcomes = Mutex::new(vec![None; plan.others.len() + 1]);
        Self { shelf, plan: Arc::clone(plan), outcomes }
    }

    async fn add(&self, index: usize, outcome: Outcome) {
        let whole: Option<Vec<Outcome>> = {
            let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = outcomes.get_mut(index) {
                *slot = Some(outcome);
            }
            if outcomes.iter().all(Option::is_some) { outcomes.drain(..).collect() } else { None }
        };
        if let Some(outcomes) = whole {
            self.shelf.keep(&self.plan, &outcomes).await;
        }
    }
}

/// One choice of a stream that may be kept.
pub(super) struct Recorded {
    pub(super) start: Start,
    pub(super) index: usize,
    /// `None` where nothing is to be kept.
    pub(super) record: Option<Arc<Record>>,
}

impl Steps for Recorded {
    async fn next(&mut self) -> TurnStep {
        let step = self.start.next().await;
        if let (Some(record), TurnStep::Finished(Ok(outcome))) = (&self.record, &step) {
            record.add(self.index, outcome.clone()).await;
        }
        step
    }
}

/// The completion of `owner`'s; that of another is not there.
async fn find(edge: &Edge, id: Id, owner: &KeyId) -> Result<Document, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("completion_id", "The id is not UTF-8."))?;
    let found = edge.documents.get(KIND, &id).await?;
    found.filter(|document| document.owner == *owner).ok_or_else(|| not_found(&id))
}

fn object(document: &Document) -> Option<Object> {
    serde_json::from_slice(&document.body).ok()
}

fn not_found(id: &str) -> ApiError {
    ApiError::new("completion_not_found", format!("Chat completion with id '{id}' not found."))
}
