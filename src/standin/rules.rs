//! The rules: a conversation in, an answer out. Pure; first match wins.

use serde_json::json;

use super::answer::{Answer, Body, Call};
use super::conversation::{Compaction, Conversation, ToolOutputs};
use super::{directives, instance, toolpick};

/// What the stand-in answers to `conversation`.
pub(crate) fn answer(conversation: &Conversation<'_>) -> Answer {
    let text = conversation.last_user_text();
    let thought = directives::thought(text);
    if let Some(how) = conversation.compaction {
        return summary(conversation, how);
    }
    let (mut body, failure) = match &conversation.tool_outputs {
        Some(outputs) => (after_tools(conversation, outputs), directives::failure(&outputs.new_text())),
        None => (body(conversation, text), directives::failure(text)),
    };
    if let (Body::Text { pause, .. }, Some(pace)) = (&mut body, directives::pace(text)) {
        *pause = pace;
    }
    Answer { thought, body, failure }
}

/// The summary that Codex asks for: what the user has said. It fails and takes its time as the last text says.
fn summary(conversation: &Conversation<'_>, how: Compaction) -> Answer {
    let text = conversation.last_user_text();
    let summary = format!("summary of: {}", conversation.user_texts.join(" / "));
    let pause = directives::pace(text).unwrap_or_default();
    let body = match how {
        Compaction::Text => Body::Text { text: summary, pause },
        Compaction::Item => Body::Compaction { summary, pause },
    };
    Answer { thought: None, body, failure: directives::failure(text) }
}

/// What the tools have just said can ask for the next round or dictate the answer, as a user text does.
fn after_tools(conversation: &Conversation<'_>, outputs: &ToolOutputs) -> Body {
    let said = outputs.new_text();
    if let Some(calls) = directives::calls(&said) {
        return Body::Calls(calls);
    }
    if let Some(body) = directives::dictated(&said) {
        return body;
    }
    if let Some(schema) = conversation.schema {
        return Body::text(instance::of_schema(schema, &said).to_string());
    }
    Body::text(format!("tool said: {}", outputs.all.join(", ")))
}

fn body(conversation: &Conversation<'_>, text: &str) -> Body {
    if let Some(calls) = directives::calls(text) {
        return Body::Calls(calls);
    }
    if let Some(body) = directives::dictated(text) {
        return body;
    }
    if let Some(query) = directives::search(text) {
        if conversation.searches {
            return Body::Search(query);
        }
        if conversation.offers("web", "run") {
            return Body::Calls(vec![Call {
                namespace: Some("web".into()),
                name: "run".into(),
                arguments: json!({"search_query": [{"q": query}]}).to_string(),
            }]);
        }
    }
    if asks_to_recall(text) {
        return Body::text(format!("you said: {}", conversation.earlier_user_texts().join(" / ")));
    }
    if let Some(calls) = toolpick::calls(conversation) {
        return Body::Calls(calls);
    }
    if let Some(schema) = conversation.schema {
        return Body::text(instance::of_schema(schema, text).to_string());
    }
    Body::text(format!("echo: {text}"))
}

fn asks_to_recall(text: &str) -> bool {
    let lower = text.to_lowercase();
    let word = |part: &str| part.trim_matches(|c: char| !c.is_alphanumeric()) == "RECALL";
    text.split_whitespace().any(word) || lower.contains("my name?") || lower.contains("code word?")
}

#[cfg(test)]
mod tests;
