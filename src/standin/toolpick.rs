//! Which tools a text asks for, and what they are called with.

use super::answer::Call;
use super::conversation::{Choice, Conversation, Tool};
use super::instance;

/// Words of a tool's name that do not tell it from others.
const FILLER: &[&str] = &[
    "get", "set", "list", "find", "fetch", "look", "up", "do", "make", "create", "run", "the", "a", "an",
    "of", "for", "to", "in", "by", "and", "my", "tool", "function",
];

/// Tools of Codex itself: called only by their full name, since ordinary words ("plan", "image") are in theirs.
const BUILT_IN: &[&str] = &[
    "apply_patch",
    "exec_command",
    "imagegen",
    "list_mcp_resource_templates",
    "list_mcp_resources",
    "read_mcp_resource",
    "request_user_input",
    "run",
    "shell",
    "shell_command",
    "update_plan",
    "view_image",
    "write_stdin",
];

/// The calls that the text or the forced choice asks for.
pub(crate) fn calls(conversation: &Conversation<'_>) -> Option<Vec<Call>> {
    let text = conversation.last_user_text();
    let words = words_of(text);
    let both = words.iter().any(|word| word == "both");
    let mut named: Vec<(usize, Tool<'_>)> = conversation
        .tools
        .iter()
        .filter_map(|tool| Some((mentioned_at(tool.name, text, &words)?, *tool)))
        .collect();
    named.sort_by_key(|(position, _)| *position);
    let named: Vec<Tool<'_>> = named.into_iter().map(|(_, tool)| tool).collect();
    let chosen = match conversation.choice {
        Choice::One(name) => conversation.tools.iter().filter(|tool| tool.name == name).copied().collect(),
        Choice::Any | Choice::Auto if !named.is_empty() => named,
        Choice::Any => conversation.tools.clone(),
        Choice::Auto if words.windows(2).any(|pair| pair == ["the", "tool"]) => conversation.tools.clone(),
        Choice::Auto | Choice::Never => Vec::new(),
    };
    let count = if both { chosen.len() } else { 1 };
    let calls: Vec<Call> = chosen.iter().take(count).map(|tool| made_up_call(tool, text)).collect();
    (!calls.is_empty()).then_some(calls)
}

fn made_up_call(tool: &Tool<'_>, text: &str) -> Call {
    let arguments = tool
        .parameters
        .map_or_else(|| "{}".to_owned(), |schema| instance::of_schema(schema, text).to_string());
    Call { namespace: tool.namespace.map(str::to_owned), name: tool.name.to_owned(), arguments }
}

/// Where the text names the tool: by its whole name, or by a telling word of it.
fn mentioned_at(name: &str, text: &str, words: &[String]) -> Option<usize> {
    let whole = text.find(name).map(|at| words_of(&text[..at]).len());
    if whole.is_some() || BUILT_IN.contains(&name) {
        return whole;
    }
    let parts = words_of(&spread(name));
    let telling: Vec<&String> = parts.iter().filter(|part| !FILLER.contains(&part.as_str())).collect();
    // A name of filler only ("get", "find") is all its words.
    let telling = if telling.is_empty() { parts.iter().collect() } else { telling };
    words.iter().position(|word| telling.iter().any(|part| same_word(word, part)))
}

/// `getWeather` as `get Weather`.
fn spread(name: &str) -> String {
    let mut spread = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            spread.push(' ');
        }
        spread.push(c);
    }
    spread
}

/// Lower-case words, cut at everything that is not a letter or digit.
fn words_of(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Equal but for a plural's `s`.
fn same_word(a: &str, b: &str) -> bool {
    a.strip_suffix('s').unwrap_or(a) == b.strip_suffix('s').unwrap_or(b)
}
