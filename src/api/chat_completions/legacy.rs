//! `POST /v1/completions`, for old tools: each prompt is one user message and nothing beside it, each choice a turn.

mod fields;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::future::try_join_all;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) use self::fields::FIELDS;
use super::decode::{MAX_CHOICES, Settings, take_stop, take_stream_options};
use super::stream::{Start, Written};
use super::usage::{CompletionUsage, Totals};
use super::whole::{BREAK, finish_reason, text};
use super::{Plan, translate};
use crate::api::access::Access;
use crate::api::classes::Silent;
use crate::api::dry_run::{self, About};
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::extract::JsonBody;
use crate::api::fields::apply_rest;
use crate::api::ignored::Ignored;
use crate::api::limits::Cost;
use crate::api::max_wait::MaxWait;
use crate::api::observe::{Call, Envelope};
use crate::api::read::{self, Fields, missing, wrong_type};
use crate::api::sse::{Encode, Frames};
use crate::api::{answer, sse};
use crate::bridge::BridgeError;
use crate::config::RequestsConfig;
use crate::model::{CallTicket, Item, Outcome, ResponseId, TurnEvent};

/// Tokens of an answer where the caller does not say, as officially.
const USUAL_TOKENS: u64 = 16;

/// Answers with a completion, or its chunks.
pub(crate) async fn create(
    State(edge): State<Edge>,
    call: Call,
    access: Access,
    MaxWait(max_wait): MaxWait,
    dry: dry_run::Wanted,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let emulated = dry_run::emulated(FIELDS, &body);
    let Decoded { prompts, mut settings, n, echo, stream, mut ignored } = decode(body, edge.requests)?;
    let silent = Silent {
        model: &mut settings.model,
        verbosity: &mut settings.verbosity,
        max_output_tokens: &mut settings.max_tokens,
    };
    let allowed = |name: &str| access.allows(&edge.bridge, name);
    let mut class = edge.classes.choose(call.task_class(), &settings.metadata, allowed, silent)?;
    settings.max_tokens = settings.max_tokens.or(Some(USUAL_TOKENS));
    let said: usize = prompts.iter().map(String::len).sum();
    let answers = prompts.len() * n;
    access.charge(dry, Cost { input: said as u64 / 4, output: settings.max_tokens, answers })?;
    let bridge = edge.bridge.asked_by(call.key());
    settings.model = access.model(&bridge, settings.model).await?;
    if let Some(class) = &mut class {
        class.choose_effort(&bridge, settings.model.as_deref(), &mut settings.effort).await?;
    }
    call.note_class(class.as_ref().filter(|_| dry == dry_run::Wanted::Nothing));
    let Access { priority, concurrency, .. } = access;
    // One call, however many prompts.
    let ticket = CallTicket::default();
    let plan = |prompt: &String| {
        let input = vec![Item::input_text("user", prompt)];
        let plan = Plan::new(call.clone(), input, settings.clone(), n, &mut ignored);
        Plan { ticket: ticket.clone(), max_wait, priority, concurrency, class: class.clone(), ..plan }
    };
    let plans: Vec<Plan> = prompts.iter().map(plan).collect();
    let turns = plans.iter().enumerate().flat_map(|(prompt, plan)| {
        std::iter::once(&plan.first).chain(&plan.others).map(move |id| (prompt, plan, id))
    });
    let turns: Vec<(usize, &Plan, &ResponseId)> = turns.collect();
    let Some((_, first, _)) = turns.first() else { return Err(missing("prompt")) };
    if dry != dry_run::Wanted::Nothing {
        let about = About {
            call: &call,
            class: first.class.as_ref(),
            emulated,
            ignored: &ignored,
            turns: turns.len(),
            stream,
        };
        let request = first.turn(&first.first);
        return dry_run::respond(dry, &edge.bridge, request, about).await.map_err(of_engine);
    }
    let head = Head {
        id: first.id.replacen("chatcmpl-", "cmpl-", 1),
        created: first.created,
        model: String::new(),
        prompts: if echo { prompts.clone() } else { vec![String::new(); prompts.len()] },
        of_prompt: turns.iter().map(|(prompt, ..)| *prompt).collect(),
        include_usage: settings.include_usage,
        call: call.clone(),
    };
    let mut response =
        if stream { streamed(&edge, &turns, head).await? } else { whole(&edge, &turns, head).await? };
    ignored.report(&mut response);
    Ok(response)
}

/// The first failure ends the other turns: their futures are dropped.
async fn whole(
    edge: &Edge,
    turns: &[(usize, &Plan, &ResponseId)],
    mut head: Head,
) -> Result<Response, ApiError> {
    let turns = turns.iter().map(|(_, plan, id)| {
        let request = plan.turn(id);
        async move { answer::start(&edge.bridge, request, None).await?.0.outcome().await }
    });
    let outcomes = try_join_all(turns).await.map_err(of_engine)?;
    head.model = outcomes.first().map(|outcome| outcome.model.clone()).unwrap_or_default();
    let mut totals = head.totals();
    for (prompt, outcome) in head.of_prompt.iter().zip(&outcomes) {
        totals[*prompt].add(outcome.usage);
    }
    let choice = |(index, outcome): (usize, &Outcome)| Choice {
        text: head.prompts[head.of_prompt[index]].clone() + &said(&outcome.output),
        index,
        logprobs: None,
        finish_reason: Some(finish_reason(outcome, false)),
    };
    let choices: Vec<Choice> = outcomes.iter().enumerate().map(choice).collect();
    let completion = head.completion(&choices, Some(Totals::sum(&totals).into()), head.call.envelope());
    Ok(Json(completion).into_response())
}

/// As in Chat Completions: the first turn is admitted before the head is sent, the others as the stream is read.
async fn streamed(
    edge: &Edge,
    turns: &[(usize, &Plan, &ResponseId)],
    mut head: Head,
) -> Result<Response, ApiError> {
    let mut steps = Vec::with_capacity(turns.len());
    for (_, plan, id) in turns {
        let request = plan.turn(id);
        if steps.is_empty() {
            let started = answer::start(&edge.bridge, request, None).await;
            let (answer, model) = started.map_err(of_engine)?;
            head.model = model;
            steps.push(Start::running(answer));
        } else {
            let bridge = edge.bridge.clone();
            steps.push(Start::later(async move { Ok(answer::start(&bridge, request, None).await?.0) }));
        }
    }
    sse::respond(steps, Texts::new(head), &edge.stream)
        .await
        .map_err(|error| in_our_words(super::in_our_words(error)))
}

/// A request, read and checked.
#[derive(Debug)]
struct Decoded {
    /// At least one.
    prompts: Vec<String>,
    settings: Settings,
    /// Choices of each prompt; at least 1.
    n: usize,
    echo: bool,
    stream: bool,
    ignored: Ignored,
}

fn decode(body: Map<String, Value>, config: RequestsConfig) -> Result<Decoded, ApiError> {
    let mut body = Fields::new("", body);
    let mut ignored = Ignored::default();
    let prompts = take_prompts(&mut body)?;
    let n = match body.take("n") {
        Some(n) => usize::try_from(read::integer("n", &n, 1, MAX_CHOICES)?).unwrap_or(1),
        None => 1,
    };
    if i64::try_from(prompts.len() * n).is_ok_and(|choices| choices > MAX_CHOICES) {
        let message = format!("Invalid 'prompt': prompts times 'n' are more than {MAX_CHOICES} choices.");
        return Err(ApiError::invalid("prompt", message).with_code("array_above_max_length"));
    }
    let stream = body.boolean("stream")?.unwrap_or(false);
    let settings = Settings {
        model: body.string("model")?.filter(|model| !model.is_empty()),
        max_tokens: read::token_limit(&mut body, "max_tokens", 1)?,
        stop: take_stop(&mut body)?,
        include_usage: take_stream_options(&mut body, stream, &mut ignored)?,
        ..Settings::default()
    };
    let echo = body.boolean("echo")?.unwrap_or(false);
    apply_rest(FIELDS, body, &mut ignored)?;
    ignored.refuse_if(config.strict_params)?;
    Ok(Decoded { prompts, settings, n, echo, stream, ignored })
}

fn take_prompts(body: &mut Fields) -> Result<Vec<String>, ApiError> {
    let prompt = |(param, value): (String, Value)| match value {
        Value::String(text) if text.is_empty() => {
            let message = format!("Invalid '{param}': empty string. There is nothing to go on from.");
            Err(ApiError::invalid(param, message).with_code("string_below_min_length"))
        }
        Value::String(text) => Ok(text),
        Value::Number(_) | Value::Array(_) => {
            let message =
                "Prompts of tokens cannot be had here: the model's tokens are not known. Send the text.";
            Err(ApiError::invalid(param, message).with_code("unsupported_value"))
        }
        other => Err(wrong_type(param, "a string", &other)),
    };
    match body.required("prompt")? {
        Value::Array(prompts) if prompts.is_empty() => {
            let message = "Invalid 'prompt': empty array. Expected at least one text.";
            Err(ApiError::invalid("prompt", message).with_code("empty_array"))
        }
        Value::Array(prompts) => {
            let placed = prompts.into_iter().enumerate();
            placed.map(|(index, value)| prompt((format!("prompt[{index}]"), value))).collect()
        }
        one => Ok(vec![prompt(("prompt".into(), one))?]),
    }
}

/// The whole text of an answer.
fn said(output: &[Item]) -> String {
    let texts: Vec<String> = output.iter().map(text).filter(|text| !text.is_empty()).collect();
    texts.join(BREAK)
}

fn of_engine(error: BridgeError) -> ApiError {
    in_our_words(translate(error))
}

/// A chat request's field names are not those of this one.
fn in_our_words(mut error: ApiError) -> ApiError {
    if error.param.as_deref() == Some("messages") {
        error.param = Some("prompt".into());
    }
    error
}

/// What all parts of an answer share.
struct Head {
    id: String,
    /// Unix seconds.
    created: u64,
    model: String,
    /// What goes before the answers of each prompt.
    prompts: Vec<String>,
    /// The prompt of each choice.
    of_prompt: Vec<usize>,
    include_usage: bool,
    call: Call,
}

impl Head {
    /// One for each prompt, which is counted once.
    fn totals(&self) -> Vec<Totals> {
        self.prompts.iter().map(|_| Totals::default()).collect()
    }

    fn completion<'a>(
        &'a self,
        choices: &'a [Choice],
        usage: Option<Usage>,
        bridge: Option<Envelope>,
    ) -> Completion<'a> {
        let object = "text_completion";
        Completion { id: &self.id, object, created: self.created, model: &self.model, choices, usage, bridge }
    }
}

/// The official `text_completion`, whole or a chunk of it.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice],
    /// In a stream on the last chunk alone, and null before, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// Ours, only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<Envelope>,
}

/// Null while it is not known.
#[derive(Debug, JsonSchema, Serialize)]
struct Usage(Option<CompletionUsage>);

impl From<Option<CompletionUsage>> for Usage {
    fn from(usage: Option<CompletionUsage>) -> Self {
        Self(usage)
    }
}

#[derive(Debug, JsonSchema, Serialize)]
struct Choice {
    text: String,
    index: usize,
    logprobs: Option<()>,
    /// `None` while more follows.
    finish_reason: Option<&'static str>,
}

/// Writes the chunks.
struct Texts {
    head: Head,
    /// What of each choice has been written.
    written: Vec<Written>,
    totals: Vec<Totals>,
    /// Choices that have not ended.
    open: usize,
    /// An error ends the stream for its reader: nothing but the end follows.
    failed: bool,
}

impl Texts {
    fn new(head: Head) -> Self {
        let written = head.of_prompt.iter().map(|_| Written::default()).collect();
        Self { totals: head.totals(), open: head.of_prompt.len(), written, head, failed: false }
    }

    fn write(&self, index: usize, text: String, finish_reason: Option<&'static str>, out: &mut Frames) {
        let last = self.open == 0 && !self.head.include_usage;
        let bridge = if last { self.head.call.envelope() } else { None };
        let usage = self.head.include_usage.then_some(Usage(None));
        let choices = [Choice { text, index, logprobs: None, finish_reason }];
        out.event(None, &self.head.completion(&choices, usage, bridge));
    }

    fn add(&mut self, index: usize, item: &str, text: &str, out: &mut Frames) {
        if let Some(text) = self.written.get_mut(index).and_then(|written| written.add(item, text)) {
            self.write(index, text, None, out);
        }
    }

    /// What of a finished message did not come as deltas.
    fn rest(&mut self, index: usize, item: &Item, out: &mut Frames) {
        let (id, whole) = (item.id().unwrap_or_default(), text(item));
        let rest = self.written.get(index).map(|written| written.rest(id, &whole).to_owned());
        self.add(index, id, &rest.unwrap_or_default(), out);
    }
}

impl Encode for Texts {
    fn start(&mut self, out: &mut Frames) {
        for (index, prompt) in self.head.of_prompt.iter().enumerate() {
            let prompt = &self.head.prompts[*prompt];
            if !prompt.is_empty() {
                self.write(index, prompt.clone(), None, out);
            }
        }
    }

    fn event(&mut self, index: usize, event: TurnEvent, out: &mut Frames) {
        if self.failed {
            return;
        }
        match event {
            TurnEvent::TextDelta { item_id, delta } => self.add(index, &item_id, &delta, out),
            TurnEvent::ItemDone(item) => self.rest(index, &item, out),
            _ => {}
        }
    }

    fn finish(&mut self, index: usize, result: Result<Outcome, BridgeError>, out: &mut Frames) {
        if self.failed {
            return;
        }
        match result {
            Ok(outcome) => {
                if let Some(totals) = self.head.of_prompt.get(index).and_then(|at| self.totals.get_mut(*at)) {
                    totals.add(outcome.usage);
                }
                self.open = self.open.saturating_sub(1);
                self.write(index, String::new(), Some(finish_reason(&outcome, false)), out);
            }
            Err(error) => {
                self.failed = true;
                let error = of_engine(error);
                self.head.call.note_error(&error);
                out.event(None, &error.body().with_trace(self.head.call.envelope().as_ref()));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.failed
    }

    fn end(&mut self, out: &mut Frames) {
        if self.head.include_usage && !self.failed {
            let usage = Some(Totals::sum(&self.totals).into());
            out.event(None, &self.head.completion(&[], usage, self.head.call.envelope()));
        }
        out.done();
    }
}

#[cfg(test)]
mod tests;
