//! What came back, in either API, whole or streamed; it is the one right answer, a named error, or wrong.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::client::End;
use crate::table;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Responses,
    Chat,
}

/// What must come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    Text(String),
    /// One call of this tool with these arguments.
    Call(&'static str, String),
}

/// What became of a call.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The right answer.
    Right(Said),
    /// An error of our table.
    Failed(Failure),
    /// The client left.
    Left,
    /// The connection broke.
    Broken(String),
    /// What must not be.
    Wrong(String),
}

/// An error of our table.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: String,
    /// Something of the answer came before it: it could not be given anew without a word.
    pub(crate) begun: bool,
}

/// An answer as a client keeps it.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Of the response.
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) call: Option<ToolCall>,
}

/// A tool call.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

impl Api {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Responses => "/v1/responses",
            Self::Chat => "/v1/chat/completions",
        }
    }

    /// Reads what came back.
    pub(crate) fn verdict(self, end: &End, streamed: bool, expected: &Expected) -> Verdict {
        let read = match end {
            End::Left => return Verdict::Left,
            End::Broken(why) => return Verdict::Broken(why.clone()),
            End::Late => return Verdict::Wrong("no end by the deadline".into()),
            End::Whole { status, body, .. } if *status != 200 => error(*status, body),
            End::Whole { body, .. } if !streamed => self.whole(body).map(Read::Answer),
            End::Whole { body, .. } => Err(anyhow::anyhow!("no stream: {}", short(body))),
            End::Stream(events) if streamed => match self {
                Self::Responses => responses_stream(events, expected),
                Self::Chat => chat_stream(events, expected),
            },
            End::Stream(_) => Err(anyhow::anyhow!("a stream nobody asked for")),
        };
        match read {
            Ok(Read::Answer(said)) => match expected.check(&said) {
                Ok(()) => Verdict::Right(said),
                Err(error) => Verdict::Wrong(format!("{error:#}")),
            },
            Ok(Read::Error(failure)) => Verdict::Failed(failure),
            Err(error) => Verdict::Wrong(format!("{error:#}")),
        }
    }

    fn whole(self, body: &str) -> anyhow::Result<Said> {
        let body: Value = serde_json::from_str(body).with_context(|| format!("no JSON: {}", short(body)))?;
        match self {
            Self::Responses => response(&body),
            Self::Chat => {
                let choices = body["choices"].as_array().context("no choices")?;
                ensure!(choices.len() == 1, "{} choices", choices.len());
                let message = &choices[0]["message"];
                let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
                ensure!(calls.len() < 2, "{} tool calls", calls.len());
                let call = calls.first().map(|call| ToolCall {
                    id: word(&call["id"]),
                    name: word(&call["function"]["name"]),
                    arguments: word(&call["function"]["arguments"]),
                });
                finished(word(&choices[0]["finish_reason"]).as_str(), call.is_some())?;
                Ok(Said { id: word(&body["id"]), text: word(&message["content"]), call })
            }
        }
    }
}

enum Read {
    Answer(Said),
    Error(Failure),
}

impl Expected {
    fn check(&self, said: &Said) -> anyhow::Result<()> {
        match self {
            Self::Text(text) => {
                ensure!(said.call.is_none(), "a tool call in place of {text:?}: {:?}", said.call);
                ensure!(said.text == *text, "{:?} in place of {text:?}", said.text);
            }
            Self::Call(name, arguments) => {
                let call = said.call.as_ref().context("no tool call")?;
                ensure!(said.text.is_empty(), "text beside a tool call: {:?}", said.text);
                ensure!(
                    call.name == *name && call.arguments == *arguments,
                    "{call:?} in place of {arguments}"
                );
            }
        }
        Ok(())
    }

    /// Whether a client that has `text` so far has been told nothing wrong.
    fn check_part(&self, text: &str) -> anyhow::Result<()> {
        let whole = if let Self::Text(whole) = self { whole.as_str() } else { "" };
        ensure!(whole.starts_with(text), "{text:?} before an error, in place of {whole:?}");
        Ok(())
    }
}

/// An error body, in the official shape, with a code of our table.
fn error(status: u16, body: &str) -> anyhow::Result<Read> {
    let body: Value = serde_json::from_str(body).with_context(|| format!("{status}: {}", short(body)))?;
    let code = error_object(&body)?;
    let row =
        table::find(&code).with_context(|| format!("{status} with the unknown code {code:?}: {body}"))?;
    ensure!(row.status == status, "{status} with {code}, which is {}", row.status);
    Ok(Read::Error(Failure { code, begun: false }))
}

fn error_object(body: &Value) -> anyhow::Result<String> {
    let error = body["error"].as_object().with_context(|| format!("no error object: {body}"))?;
    // Beside them the trace, as it was asked for.
    let mut fields: Vec<_> = error.keys().map(String::as_str).filter(|field| *field != "bridge").collect();
    fields.sort_unstable();
    ensure!(fields == ["code", "message", "param", "type"], "an error of another shape: {body}");
    Ok(word(&body["error"]["code"]))
}

fn response(response: &Value) -> anyhow::Result<Said> {
    ensure!(response["status"] == "completed", "200 with the status {}", response["status"]);
    let mut said = Said { id: word(&response["id"]), ..Said::default() };
    for item in response["output"].as_array().context("no output")? {
        match item["type"].as_str() {
            Some("message") => {
                for part in item["content"].as_array().context("no content")? {
                    said.text.push_str(part["text"].as_str().context("a part without text")?);
                }
            }
            Some("function_call") => {
                ensure!(said.call.is_none(), "two tool calls");
                said.call = Some(ToolCall {
                    id: word(&item["call_id"]),
                    name: word(&item["name"]),
                    arguments: word(&item["arguments"]),
                });
            }
            other => bail!("an item nobody asked for: {other:?}"),
        }
    }
    Ok(said)
}

fn responses_stream(events: &[String], expected: &Expected) -> anyhow::Result<Read> {
    let (events, mut deltas, mut arguments) = (parsed(events)?, String::new(), String::new());
    let (mut ending, mut begun) = (None, false);
    for (number, event) in events.iter().enumerate() {
        ensure!(ending.is_none(), "an event after the last one: {}", event["type"]);
        ensure!(
            event["sequence_number"] == number,
            "sequence number {} at {number}",
            event["sequence_number"]
        );
        match event["type"].as_str().unwrap_or_default() {
            "response.output_text.delta" => deltas.push_str(&word(&event["delta"])),
            "response.function_call_arguments.delta" => arguments.push_str(&word(&event["delta"])),
            "response.completed" | "response.failed" | "response.incomplete" => {
                ending = Some(&event["response"]);
            }
            "error" => bail!("an error event: {event}"),
            "response.created" | "response.queued" | "response.in_progress" => continue,
            _ => {}
        }
        begun |= ending.is_none();
    }
    ensure!(events.first().is_some_and(|event| event["type"] == "response.created"), "no response.created");
    let ending = ending.context("the stream ended without a terminal event")?;
    if ending["status"] == "failed" {
        expected.check_part(&deltas)?;
        let code = word(&ending["error"]["code"]);
        let message = word(&ending["error"]["message"]);
        // The official list of codes is closed: our own stands at the end of the message.
        let own =
            message.strip_suffix(')').and_then(|rest| rest.rsplit_once('(')).map(|(_, own)| own.to_owned());
        let code = own.filter(|own| table::find(own).is_some()).unwrap_or(code);
        ensure!(table::find(&code).is_some(), "an unknown code: {}", ending["error"]);
        return Ok(Read::Error(Failure { code, begun }));
    }
    let said = response(ending)?;
    ensure!(said.text == deltas, "the deltas say {deltas:?}, the response {:?}", said.text);
    let whole = said.call.as_ref().map(|call| call.arguments.as_str()).unwrap_or_default();
    ensure!(whole == arguments, "the deltas say {arguments:?}, the call {whole:?}");
    Ok(Read::Answer(said))
}

fn chat_stream(events: &[String], expected: &Expected) -> anyhow::Result<Read> {
    let mut said = Said::default();
    let mut calls: BTreeMap<u64, ToolCall> = BTreeMap::new();
    let (mut finish, mut failed, mut begun) = (None, None, false);
    for event in parsed(events)? {
        ensure!(failed.is_none(), "a chunk after the error");
        if !event["error"].is_null() {
            failed = Some(error_object(&event)?);
            continue;
        }
        begun = true;
        said.id = word(&event["id"]);
        for choice in event["choices"].as_array().context("no choices")? {
            ensure!(finish.is_none(), "a chunk after the last one");
            let delta = &choice["delta"];
            said.text.push_str(&word(&delta["content"]));
            for part in delta["tool_calls"].as_array().map_or(&[][..], Vec::as_slice) {
                let call = calls.entry(part["index"].as_u64().context("a call without index")?).or_default();
                call.id.push_str(&word(&part["id"]));
                call.name.push_str(&word(&part["function"]["name"]));
                call.arguments.push_str(&word(&part["function"]["arguments"]));
            }
            if let Some(reason) = choice["finish_reason"].as_str() {
                finish = Some(reason.to_owned());
            }
        }
    }
    if let Some(code) = failed {
        ensure!(finish.is_none(), "an error after the last chunk");
        ensure!(table::find(&code).is_some(), "an unknown code: {code}");
        expected.check_part(&said.text)?;
        return Ok(Read::Error(Failure { code, begun }));
    }
    ensure!(calls.len() < 2, "{} tool calls", calls.len());
    said.call = calls.into_values().next();
    finished(finish.context("the stream ended without a finish_reason")?.as_str(), said.call.is_some())?;
    Ok(Read::Answer(said))
}

/// The events of a stream that ended as it should: with one `[DONE]`.
fn parsed(events: &[String]) -> anyhow::Result<Vec<Value>> {
    let (last, events) = events.split_last().context("an empty stream")?;
    ensure!(last == "[DONE]", "the stream ended with {}", short(last));
    events.iter().map(|event| serde_json::from_str(event).with_context(|| short(event))).collect()
}

fn finished(reason: &str, called: bool) -> anyhow::Result<()> {
    let right = if called { "tool_calls" } else { "stop" };
    ensure!(reason == right, "finished by {reason:?} in place of {right:?}");
    Ok(())
}

/// A string; empty where there is none.
fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn short(text: &str) -> String {
    text.chars().take(300).collect()
}
