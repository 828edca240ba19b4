//! The rules: a conversation in, an answer out. Pure; first match wins.

use super::answer::{Answer, Body};
use super::conversation::Conversation;
use super::{directives, instance, toolpick};

/// What the stand-in answers to `conversation`.
pub(crate) fn answer(conversation: &Conversation<'_>) -> Answer {
    let text = conversation.last_user_text();
    let thought = directives::thought(text);
    if let Some(outputs) = &conversation.tool_outputs {
        let body = Body::text(format!("tool said: {}", outputs.join(", ")));
        return Answer { thought, body, failure: None };
    }
    Answer { thought, body: body(conversation, text), failure: directives::failure(text) }
}

fn body(conversation: &Conversation<'_>, text: &str) -> Body {
    if let Some(calls) = directives::calls(text) {
        return Body::Calls(calls);
    }
    if let Some(body) = directives::dictated(text) {
        return body;
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
