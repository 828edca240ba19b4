//! `/v1/batches`: many requests in a file, run beside everything else, each with exactly one line of result. A row is a
//! call like any other of its key's, through the same routes, in the class `batch`.

mod document;
mod input;
mod jobs;
pub(crate) mod line;
mod results;
mod row;
mod runner;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::HeaderMap;
use serde_json::{Map, Value};

pub(crate) use self::document::Object;
pub(crate) use self::jobs::{Batches, Report};

use self::document::Asked;
use self::line::ENDPOINTS;
use super::edge::Edge;
use super::error::ApiError;
use super::extract::JsonBody;
use super::fields::{Check, Field};
use super::file_objects;
use super::ignored::Ignored;
use super::list::{AFTER, LIMIT, List, ORDER, Paging};
use super::observe::Call;
use super::openapi::Parameter;
use super::query::Query;
use super::read::{self, Fields, missing};
use crate::store::{DocumentKind, Page};

/// The one `completion_window` of the official API.
const WINDOW: &str = "24h";

pub(crate) const CREATE_FIELDS: &[Field] = &[
    Field::honoured("input_file_id").is(Check::Text).required().note("a file of purpose `batch`"),
    Field::honoured("endpoint").is(Check::Word(&ENDPOINTS)).required().note("what every row calls"),
    Field::honoured("completion_window")
        .is(Check::Word(&[WINDOW]))
        .required()
        .note("`batches.window` in truth"),
    Field::honoured("metadata").is(Check::Metadata),
    Field::honoured("output_expires_after").is(Check::Object).note("how long the files of results live"),
    Field::honoured("output_expires_after.anchor").is(Check::Word(&["created_at"])),
    Field::honoured("output_expires_after.seconds")
        .is(Check::Integer(*file_objects::LIVES.start(), *file_objects::LIVES.end())),
];
pub(crate) const LIST_QUERY: &[Parameter] = &[AFTER, LIMIT, ORDER];

type Id = Result<Path<String>, PathRejection>;

/// `POST /v1/batches`: the batch as it begins; whether its input is right, it tells later.
pub(crate) async fn create(
    State(edge): State<Edge>,
    call: Call,
    head: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<axum::response::Response, ApiError> {
    let mut body = Fields::new("", body);
    let mut ignored = Ignored::default();
    let input_file = body.required_string("input_file_id")?;
    let endpoint = body.one_of("endpoint", &ENDPOINTS)?.ok_or_else(|| missing("endpoint"))?;
    body.one_of("completion_window", &[WINDOW])?.ok_or_else(|| missing("completion_window"))?;
    let metadata = read::metadata(&mut body)?;
    let results_live = body.object("output_expires_after")?.map(results_live).transpose()?;
    for (name, _) in body.rest().into_iter().filter(|(_, value)| !value.is_null()) {
        ignored.add(name);
    }
    ignored.refuse_if(edge.requests.strict_params)?;
    let file = edge.files.find(&input_file, &call.key()).await?;
    if file.is_none_or(|file| file.head.purpose != file_objects::BATCH) {
        let message = format!("No file of purpose 'batch' with id '{input_file}' found.");
        return Err(ApiError::invalid("input_file_id", message).with_code("invalid_value"));
    }
    let task_class = super::classes::header(&head);
    let asked = Asked { endpoint: endpoint.into(), input_file, metadata, task_class, results_live };
    let batch = Batches::create(&edge, call.key(), asked).await?;
    let mut response = axum::response::IntoResponse::into_response(Json(batch));
    ignored.report(&mut response);
    Ok(response)
}

/// `GET /v1/batches`.
pub(crate) async fn list(State(edge): State<Edge>, call: Call, query: Query) -> Result<Json<List>, ApiError> {
    let paging = Paging::of(&query, "desc")?;
    let page = Page { after: paging.after.as_deref(), limit: paging.limit, descending: paging.descending };
    let listed = edge.documents.list(DocumentKind::Batch, &call.key(), page).await?;
    let listed = listed.ok_or_else(|| paging.unknown_after())?;
    let shown = listed.found.iter().map(|document| Ok(fields(edge.batches.shown(document)?)));
    Ok(Json(List::new(shown.collect::<Result<_, ApiError>>()?, listed.has_more)))
}

/// `GET /v1/batches/{id}`.
pub(crate) async fn retrieve(State(edge): State<Edge>, call: Call, id: Id) -> Result<Json<Value>, ApiError> {
    let id = batch_id(id)?;
    edge.batches.find(&id, &call.key()).await?.map(Json).ok_or_else(|| not_found(&id))
}

/// `POST /v1/batches/{id}/cancel`: rows that run are given up.
pub(crate) async fn cancel(State(edge): State<Edge>, call: Call, id: Id) -> Result<Json<Value>, ApiError> {
    let id = batch_id(id)?;
    edge.batches.cancel(&id, &call.key()).await?.map(Json).ok_or_else(|| not_found(&id))
}

/// `output_expires_after`, seconds.
fn results_live(mut fields: Fields) -> Result<u64, ApiError> {
    let anchor = fields.string("anchor")?;
    let seconds = fields.take("seconds").map(|seconds| {
        let expected = || read::wrong_type("output_expires_after.seconds", "an integer", &seconds);
        seconds.as_i64().ok_or_else(expected)
    });
    file_objects::lives("output_expires_after", anchor.as_deref(), seconds.transpose()?)
}

fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn batch_id(id: Id) -> Result<String, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("id", "The id is not UTF-8."))?;
    Ok(id)
}

fn not_found(id: &str) -> ApiError {
    ApiError::new("batch_not_found", format!("No batch found with id '{id}'."))
}
