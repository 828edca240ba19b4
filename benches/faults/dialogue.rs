//! What is asked: conversations of all kinds, each planned ahead by the dice, so that a seed asks the same again.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::check::{Api, Expected, Said, Verdict};
use crate::client::{Client, Leave};
use crate::tally::Tally;

/// The tool of tool loops.
pub(crate) const TOOL: &str = "lookup";

/// Whoever is told so comes back after a moment, and does not use up all there is to ask meanwhile.
const UNAVAILABLE: &str = "app_server_unavailable";
const PATIENCE: Duration = Duration::from_secs(1);

/// What a conversation is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One question.
    Text,
    /// One question with a JSON schema.
    Typed,
    /// A tool call, and the answer to its output.
    Tools,
    /// Three questions, then: what was said?
    Chain,
}

/// How the model fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// 429.
    Rate,
    /// 500, and a good answer to the second attempt.
    ErrorOnce,
    /// 500 at every attempt.
    Error,
    /// A stream cut off, and a good one at the second attempt.
    CutOnce,
    /// A stream cut off at every attempt.
    Cut,
    /// A stream that falls silent.
    Stall,
    /// `response.failed` before the answer.
    Overloaded,
    /// `response.failed` within the answer.
    Late,
}

/// One step.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    tag: String,
    words: usize,
    /// Before each word of the answer.
    pace: u64,
    stream: bool,
    trouble: Option<Trouble>,
    leave: Leave,
}

/// A planned conversation.
#[derive(Debug, Clone)]
pub(crate) struct Dialogue {
    kind: Kind,
    api: Api,
    steps: Vec<Step>,
}

/// A conversation as its client keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    api: Api,
    model: String,
    /// The last response.
    previous: Option<String>,
    /// All there was, where the client keeps it.
    messages: Vec<Value>,
    /// What the user said, where it was answered.
    said: Vec<String>,
}

impl Trouble {
    const ALL: [Self; 8] = [
        Self::Rate,
        Self::ErrorOnce,
        Self::Error,
        Self::CutOnce,
        Self::Cut,
        Self::Stall,
        Self::Overloaded,
        Self::Late,
    ];

    /// What the stand-in is told.
    fn directive(self) -> &'static str {
        match self {
            Self::Rate => "FAIL 429 1",
            Self::ErrorOnce => "FAIL once 500",
            Self::Error => "FAIL 500",
            Self::CutOnce => "FAIL once stream",
            Self::Cut => "FAIL stream",
            Self::Stall => "FAIL stall",
            Self::Overloaded => "FAIL server_is_overloaded",
            Self::Late => "FAIL late server_error",
        }
    }

    /// Whether a call may fail with `code` for it.
    pub(crate) fn explains(self, code: &str) -> bool {
        match self {
            Self::Rate => code == "rate_limit_exceeded",
            Self::ErrorOnce | Self::CutOnce => false,
            Self::Error => code == "upstream_error",
            Self::Cut | Self::Late => code == "stream_disconnected",
            Self::Stall => code == "timeout",
            Self::Overloaded => code == "server_overloaded",
        }
    }

    /// Whether a call may fail with `code` for it where the second attempt does not come to its end.
    pub(crate) fn explains_once(self, code: &str) -> bool {
        match self {
            Self::ErrorOnce => code == "upstream_error",
            Self::CutOnce => code == "stream_disconnected",
            _ => false,
        }
    }

    /// Whether the second attempt goes well.
    pub(crate) fn is_once(self) -> bool {
        matches!(self, Self::ErrorOnce | Self::CutOnce)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "model: 429",
            Self::ErrorOnce => "model: 500 once",
            Self::Error => "model: 500",
            Self::CutOnce => "model: cut once",
            Self::Cut => "model: cut",
            Self::Stall => "model: stall",
            Self::Overloaded => "model: overloaded",
            Self::Late => "model: late error",
        }
    }
}

impl Step {
    /// Paced, with nothing wrong.
    pub(crate) fn calm(tag: String, words: usize, pace: u64, stream: bool) -> Self {
        Self { tag, words, pace, stream, trouble: None, leave: Leave::Never }
    }

    fn random(tag: String, dice: &mut StdRng) -> Self {
        let trouble = dice.random_bool(0.2).then(|| *Trouble::ALL.choose(dice).unwrap_or(&Trouble::Error));
        let stream = dice.random_bool(0.5);
        let leave = match dice.random_range(0..20) {
            0 => Leave::After(Duration::from_millis(dice.random_range(1..300))),
            1 if stream => Leave::AfterEvents(dice.random_range(1..8)),
            _ => Leave::Never,
        };
        // Most are as quick as they can be.
        let pace = if dice.random_bool(0.3) { dice.random_range(1..60) } else { 0 };
        Self { tag, words: dice.random_range(1..40), pace, stream, trouble, leave }
    }

    /// Words nobody else has.
    fn text(&self) -> String {
        let words: Vec<_> = (0..self.words).map(|n| format!("{}.{n}", self.tag)).collect();
        words.join(" ")
    }

    /// What comes before whatever is asked.
    fn steering(&self) -> String {
        let trouble = self.trouble.map(|trouble| format!("{} ", trouble.directive())).unwrap_or_default();
        let pace = if self.pace > 0 { format!("PACE {} ", self.pace) } else { String::new() };
        trouble + &pace
    }
}

impl Dialogue {
    /// The `number`th.
    pub(crate) fn random(number: usize, dice: &mut StdRng) -> Self {
        let kind = *[Kind::Text, Kind::Typed, Kind::Tools, Kind::Chain].choose(dice).unwrap_or(&Kind::Text);
        let api = if dice.random_bool(0.5) { Api::Responses } else { Api::Chat };
        // Of all runs: one stand-in sees them all, and remembers which texts have failed once.
        let run = dice.next_u32();
        let steps =
            (0..kind.steps()).map(|step| Step::random(format!("{run:x}-{number}-{step}"), dice)).collect();
        Self { kind, api, steps }
    }

    /// The `number`th, with nothing wrong.
    pub(crate) fn calm(number: usize, dice: &mut StdRng) -> Self {
        let mut dialogue = Self::random(number, dice);
        for step in &mut dialogue.steps {
            (step.trouble, step.leave) = (None, Leave::Never);
        }
        dialogue
    }

    /// One of each kind in each API, with nothing wrong.
    pub(crate) fn samples(name: &str) -> Vec<Self> {
        let mut samples = Vec::new();
        for kind in [Kind::Text, Kind::Typed, Kind::Tools, Kind::Chain] {
            for (api, stream) in
                [(Api::Responses, false), (Api::Responses, true), (Api::Chat, false), (Api::Chat, true)]
            {
                let tag = |step| format!("{name}-{}-{step}", samples.len());
                let steps = (0..kind.steps()).map(|step| Step::calm(tag(step), 12, 0, stream)).collect();
                samples.push(Self { kind, api, steps });
            }
        }
        samples
    }

    /// Calls, where all go well.
    pub(crate) fn calls(&self) -> usize {
        self.steps.len()
    }

    /// Holds it, to its end or the first step that it cannot go on from.
    pub(crate) async fn hold(&self, client: &Client, model: &str, tally: &Tally) {
        let mut conversation = Conversation::new(self.api, model);
        let name = format!("{} {}", self.api.name(), self.kind.name());
        for (number, step) in self.steps.iter().enumerate() {
            let (text, expected) = match (self.kind, number) {
                (Kind::Typed, _) => {
                    let json = json!({"tag": step.text(), "count": step.words}).to_string();
                    (format!("{}JSON {json}", step.steering()), Expected::Text(json))
                }
                (Kind::Tools, 0) => {
                    let arguments = json!({"key": step.text()}).to_string();
                    let text = format!("{}CALLTOOL {TOOL} {arguments}", step.steering());
                    (text, Expected::Call(TOOL, arguments))
                }
                (Kind::Text | Kind::Tools, _) => {
                    (format!("{}SAY {}", step.steering(), step.text()), Expected::Text(step.text()))
                }
                (Kind::Chain, _) if number + 1 == self.steps.len() => {
                    (format!("{}RECALL {}", step.steering(), step.text()), conversation.recalled())
                }
                (Kind::Chain, _) => {
                    let text = format!("{}{}", step.steering(), step.text());
                    let echo = Expected::Text(format!("echo: {text}"));
                    (text, echo)
                }
            };
            let mut body = conversation.ask(&text, step.stream);
            match self.kind {
                Kind::Typed => self.api.add_format(&mut body),
                Kind::Tools => self.api.add_tool(&mut body),
                Kind::Text | Kind::Chain => {}
            }
            let call = client.call(self.api.path(), &body, step.leave).await;
            let verdict = self.api.verdict(&call.end, step.stream, &expected);
            let away = matches!(&verdict, Verdict::Failed(failure) if failure.code == UNAVAILABLE);
            tally.note_asked(&step.tag, step.trouble, &call, &verdict);
            let said = tally.note(&name, step.trouble, &call, verdict);
            if away {
                sleep(PATIENCE).await;
            }
            match said {
                Some(said) => conversation.keep(&text, said),
                // There is nothing to answer.
                None if self.kind == Kind::Tools => return,
                // It goes on from what there is.
                None => {}
            }
        }
    }
}

impl Kind {
    fn steps(self) -> usize {
        match self {
            Self::Text | Self::Typed => 1,
            Self::Tools => 2,
            Self::Chain => 4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Typed => "typed",
            Self::Tools => "tools",
            Self::Chain => "chain",
        }
    }
}

impl Conversation {
    pub(crate) fn new(api: Api, model: &str) -> Self {
        Self { api, model: model.to_owned(), previous: None, messages: Vec::new(), said: Vec::new() }
    }

    /// The next request. An open tool call is answered with `text`, else the user says it.
    pub(crate) fn ask(&self, text: &str, stream: bool) -> Value {
        let new = self.next_message(text);
        let mut body = match self.api {
            Api::Responses => json!({"input": [new]}),
            Api::Chat => json!({"messages": self.messages.iter().cloned().chain([new]).collect::<Vec<_>>()}),
        };
        body["model"] = self.model.as_str().into();
        body["stream"] = stream.into();
        if let Some(previous) = self.previous.as_deref().filter(|_| self.api == Api::Responses) {
            body["previous_response_id"] = previous.into();
        }
        body
    }

    /// Goes on from `said`, the answer to `text`.
    pub(crate) fn keep(&mut self, text: &str, said: Said) {
        let asked = self.next_message(text);
        if asked["role"] == "user" {
            self.said.push(text.to_owned());
        }
        let mut answer = json!({"role": "assistant", "content": said.text});
        if let Some(call) = said.call {
            let function = json!({"name": call.name, "arguments": call.arguments});
            answer["tool_calls"] = json!([{"id": call.id, "type": "function", "function": function}]);
        }
        self.messages.extend([asked, answer]);
        self.previous = Some(said.id);
    }

    /// What the model says when it is asked for all it was told.
    pub(crate) fn recalled(&self) -> Expected {
        Expected::Text(format!("you said: {}", self.said.join(" / ")))
    }

    /// Questions that were answered.
    pub(crate) fn length(&self) -> usize {
        self.said.len()
    }

    /// Whether the model waits for a tool's output.
    pub(crate) fn is_open(&self) -> bool {
        self.messages.last().is_some_and(|last| last["tool_calls"].is_array())
    }

    /// The next request, with the tool in it.
    pub(crate) fn ask_with_tool(&self, text: &str, stream: bool) -> Value {
        let mut body = self.ask(text, stream);
        self.api.add_tool(&mut body);
        body
    }

    fn next_message(&self, text: &str) -> Value {
        let open = self.messages.last().and_then(|last| last["tool_calls"][0]["id"].as_str());
        match (self.api, open) {
            (_, None) => json!({"role": "user", "content": text}),
            (Api::Responses, Some(id)) => {
                json!({"type": "function_call_output", "call_id": id, "output": text})
            }
            (Api::Chat, Some(id)) => json!({"role": "tool", "tool_call_id": id, "content": text}),
        }
    }
}

impl Api {
    fn name(self) -> &'static str {
        match self {
            Self::Responses => "responses",
            Self::Chat => "chat",
        }
    }

    fn add_format(self, body: &mut Value) {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["tag", "count"],
            "properties": {"tag": {"type": "string"}, "count": {"type": "integer"}},
        });
        let format = json!({"name": "tagged", "strict": true, "schema": schema});
        match self {
            Self::Responses => {
                body["text"] = json!({"format": format});
                body["text"]["format"]["type"] = "json_schema".into();
            }
            Self::Chat => body["response_format"] = json!({"type": "json_schema", "json_schema": format}),
        }
    }

    fn add_tool(self, body: &mut Value) {
        let parameters =
            json!({"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]});
        let function = json!({"name": TOOL, "description": "Looks a key up.", "parameters": parameters});
        body["tools"] = match self {
            Self::Responses => {
                let mut tool = function;
                tool["type"] = "function".into();
                tool["strict"] = false.into();
                json!([tool])
            }
            Self::Chat => json!([{"type": "function", "function": function}]),
        };
    }
}
