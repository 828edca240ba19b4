//! Function tools on their way to the app-server and back: what is offered, and under which names.
//!
//! The conversation keeps the client's names; what is injected has the app-server's, by the same rule each
//! time, whether or not the tool is still offered.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::model::{FunctionTool, Item, ToolChoice, TurnRequest};

/// Longest name the backend takes.
const MAX_NAME: usize = 64;
/// What a name of ours ends in: this and so many hexadecimal digits.
const MARK: &str = "_r";
const DIGITS: usize = 10;

/// Names that Codex keeps for tools of its own: a client's tool of such a name would be refused, or disappear
/// without a word.
const RESERVED: &[&str] = &[
    "apply_patch",
    "code_mode",
    "container.exec",
    "exec",
    "exec_command",
    "image_generation",
    "image_gen",
    "list_agents",
    "list_mcp_resource_templates",
    "list_mcp_resources",
    "local_shell",
    "mcp",
    "new_context",
    "read_mcp_resource",
    "request_permissions",
    "request_user_input",
    "send_input",
    "send_message",
    "shell",
    "shell_command",
    "sleep",
    "spawn_agent",
    "tool_search",
    "tool_suggest",
    "update_plan",
    "view_image",
    "wait",
    "wait_agent",
    "web_search",
    "write_stdin",
];

/// The tools of one thread. Two sets are the same if the model is told the same.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    json: Arc<str>,
    dynamic: Arc<[Value]>,
    /// From the app-server's names to the client's.
    names: Arc<HashMap<String, String>>,
}

impl Tools {
    /// What the request offers the model.
    pub(super) fn offered(request: &TurnRequest) -> Self {
        let offered = |tool: &&FunctionTool| match &request.tool_choice {
            ToolChoice::None => false,
            ToolChoice::Allowed(names) => names.contains(&tool.name),
            ToolChoice::Auto | ToolChoice::Required(_) => true,
        };
        let tools: Vec<&FunctionTool> = request.tools.iter().filter(offered).collect();
        let dynamic: Vec<Value> = tools.iter().map(|tool| dynamic(tool)).collect();
        let names = tools.iter().map(|tool| (upstream_name(&tool.name).into_owned(), tool.name.clone()));
        Self {
            json: Value::Array(dynamic.clone()).to_string().into(),
            names: Arc::new(names.collect()),
            dynamic: dynamic.into(),
        }
    }

    /// In the app-server's form.
    pub(super) fn dynamic(&self) -> &[Value] {
        &self.dynamic
    }

    /// Whether the app-server has a function of that name.
    pub(super) fn offers(&self, upstream: &str) -> bool {
        self.names.contains_key(upstream)
    }

    /// A call with the client's name for its function; `None` if that function was not offered.
    pub(super) fn client_call(&self, call: Item) -> Option<Item> {
        let upstream = call.str("name")?;
        let name = self.names.get(upstream)?;
        if name == upstream { Some(call) } else { Some(renamed(&call, name)) }
    }
}

impl PartialEq for Tools {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

impl Eq for Tools {}

impl Hash for Tools {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.json.hash(state);
    }
}

/// The items as the app-server is to have them.
pub(super) fn upstream_items<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<Item> {
    items.into_iter().map(upstream_item).collect()
}

/// What a forced call is asked for with, as the last thing the model reads; no part of the conversation.
pub(super) fn demand(request: &TurnRequest) -> Option<Item> {
    let ToolChoice::Required(names) = &request.tool_choice else { return None };
    let names: Vec<_> = names.iter().map(|name| upstream_name(name)).collect();
    let text = match &names[..] {
        [] => "Respond by calling at least one of the functions you have. Do not respond with text.".into(),
        [name] => format!("Respond by calling the function `{name}`. Do not respond with text."),
        names => format!(
            "Respond by calling at least one of these functions: `{}`. Do not respond with text.",
            names.join("`, `")
        ),
    };
    Some(Item::input_text("developer", &text))
}

/// Whether the calls in `output` are what the request demands.
pub(super) fn honoured<'a>(choice: &ToolChoice, output: impl IntoIterator<Item = &'a Item>) -> bool {
    let ToolChoice::Required(names) = choice else { return true };
    let mut calls = output.into_iter().filter(|item| item.kind() == "function_call");
    calls.any(|call| names.is_empty() || names.iter().any(|name| call.str("name") == Some(name.as_str())))
}

fn upstream_item(item: &Item) -> Item {
    match item.str("name").filter(|_| item.kind() == "function_call").map(upstream_name) {
        Some(Cow::Owned(name)) => renamed(item, &name),
        Some(Cow::Borrowed(_)) | None => item.clone(),
    }
}

fn renamed(call: &Item, name: &str) -> Item {
    let mut fields = call.fields().clone();
    fields.insert("name".into(), name.into());
    Item::new(fields)
}

fn dynamic(tool: &FunctionTool) -> Value {
    let schema = if tool.parameters.is_null() {
        json!({"type": "object", "properties": {}})
    } else {
        tool.parameters.clone()
    };
    json!({
        "type": "function",
        "name": upstream_name(&tool.name),
        "description": tool.description.as_deref().unwrap_or_default(),
        "inputSchema": schema,
    })
}

/// The name under which the app-server gets the function `name`: its own where that will do. Others keep what
/// can be read of theirs, and a digest keeps them apart; a name that looks like such a one is renamed too.
fn upstream_name(name: &str) -> Cow<'_, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let taken = RESERVED.contains(&name) || name.starts_with("mcp__");
    if !taken && !is_ours(name) && (1..=MAX_NAME).contains(&name.len()) && name.chars().all(fits) {
        return Cow::Borrowed(name);
    }
    let prefix = if name.starts_with("mcp") { "fn_" } else { "" };
    let room = MAX_NAME - prefix.len() - MARK.len() - DIGITS;
    let readable: String = name.chars().take(room).map(|c| if fits(c) { c } else { '_' }).collect();
    let digest = format!("{:x}", Sha256::digest(name));
    Cow::Owned(format!("{prefix}{readable}{MARK}{}", &digest[..DIGITS]))
}

/// Whether `name` ends as the names do that are made here.
fn is_ours(name: &str) -> bool {
    name.rsplit_once(MARK).is_some_and(|(_, digits)| {
        digits.len() == DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// What shapes an answer beside the conversation. A turn that waits goes on only under the same.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    model: String,
    instructions: Option<String>,
    effort: Option<String>,
    summary: Option<String>,
    verbosity: Option<String>,
    service_tier: Option<String>,
    output_schema: Option<Value>,
    tools: Vec<FunctionTool>,
    tool_choice: ToolChoice,
    parallel_tool_calls: bool,
    web_search: bool,
}

impl Settings {
    /// Of a request that `model` answers.
    pub(super) fn of(request: &TurnRequest, model: &str) -> Self {
        Self {
            model: model.to_owned(),
            instructions: request.instructions.clone(),
            effort: request.effort.clone(),
            summary: request.summary.clone(),
            verbosity: request.verbosity.clone(),
            service_tier: request.service_tier.clone(),
            output_schema: request.output_schema.clone(),
            tools: request.tools.clone(),
            tool_choice: request.tool_choice.clone(),
            parallel_tool_calls: request.parallel_tool_calls,
            web_search: request.web_search,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_stay_and_others_are_readable() {
        for name in ["get_weather", "a", "getWeather-2", &"x".repeat(64)] {
            assert_eq!(upstream_name(name), name);
        }
        for (name, start) in [
            ("exec_command", "exec_command_r"),
            ("mcp__a__b", "fn_mcp__a__b_r"),
            ("get weather!", "get_weather__r"),
        ] {
            assert!(upstream_name(name).starts_with(start), "{}", upstream_name(name));
        }
    }

    proptest! {
        #[test]
        fn names_are_taken_by_the_app_server_and_never_meet(
            names in prop::collection::hash_set("\\PC{1,80}|mcp__[a-z]{1,4}|[a-z]{60,70}|a[ ./]b", 1..30),
        ) {
            // What a client that saw our names might call its own.
            let mut names: HashSet<String> = names;
            let ours: Vec<String> = names.iter().map(|name| upstream_name(name).into_owned()).collect();
            names.extend(ours);
            let upstream: HashSet<String> = names.iter().map(|name| upstream_name(name).into_owned()).collect();
            prop_assert_eq!(upstream.len(), names.len());
            for name in &upstream {
                prop_assert!((1..=MAX_NAME).contains(&name.len()));
                prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
                prop_assert!(!name.starts_with("mcp__") && !RESERVED.contains(&name.as_str()));
            }
        }
    }
}
