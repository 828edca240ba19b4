//! The answer in chunks.

use std::future::Future;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;

use super::usage::{CompletionUsage, Totals};
use super::whole::{BREAK, annotations, calls, finish_reason, is_call, refusal, summary, text};
use super::{Plan, translate};
use crate::api::answer::Answer;
use crate::api::observe::{Call, Envelope};
use crate::api::sse::{Encode, Frames, Steps};
use crate::bridge::{BridgeError, TurnStep};
use crate::model::{Item, Outcome, TurnEvent};

/// A turn that runs, or one that is started when its first step is asked for.
pub(super) struct Start(State);

enum State {
    Starting(BoxFuture<'static, Result<Answer, BridgeError>>),
    Running(Answer),
}

impl Start {
    pub(super) fn running(answer: Answer) -> Self {
        Self(State::Running(answer))
    }

    pub(super) fn later(start: impl Future<Output = Result<Answer, BridgeError>> + Send + 'static) -> Self {
        Self(State::Starting(start.boxed()))
    }
}

impl Steps for Start {
    /// Cancel-safe: the start goes on where it was.
    async fn next(&mut self) -> TurnStep {
        loop {
            match &mut self.0 {
                State::Running(answer) => return answer.next().await,
                State::Starting(start) => match start.await {
                    Ok(answer) => self.0 = State::Running(answer),
                    Err(error) => return TurnStep::Finished(Err(error)),
                },
            }
        }
    }
}

/// Writes `chat.completion.chunk`s.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the request's, or the one state")]
pub(super) struct Chunks {
    id: String,
    created: u64,
    model: String,
    service_tier: Option<&'static str>,
    include_usage: bool,
    shows_reasoning: bool,
    deprecated_functions: bool,
    choices: Vec<ChoiceState>,
    totals: Totals,
    /// Choices that have not ended.
    open: usize,
    /// An error ends the stream for its reader: nothing but the end follows.
    failed: bool,
    call: Call,
}

/// What of one choice has been written.
#[derive(Debug, Default)]
struct ChoiceState {
    content: Written,
    reasoning: Written,
    /// The `call_id`s of the calls written.
    calls: Vec<String>,
}

/// Bytes written of each item with an id, so that an item's end adds only what its deltas left out.
#[derive(Debug, Default)]
pub(super) struct Written {
    items: Vec<(String, usize)>,
    /// The item written last; empty before the first and after one without an id.
    last: String,
    /// Something was written.
    any: bool,
}

impl Chunks {
    pub(super) fn new(plan: &Plan, model: &str) -> Self {
        Self {
            id: plan.id.clone(),
            created: plan.created,
            model: model.to_owned(),
            service_tier: plan.settings.tier.shown,
            include_usage: plan.settings.include_usage,
            shows_reasoning: plan.settings.shows_reasoning(),
            deprecated_functions: plan.settings.deprecated_functions,
            choices: (0..=plan.others.len()).map(|_| ChoiceState::default()).collect(),
            totals: Totals::default(),
            open: plan.others.len() + 1,
            failed: false,
            call: plan.call.clone(),
        }
    }

    /// `last`: no chunk follows it.
    fn write(
        &self,
        choice: Option<&Choice<'_>>,
        usage: Option<CompletionUsage>,
        last: bool,
        out: &mut Frames,
    ) {
        let chunk = Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices: choice.map_or(&[], std::slice::from_ref),
            service_tier: self.service_tier,
            usage: self.include_usage.then_some(UsageOrNull(usage)),
            bridge: if last { self.call.envelope() } else { None },
        };
        out.event(None, &chunk);
    }

    fn delta(&self, index: usize, delta: Delta<'_>, out: &mut Frames) {
        self.write(Some(&Choice { index, delta, logprobs: None, finish_reason: None }), None, false, out);
    }

    /// More of a message's text.
    fn content(&mut self, index: usize, item: &str, text: &str, out: &mut Frames) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        if let Some(text) = choice.content.add(item, text) {
            self.delta(index, Delta { content: Some(&text), ..Delta::default() }, out);
        }
    }

    /// More of a reasoning summary, for those who asked for one.
    fn reasoning(&mut self, index: usize, item: &str, text: &str, out: &mut Frames) {
        let Some(choice) = self.choices.get_mut(index).filter(|_| self.shows_reasoning) else { return };
        if let Some(text) = choice.reasoning.add(item, text) {
            self.delta(index, Delta { reasoning_content: Some(&text), ..Delta::default() }, out);
        }
    }

    /// A call, once: its head, then its arguments.
    fn call(&mut self, index: usize, item: &Item, out: &mut Frames) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        let said = |field| item.str(field).unwrap_or_default();
        let (id, name) = (said("call_id"), said("name"));
        if choice.calls.iter().any(|known| known == id) {
            return;
        }
        choice.calls.push(id.to_owned());
        let place = choice.calls.len() - 1;
        let (head, rest) = if item.kind() == "custom_tool_call" {
            let part = |name, input| Called { custom: Some(Custom { name, input }), function: None };
            (part(Some(name), ""), part(None, said("input")))
        } else {
            let part = |name, arguments| Function { name, arguments };
            let (head, rest) = (part(Some(name), ""), part(None, said("arguments")));
            if self.deprecated_functions {
                for function in [head, rest] {
                    self.delta(index, Delta { function_call: Some(function), ..Delta::default() }, out);
                }
                return;
            }
            let called = |function| Called { function: Some(function), custom: None };
            (called(head), called(rest))
        };
        let kind = if head.custom.is_some() { "custom" } else { "function" };
        let head = ToolCall { index: place, id: Some(id), kind: Some(kind), called: head };
        let rest = ToolCall { index: place, id: None, kind: None, called: rest };
        for call in [head, rest] {
            self.delta(index, Delta { tool_calls: Some([call]), ..Delta::default() }, out);
        }
    }

    /// Whatever of the item did not come as deltas.
    fn item(&mut self, index: usize, item: &Item, out: &mut Frames) {
        if is_call(item) {
            self.call(index, item, out);
            return;
        }
        let Some(choice) = self.choices.get(index) else { return };
        let id = item.id().unwrap_or_default();
        let (content, thoughts) = (text(item), summary(item));
        let content_rest = choice.content.rest(id, &content).to_owned();
        let thoughts_rest = choice.reasoning.rest(id, &thoughts).to_owned();
        self.content(index, id, &content_rest, out);
        self.reasoning(index, id, &thoughts_rest, out);
        let refusal = refusal(item);
        if !refusal.is_empty() {
            self.delta(index, Delta { refusal: Some(&refusal), ..Delta::default() }, out);
        }
    }
}

impl Encode for Chunks {
    fn start(&mut self, out: &mut Frames) {
        for index in 0..self.choices.len() {
            let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            self.delta(index, delta, out);
        }
    }

    fn event(&mut self, index: usize, event: TurnEvent, out: &mut Frames) {
        if self.failed {
            return;
        }
        match event {
            TurnEvent::TextDelta { item_id, delta } => self.content(index, &item_id, &delta, out),
            TurnEvent::SummaryDelta { item_id, delta, .. } => self.reasoning(index, &item_id, &delta, out),
            TurnEvent::SummaryPartAdded { item_id, index: 1.. } => {
                self.reasoning(index, &item_id, BREAK, out);
            }
            TurnEvent::ItemDone(item) => self.item(index, &item, out),
            TurnEvent::Started { .. }
            | TurnEvent::MessageStarted { .. }
            | TurnEvent::ReasoningStarted { .. }
            | TurnEvent::SummaryPartAdded { index: 0, .. }
            | TurnEvent::ReasoningDelta { .. } => {}
        }
    }

    fn finish(&mut self, index: usize, result: Result<Outcome, BridgeError>, out: &mut Frames) {
        if self.failed {
            return;
        }
        match result {
            Ok(outcome) => {
                self.totals.add(outcome.usage);
                for call in calls(&outcome.output) {
                    self.call(index, call, out);
                }
                // Their places count from the beginning of the whole content.
                let cited = annotations(&outcome.output);
                if !cited.is_empty() {
                    self.delta(index, Delta { annotations: Some(&cited), ..Delta::default() }, out);
                }
                let reason = finish_reason(&outcome, self.deprecated_functions);
                let delta = Delta::default();
                let choice = Choice { index, delta, logprobs: None, finish_reason: Some(reason) };
                self.open = self.open.saturating_sub(1);
                self.write(Some(&choice), None, self.open == 0 && !self.include_usage, out);
            }
            Err(error) => {
                self.failed = true;
                let error = translate(error);
                self.call.note_error(&error);
                out.event(None, &error.body().with_trace(self.call.envelope().as_ref()));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.failed
    }

    fn end(&mut self, out: &mut Frames) {
        if self.include_usage && !self.failed {
            self.write(None, self.totals.get(), true, out);
        }
        out.done();
    }
}

impl Written {
    /// The text to write; a new item is set apart from the one before it.
    pub(super) fn add(&mut self, item: &str, text: &str) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        let apart = self.any && (item.is_empty() || self.last != item);
        self.any = true;
        item.clone_into(&mut self.last);
        match self.items.iter_mut().find(|(id, _)| id == item) {
            Some((_, bytes)) => *bytes += text.len(),
            None if item.is_empty() => {}
            None => self.items.push((item.to_owned(), text.len())),
        }
        Some(if apart { format!("{BREAK}{text}") } else { text.to_owned() })
    }

    /// What of the item's whole text has not been written.
    pub(super) fn rest<'a>(&self, item: &str, whole: &'a str) -> &'a str {
        let written = self.items.iter().find(|(id, _)| id == item).map_or(0, |(_, bytes)| *bytes);
        whole.get(written..).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    /// With `include_usage` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageOrNull>,
    /// Ours, on the last chunk, only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<Envelope>,
}

/// Null on all chunks but the last.
#[derive(Serialize)]
#[serde(transparent)]
struct UsageOrNull(Option<CompletionUsage>);

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
    /// All of the answer's, once its text is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a [Value]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<Function<'a>>,
}

/// The first chunk of a call has its id and name.
#[derive(Serialize)]
struct ToolCall<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(flatten)]
    called: Called<'a>,
}

/// One of the two.
#[derive(Serialize)]
struct Called<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<Function<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom: Option<Custom<'a>>,
}

/// Streamed as functions are; the specification's chunks have none.
#[derive(Serialize)]
struct Custom<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    input: &'a str,
}

#[derive(Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

#[cfg(test)]
mod tests;
