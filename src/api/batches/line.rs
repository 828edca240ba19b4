//! One line of a batch's input, and one of its results.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// What rows may call.
pub(crate) const ENDPOINTS: [&str; 3] = ["/v1/responses", "/v1/chat/completions", "/v1/completions"];
/// Longest `custom_id`, characters.
pub(crate) const LONGEST_ID: usize = 512;

/// A request of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) custom_id: String,
    pub(crate) url: String,
    /// As it was written.
    pub(crate) body: Box<RawValue>,
    /// The model that it names.
    pub(crate) model: Option<String>,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) param: Option<&'static str>,
}

impl Wrong {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None }
    }

    fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }
}

impl Row {
    /// Reads a line. The text of a mistake never quotes what stands there.
    pub(crate) fn of(line: &[u8]) -> Result<Self, Wrong> {
        let no_object = || Wrong::new("invalid_json_line", "This line is not parseable as valid JSON.");
        let mut fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(line).map_err(|_| no_object())?;
        let mut text = |name: &'static str| -> Result<String, Wrong> {
            let missing = || {
                Wrong::new("missing_required_parameter", format!("Missing required parameter: '{name}'."))
                    .about(name)
            };
            let value = fields.remove(name).ok_or_else(missing)?;
            serde_json::from_str(value.get()).map_err(|_| {
                Wrong::new("invalid_type", format!("Invalid type for '{name}': expected a string."))
                    .about(name)
            })
        };
        let (custom_id, method, url) = (text("custom_id")?, text("method")?, text("url")?);
        if custom_id.is_empty() || custom_id.chars().count() > LONGEST_ID {
            let message = format!("Invalid 'custom_id': expected 1 to {LONGEST_ID} characters.");
            return Err(Wrong::new("invalid_custom_id", message).about("custom_id"));
        }
        if method != "POST" {
            return Err(Wrong::new("invalid_method", "The only method of a request is POST.").about("method"));
        }
        let body = fields.remove("body").ok_or_else(|| {
            Wrong::new("missing_required_parameter", "Missing required parameter: 'body'.").about("body")
        })?;
        let seen: Seen = Seen::of(&body)?;
        if seen.flag("stream") {
            let message = "Requests of a batch cannot be streamed.";
            return Err(Wrong::new("unsupported_parameter", message).about("body.stream"));
        }
        if seen.flag("background") {
            let message = "Requests of a batch cannot go on in the background.";
            return Err(Wrong::new("unsupported_parameter", message).about("body.background"));
        }
        let model = seen.text("model");
        Ok(Self { custom_id, url, body, model })
    }
}

/// The members of a body, unread.
struct Seen(BTreeMap<String, Box<RawValue>>);

impl Seen {
    fn of(body: &RawValue) -> Result<Self, Wrong> {
        serde_json::from_str(body.get()).map(Self).map_err(|_| {
            Wrong::new("invalid_type", "Invalid type for 'body': expected an object.").about("body")
        })
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value.get() == "true")
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }
}

/// The result of a request.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) id: String,
    pub(crate) custom_id: String,
    /// What was answered, if it was asked.
    pub(crate) response: Option<Answered>,
    /// Why it was not.
    pub(crate) error: Option<Value>,
}

/// What a request was answered.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Answered {
    pub(crate) status_code: u16,
    pub(crate) request_id: String,
    pub(crate) body: Value,
}

impl Outcome {
    pub(crate) fn answered(custom_id: String, response: Answered) -> Self {
        Self { id: new_id(), custom_id, response: Some(response), error: None }
    }

    /// That of a request that was not run.
    pub(crate) fn not_run(custom_id: String, code: &str, message: &str) -> Self {
        let error = Some(json!({ "code": code, "message": message }));
        Self { id: new_id(), custom_id, response: None, error }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.response.as_ref().is_some_and(Answered::is_good)
    }

    /// The line, with its end.
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

impl Answered {
    pub(crate) fn is_good(&self) -> bool {
        (200..300).contains(&self.status_code)
    }
}

fn new_id() -> String {
    format!("batch_req_{}", uuid::Uuid::new_v4().simple())
}

/// What answers have used, together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, schemars::JsonSchema, serde::Deserialize, Serialize)]
pub(crate) struct Used {
    pub(crate) input_tokens: u64,
    input_tokens_details: Cached,
    pub(crate) output_tokens: u64,
    output_tokens_details: Reasoned,
    total_tokens: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, schemars::JsonSchema, serde::Deserialize, Serialize)]
struct Cached {
    cached_tokens: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, schemars::JsonSchema, serde::Deserialize, Serialize)]
struct Reasoned {
    reasoning_tokens: u64,
}

impl Used {
    /// Adds what a body says, of whichever endpoint.
    pub(crate) fn add(&mut self, body: &Value) {
        let usage = &body["usage"];
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let either = |one: &Value, other: &Value| number(one).max(number(other));
        self.input_tokens += either(&usage["input_tokens"], &usage["prompt_tokens"]);
        self.output_tokens += either(&usage["output_tokens"], &usage["completion_tokens"]);
        self.total_tokens += number(&usage["total_tokens"]);
        let (input, output) = (
            ["input_tokens_details", "prompt_tokens_details"],
            ["output_tokens_details", "completion_tokens_details"],
        );
        let sum =
            |names: [&str; 2], what: &str| names.map(|name| number(&usage[name][what])).iter().sum::<u64>();
        self.input_tokens_details.cached_tokens += sum(input, "cached_tokens");
        self.output_tokens_details.reasoning_tokens += sum(output, "reasoning_tokens");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(line: &Value) -> (&'static str, Option<&'static str>) {
        let wrong = Row::of(line.to_string().as_bytes()).unwrap_err();
        (wrong.code, wrong.param)
    }

    #[test]
    fn a_line_is_read_and_its_body_kept_as_written() {
        let line = r#"{"custom_id":"a","method":"POST","url":"/v1/responses","body":{"model": "m","x":1.0},"more":1}"#;
        let row = Row::of(line.as_bytes()).unwrap();
        assert_eq!((row.custom_id.as_str(), row.url.as_str()), ("a", "/v1/responses"));
        assert_eq!((row.body.get(), row.model.as_deref()), (r#"{"model": "m","x":1.0}"#, Some("m")));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_without_a_word_of_it() {
        let line = |more: Value| {
            let mut line = json!({"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {}});
            for (name, value) in more.as_object().unwrap() {
                line[name] = value.clone();
                if value.is_null() {
                    line.as_object_mut().unwrap().remove(name);
                }
            }
            line
        };
        let missing = "missing_required_parameter";
        let cases = [
            (json!({"custom_id": null}), (missing, Some("custom_id"))),
            (json!({"custom_id": 7}), ("invalid_type", Some("custom_id"))),
            (json!({"custom_id": ""}), ("invalid_custom_id", Some("custom_id"))),
            (json!({"custom_id": "x".repeat(LONGEST_ID + 1)}), ("invalid_custom_id", Some("custom_id"))),
            (json!({"method": null}), (missing, Some("method"))),
            (json!({"method": "GET"}), ("invalid_method", Some("method"))),
            (json!({"url": null}), (missing, Some("url"))),
            (json!({"body": null}), (missing, Some("body"))),
            (json!({"body": []}), ("invalid_type", Some("body"))),
            (json!({"body": {"stream": true}}), ("unsupported_parameter", Some("body.stream"))),
            (json!({"body": {"background": true}}), ("unsupported_parameter", Some("body.background"))),
        ];
        for (more, expected) in cases {
            assert_eq!(wrong(&line(more.clone())), expected, "{more}");
        }
        for text in ["{\"secret\": nope}", "[1]", "7", "{\"custom_id\": \"a\"", "\u{0}"] {
            let wrong = Row::of(text.as_bytes()).unwrap_err();
            assert_eq!(wrong.code, "invalid_json_line", "{text}");
            assert!(!wrong.message.contains("secret"));
        }
    }

    #[test]
    fn what_was_used_is_summed_over_both_forms() {
        let mut used = Used::default();
        used.add(&json!({"usage": {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 2},
            "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 8}}));
        used.add(&json!({"usage": {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 11}}));
        used.add(&json!({"usage": null}));
        assert_eq!(
            serde_json::to_value(used).unwrap(),
            json!({"input_tokens": 15, "input_tokens_details": {"cached_tokens": 6}, "output_tokens": 4,
                "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 19})
        );
    }
}
