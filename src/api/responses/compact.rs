//! `POST /v1/responses/compact`: what takes a conversation's place, to be sent as the input of the next request.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::decode::TIERS;
use super::kept::given;
use super::wire::{Form, OutputItem, ResponseUsage};
use super::{Asker, Transport, prepare};
use crate::api::access::Access;
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::extract::JsonBody;
use crate::api::fields::{Check, Field, Neutral, RETENTIONS, apply_rest};
use crate::api::ignored::Ignored;
use crate::api::max_wait::MaxWait;
use crate::api::observe::Call;
use crate::api::read::Fields;
use crate::api::time::unix_seconds;
use crate::model::{Outcome, ResponseId, Retention};

/// Every field of a request and what becomes of it, in the order of the official reference.
pub(crate) const COMPACT_FIELDS: &[Field] = &[
    Field::honoured("model").is(Check::Text).note("the key's or the bridge's default where it is absent"),
    Field::honoured("input").is(Check::TextOr(&Check::List(&Check::Object))).note("as on `/v1/responses`"),
    Field::honoured("previous_response_id")
        .is(Check::Text)
        .note("the whole chain is compacted; the response itself stays as it is"),
    Field::honoured("instructions").is(Check::Text).note(
        "the summary is made under them, and does not hold them: send them again with the next request",
    ),
    Field::emulated("prompt_cache_key")
        .is(Check::Text)
        .note("names the session where nothing before it does"),
    Field::ignored("prompt_cache_retention", Check::Word(RETENTIONS), Neutral::None),
    Field::ignored("prompt_cache_options", Check::Object, Neutral::Empty),
    Field::honoured("service_tier").is(Check::Word(TIERS)).note("as on `/v1/responses`"),
];

/// The official object.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Compacted {
    id: String,
    object: &'static str,
    created_at: u64,
    output: Vec<OutputItem>,
    usage: ResponseUsage,
}

/// Reads and checks the request as one for a response, which is none: the conversation is compacted on a thread of
/// its own. A client that leaves drops this future, and with it the turn.
pub(crate) async fn compact(
    State(edge): State<Edge>,
    call: Call,
    access: Access,
    MaxWait(max_wait): MaxWait,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let mut body = Fields::new("", body);
    let mut taken = Map::new();
    for field in COMPACT_FIELDS.iter().filter(|field| field.is_read()) {
        taken.extend(body.take(field.name).map(|value| (field.name.to_owned(), value)));
    }
    let mut ignored = Ignored::default();
    apply_rest(COMPACT_FIELDS, body, &mut ignored)?;
    ignored.refuse_if(edge.requests.strict_params)?;
    taken.insert("store".into(), Value::Bool(false));
    let created_at = unix_seconds(SystemTime::now());
    let asker =
        Asker { call: &call, access: &access, max_wait, pays: true, transport: Transport::Http, created_at };
    let prepared = prepare(&edge, asker, ResponseId::generate(), taken).await?;
    prepared.ignored.names().iter().for_each(|name| ignored.add(name.as_str()));
    let mut request = prepared.request;
    (request.compacts, request.retention) = (true, Retention::Nothing);
    let id = request.response_id.clone();
    let outcome = edge.bridge.run(request).await?.outcome().await?;
    let compacted = Compacted::new(&edge, &call, &id, created_at, outcome)?;
    let mut response = Json(compacted).into_response();
    ignored.report(&mut response);
    Ok(response)
}

impl Compacted {
    fn new(
        edge: &Edge,
        call: &Call,
        id: &ResponseId,
        created_at: u64,
        outcome: Outcome,
    ) -> Result<Self, ApiError> {
        let Outcome { mut output, usage, .. } = outcome;
        let lost = || ApiError::new("compaction_lost", "The summary could not be made ready to be told.");
        let summary = output.pop().ok_or_else(lost)?;
        let item_id = format!("cmp_{}", id.as_str().trim_start_matches("resp_"));
        output.push(edge.compactions.told(&call.key(), item_id, &summary).ok_or_else(lost)?);
        let form = Form { id: id.as_str(), encrypted_reasoning: false };
        let output = output.iter().enumerate().filter_map(|(index, item)| given(item, index, form)).collect();
        Ok(Self {
            id: id.to_string(),
            object: "response.compaction",
            created_at,
            output,
            usage: usage.unwrap_or_default().into(),
        })
    }
}
