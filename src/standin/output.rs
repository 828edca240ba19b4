//! Output items and the events that build them up.

use std::iter::once;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::answer::Call;
use super::script::Step;

/// One output item.
#[derive(Debug)]
pub(crate) enum Part {
    Reasoning { id: String, summary: String, encrypted: String },
    Search { id: String, query: String, status: &'static str },
    Message { id: String, text: String, citations: Vec<Value>, pause: Duration, status: &'static str },
    Refusal { id: String, text: String, status: &'static str },
    Call { id: String, call_id: String, call: Call, status: &'static str },
    Compaction { id: String, encrypted: String, pause: Duration },
}

type Steps = Box<dyn Iterator<Item = Step> + Send>;

/// A reasoning item; its encrypted content is made up, and tells of its summary.
pub(crate) fn reasoning(id: String, summary: String) -> Part {
    let encrypted = STANDARD.encode(format!("stand-in thought: {summary}"));
    Part::Reasoning { id, summary, encrypted }
}

/// What the made-up encrypted content of a compaction begins with, before it is encoded.
const SUMMARY: &str = "stand-in summary: ";

/// A compaction item; its encrypted content is made up, and tells of its summary.
pub(crate) fn compaction(id: String, summary: &str, pause: Duration) -> Part {
    Part::Compaction { id, encrypted: STANDARD.encode(format!("{SUMMARY}{summary}")), pause }
}

/// The summary in a compaction item of ours.
pub(crate) fn summary(encrypted: &str) -> Option<String> {
    let text = String::from_utf8(STANDARD.decode(encrypted).ok()?).ok()?;
    text.strip_prefix(SUMMARY).map(str::to_owned)
}

/// What a search is said to have found.
pub(crate) fn found(query: &str) -> String {
    format!("found: {query} (example.com)")
}

/// The same with its citations.
pub(crate) fn cited(query: &str) -> (String, Vec<Value>) {
    let text = found(query);
    let end = text.chars().count();
    let citation = json!({
        "type": "url_citation", "url": "https://example.com/found", "title": "Example",
        "start_index": end - "(example.com)".len(), "end_index": end,
    });
    (text, vec![citation])
}

impl Part {
    /// The finished item.
    pub(crate) fn item(&self) -> Value {
        match self {
            Self::Reasoning { id, summary, encrypted } => json!({
                "id": id, "type": "reasoning", "encrypted_content": encrypted,
                "summary": [{"type": "summary_text", "text": summary}],
            }),
            Self::Search { id, query, status } => json!({
                "id": id, "type": "web_search_call", "status": status,
                "action": {"type": "search", "query": query, "queries": [query]},
            }),
            Self::Message { id, text, citations, status, .. } => json!({
                "id": id, "type": "message", "status": status, "role": "assistant",
                "content": [{"type": "output_text", "annotations": citations, "logprobs": [], "text": text}],
            }),
            Self::Refusal { id, text, status } => json!({
                "id": id, "type": "message", "status": status, "role": "assistant",
                "content": [{"type": "refusal", "refusal": text}],
            }),
            Self::Compaction { id, encrypted, .. } => json!({
                "id": id, "type": "compaction", "encrypted_content": encrypted,
            }),
            Self::Call { id, call_id, call, status } => {
                let mut item = json!({
                    "id": id, "type": "function_call", "status": status, "call_id": call_id,
                    "name": call.name, "arguments": call.arguments,
                });
                if let Some(namespace) = &call.namespace {
                    item["namespace"] = namespace.as_str().into();
                }
                item
            }
        }
    }

    /// The item as it is announced, and then built up, at `index` of the output.
    pub(crate) fn steps(self, index: usize) -> Steps {
        let done = self.item();
        let mut added = done.clone();
        let body = match self {
            Self::Reasoning { id, summary, .. } => {
                added["summary"] = json!([]);
                reasoning_steps(Place { id, index }, summary)
            }
            Self::Search { id, .. } => {
                added["status"] = "in_progress".into();
                search_steps(&Place { id, index })
            }
            Self::Message { id, text, citations, pause, .. } => {
                added["status"] = "in_progress".into();
                added["content"] = json!([]);
                message_steps(Place { id, index }, text, &citations, pause)
            }
            Self::Refusal { id, text, .. } => {
                added["status"] = "in_progress".into();
                added["content"] = json!([]);
                refusal_steps(&Place { id, index }, &text)
            }
            Self::Compaction { pause, .. } => {
                Box::new((!pause.is_zero()).then_some(Step::Pause(pause)).into_iter())
            }
            Self::Call { id, call, .. } => {
                added["status"] = "in_progress".into();
                added["arguments"] = "".into();
                call_steps(Place { id, index }, call)
            }
        };
        let item = move |kind: &str, item: Value| {
            Step::Event(json!({"type": kind, "sequence_number": 0, "output_index": index, "item": item}))
        };
        let first = item("response.output_item.added", added);
        Box::new(once(first).chain(body).chain(once(item("response.output_item.done", done))))
    }
}

/// Where an item's events belong.
#[derive(Debug, Clone)]
struct Place {
    id: String,
    index: usize,
}

impl Place {
    /// An event of kind `kind`, `fields` after the place.
    fn event(&self, kind: &str, fields: Value) -> Step {
        let mut event = json!({
            "type": kind, "sequence_number": 0, "item_id": self.id, "output_index": self.index,
        });
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        Step::Event(event)
    }
}

fn reasoning_steps(place: Place, summary: String) -> Steps {
    let part = |text: &str| json!({"summary_index": 0, "part": {"type": "summary_text", "text": text}});
    let first = place.event("response.reasoning_summary_part.added", part(""));
    let last = [
        place.event("response.reasoning_summary_text.done", json!({"summary_index": 0, "text": summary})),
        place.event("response.reasoning_summary_part.done", part(&summary)),
    ];
    let deltas = Words::of(summary).map(move |word| {
        place.event("response.reasoning_summary_text.delta", json!({"summary_index": 0, "delta": word}))
    });
    Box::new(once(first).chain(deltas).chain(last))
}

fn search_steps(place: &Place) -> Steps {
    let steps = ["in_progress", "searching", "completed"]
        .map(|state| place.event(&format!("response.web_search_call.{state}"), json!({})));
    Box::new(steps.into_iter())
}

fn message_steps(place: Place, text: String, citations: &[Value], pause: Duration) -> Steps {
    let part = |text: &str, citations: &[Value]| {
        let part = json!({"type": "output_text", "annotations": citations, "logprobs": [], "text": text});
        json!({"content_index": 0, "part": part})
    };
    let first = place.event("response.content_part.added", part("", &[]));
    let mut last = Vec::with_capacity(citations.len() + 2);
    for (index, citation) in citations.iter().enumerate() {
        let cited = json!({"content_index": 0, "annotation_index": index, "annotation": citation});
        last.push(place.event("response.output_text.annotation.added", cited));
    }
    last.push(
        place.event("response.output_text.done", json!({"content_index": 0, "text": text, "logprobs": []})),
    );
    last.push(place.event("response.content_part.done", part(&text, citations)));
    let deltas = Words::of(text).flat_map(move |word| {
        let delta = json!({"content_index": 0, "delta": word, "logprobs": []});
        let pause = (!pause.is_zero()).then_some(Step::Pause(pause));
        pause.into_iter().chain(once(place.event("response.output_text.delta", delta)))
    });
    Box::new(once(first).chain(deltas).chain(last))
}

fn refusal_steps(place: &Place, text: &str) -> Steps {
    let part = |text: &str| json!({"content_index": 0, "part": {"type": "refusal", "refusal": text}});
    let steps = [
        place.event("response.content_part.added", part("")),
        place.event("response.refusal.delta", json!({"content_index": 0, "delta": text})),
        place.event("response.refusal.done", json!({"content_index": 0, "refusal": text})),
        place.event("response.content_part.done", part(text)),
    ];
    Box::new(steps.into_iter())
}

fn call_steps(place: Place, call: Call) -> Steps {
    let done = json!({"name": call.name, "arguments": call.arguments});
    let last = place.event("response.function_call_arguments.done", done);
    let deltas = Words::of(call.arguments)
        .map(move |word| place.event("response.function_call_arguments.delta", json!({"delta": word})));
    Box::new(deltas.chain(once(last)))
}

/// A text word by word, each with the white space after it; joined they are the text.
struct Words {
    text: String,
    at: usize,
}

impl Words {
    fn of(text: String) -> Self {
        Self { text, at: 0 }
    }
}

impl Iterator for Words {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let body = rest.trim_start();
        let word_end = body.find(char::is_whitespace).unwrap_or(body.len());
        let tail = &body[word_end..];
        let end = rest.len() - tail.trim_start().len();
        self.at += end;
        Some(rest[..end].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_joined_are_the_text() {
        for (text, count) in [("", 0), ("one", 1), ("  two\n words ", 2), ("   ", 1), ("é à", 2)] {
            let words: Vec<String> = Words::of(text.to_owned()).collect();
            assert_eq!((words.concat().as_str(), words.len()), (text, count));
        }
    }
}
