//! The tools a request offers and how they are to be chosen, in both APIs' forms.

mod choice;
mod custom;
mod deprecated;
mod search;
#[cfg(test)]
mod tests;

pub(crate) use deprecated::modernise;
pub(crate) use search::options as search_options;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::format::strict;
use super::ignored::Ignored;
use super::read::{Fields, missing};
use crate::bridge::Bridge;
use crate::config::UnknownTools;
use crate::model::{Namespace, Strict, Tool, ToolChoice, ToolInput, WebSearch};

/// What a request says about tools.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// Functions and custom tools.
    pub(crate) offered: Vec<Tool>,
    pub(crate) web_search: Option<WebSearch>,
    pub(crate) image_generation: bool,
    pub(crate) choice: ToolChoice,
    /// Whether one answer may hold several calls.
    pub(crate) parallel: bool,
    /// As the Responses API repeats them.
    pub(crate) echo: Vec<Value>,
    /// As the Responses API repeats it.
    pub(crate) choice_echo: Value,
}

/// Where a tool's fields stand: beside `type`, or below its type's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Responses,
    Chat,
}

/// Longest name of a tool or a namespace, characters. The bridge renames what the app-server does not take.
const MAX_NAME: usize = 128;
/// Most tools of one list, as the official bound.
const MAX_TOOLS: usize = 128;

impl Default for Tools {
    fn default() -> Self {
        Self {
            offered: Vec::new(),
            web_search: None,
            image_generation: false,
            choice: ToolChoice::Auto,
            parallel: true,
            echo: Vec::new(),
            choice_echo: "auto".into(),
        }
    }
}

impl Tools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    pub(crate) fn read(
        body: &mut Fields,
        dialect: Dialect,
        unknown: UnknownTools,
        ignored: &mut Ignored,
    ) -> Result<Self, ApiError> {
        let mut tools = Self::default();
        for tool in listed(body)?.unwrap_or_default() {
            tools.tool(tool, dialect, unknown, ignored)?;
        }
        if let Some(choice) = body.take("tool_choice") {
            tools.choose(choice, dialect, ignored)?;
        }
        tools.parallel = body.boolean("parallel_tool_calls")?.unwrap_or(true);
        Ok(tools)
    }

    fn tool(
        &mut self,
        mut from: Fields,
        dialect: Dialect,
        unknown: UnknownTools,
        ignored: &mut Ignored,
    ) -> Result<(), ApiError> {
        let kind = from.required_string("type")?;
        match kind.as_str() {
            "function" | "custom" => {
                let definition = match dialect {
                    Dialect::Responses => from,
                    Dialect::Chat => {
                        let nested = from.object(&kind)?.ok_or_else(|| missing(from.param(&kind)))?;
                        ignored.add_rest("tools[]", from);
                        nested
                    }
                };
                let echo = self.client_tool(&kind, definition, None, dialect, ignored)?;
                self.echo.push(echo);
                Ok(())
            }
            "namespace" if dialect == Dialect::Responses => self.namespace(from, ignored),
            "tool_search" if dialect == Dialect::Responses => searched_by_the_model(from, ignored),
            "image_generation" if dialect == Dialect::Responses => {
                ignored.add_rest("tools[]", from);
                self.image_generation = true;
                self.echo.push(json!({ "type": kind }));
                Ok(())
            }
            kind if dialect == Dialect::Responses && is_web_search(kind) => {
                let (search, echo) = search::tool(kind, from, ignored)?;
                self.web_search = Some(search);
                self.echo.push(echo);
                Ok(())
            }
            _ if unknown == UnknownTools::Ignore => {
                ignored.add(format!("tools[].{kind}"));
                Ok(())
            }
            _ => Err(unsupported(&from, &kind, dialect)),
        }
    }

    /// A group of tools.
    fn namespace(&mut self, mut from: Fields, ignored: &mut Ignored) -> Result<(), ApiError> {
        let name = name(&mut from)?;
        let is_known = |tool: &Tool| tool.namespace.as_ref().is_some_and(|known| known.name == name);
        if self.offered.iter().any(is_known) {
            return Err(twice(&from, "namespaces"));
        }
        let description = from.string("description")?.unwrap_or_default();
        let namespace = Namespace { name, description };
        let tools = listed(&mut from)?.ok_or_else(|| missing(from.param("tools")))?;
        if tools.is_empty() {
            let param = from.param("tools");
            let message = format!("Invalid '{param}': empty array. Expected at least one tool.");
            return Err(ApiError::invalid(param, message).with_code("empty_array"));
        }
        ignored.add_rest("tools[]", from);
        let mut echo = Vec::with_capacity(tools.len());
        for mut tool in tools {
            let kind = tool.one_of("type", &["function", "custom"])?;
            let kind = kind.ok_or_else(|| missing(tool.param("type")))?;
            echo.push(self.client_tool(kind, tool, Some(&namespace), Dialect::Responses, ignored)?);
        }
        let Namespace { name, description } = namespace;
        self.echo
            .push(json!({ "type": "namespace", "name": name, "description": description, "tools": echo }));
        Ok(())
    }

    /// Adds a function or a custom tool; gives how the Responses API repeats it.
    fn client_tool(
        &mut self,
        kind: &str,
        mut from: Fields,
        namespace: Option<&Namespace>,
        dialect: Dialect,
        ignored: &mut Ignored,
    ) -> Result<Value, ApiError> {
        let name = name(&mut from)?;
        let namespace = namespace.cloned();
        if self.offered.iter().any(|tool| tool.name == name && tool.namespace == namespace) {
            return Err(twice(&from, "tools"));
        }
        let description = from.string("description")?;
        let mut echo = Map::new();
        echo.insert("type".into(), kind.into());
        echo.insert("name".into(), name.as_str().into());
        let input = if kind == "custom" {
            if let Some(description) = &description {
                echo.insert("description".into(), description.as_str().into());
            }
            let (input, format) = custom::format(&mut from, dialect, ignored)?;
            echo.insert("format".into(), format);
            input
        } else {
            let (schema, strict) = parameters(&mut from, &name, dialect)?;
            echo.insert("description".into(), description.as_deref().into());
            echo.insert("parameters".into(), schema.clone());
            echo.insert("strict".into(), (strict != Strict::No).into());
            ToolInput::Arguments { schema, strict }
        };
        // A deferred tool is loaded from the start: the answers are the same, and Codex's own way to defer
        // would put words of its own into the conversation.
        if from.boolean("defer_loading")? == Some(true) {
            ignored.add("tools[].defer_loading");
        }
        ignored.add_rest("tools[]", from);
        self.offered.push(Tool { namespace, name, description, input });
        Ok(Value::Object(echo))
    }
}

/// A function's schema, and whether its arguments are held to it. The Responses API does so unasked where it
/// can.
fn parameters(from: &mut Fields, name: &str, dialect: Dialect) -> Result<(Value, Strict), ApiError> {
    let param = from.param("parameters");
    let given = from.object("parameters")?.map(|given| Value::Object(given.rest()));
    let asked = from.boolean("strict")?.or_else(|| (dialect == Dialect::Chat).then_some(false));
    let Some(schema) = given else {
        let strict = if asked == Some(true) { Strict::Asked } else { Strict::No };
        return Ok((json!({ "type": "object", "properties": {} }), strict));
    };
    if asked == Some(false) {
        return Ok((schema, Strict::No));
    }
    match (strict::first_offence(&schema), asked) {
        (None, Some(_)) => Ok((schema, Strict::Asked)),
        (None, None) => Ok((schema, Strict::Unasked)),
        (Some(offence), Some(true)) => {
            let message = format!("Invalid schema for function '{name}': {offence}");
            Err(ApiError::invalid(param, message).with_code("invalid_json_schema"))
        }
        (Some(_), _) => Ok((schema, Strict::No)),
    }
}

/// `tool_search`: deferred tools are loaded from the start, so that there is nothing to search; a search that
/// the client makes cannot be had.
fn searched_by_the_model(mut from: Fields, ignored: &mut Ignored) -> Result<(), ApiError> {
    if from.one_of("execution", &["server", "client"])? == Some("client") {
        let message = "A tool search that the client executes is not supported here.";
        return Err(ApiError::invalid(from.path(), message).with_code("unsupported_tool"));
    }
    ignored.add("tools[].tool_search");
    Ok(())
}

fn unsupported(from: &Fields, kind: &str, dialect: Dialect) -> ApiError {
    let supported = match dialect {
        Dialect::Responses => "'function', 'custom', 'namespace', 'web_search' and 'image_generation'",
        Dialect::Chat => "'function' and 'custom'",
    };
    let message = format!("Tools of type '{kind}' are not supported here. Supported are {supported}.");
    ApiError::invalid(from.path(), message).with_code("unsupported_tool")
}

/// The entries of `tools`.
fn listed(from: &mut Fields) -> Result<Option<Vec<Fields>>, ApiError> {
    let path = from.param("tools");
    let Some(given) = from.array("tools")? else { return Ok(None) };
    if given.len() > MAX_TOOLS {
        let message = format!("Invalid '{path}': expected at most {MAX_TOOLS} tools.");
        return Err(ApiError::invalid(path, message).with_code("array_above_max_length"));
    }
    let entry = |(index, tool)| Fields::of(format!("{path}[{index}]"), tool);
    given.into_iter().enumerate().map(entry).collect::<Result<_, _>>().map(Some)
}

fn name(from: &mut Fields) -> Result<String, ApiError> {
    let name = from.required_string("name")?;
    if (1..=MAX_NAME).contains(&name.chars().count()) {
        return Ok(name);
    }
    let message = format!("Invalid '{}': expected 1 to {MAX_NAME} characters.", from.param("name"));
    Err(ApiError::invalid(from.param("name"), message).with_code("invalid_value"))
}

fn twice(from: &Fields, what: &str) -> ApiError {
    let message = format!("Invalid '{}': two {what} share this name.", from.param("name"));
    ApiError::invalid(from.param("name"), message).with_code("invalid_value")
}

/// Refuses tools of Codex's own that it would leave out without a word. `param` is how errors name the search.
pub(crate) async fn check_own_tools(
    bridge: &Bridge,
    model: Option<&str>,
    tools: &Tools,
    param: &str,
) -> Result<(), ApiError> {
    if tools.web_search.is_none() && !tools.image_generation {
        return Ok(());
    }
    let model = bridge.resolve_model(model).await?;
    let hosts_search = model.web_search != Some(false);
    if (!tools.image_generation && hosts_search) || bridge.has_own_tools().await? {
        return Ok(());
    }
    let (what, param) = if tools.image_generation {
        ("Image generation is".to_owned(), "tools")
    } else {
        (format!("For the model '{}' web search is", model.id), param)
    };
    let message = format!("{what} not supported here without a ChatGPT login.");
    Err(ApiError::invalid(param, message).with_code("unsupported_tool"))
}

fn is_web_search(kind: &str) -> bool {
    kind == "web_search" || kind.starts_with("web_search_20") || kind.starts_with("web_search_preview")
}
