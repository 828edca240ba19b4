//! `POST /v1/chat/completions`: a pure translation to items and back.

mod decode;
mod fields;
pub(crate) mod kept;
pub(crate) mod legacy;
mod messages;
mod stream;
mod usage;
mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::future::try_join_all;
use serde_json::Value;

use self::decode::{Decoded, Settings};
pub(super) use self::fields::FIELDS;
use self::kept::{Record, Recorded, Shelf};
use self::stream::{Chunks, Start};
pub(crate) use self::whole::Completion;
use super::access::Access;
use super::classes::{Chosen, Silent};
use super::dry_run::About;
use super::edge::Edge;
use super::error::ApiError;
use super::extract::JsonBody;
use super::identity::Beginning;
use super::ignored::Ignored;
use super::items::check_modalities;
use super::limits::Cost;
use super::max_wait::MaxWait;
use super::observe::Call;
use super::time::unix_seconds;
use super::tools::check_own_tools;
use super::{answer, dry_run, effort, identity, sse};
use crate::bridge::BridgeError;
use crate::model::{CallTicket, Item, Priority, ResponseId, Retention, SessionIdentity, TurnRequest};

/// Answers with a completion, or its chunks.
pub(crate) async fn create(
    State(edge): State<Edge>,
    call: Call,
    access: Access,
    MaxWait(max_wait): MaxWait,
    dry: dry_run::Wanted,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let mut emulated = dry_run::emulated(FIELDS, &body);
    let Decoded { messages, mut settings, n, stream, to_keep, mut ignored } =
        decode::decode(body, edge.requests)?;
    let silent = Silent {
        model: &mut settings.model,
        verbosity: &mut settings.verbosity,
        max_output_tokens: &mut settings.max_tokens,
    };
    let allowed = |name: &str| access.allows(&edge.bridge, name);
    let mut class = edge.classes.choose(call.task_class(), &settings.metadata, allowed, silent)?;
    access.charge(dry, Cost { input: messages.tokens(), output: settings.max_tokens, answers: n })?;
    let bridge = edge.bridge.asked_by(call.key());
    settings.model = access.model(&bridge, settings.model).await?;
    if let Some(class) = &mut class {
        class.choose_effort(&bridge, settings.model.as_deref(), &mut settings.effort).await?;
    }
    call.note_class(class.as_ref().filter(|_| dry == dry_run::Wanted::Nothing));
    let (model, asked) = (settings.model.as_deref(), settings.effort.as_deref());
    effort::check(&bridge, model, asked, "reasoning_effort").await?;
    check_own_tools(&bridge, model, &settings.tools, "web_search_options").await?;
    let modalities = messages.modalities();
    let input = messages.finish(&edge.media).await?;
    check_modalities(&bridge, model, modalities).await?;
    let Access { priority, concurrency, .. } = access;
    let plan = Plan {
        max_wait,
        priority,
        concurrency,
        class,
        to_keep,
        ..Plan::new(call, input, settings, n, &mut ignored)
    };
    if dry != dry_run::Wanted::Nothing {
        let mut request = plan.turn(&plan.first);
        let rule = plan.settings.format.rule.as_deref();
        answer::under(&mut request, rule);
        emulated.extend(rule.map(|_| "response_format"));
        let (call, class) = (&plan.call, plan.class.as_ref());
        let about = About { call, class, emulated, ignored: &ignored, turns: n, stream };
        return dry_run::respond(dry, &edge.bridge, request, about).await.map_err(translate);
    }
    let plan = Arc::new(plan);
    let mut response = if stream { streamed(&edge, &plan).await? } else { whole(&edge, &plan).await? };
    ignored.report(&mut response);
    Ok(response)
}

/// Every choice is a turn of its own. The first failure ends the others: their futures are dropped.
async fn whole(edge: &Edge, plan: &Plan) -> Result<Response, ApiError> {
    let turns = std::iter::once(&plan.first).chain(&plan.others).map(|id| {
        let request = plan.turn(id);
        let rule = plan.settings.format.rule.clone();
        async move { answer::start(&edge.bridge, request, rule).await?.0.outcome().await }
    });
    let outcomes = try_join_all(turns).await.map_err(translate)?;
    Shelf::of(edge).keep(plan, &outcomes).await;
    Ok(Json(Completion::new(plan, &outcomes)).into_response())
}

/// The first choice is admitted before the head is sent, so that a full house is a status code; the others
/// start as the stream is read: each waits for a slot of its own then, beside those that run.
async fn streamed(edge: &Edge, plan: &Arc<Plan>) -> Result<Response, ApiError> {
    let rule = &plan.settings.format.rule;
    let (first, model) =
        answer::start(&edge.bridge, plan.turn(&plan.first), rule.clone()).await.map_err(translate)?;
    let chunks = Chunks::new(plan, &model);
    let later = plan.others.iter().map(|id| {
        let (bridge, request, rule) = (edge.bridge.clone(), plan.turn(id), rule.clone());
        Start::later(async move { Ok(answer::start(&bridge, request, rule).await?.0) })
    });
    let record = plan.to_keep.is_some().then(|| Arc::new(Record::new(Shelf::of(edge), plan)));
    let turns = std::iter::once(Start::running(first)).chain(later).enumerate();
    let turns = turns.map(|(index, start)| Recorded { start, index, record: record.clone() }).collect();
    sse::respond(turns, chunks, &edge.stream).await.map_err(in_our_words)
}

/// What is asked of the engine, and what all choices of one completion share.
struct Plan {
    call: Call,
    /// Of all choices: those that still wait when the bridge is to stop go on with those that run.
    ticket: CallTicket,
    id: String,
    /// Unix seconds.
    created: u64,
    /// The first choice's.
    first: ResponseId,
    /// The other choices'.
    others: Vec<ResponseId>,
    input: Vec<Item>,
    settings: Settings,
    /// For each of the turns.
    max_wait: Option<Duration>,
    priority: Priority,
    concurrency: Option<usize>,
    class: Option<Chosen>,
    /// The messages as they came, where the completion is to be kept with them.
    to_keep: Option<Vec<Value>>,
    session: SessionIdentity,
    client_metadata: BTreeMap<String, String>,
}

impl Plan {
    fn new(call: Call, input: Vec<Item>, settings: Settings, n: usize, ignored: &mut Ignored) -> Self {
        let (first, key) = (ResponseId::generate(), call.key());
        let prompt_cache_key = settings.prompt_cache_key.as_deref();
        let named = identity::Body { metadata: &settings.metadata, prompt_cache_key };
        let beginning = Beginning { key: &key, instructions: None, items: &input };
        let session = identity::resolve(&call.caller, named, Some(beginning), ignored);
        let client_metadata = identity::forwarded(&settings.metadata, ignored);
        call.note_ignored(ignored);
        let id = format!("chatcmpl-{}", first.as_str().trim_start_matches("resp_"));
        let others = (1..n).map(|_| ResponseId::generate()).collect();
        let created = unix_seconds(SystemTime::now());
        Self {
            call,
            ticket: CallTicket::default(),
            id,
            created,
            first,
            others,
            input,
            settings,
            max_wait: None,
            priority: Priority::default(),
            concurrency: None,
            class: None,
            to_keep: None,
            session,
            client_metadata,
        }
    }

    /// The turn of one choice; made once for each.
    fn turn(&self, id: &ResponseId) -> TurnRequest {
        let settings = &self.settings;
        let mut request = TurnRequest {
            response_id: id.clone(),
            request_id: self.call.request_id.clone(),
            ticket: self.ticket.clone(),
            key: self.call.key(),
            session: self.session.clone(),
            task_class: None,
            priority: self.priority,
            concurrency: self.concurrency,
            deadline: None,
            trace: self.call.begin(id, &self.session),
            model: settings.model.clone(),
            instructions: None,
            input: self.input.clone(),
            previous: None,
            compacts: false,
            effort: settings.effort.clone(),
            summary: settings.summary.clone(),
            verbosity: settings.verbosity.map(str::to_owned),
            service_tier: settings.tier.sent.map(str::to_owned),
            output_schema: settings.format.output_schema.clone(),
            tools: settings.tools.offered.clone(),
            tool_choice: settings.tools.choice.clone(),
            parallel_tool_calls: settings.tools.parallel,
            web_search: settings.tools.web_search.clone(),
            image_generation: false,
            max_output_tokens: settings.max_tokens,
            stop: settings.stop.clone(),
            max_retry_wait: self.max_wait,
            retention: Retention::Nothing,
            head: None,
            spent: None,
            until: None,
            encrypted_reasoning: false,
            prompt_cache_key: settings.prompt_cache_key.clone(),
            client_metadata: self.client_metadata.clone(),
        };
        if let Some(class) = &self.class {
            class.complete(&mut request);
        }
        request
    }
}

fn translate(error: BridgeError) -> ApiError {
    in_our_words(error.into())
}

/// The engine names fields as the Responses API does.
fn in_our_words(mut error: ApiError) -> ApiError {
    let ours = |param: &str| match param {
        "reasoning.effort" => "reasoning_effort".to_owned(),
        "text.verbosity" => "verbosity".to_owned(),
        "text" | "text.format" | "text.format.schema" => "response_format".to_owned(),
        _ if param == "input" || param.starts_with("input[") => "messages".to_owned(),
        other => other.to_owned(),
    };
    error.param = error.param.as_deref().map(ours);
    error
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
