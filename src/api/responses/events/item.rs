//! One output item's series of events.

use serde_json::{Map, Value, json};

use super::Emit;
use crate::api::responses::output;
use crate::api::responses::wire::{OutputItem, Place, What};

/// An item that has begun and not ended: what has been sent of it.
#[derive(Debug)]
pub(super) struct OpenItem {
    id: String,
    index: usize,
    kind: String,
    /// The message's text part, once it has begun.
    text: Option<String>,
    summary: Vec<Part>,
    content: Vec<Part>,
}

/// A part of a reasoning item. Only the last of its kind is still open.
#[derive(Debug)]
struct Part {
    index: usize,
    text: String,
}

/// The two kinds of parts a reasoning item has, as events name them.
#[derive(Debug)]
struct PartWords {
    kind: &'static str,
    added: &'static str,
    delta: &'static str,
    done: &'static str,
    part_done: &'static str,
    is_summary: bool,
}

const SUMMARY: PartWords = PartWords {
    kind: "summary_text",
    added: "response.reasoning_summary_part.added",
    delta: "response.reasoning_summary_text.delta",
    done: "response.reasoning_summary_text.done",
    part_done: "response.reasoning_summary_part.done",
    is_summary: true,
};

const CONTENT: PartWords = PartWords {
    kind: "reasoning_text",
    added: "response.content_part.added",
    delta: "response.reasoning_text.delta",
    done: "response.reasoning_text.done",
    part_done: "response.content_part.done",
    is_summary: false,
};

impl OpenItem {
    pub(super) fn begin(begun: &OutputItem, index: usize, emit: &mut Emit<'_>) -> Self {
        emit.item("response.output_item.added", index, begun);
        let id = output::id(begun).to_owned();
        let kind = text_of(begun, "type").to_owned();
        Self { id, index, kind, text: None, summary: Vec::new(), content: Vec::new() }
    }

    pub(super) fn is(&self, kind: &str, id: &str) -> bool {
        self.id == id && self.kind == kind
    }

    pub(super) fn text_delta(&mut self, delta: &str, emit: &mut Emit<'_>) {
        if self.text.is_none() {
            let part = text_part("");
            emit.placed("response.content_part.added", self.at_content(0), What::Part { part: &part });
        }
        let what = What::TextDelta { delta, logprobs: [] };
        emit.placed("response.output_text.delta", self.at_content(0), what);
        self.text.get_or_insert_default().push_str(delta);
    }

    /// An empty delta only begins the part.
    pub(super) fn summary_delta(&mut self, index: u32, delta: &str, emit: &mut Emit<'_>) {
        let mut parts = std::mem::take(&mut self.summary);
        self.part_delta(&SUMMARY, &mut parts, index as usize, delta, emit);
        self.summary = parts;
    }

    pub(super) fn reasoning_delta(&mut self, index: u32, delta: &str, emit: &mut Emit<'_>) {
        let mut parts = std::mem::take(&mut self.content);
        self.part_delta(&CONTENT, &mut parts, index as usize, delta, emit);
        self.content = parts;
    }

    /// Sends what has not been sent of the finished item, and its end.
    pub(super) fn end(&mut self, done: &OutputItem, emit: &mut Emit<'_>) {
        match self.kind.as_str() {
            "message" => self.end_message(parts_of(done, "content"), emit),
            "reasoning" => {
                let summary = std::mem::take(&mut self.summary);
                self.end_parts(&SUMMARY, summary, parts_of(done, "summary"), emit);
                let content = std::mem::take(&mut self.content);
                self.end_parts(&CONTENT, content, parts_of(done, "content"), emit);
            }
            "function_call" => {
                let (name, arguments) = (text_of(done, "name"), text_of(done, "arguments"));
                let what = What::Delta { delta: arguments };
                emit.placed("response.function_call_arguments.delta", self.at_item(), what);
                let what = What::Arguments { name, arguments };
                emit.placed("response.function_call_arguments.done", self.at_item(), what);
            }
            "custom_tool_call" => {
                let input = text_of(done, "input");
                let what = What::Delta { delta: input };
                emit.placed("response.custom_tool_call_input.delta", self.at_item(), what);
                emit.placed("response.custom_tool_call_input.done", self.at_item(), What::Input { input });
            }
            "web_search_call" => {
                for kind in [
                    "response.web_search_call.in_progress",
                    "response.web_search_call.searching",
                    "response.web_search_call.completed",
                ] {
                    emit.placed(kind, self.at_item(), What::Nothing {});
                }
            }
            "image_generation_call" => {
                let failed = text_of(done, "status") == "failed";
                for kind in [
                    "response.image_generation_call.in_progress",
                    "response.image_generation_call.generating",
                    "response.image_generation_call.completed",
                ] {
                    if !(failed && kind.ends_with("completed")) {
                        emit.placed(kind, self.at_item(), What::Nothing {});
                    }
                }
            }
            _ => {}
        }
        emit.item("response.output_item.done", self.index, done);
    }

    /// Ends an item that the answer turned out not to have, with what was sent of it.
    pub(super) fn abandon(&mut self, emit: &mut Emit<'_>) -> OutputItem {
        let texts = |kind: &str, parts: &[Part]| -> Vec<Value> {
            parts.iter().map(|part| json!({ "type": kind, "text": part.text })).collect()
        };
        let mut done = output::begun_unknown(&self.kind, &self.id);
        done.insert("status".into(), "incomplete".into());
        if self.kind == "message" {
            let content: Vec<Value> = self.text.as_deref().map(text_part).into_iter().collect();
            done.insert("content".into(), content.into());
        } else {
            done.insert("summary".into(), texts(SUMMARY.kind, &self.summary).into());
            done.insert("content".into(), texts(CONTENT.kind, &self.content).into());
        }
        self.end(&done, emit);
        done
    }

    fn end_message(&mut self, content: &[Value], emit: &mut Emit<'_>) {
        let is_text = |part: &&Value| part.get("type").is_some_and(|kind| kind == "output_text");
        let mut sent = self.text.take();
        if let (Some(sent), None) = (&sent, content.first().filter(is_text)) {
            tracing::warn!("a message had text that its finished form has not");
            self.end_text(0, &text_part(sent), emit);
        }
        for (index, part) in content.iter().enumerate() {
            let place = self.at_content(index);
            if is_text(&part) {
                let text = part.get("text").and_then(Value::as_str).unwrap_or_default();
                let sent = if index == 0 { sent.take() } else { None };
                if sent.is_none() {
                    let part = text_part("");
                    emit.placed("response.content_part.added", place, What::Part { part: &part });
                }
                if let Some(delta) = rest(text, sent.as_deref()) {
                    let what = What::TextDelta { delta, logprobs: [] };
                    emit.placed("response.output_text.delta", place, what);
                }
                self.end_text(index, part, emit);
            } else {
                let refusal = part.get("refusal").and_then(Value::as_str).unwrap_or_default();
                let begun = json!({ "type": "refusal", "refusal": "" });
                emit.placed("response.content_part.added", place, What::Part { part: &begun });
                emit.placed("response.refusal.delta", place, What::Delta { delta: refusal });
                emit.placed("response.refusal.done", place, What::Refusal { refusal });
                emit.placed("response.content_part.done", place, What::Part { part });
            }
        }
    }

    fn end_text(&self, index: usize, part: &Value, emit: &mut Emit<'_>) {
        let place = self.at_content(index);
        let annotations = part.get("annotations").and_then(Value::as_array);
        for (annotation_index, annotation) in annotations.into_iter().flatten().enumerate() {
            let what = What::Annotation { annotation_index, annotation };
            emit.placed("response.output_text.annotation.added", place, what);
        }
        let text = part.get("text").and_then(Value::as_str).unwrap_or_default();
        emit.placed("response.output_text.done", place, What::TextDone { text, logprobs: [] });
        emit.placed("response.content_part.done", place, What::Part { part });
    }

    fn part_delta(
        &self,
        words: &PartWords,
        parts: &mut Vec<Part>,
        index: usize,
        delta: &str,
        emit: &mut Emit<'_>,
    ) {
        match parts.last_mut() {
            Some(last) if last.index == index => {}
            // Its end has been sent.
            Some(last) if last.index > index => return,
            last => {
                if let Some(last) = last {
                    self.end_part(words, last.index, &last.text, emit);
                }
                self.begin_part(words, index, emit);
                parts.push(Part { index, text: String::new() });
            }
        }
        if let Some(last) = parts.last_mut().filter(|_| !delta.is_empty()) {
            emit.placed(words.delta, self.at_part(words, index), What::Delta { delta });
            last.text.push_str(delta);
        }
    }

    /// Ends the open part and sends those of the finished item that never began.
    fn end_parts(&self, words: &PartWords, mut sent: Vec<Part>, done: &[Value], emit: &mut Emit<'_>) {
        let open = sent.last().map(|part| part.index);
        for (index, part) in done.iter().enumerate() {
            let text = part.get("text").and_then(Value::as_str).unwrap_or_default();
            let known = sent.iter().position(|part| part.index == index).map(|place| sent.swap_remove(place));
            if known.is_none() {
                self.begin_part(words, index, emit);
            } else if Some(index) != open {
                continue;
            }
            let sent = known.as_ref().map(|part| part.text.as_str());
            if let Some(delta) = rest(text, sent) {
                emit.placed(words.delta, self.at_part(words, index), What::Delta { delta });
            }
            self.end_part(words, index, text, emit);
        }
        for part in sent.iter().filter(|part| Some(part.index) == open) {
            self.end_part(words, part.index, &part.text, emit);
        }
    }

    fn begin_part(&self, words: &PartWords, index: usize, emit: &mut Emit<'_>) {
        let part = json!({ "type": words.kind, "text": "" });
        emit.placed(words.added, self.at_part(words, index), What::Part { part: &part });
    }

    fn end_part(&self, words: &PartWords, index: usize, text: &str, emit: &mut Emit<'_>) {
        let part = json!({ "type": words.kind, "text": text });
        emit.placed(words.done, self.at_part(words, index), What::Text { text });
        emit.placed(words.part_done, self.at_part(words, index), What::Part { part: &part });
    }

    fn at_item(&self) -> Place<'_> {
        Place { item_id: &self.id, output_index: self.index, content_index: None, summary_index: None }
    }

    fn at_content(&self, index: usize) -> Place<'_> {
        Place { content_index: Some(index), ..self.at_item() }
    }

    fn at_part(&self, words: &PartWords, index: usize) -> Place<'_> {
        if words.is_summary {
            Place { summary_index: Some(index), ..self.at_item() }
        } else {
            self.at_content(index)
        }
    }
}

/// What of `text` has not been sent. The finished text is the truth: where what was sent is no beginning of
/// it, nothing can be taken back, and the done events say what holds.
fn rest<'a>(text: &'a str, sent: Option<&str>) -> Option<&'a str> {
    let rest = text.strip_prefix(sent.unwrap_or_default());
    if rest.is_none() {
        tracing::warn!("the deltas of an item are not the beginning of its finished text");
    }
    rest.filter(|rest| !rest.is_empty())
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn parts_of<'a>(item: &'a Map<String, Value>, field: &str) -> &'a [Value] {
    item.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text_of<'a>(item: &'a Map<String, Value>, field: &str) -> &'a str {
    item.get(field).and_then(Value::as_str).unwrap_or_default()
}
