//! Calls and their outputs in a conversation: are all paired, and does a request answer a batch that waits?

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::BridgeError;
use super::affinity::History;
use super::continuations::Step;
use crate::model::Item;

/// Each call must have one output after it, and each output a call before it: the app-server would make up
/// the one and drop the other, without a word. What `previous` has said is not unpacked, but to name a mistake.
pub(super) fn check_paired(previous: Option<&Arc<Step>>, input: &[Item]) -> Result<(), BridgeError> {
    let Some(previous) = previous else { return check(&[], input) };
    check(previous.open_calls(), input).map_err(|error| {
        let said = previous.transcript();
        check(&[], said.iter().chain(input)).err().unwrap_or(error)
    })
}

/// The same for items that follow the calls `open`.
fn check<'a>(open: &'a [String], items: impl IntoIterator<Item = &'a Item>) -> Result<(), BridgeError> {
    // In order, for the message names the first.
    let mut open: Vec<&str> = open.iter().map(String::as_str).collect();
    let mut answered = HashSet::new();
    for item in items {
        let call_id = item.str("call_id").unwrap_or_default();
        match item.kind() {
            "function_call" | "custom_tool_call" => open.push(call_id),
            _ if is_output(item) => {
                if let Some(at) = open.iter().position(|open| *open == call_id) {
                    open.remove(at);
                    answered.insert(call_id);
                } else if answered.contains(call_id) {
                    return Err(invalid(format!("Duplicate tool output found for function call {call_id}.")));
                } else {
                    return Err(invalid(format!(
                        "No tool call found for function call output with call_id {call_id}."
                    )));
                }
            }
            // It stands for all calls before it.
            "compaction" => {
                open.clear();
                answered.clear();
            }
            _ => {}
        }
    }
    match open.first() {
        Some(call_id) => Err(invalid(format!("No tool output found for function call {call_id}."))),
        None => Ok(()),
    }
}

/// Keeps `open`, the calls without an output, as `items` go by.
pub(super) fn follow(open: &mut Vec<String>, items: &[Item]) {
    for item in items {
        let call_id = item.str("call_id").unwrap_or_default();
        match item.kind() {
            "function_call" | "custom_tool_call" => open.push(call_id.to_owned()),
            "function_call_output" | "custom_tool_call_output" => {
                if let Some(at) = open.iter().position(|open| open == call_id) {
                    open.remove(at);
                }
            }
            "compaction" => open.clear(),
            _ => {}
        }
    }
}

/// What a request brings for a batch of calls that wait.
#[derive(Debug)]
pub(super) struct Answers {
    /// By call id, in the app-server's form.
    outputs: Vec<(String, Vec<Value>)>,
    /// What follows the outputs.
    pub(super) extras: Vec<Item>,
}

impl Answers {
    /// From `items`: first the outputs of all `calls`, each once, then nothing but messages that a running turn
    /// takes. `None` for anything else, which only a rebuilt conversation says in its own order.
    pub(super) fn read(calls: &[String], items: &[Item]) -> Option<Self> {
        if items.len() < calls.len() {
            return None;
        }
        let (first, rest) = items.split_at(calls.len());
        let mut outputs = Vec::with_capacity(first.len());
        for item in first {
            let call_id = item.str("call_id").filter(|_| is_output(item))?;
            let known = calls.iter().any(|call| call == call_id);
            if !known || outputs.iter().any(|(answered, _)| answered == call_id) {
                return None;
            }
            outputs.push((call_id.to_owned(), content(item.get("output")?)?));
        }
        let is_input =
            |item: &Item| item.kind() == "message" && matches!(item.str("role"), Some("user" | "developer"));
        rest.iter().all(is_input).then(|| Self { outputs, extras: rest.to_vec() })
    }

    /// The output of one call; each is taken once.
    pub(super) fn take(&mut self, call_id: &str) -> Option<Vec<Value>> {
        let at = self.outputs.iter().position(|(id, _)| id == call_id)?;
        Some(self.outputs.swap_remove(at).1)
    }
}

/// Where the outputs of `calls` begin in a conversation that a client sends whole. Earlier calls may have had the
/// same ids, so they are looked for after the last call.
pub(super) fn first_output(calls: &[String], items: &[Item]) -> Option<usize> {
    let is_one = |item: &Item| item.str("call_id").is_some_and(|id| calls.iter().any(|call| call == id));
    let called = items.iter().rposition(|item| is_call(item) && is_one(item)).unwrap_or(0);
    let output = items[called..].iter().position(|item| is_output(item) && is_one(item))?;
    Some(called + output)
}

fn is_call(item: &Item) -> bool {
    matches!(item.kind(), "function_call" | "custom_tool_call")
}

/// Whether the items bring outputs of tools for what the model said last: it is in the middle of something.
pub(super) fn ends_in_outputs(items: &[Item]) -> bool {
    let by_model =
        |item: &&Item| is_call(item) || item.kind() == "reasoning" || item.str("role") == Some("assistant");
    items.iter().rev().take_while(|item| !by_model(item)).any(is_output)
}

fn is_output(item: &Item) -> bool {
    matches!(item.kind(), "function_call_output" | "custom_tool_call_output")
}

/// Whether `given` says what `held` says. Ids and fields that say nothing do not count, and a client need not
/// send reasoning back.
pub(super) fn same_conversation(held: &[Item], given: &[Item]) -> bool {
    History::of(held).is_said_by(&History::of(given))
}

/// Fields that are about an item, and no part of what it says; the last is the app-server's own.
const SAYS_NOTHING: &[&str] = &["id", "status", "internal_chat_message_metadata_passthrough"];

/// What an item says, in one form.
pub(super) fn canonical(item: &Item) -> Value {
    let field = |name: &str| item.get(name).cloned().unwrap_or_default();
    match item.kind() {
        "message" => json!([field("role"), parts(&field("content"))]),
        "function_call" => {
            // Clients that parse arguments write them anew.
            let arguments = item.str("arguments").unwrap_or_default();
            let arguments = match read_whole(arguments) {
                Some(arguments) => json!({"json": arguments}),
                None => json!({"text": arguments}),
            };
            json!([field("call_id"), field("namespace"), field("name"), arguments])
        }
        "custom_tool_call" => json!([field("call_id"), field("namespace"), field("name"), field("input")]),
        "function_call_output" | "custom_tool_call_output" => {
            json!([field("call_id"), parts(&field("output"))])
        }
        "reasoning" => field("encrypted_content"),
        _ => {
            let mut fields = item.fields().clone();
            fields.retain(|name, value| !SAYS_NOTHING.contains(&name.as_str()) && !is_nothing(value));
            Value::Object(fields)
        }
    }
}

/// The JSON in `text`, unless reading it loses something: a field that comes twice, a number with more digits than
/// are kept.
fn read_whole(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(text).ok()?;
    let (mut colons, mut numbers, mut quoted, mut escaped) = (0, vec![String::new()], false, false);
    for c in text.chars() {
        let number = numbers.last_mut()?;
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            ':' => colons += 1,
            '0'..='9' | '-' => number.push(c),
            '.' | '+' | 'e' | 'E' if !number.is_empty() => number.push(c),
            _ if number.is_empty() => {}
            _ => numbers.push(String::new()),
        }
    }
    let is_whole =
        colons == fields(&value) && numbers.iter().all(|number| number.is_empty() || is_kept(number));
    is_whole.then_some(value)
}

/// Fields of all objects in it.
fn fields(value: &Value) -> usize {
    match value {
        Value::Object(object) => object.len() + object.values().map(fields).sum::<usize>(),
        Value::Array(values) => values.iter().map(fields).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Whether no other number is read as the same value.
fn is_kept(number: &str) -> bool {
    /// Decimal digits that a floating-point number holds, whichever they are.
    const DIGITS: usize = 15;
    let Ok(read) = serde_json::from_str::<serde_json::Number>(number) else { return false };
    if read.is_i64() || read.is_u64() {
        return true;
    }
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_matches('0').len();
    digits <= DIGITS && read.as_f64().is_some_and(|read| digits == 0 || read.is_normal())
}

/// Content as a list: texts as strings, runs of them joined, other parts as they are.
fn parts(content: &Value) -> Vec<Value> {
    let mut canonical: Vec<Value> = Vec::new();
    let single = [content.clone()];
    let parts = match content {
        Value::Array(parts) => parts,
        _ => &single[..],
    };
    for part in parts {
        let text = part.as_str().or_else(|| part.get("text").and_then(Value::as_str));
        match (text, canonical.last_mut()) {
            (Some(text), Some(Value::String(last))) => last.push_str(text),
            (Some(text), _) => canonical.push(text.into()),
            (None, _) => {
                let mut part = part.clone();
                if let Some(fields) = part.as_object_mut() {
                    fields.retain(|name, value| {
                        !(is_nothing(value) || name == "detail" && value.as_str() == Some("auto"))
                    });
                }
                if !is_nothing(&part) {
                    canonical.push(part);
                }
            }
        }
    }
    canonical.retain(|part| !is_nothing(part));
    canonical
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// An output as the content of a tool's answer; `None` if it has parts that an answer cannot hold.
fn content(output: &Value) -> Option<Vec<Value>> {
    let part = |part: &Value| {
        let said = |name: &str| part.get(name).and_then(Value::as_str);
        match said("type")? {
            "input_text" | "output_text" | "text" => {
                Some(json!({"type": "inputText", "text": said("text")?}))
            }
            "input_image" => {
                let url = said("image_url").filter(|url| url.starts_with("data:"))?;
                Some(json!({"type": "inputImage", "imageUrl": url}))
            }
            _ => None,
        }
    };
    match output {
        Value::String(text) => Some(vec![json!({"type": "inputText", "text": text})]),
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => None,
    }
}

fn invalid(message: String) -> BridgeError {
    BridgeError::InvalidRequest { message, param: Some("input".into()), code: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(values: impl Into<Value>) -> Vec<Item> {
        values
            .into()
            .as_array()
            .unwrap()
            .iter()
            .map(|value| Item::from_value(value.clone()).unwrap())
            .collect()
    }

    fn call(id: &str) -> Value {
        json!({"type": "function_call", "id": "fc", "call_id": id, "name": "f", "arguments": "{\"a\":1}"})
    }

    fn output(id: &str) -> Value {
        json!({"type": "function_call_output", "call_id": id, "output": "42"})
    }

    #[test]
    fn what_is_not_paired_is_named() {
        let check = |values| check_paired(None, &items(values)).map_err(|error| error.to_string());
        assert_eq!(check(json!([call("a"), call("b"), output("b"), output("a")])), Ok(()));
        let missing = "No tool output found for function call a.";
        assert_eq!(check(json!([call("a"), call("b"), output("b")])), Err(missing.into()));
        let unknown = "No tool call found for function call output with call_id c.";
        assert_eq!(check(json!([call("a"), output("c")])), Err(unknown.into()));
        assert_eq!(check(json!([output("c"), call("c")])), Err(unknown.into()));
        let twice = "Duplicate tool output found for function call a.";
        assert_eq!(check(json!([call("a"), output("a"), output("a")])), Err(twice.into()));
    }

    #[test]
    fn what_follows_a_chain_is_paired_with_its_calls() {
        let first = Step::new(None, &items(json!([call("a"), output("a")])));
        let tip = Step::new(Some(first), &items(json!([call("b"), call("c")])));
        let check = |values| check_paired(Some(&tip), &items(values)).map_err(|error| error.to_string());
        assert_eq!(check(json!([output("c"), output("b")])), Ok(()));
        let missing = "No tool output found for function call c.";
        assert_eq!(check(json!([output("b")])), Err(missing.into()));
        let unknown = "No tool call found for function call output with call_id d.";
        assert_eq!(check(json!([output("d")])), Err(unknown.into()));
        for answered in ["a", "b"] {
            let twice = format!("Duplicate tool output found for function call {answered}.");
            assert_eq!(check(json!([output("b"), output(answered)])), Err(twice));
        }
    }

    #[test]
    fn outputs_are_those_of_the_last_call_by_that_id() {
        let calls = ["a".to_owned(), "b".to_owned()];
        let first = |values| first_output(&calls, &items(values));
        assert_eq!(
            first(json!([call("a"), output("a"), call("b"), call("a"), output("b"), output("a")])),
            Some(4)
        );
        assert_eq!(first(json!([output("b"), output("a")])), Some(0));
        assert_eq!(first(json!([call("a"), output("a"), call("c"), output("c")])), Some(1));
        assert_eq!(first(json!([call("c"), output("c")])), None);
    }

    #[test]
    fn answers_are_all_outputs_and_then_messages() {
        let calls = ["a".to_owned(), "b".to_owned()];
        let user = json!({"type": "message", "role": "user", "content": []});
        let assistant = json!({"type": "message", "role": "assistant", "content": []});
        let read = |values| Answers::read(&calls, &items(values));
        let mut answers = read(json!([output("b"), output("a"), user])).unwrap();
        assert_eq!(answers.extras.len(), 1);
        assert_eq!(answers.take("a"), Some(vec![json!({"type": "inputText", "text": "42"})]));
        assert!(answers.take("a").is_none() && answers.take("b").is_some());
        for other in [
            json!([output("a")]),
            json!([output("a"), output("a")]),
            json!([output("a"), user, output("b")]),
            json!([output("a"), output("b"), assistant]),
            json!([output("a"), output("b"), call("c"), output("c")]),
        ] {
            assert!(read(other.clone()).is_none(), "{other}");
        }
    }

    #[test]
    fn outputs_may_be_lists_of_text_and_inline_images() {
        let listed = content(&json!([
            {"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "data:image/png;base64,AA"},
        ]));
        let image = json!({"type": "inputImage", "imageUrl": "data:image/png;base64,AA"});
        assert_eq!(listed, Some(vec![json!({"type": "inputText", "text": "x"}), image]));
        assert_eq!(content(&json!([{"type": "input_image", "image_url": "https://x/y.png"}])), None);
        assert_eq!(content(&json!([{"type": "input_file"}])), None);
    }

    #[test]
    fn arguments_are_the_same_where_nothing_is_lost_by_reading_them() {
        let said = |arguments: &str| {
            let call = json!({"type": "function_call", "call_id": "a", "name": "f", "arguments": arguments});
            canonical(&Item::from_value(call).unwrap())
        };
        for (one, other, same) in [
            (r#"{"a":1,"b":[true,null,"x:1"]}"#, r#"{ "b": [true, null, "x:1"], "a": 1 }"#, true),
            (r#"{"a":1.5}"#, r#"{"a":1.50}"#, true),
            (r#"{"a":"\u00e4\"1:"}"#, r#"{"a":"ä\"1:"}"#, true),
            (r#"{"a":1e3}"#, r#"{"a":1000.0}"#, true),
            // Too large for what numbers are read as.
            (r#"{"a":12345678901234567890123}"#, r#"{"a":12345678901234567890124}"#, false),
            (r#"{"a":0.12345678901234567}"#, r#"{"a":0.123456789012345671}"#, false),
            (r#"{"a":18446744073709551615}"#, r#"{"a":18446744073709551614}"#, false),
            (r#"{"a":1e-400}"#, r#"{"a":0.0}"#, false),
            // The last of two is all that is read.
            (r#"{"a":2,"a":1}"#, r#"{"a":1}"#, false),
            (r#"{"x":{"a":2,"a":1}}"#, r#"{"x":{"a":1}}"#, false),
            // A text, and the JSON of one.
            ("plain", r#""plain""#, false),
        ] {
            assert_eq!(said(one) == said(other), same, "{one} {other}");
        }
    }

    #[test]
    fn a_conversation_is_the_same_whatever_says_nothing() {
        let held = items(json!([
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"},
            {"type": "message", "id": "m", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": "let me ", "annotations": []}, {"type": "output_text", "text": "see"}]},
            call("a"),
        ]));
        let given = |reasoning: Option<&str>, said: &str, arguments: &str| {
            let mut given = vec![json!({"type": "message", "role": "user", "content": "hi"})];
            given.extend(
                reasoning.map(|e| json!({"type": "reasoning", "encrypted_content": e, "summary": []})),
            );
            given.push(json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said}]}));
            given.push(json!({"type": "function_call", "call_id": "a", "name": "f", "arguments": arguments}));
            items(given)
        };
        let check = |given: Vec<Item>| same_conversation(&held, &given);
        assert!(check(given(None, "let me see", "{\"a\": 1}")));
        assert!(check(given(Some("e"), "let me see", "{\"a\":1}")));
        assert!(!check(given(Some("other"), "let me see", "{\"a\":1}")));
        assert!(!check(given(None, "let me think", "{\"a\":1}")));
        assert!(!check(given(None, "let me see", "{\"a\":2}")));
        assert!(!check(given(None, "let me see", "{\"a\":1}")[..2].to_vec()));
        assert!(!same_conversation(&given(None, "let me see", "{}")[..2], &given(None, "let me see", "{}")));
    }
}
