//! A request body, read the way the rules look at it. Lenient: what is not understood is left out.

use serde_json::Value;

use super::output;

/// What the rules look at, borrowed from one expanded request body.
#[derive(Debug)]
pub(crate) struct Conversation<'a> {
    /// The text of each user message, oldest first.
    pub(crate) user_texts: Vec<String>,
    /// The outputs since the last message, if the conversation ends with one.
    pub(crate) tool_outputs: Option<ToolOutputs>,
    /// Whether the model may search the web.
    pub(crate) searches: bool,
    /// The function tools that may be called.
    pub(crate) tools: Vec<Tool<'a>>,
    /// Whether one of them must be.
    pub(crate) choice: Choice<'a>,
    /// The schema the answer must follow.
    pub(crate) schema: Option<&'a Value>,
    /// How a summary of it is asked for, if one is; the words that ask are none of the user's.
    pub(crate) compaction: Option<Compaction>,
}

/// How a summary is asked for, and comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compaction {
    /// In words, as a text.
    Text,
    /// By an item, as one.
    Item,
}

/// What Codex's own words that ask for a summary begin with.
const COMPACT: &str = "You are performing a CONTEXT CHECKPOINT COMPACTION.";

/// Outputs of tools, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToolOutputs {
    pub(crate) all: Vec<String>,
    /// How many of them, at the end, no call follows: what the model has not answered yet.
    pub(crate) new: usize,
}

impl ToolOutputs {
    /// The new ones, a line each.
    pub(crate) fn new_text(&self) -> String {
        self.all[self.all.len() - self.new..].join("\n")
    }
}

/// One function tool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool<'a> {
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) parameters: Option<&'a Value>,
}

/// `tool_choice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    Auto,
    Never,
    Any,
    One(&'a str),
}

impl<'a> Conversation<'a> {
    /// Reads `body`, whose `input` must be the whole conversation.
    pub(crate) fn read(body: &'a Value) -> Self {
        let items: &[Value] = body["input"].as_array().map_or(&[], Vec::as_slice);
        let mut user_texts: Vec<String> = match &body["input"] {
            Value::String(text) => vec![text.clone()],
            _ => items.iter().filter_map(user_text).collect(),
        };
        let compaction = if items.last().is_some_and(|item| item["type"] == "compaction_trigger") {
            Some(Compaction::Item)
        } else {
            user_texts.pop_if(|text| text.starts_with(COMPACT)).map(|_| Compaction::Text)
        };
        let (tools, choice) = tools_and_choice(body, items);
        let searches =
            body["tools"].as_array().into_iter().flatten().any(|tool| tool["type"] == "web_search");
        let (tool_outputs, schema) = (last_outputs(items), schema(body));
        Self { user_texts, tool_outputs, searches, tools, choice, schema, compaction }
    }

    /// Whether the model may call this tool.
    pub(crate) fn offers(&self, namespace: &str, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.namespace == Some(namespace) && tool.name == name)
    }

    /// The last user message's text; empty if there is none.
    pub(crate) fn last_user_text(&self) -> &str {
        self.user_texts.last().map_or("", String::as_str)
    }

    /// The texts of the user messages before the last one.
    pub(crate) fn earlier_user_texts(&self) -> &[String] {
        self.user_texts.split_last().map_or(&[], |(_, earlier)| earlier)
    }
}

/// What a user message says; a compaction item of ours says its summary.
fn user_text(item: &Value) -> Option<String> {
    if item["type"] == "compaction" {
        return output::summary(item["encrypted_content"].as_str()?);
    }
    (item["role"] == "user").then(|| text_of(&item["content"]))
}

/// The text in a content, given as a string or as parts; a line each.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// The outputs after the last message of the user's or the model's own, in order, calls and reasoning between
/// them or not.
fn last_outputs(items: &[Value]) -> Option<ToolOutputs> {
    let newest_first: Vec<&Value> = items
        .iter()
        .rev()
        .filter(|item| item["role"] != "developer")
        .take_while(|item| item["role"].is_null())
        .collect();
    let new = newest_first.iter().take_while(|item| is_output(item)).count();
    let outputs = newest_first.iter().rev().filter(|item| is_output(item));
    let all: Vec<String> = outputs.map(|item| text_of(&item["output"])).collect();
    (new > 0).then_some(ToolOutputs { all, new })
}

fn is_output(item: &Value) -> bool {
    matches!(item["type"].as_str(), Some("function_call_output" | "custom_tool_call_output"))
}

/// Tools come in `tools`, or in an `additional_tools` item; either may group them in a namespace.
fn tools_and_choice<'a>(body: &'a Value, items: &'a [Value]) -> (Vec<Tool<'a>>, Choice<'a>) {
    let mut tools = Vec::new();
    let wrapped = items.iter().filter(|item| item["type"] == "additional_tools").map(|item| &item["tools"]);
    for list in std::iter::once(&body["tools"]).chain(wrapped) {
        collect_functions(list, None, &mut tools);
    }
    let choice = &body["tool_choice"];
    let choice = match (choice.as_str(), choice["type"].as_str()) {
        (Some("none"), _) => Choice::Never,
        (Some("required"), _) => Choice::Any,
        (_, Some("function")) => choice["name"].as_str().map_or(Choice::Any, Choice::One),
        (_, Some("allowed_tools")) => {
            let allowed: &[Value] = choice["tools"].as_array().map_or(&[], Vec::as_slice);
            tools.retain(|tool| allowed.iter().any(|one| one["name"] == tool.name));
            if choice["mode"] == "required" { Choice::Any } else { Choice::Auto }
        }
        _ => Choice::Auto,
    };
    (tools, choice)
}

fn collect_functions<'a>(list: &'a Value, namespace: Option<&'a str>, tools: &mut Vec<Tool<'a>>) {
    for tool in list.as_array().into_iter().flatten() {
        match (tool["type"].as_str(), tool["name"].as_str()) {
            (Some("function"), Some(name)) => {
                tools.push(Tool { namespace, name, parameters: tool.get("parameters") });
            }
            // The one of the tools that stand in none; a model leaves it out.
            (Some("namespace"), Some("functions")) => collect_functions(&tool["tools"], None, tools),
            (Some("namespace"), name) => collect_functions(&tool["tools"], name, tools),
            _ => {}
        }
    }
}

fn schema(body: &Value) -> Option<&Value> {
    let format = &body["text"]["format"];
    if format["type"] == "json_schema" { format.get("schema") } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn user_texts_are_those_of_user_messages_in_any_form() {
        let body = json!({"input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be brief"}]},
            {"role": "user", "content": "one"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "echo"}]},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "two"}, {"type": "input_image", "image_url": "data:,"},
                {"type": "input_text", "text": "three"}]},
        ]});
        let conversation = Conversation::read(&body);
        assert_eq!(conversation.user_texts, ["one", "two\nthree"]);
        assert_eq!(conversation.last_user_text(), "two\nthree");
        assert_eq!(conversation.earlier_user_texts(), ["one"]);
        assert_eq!(Conversation::read(&json!({"input": "hi"})).user_texts, ["hi"]);
        assert_eq!(Conversation::read(&json!({})).last_user_text(), "");
    }

    #[test]
    fn outputs_are_those_of_the_last_round_and_only_at_the_end() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let output =
            |id: &str, out: Value| json!({"type": "function_call_output", "call_id": id, "output": out});
        let user = json!({"role": "user", "content": "go"});
        let first = json!({"input": [user, call("0"), output("0", json!("old")), user, call("1"), output("1", json!("a")),
            call("2"), output("2", json!([{"type": "input_text", "text": "b"}])),
            {"type": "additional_tools", "role": "developer", "tools": []}]});
        let outputs = Conversation::read(&first).tool_outputs.unwrap();
        assert_eq!((outputs.all.join(" "), outputs.new_text()), ("a b".to_owned(), "b".to_owned()));
        let batch =
            json!({"input": [user, call("1"), call("2"), output("1", json!("a")), output("2", json!("b"))]});
        assert_eq!(Conversation::read(&batch).tool_outputs.unwrap().new_text(), "a\nb");
        let told = json!({"input": [user, call("1"), output("1", json!("a")), {"role": "developer", "content": "go on"}]});
        assert_eq!(Conversation::read(&told).tool_outputs.unwrap().new_text(), "a");
        let then = json!({"input": [user, call("1"), output("1", json!("a")), user]});
        assert_eq!(Conversation::read(&then).tool_outputs, None);
    }

    #[test]
    fn a_summary_is_asked_for_in_words_or_by_an_item() {
        let user = json!({"role": "user", "content": "one"});
        let prompt =
            json!({"role": "user", "content": [{"type": "input_text", "text": format!("{COMPACT} Do.")}]});
        let words = json!({"input": [user, prompt]});
        let read = Conversation::read(&words);
        assert_eq!(
            (read.compaction, &read.user_texts[..]),
            (Some(Compaction::Text), &["one".to_owned()][..])
        );
        let earlier = output::compaction("cmp".into(), "before", std::time::Duration::ZERO).item();
        let item = json!({"input": [earlier, user, {"type": "compaction_trigger"}]});
        let read = Conversation::read(&item);
        assert_eq!(read.compaction, Some(Compaction::Item));
        assert_eq!(read.user_texts, ["before", "one"]);
        assert_eq!(Conversation::read(&json!({"input": [prompt, user]})).compaction, None);
    }

    #[test]
    fn tools_are_found_in_every_place_and_narrowed_by_the_choice() {
        let tool = |name: &str| json!({"type": "function", "name": name, "parameters": {"type": "object"}});
        let mut body = json!({
            "tools": [tool("a"), {"type": "web_search"}, {"type": "namespace", "name": "n", "tools": [tool("b")]}],
            "input": [{"type": "additional_tools", "role": "developer", "tools": [tool("c")]}],
        });
        let names = |body: &Value| -> Vec<String> {
            Conversation::read(body).tools.iter().map(|tool| tool.name.to_owned()).collect()
        };
        assert_eq!(names(&body), ["a", "b", "c"]);
        assert_eq!(Conversation::read(&body).choice, Choice::Auto);
        body["tool_choice"] = json!({"type": "function", "name": "b"});
        assert_eq!(Conversation::read(&body).choice, Choice::One("b"));
        body["tool_choice"] = json!({"type": "allowed_tools", "mode": "required", "tools": [{"name": "c"}]});
        assert_eq!((names(&body), Conversation::read(&body).choice), (vec!["c".to_owned()], Choice::Any));
    }
}
