//! The two APIs: what is asked, and what must come back.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::prompt::{INSTRUCTIONS, Prompt};

/// The end of every stream.
pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Api {
    Responses,
    Chat,
}

impl Api {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Responses => "/v1/responses",
            Self::Chat => "/v1/chat/completions",
        }
    }

    /// The request's body.
    pub(crate) fn body(self, model: &str, prompt: &Prompt, stream: bool) -> String {
        let mut body = match self {
            Self::Responses => json!({"instructions": INSTRUCTIONS, "input": prompt.question}),
            Self::Chat => json!({"messages": [
                {"role": "developer", "content": INSTRUCTIONS},
                {"role": "user", "content": prompt.question},
            ]}),
        };
        body["model"] = model.into();
        body["stream"] = stream.into();
        if stream && self == Self::Chat {
            body["stream_options"] = json!({"include_usage": true});
        }
        body.to_string()
    }

    /// Checks an answer that came whole.
    pub(crate) fn check_whole(self, body: &[u8], prompt: &Prompt) -> anyhow::Result<()> {
        let answer: Value = serde_json::from_slice(body)?;
        match self {
            Self::Responses => check_response(&answer, prompt),
            Self::Chat => {
                let choice = &answer["choices"][0];
                ensure!(choice["finish_reason"] == "stop", "finished by {}", choice["finish_reason"]);
                prompt.check("the message", choice["message"]["content"].as_str().unwrap_or_default())?;
                check_usage(&answer["usage"])
            }
        }
    }

    /// Whether one block of a stream carries text of the answer.
    pub(crate) fn has_text(self, block: &str) -> bool {
        data(block).is_some_and(|event| self.delta(&event).is_some_and(|delta| !delta.is_empty()))
    }

    /// Checks a whole stream: every delta, and what the final object says.
    pub(crate) fn check_stream(self, stream: &str, prompt: &Prompt) -> anyhow::Result<()> {
        let mut text = String::new();
        let mut last = Value::Null;
        for event in stream.split("\n\n").filter_map(data) {
            text.push_str(self.delta(&event).unwrap_or_default());
            last = event;
        }
        prompt.check("the joined deltas", &text)?;
        match self {
            Self::Responses => {
                ensure!(last["type"] == "response.completed", "the last event is {}", last["type"]);
                check_response(&last["response"], prompt)
            }
            Self::Chat => check_usage(&last["usage"]),
        }
    }

    fn delta(self, event: &Value) -> Option<&str> {
        match self {
            Self::Responses if event["type"] == "response.output_text.delta" => event["delta"].as_str(),
            Self::Responses => None,
            Self::Chat => event["choices"][0]["delta"]["content"].as_str(),
        }
    }
}

/// The JSON of a block; `None` for comments and the end.
fn data(block: &str) -> Option<Value> {
    let data = block.lines().find_map(|line| line.strip_prefix("data: "))?;
    serde_json::from_str(data).ok()
}

fn check_response(response: &Value, prompt: &Prompt) -> anyhow::Result<()> {
    ensure!(response["status"] == "completed", "the response is {}", response["status"]);
    let output = response["output"].as_array().context("no output")?;
    let parts = output.iter().filter_map(|item| item["content"].as_array()).flatten();
    let text: String = parts.filter_map(|part| part["text"].as_str()).collect();
    prompt.check("the response's text", &text)?;
    check_usage(&response["usage"])
}

fn check_usage(usage: &Value) -> anyhow::Result<()> {
    ensure!(usage["total_tokens"].as_u64() > Some(0), "an answer without usage");
    Ok(())
}
