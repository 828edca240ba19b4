//! An answer becomes the official event stream, one step at a time: a long answer is never held as events.

use std::time::Duration;

use serde_json::{Value, json};

use super::answer::{Answer, Body, Failure};
use super::output::{self, Part};
use super::usage::Usage;

/// What the face that carries the stream does next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Send this event.
    Event(Value),
    /// Wait.
    Pause(Duration),
    /// Drop the connection.
    Cut,
    /// Send nothing more, and keep the connection.
    Stall,
}

/// What makes one response's ids and times; fixed in tests.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    /// Follows every id's prefix.
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created_at: u64,
}

impl Stamp {
    /// A new one.
    pub(crate) fn now() -> Self {
        Self { id: uuid::Uuid::now_v7().simple().to_string(), created_at: super::unix_seconds() }
    }
}

/// The steps of one response.
pub(crate) struct Script {
    pub(crate) response_id: String,
    /// The output items, for whoever continues this response.
    pub(crate) output: Vec<Value>,
    steps: Box<dyn Iterator<Item = Step> + Send>,
}

impl Iterator for Script {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.steps.next()
    }
}

/// Plays `answer` to the expanded `request`, failing on the way if `failure` says so.
pub(crate) fn play(request: &Value, answer: Answer, failure: Option<Failure>, stamp: &Stamp) -> Script {
    let usage = Usage::of(request, answer.thought.as_deref(), &answer.body);
    let frame = Frame::new(request, stamp);
    let incomplete = match failure {
        Some(Failure::Incomplete(reason)) => Some(reason),
        _ => None,
    };
    let status = if incomplete.is_some() { "incomplete" } else { "completed" };
    let parts = parts(answer, stamp, status);
    let output: Vec<Value> = parts.iter().map(Part::item).collect();
    let mut ending = frame.event(status, &output, Some(usage));
    if let Some(reason) = incomplete {
        ending["response"]["incomplete_details"] = json!({"reason": reason});
    }
    let opening = frame.opening();
    let middle = parts.into_iter().enumerate().flat_map(|(index, part)| part.steps(index));
    let steps: Box<dyn Iterator<Item = Step> + Send> = match failure {
        Some(Failure::Failed { code, retry_after, late }) => {
            let failed = [Step::Event(frame.failure(code, retry_after))];
            if late {
                Box::new(opening.chain(two_deltas(middle)).chain(failed))
            } else {
                Box::new(opening.chain(failed))
            }
        }
        Some(Failure::Cut) => Box::new(opening.chain(two_deltas(middle)).chain([Step::Cut])),
        Some(Failure::Stall) => Box::new(opening.chain(two_deltas(middle)).chain([Step::Stall])),
        // A refusal never gets here; played, it is the whole answer.
        Some(Failure::Incomplete(_) | Failure::Status { .. } | Failure::Quote | Failure::UsageLimit)
        | None => Box::new(opening.chain(middle).chain([Step::Event(ending)])),
    };
    Script { response_id: frame.id, output, steps: Box::new(numbered(steps)) }
}

/// The answer to a warm-up: nothing is generated.
pub(crate) fn warm_up(request: &Value, stamp: &Stamp) -> Script {
    let frame = Frame::new(request, stamp);
    let ending = Step::Event(frame.event("completed", &[], Some(Usage::default())));
    let steps = Box::new(numbered(frame.opening().chain([ending])));
    Script { response_id: frame.id, output: Vec::new(), steps }
}

fn parts(answer: Answer, stamp: &Stamp, status: &'static str) -> Vec<Part> {
    let mut parts = Vec::new();
    if let Some(summary) = answer.thought {
        parts.push(output::reasoning(format!("rs_{}", stamp.id), summary));
    }
    match answer.body {
        Body::Text { text, pause } => {
            let (id, citations) = (format!("msg_{}", stamp.id), Vec::new());
            parts.push(Part::Message { id, text, citations, pause, status });
        }
        Body::Compaction { summary, pause } => {
            parts.push(output::compaction(format!("cmp_{}", stamp.id), &summary, pause));
        }
        Body::Refusal(text) => parts.push(Part::Refusal { id: format!("msg_{}", stamp.id), text, status }),
        Body::Search(query) => {
            let (text, citations) = output::cited(&query);
            parts.push(Part::Search { id: format!("ws_{}", stamp.id), query, status });
            let (id, pause) = (format!("msg_{}", stamp.id), Duration::ZERO);
            parts.push(Part::Message { id, text, citations, pause, status });
        }
        Body::Calls(calls) => parts.extend(calls.into_iter().enumerate().map(|(index, call)| Part::Call {
            id: format!("fc_{}{index}", stamp.id),
            call_id: format!("call_{}{index}", stamp.id),
            call,
            status,
        })),
    }
    parts
}

/// `steps` up to the second delta of the answer proper, and never past its last.
fn two_deltas(steps: impl Iterator<Item = Step> + Send + 'static) -> impl Iterator<Item = Step> + Send {
    let mut deltas = 0;
    steps.take_while(move |step| {
        let Step::Event(event) = step else { return deltas < 2 };
        let going_on = match event["type"].as_str() {
            Some("response.output_text.done" | "response.function_call_arguments.done") => false,
            _ => deltas < 2,
        };
        if let Some("response.output_text.delta" | "response.function_call_arguments.delta") =
            event["type"].as_str()
        {
            deltas += 1;
        }
        going_on
    })
}

fn numbered(steps: impl Iterator<Item = Step> + Send) -> impl Iterator<Item = Step> + Send {
    let mut next = 0_u64;
    steps.map(move |mut step| {
        if let Step::Event(event) = &mut step {
            event["sequence_number"] = next.into();
            next += 1;
        }
        step
    })
}

/// The response object around the items.
struct Frame {
    id: String,
    fields: Value,
}

impl Frame {
    fn new(request: &Value, stamp: &Stamp) -> Self {
        let or =
            |key: &str, default: Value| request.get(key).filter(|v| !v.is_null()).cloned().unwrap_or(default);
        let id = format!("resp_{}", stamp.id);
        let fields = json!({
            "id": id,
            "object": "response",
            "created_at": stamp.created_at,
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "max_output_tokens": null,
            "metadata": {},
            "model": or("model", "stand-in".into()),
            "output": [],
            "parallel_tool_calls": or("parallel_tool_calls", true.into()),
            "previous_response_id": request["previous_response_id"],
            "prompt_cache_key": request["prompt_cache_key"],
            "reasoning": or("reasoning", json!({"effort": null, "summary": null})),
            "service_tier": or("service_tier", "default".into()),
            "store": or("store", false.into()),
            "temperature": 1.0,
            "text": or("text", json!({"format": {"type": "text"}})),
            "tool_choice": or("tool_choice", "auto".into()),
            "tools": or("tools", json!([])),
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": null,
        });
        Self { id, fields }
    }

    fn opening(&self) -> std::vec::IntoIter<Step> {
        let event = |kind| Step::Event(json!({"type": kind, "sequence_number": 0, "response": self.fields}));
        vec![event("response.created"), event("response.in_progress")].into_iter()
    }

    fn event(&self, status: &str, output: &[Value], usage: Option<Usage>) -> Value {
        let mut response = self.fields.clone();
        response["status"] = status.into();
        response["output"] = output.into();
        response["usage"] = usage.map_or(Value::Null, Usage::to_json);
        json!({"type": format!("response.{status}"), "sequence_number": 0, "response": response})
    }

    fn failure(&self, code: &str, retry_after: Option<u64>) -> Value {
        let wait = retry_after.map(|seconds| format!(" Please try again in {seconds}s.")).unwrap_or_default();
        let message = format!("The stand-in was asked to fail with {code}.{wait}");
        let mut event = self.event("failed", &[], None);
        event["response"]["error"] = json!({"code": code, "message": message});
        event
    }
}

#[cfg(test)]
mod tests;
