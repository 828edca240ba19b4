//! `/v1/files`: what batches are read from and what they are written to. A file is a document; its parts are the
//! document's entries, so that it is never in memory as a whole.

mod shelf;
mod upload;

use std::ops::RangeInclusive;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use futures_util::stream;
use http::HeaderValue;
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

pub(crate) use self::shelf::{BATCH, Files, Head, Parts, StoredFile};
use super::edge::Edge;
use super::error::ApiError;
use super::fields::Check;
use super::list::{AFTER, Deletion, List, ORDER, Paging};
use super::observe::Call;
use super::openapi::Parameter;
use super::query::Query;
use super::time::unix_seconds;
use crate::model::KeyId;

/// Most files of a page, and how many where the caller does not say, as the official bound.
const MOST: u16 = 10_000;

const LIMIT: Parameter =
    Parameter::new("limit", Check::Integer(1, MOST as i64), "most files of the page; 10000 where not said");
const PURPOSE: Parameter = Parameter::new("purpose", Check::Text, "only files of this purpose");
pub(crate) const LIST_QUERY: &[Parameter] = &[AFTER, LIMIT, ORDER, PURPOSE];
/// What an upload may fail with, beside the store.
pub(crate) const UPLOAD_FAILS: &[&str] = &[
    "",
    "missing_required_parameter",
    "invalid_type",
    "invalid_value",
    "unsupported_value",
    "string_above_max_length",
    "integer_above_max_value",
    "integer_below_min_value",
    "empty_file",
    "request_timeout",
    "request_too_large",
    "unsupported_media_type",
    "server_overloaded",
];

/// How long a file may be asked to live, seconds; as the official bounds.
pub(crate) const LIVES: RangeInclusive<i64> = 3600..=2_592_000;

type Id = Result<Path<String>, PathRejection>;

/// `POST /v1/files`, as a form.
pub(crate) async fn create(
    State(edge): State<Edge>,
    call: Call,
    request: Request,
) -> Result<Json<Resource>, ApiError> {
    let stored = upload::take(&edge, &call.key(), request).await?;
    Ok(Json(Resource::of(&stored)))
}

/// `GET /v1/files`.
pub(crate) async fn list(State(edge): State<Edge>, call: Call, query: Query) -> Result<Json<List>, ApiError> {
    let paging = Paging::within(&query, "desc", MOST.into(), MOST)?;
    let listed = edge.files.list(&call.key(), query.text("purpose"), &paging).await?;
    let listed = listed.ok_or_else(|| paging.unknown_after())?;
    let shown = listed.found.iter().map(|file| Resource::of(file).fields()).collect();
    Ok(Json(List::new(shown, listed.has_more)))
}

/// `GET /v1/files/{id}`.
pub(crate) async fn retrieve(
    State(edge): State<Edge>,
    call: Call,
    id: Id,
) -> Result<Json<Resource>, ApiError> {
    Ok(Json(Resource::of(&find(&edge, id, &call.key()).await?)))
}

/// `DELETE /v1/files/{id}`. A batch that still reads it fails.
pub(crate) async fn delete(State(edge): State<Edge>, call: Call, id: Id) -> Result<Json<Deletion>, ApiError> {
    let file = find(&edge, id, &call.key()).await?;
    edge.files.remove(&file.id).await?;
    Ok(Json(Deletion { id: file.id, object: "file", deleted: true }))
}

/// The schema of the form that is taken.
pub(crate) fn form() -> Value {
    json!({ "type": "object", "required": ["file", "purpose"], "properties": {
        "file": { "type": "string", "format": "binary" },
        "purpose": { "type": "string", "enum": [BATCH] },
        "expires_after[anchor]": { "type": "string", "enum": ["created_at"] },
        "expires_after[seconds]": { "type": "integer", "minimum": *LIVES.start(), "maximum": *LIVES.end() },
    } })
}

/// `GET /v1/files/{id}/content`: part by part. What breaks off on the way is shorter than its length says.
pub(crate) async fn content(State(edge): State<Edge>, call: Call, id: Id) -> Result<Response, ApiError> {
    let file = find(&edge, id, &call.key()).await?;
    let length = file.head.bytes;
    let parts = stream::try_unfold(edge.files.parts(&file.id), async |mut parts: Parts| {
        Ok::<_, crate::store::StoreError>(parts.next().await?.map(|part| (part, parts)))
    });
    let mut response = Response::new(Body::from_stream(parts));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    // Whatever a browser would make of it otherwise.
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

/// The official object.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Resource {
    id: String,
    object: &'static str,
    bytes: u64,
    created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    filename: String,
    purpose: String,
    status: &'static str,
}

impl Resource {
    fn of(file: &StoredFile) -> Self {
        let head = &file.head;
        Self {
            id: file.id.clone(),
            object: "file",
            bytes: head.bytes,
            created_at: head.created_at,
            expires_at: file.expires_at.map(unix_seconds),
            filename: head.filename.clone(),
            purpose: head.purpose.clone(),
            status: "processed",
        }
    }

    fn fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        }
    }
}

/// The file of `owner`'s; that of another is not there.
async fn find(edge: &Edge, id: Id, owner: &KeyId) -> Result<StoredFile, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("id", "The id is not UTF-8."))?;
    edge.files.find(&id, owner).await?.ok_or_else(|| not_found(&id))
}

/// As the official API says it.
pub(crate) fn not_found(id: &str) -> ApiError {
    ApiError::new("file_not_found", format!("No such File object: {id}"))
}

/// `expires_after`: how many seconds after it is made.
pub(crate) fn lives(param: &str, anchor: Option<&str>, seconds: Option<i64>) -> Result<u64, ApiError> {
    if anchor != Some("created_at") {
        return Err(super::read::not_one_of(format!("{param}.anchor"), &["created_at"]));
    }
    let name = format!("{param}.seconds");
    let seconds = seconds.ok_or_else(|| super::read::missing(name.as_str()))?;
    let seconds = super::read::integer(&name, &seconds.into(), *LIVES.start(), *LIVES.end())?;
    Ok(seconds.unsigned_abs())
}
