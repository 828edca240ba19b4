//! What a socket remembers: its last response, for the request that continues it.

use serde_json::Value;

/// One socket's last completed response. Owned by the socket's task; bounded by one conversation.
#[derive(Debug, Default)]
pub(crate) struct History {
    last: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    response_id: String,
    /// Its whole input, then its output.
    items: Vec<Value>,
}

impl History {
    /// `body` with the whole conversation as its input; `None` if it continues a response that is not the last.
    pub(crate) fn expand(&self, body: &Value) -> Option<Value> {
        let mut whole = body.clone();
        if let Some(fields) = whole.as_object_mut() {
            fields.shift_remove("type");
            fields.shift_remove("previous_response_id");
        }
        let Some(previous) = body["previous_response_id"].as_str() else { return Some(whole) };
        let kept = self.last.as_ref().filter(|kept| kept.response_id == previous)?;
        let mut items = kept.items.clone();
        items.extend(items_of(&body["input"]));
        whole["input"] = items.into();
        Some(whole)
    }

    /// Remembers a response: the whole request, as expanded, and what was answered.
    pub(crate) fn keep(&mut self, response_id: String, mut whole: Value, output: Vec<Value>) {
        let mut items = items_of(&whole["input"].take());
        items.extend(output);
        self.last = Some(Kept { response_id, items });
    }
}

/// A string input is one user message.
fn items_of(input: &Value) -> Vec<Value> {
    match input {
        Value::Array(items) => items.clone(),
        Value::String(text) => vec![serde_json::json!({"type": "message", "role": "user", "content": text})],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_continuation_carries_the_whole_conversation() {
        let mut history = History::default();
        let first = json!({"type": "response.create", "model": "m", "input": ["a"], "generate": false});
        let whole = history.expand(&first).unwrap();
        assert_eq!(whole, json!({"model": "m", "input": ["a"], "generate": false}));
        history.keep("r1".into(), whole, Vec::new());
        let second =
            json!({"type": "response.create", "model": "m", "input": ["b"], "previous_response_id": "r1"});
        let whole = history.expand(&second).unwrap();
        assert_eq!(whole, json!({"model": "m", "input": ["a", "b"]}));
        history.keep("r2".into(), whole, vec![json!("answer")]);
        assert_eq!(history.expand(&json!({"input": ["c"], "previous_response_id": "r1"})), None);
        let third = history.expand(&json!({"input": ["c"], "previous_response_id": "r2"})).unwrap();
        assert_eq!(third["input"], json!(["a", "b", "answer", "c"]));
        assert_eq!(history.expand(&json!({"input": ["new"]})).unwrap()["input"], json!(["new"]));
    }
}
