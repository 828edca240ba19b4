//! The client's tools on their way to the app-server and back: what is offered, under which names, and custom
//! tools as the functions that stand for them.
//!
//! The conversation keeps the client's words; what is injected has the app-server's, by the same rule each
//! time, whether or not the tool is still offered.

mod custom;
mod names;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use jsonschema::Validator;
use regex::Regex;
use serde_json::{Value, json};

use super::compaction::in_force;
use super::references::is_bare_reasoning;
use crate::model::{
    Item, Rebuilt, Strict, Tool, ToolChoice, ToolInput, ToolName, TurnRequest, WebSearch, grammar,
};

/// The tools of one thread. Two sets are the same if the model is told the same.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    json: Arc<str>,
    dynamic: Arc<[Value]>,
    /// By the app-server's names.
    offered: Arc<HashMap<ToolName, Offered>>,
    /// Codex's own that were asked for.
    web_search: bool,
    image_generation: bool,
}

#[derive(Debug)]
struct Offered {
    /// The client's name.
    name: ToolName,
    input: Input,
}

#[derive(Debug)]
enum Input {
    /// Arguments, and the schema of a strict function, which they must follow.
    Arguments(Option<(Validator, Strict)>),
    /// Free text, which must match.
    Text(Option<Regex>),
}

/// A call as the client gets it.
#[derive(Debug)]
pub(super) struct ClientCall {
    pub(super) item: Item,
    /// How strict the schema or grammar is that does not allow what the tool is called with; `None` if it fits.
    pub(super) misfit: Option<Strict>,
}

impl Tools {
    /// What the request offers the model.
    pub(super) fn offered(request: &TurnRequest) -> Self {
        let tools: Vec<&Tool> = chosen(request).collect();
        let dynamic = dynamic(&tools);
        let offered = tools.iter().map(|tool| (names::upstream(&tool.full_name()), Offered::new(tool)));
        Self {
            json: Value::Array(dynamic.clone()).to_string().into(),
            offered: Arc::new(offered.collect()),
            dynamic: dynamic.into(),
            web_search: request.web_search.is_some(),
            image_generation: request.image_generation,
        }
    }

    /// Whether it is a call of a tool of Codex's own that was asked for: the app-server answers it by itself.
    pub(super) fn is_own(&self, call: &Item) -> bool {
        match (call.str("namespace"), call.str("name")) {
            (Some("web"), Some("run")) => self.web_search,
            (Some("image_gen"), Some("imagegen")) => self.image_generation,
            _ => false,
        }
    }

    /// In the app-server's form.
    pub(super) fn dynamic(&self) -> &[Value] {
        &self.dynamic
    }

    /// Whether the app-server has a tool of that name.
    pub(super) fn offers(&self, namespace: Option<&str>, name: &str) -> bool {
        self.offered.contains_key(&names::written(namespace, name))
    }

    /// Whether a call may have to be refused, since the client asked for a schema or grammar to be kept.
    pub(super) fn may_refuse(&self) -> bool {
        self.offered.values().any(|tool| {
            matches!(tool.input, Input::Arguments(Some((_, Strict::Asked))) | Input::Text(Some(_)))
        })
    }

    /// A call in the client's words; `None` if its tool was not offered.
    pub(super) fn client_call(&self, call: &Item) -> Option<ClientCall> {
        let written = names::written(call.str("namespace"), call.str("name")?);
        if call.kind() != "function_call" {
            return None;
        }
        let tool = self.offered.get(&written)?;
        let call = renamed(call, &tool.name);
        Some(match &tool.input {
            Input::Arguments(schema) => {
                let broken = schema.as_ref().filter(|(schema, _)| !follows(&call, schema));
                ClientCall { misfit: broken.map(|(_, strict)| *strict), item: call }
            }
            Input::Text(pattern) => {
                let item = custom::client_call(&call);
                let text = item.str("input").unwrap_or_default();
                let broken = pattern.as_ref().filter(|pattern| !pattern.is_match(text));
                ClientCall { misfit: broken.map(|_| Strict::Asked), item }
            }
        })
    }
}

impl Offered {
    fn new(tool: &Tool) -> Self {
        let input = match &tool.input {
            // The edge has refused what is no schema and what is no expression.
            ToolInput::Arguments { schema, strict } => {
                let schema = || jsonschema::options().build(schema).ok();
                let held_to = (*strict != Strict::No).then(schema).flatten();
                Input::Arguments(held_to.map(|schema| (schema, *strict)))
            }
            ToolInput::Text { pattern } => {
                Input::Text(pattern.as_ref().and_then(|pattern| grammar(pattern).ok()))
            }
        };
        Self { name: tool.full_name(), input }
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

/// The tools of the request that its choice leaves.
pub(super) fn chosen(request: &TurnRequest) -> impl Iterator<Item = &Tool> {
    request.tools.iter().filter(|tool| match &request.tool_choice {
        ToolChoice::None => false,
        ToolChoice::Required(names) if names.is_empty() => true,
        ToolChoice::Required(names) | ToolChoice::Allowed(names) => names.contains(&tool.full_name()),
        ToolChoice::Auto => true,
    })
}

/// The items as the app-server is to have them.
pub(super) fn upstream_items<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<Item> {
    in_force(items).into_iter().filter(|item| !is_bare_reasoning(item)).map(upstream_item).collect()
}

/// What a forced call is asked for with, as the last thing the model reads; no part of the conversation.
pub(super) fn demand(request: &TurnRequest) -> Option<Item> {
    let ToolChoice::Required(names) = &request.tool_choice else { return None };
    let names: Vec<_> = names.iter().map(|name| names::upstream(name).to_string()).collect();
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
    let mut called = output.into_iter().filter_map(called);
    called.any(|called| names.is_empty() || names.contains(&called))
}

/// The tool of the client's that the item calls.
fn called(item: &Item) -> Option<ToolName> {
    let name = item.str("name").filter(|_| matches!(item.kind(), "function_call" | "custom_tool_call"))?;
    Some(ToolName { namespace: item.str("namespace").map(str::to_owned), name: name.to_owned() })
}

fn upstream_item(item: &Item) -> Item {
    if let Some(summary) = item.summary() {
        return summary;
    }
    let item = match called(item) {
        Some(name) => renamed(item, &names::upstream(&name)),
        None => item.clone(),
    };
    custom::upstream(item)
}

/// The call under another name, if that is another.
fn renamed(call: &Item, name: &ToolName) -> Item {
    if called(call).as_ref() == Some(name) {
        return call.clone();
    }
    let mut fields = call.fields().clone();
    fields.insert("name".into(), name.name.as_str().into());
    match &name.namespace {
        Some(namespace) => drop(fields.insert("namespace".into(), namespace.as_str().into())),
        None => drop(fields.shift_remove("namespace")),
    }
    Item::new(fields)
}

/// The tools in the app-server's form; those of one namespace together, where its first one stands.
fn dynamic(tools: &[&Tool]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    // Where in `all` a namespace is.
    let mut namespaces: HashMap<&str, usize> = HashMap::new();
    for tool in tools {
        let Some(namespace) = &tool.namespace else {
            all.push(function(tool));
            continue;
        };
        let at = *namespaces.entry(&namespace.name).or_insert_with(|| {
            all.push(json!({
                "type": "namespace",
                "name": names::upstream_namespace(&namespace.name),
                "description": namespace.description,
                "tools": [],
            }));
            all.len() - 1
        });
        if let Some(tools) = all[at]["tools"].as_array_mut() {
            tools.push(function(tool));
        }
    }
    all
}

fn function(tool: &Tool) -> Value {
    let schema = match &tool.input {
        ToolInput::Arguments { schema: Value::Null, .. } => json!({"type": "object", "properties": {}}),
        ToolInput::Arguments { schema, .. } => schema.clone(),
        ToolInput::Text { pattern } => custom::schema(pattern.as_deref()),
    };
    json!({
        "type": "function",
        "name": names::upstream_name(&tool.name),
        "description": tool.description.as_deref().unwrap_or_default(),
        "inputSchema": schema,
    })
}

fn follows(call: &Item, schema: &Validator) -> bool {
    let arguments = call.str("arguments").unwrap_or_default();
    serde_json::from_str(arguments).is_ok_and(|arguments: Value| schema.is_valid(&arguments))
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
    tools: Vec<Tool>,
    tool_choice: ToolChoice,
    parallel_tool_calls: bool,
    web_search: Option<WebSearch>,
    image_generation: bool,
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
            web_search: request.web_search.clone(),
            image_generation: request.image_generation,
        }
    }

    /// What has changed where the next request brings `others`.
    pub(super) fn changed(&self, others: &Self) -> Option<Rebuilt> {
        if self == others {
            None
        } else if self.model != others.model {
            Some(Rebuilt::ModelChanged)
        } else if self.instructions != others.instructions {
            Some(Rebuilt::InstructionsChanged)
        } else {
            Some(Rebuilt::SettingsChanged)
        }
    }
}

#[cfg(test)]
mod tests;
