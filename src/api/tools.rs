//! The tools a request offers and how they are to be chosen, in both APIs' forms.

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::error::ApiError;
use super::ignored::Ignored;
use super::read::{Fields, missing, not_one_of, wrong_type};
use crate::bridge::Bridge;
use crate::config::UnknownTools;
use crate::model::{FunctionTool, ToolChoice};

/// What a request says about tools.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) functions: Vec<FunctionTool>,
    pub(crate) web_search: bool,
    pub(crate) choice: ToolChoice,
    /// Whether one answer may hold several calls.
    pub(crate) parallel: bool,
    /// As the Responses API repeats them.
    pub(crate) echo: Vec<Value>,
    /// As the Responses API repeats it.
    pub(crate) choice_echo: Value,
}

/// Where a function's fields stand: beside `type`, or below `function`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Responses,
    Chat,
}

/// Longest name of a function, characters. The bridge renames what the app-server does not take.
const MAX_NAME: usize = 128;
/// Most tools of one request, as the official bound.
const MAX_TOOLS: usize = 128;

impl Default for Tools {
    fn default() -> Self {
        Self {
            functions: Vec::new(),
            web_search: false,
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
        let given = body.array("tools")?.unwrap_or_default();
        if given.len() > MAX_TOOLS {
            let message = format!("Invalid 'tools': expected at most {MAX_TOOLS} tools.");
            return Err(ApiError::invalid("tools", message).with_code("array_above_max_length"));
        }
        for (index, tool) in given.into_iter().enumerate() {
            tools.tool(Fields::of(format!("tools[{index}]"), tool)?, dialect, unknown, ignored)?;
        }
        if let Some(choice) = body.take("tool_choice") {
            tools.choose(choice, dialect)?;
        }
        tools.parallel = body.boolean("parallel_tool_calls")?.unwrap_or(true);
        Ok(tools)
    }

    /// Adds a function from its fields, whichever form they came in; `strict` cannot be enforced.
    pub(crate) fn function(&mut self, mut from: Fields, ignored: &mut Ignored) -> Result<(), ApiError> {
        let name = from.required_string("name")?;
        let length = name.chars().count();
        if length == 0 || length > MAX_NAME {
            let message = format!("Invalid '{}': expected 1 to {MAX_NAME} characters.", from.param("name"));
            return Err(ApiError::invalid(from.param("name"), message).with_code("invalid_value"));
        }
        if self.functions.iter().any(|other| other.name == name) {
            let message = format!("Invalid '{}': two functions share this name.", from.param("name"));
            return Err(ApiError::invalid(from.param("name"), message).with_code("invalid_value"));
        }
        let description = from.string("description")?;
        let parameters = match from.object("parameters")? {
            Some(parameters) => Value::Object(parameters.rest()),
            None => json!({ "type": "object", "properties": {} }),
        };
        let strict = from.boolean("strict")?;
        // Upstream the arguments are never held to their schema.
        if strict == Some(true) {
            ignored.add("tools[].strict");
        }
        if from.boolean("defer_loading")? == Some(true) {
            ignored.add("tools[].defer_loading");
        }
        ignored.add_rest("tools[]", from);
        self.echo.push(json!({
            "type": "function", "name": name, "description": description, "parameters": parameters,
            "strict": strict.unwrap_or(false),
        }));
        self.functions.push(FunctionTool { name, description, parameters });
        Ok(())
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
            "function" if dialect == Dialect::Responses => self.function(from, ignored),
            "function" => {
                let function = from.object("function")?.ok_or_else(|| missing(from.param("function")))?;
                ignored.add_rest("tools[]", from);
                self.function(function, ignored)
            }
            _ if dialect == Dialect::Responses && is_web_search(&kind) => self.search(&kind, from, ignored),
            _ if unknown == UnknownTools::Ignore => {
                ignored.add(format!("tools[].{kind}"));
                Ok(())
            }
            _ => {
                let supported = match dialect {
                    Dialect::Responses => "'function' and 'web_search'",
                    Dialect::Chat => "'function'",
                };
                let message =
                    format!("Tools of type '{kind}' are not supported here. Supported are {supported}.");
                Err(ApiError::invalid(from.path(), message).with_code("unsupported_tool"))
            }
        }
    }

    fn search(&mut self, kind: &str, mut from: Fields, ignored: &mut Ignored) -> Result<(), ApiError> {
        if from.boolean("external_web_access")? == Some(false) {
            let message = "Web search without access to the web is not supported here.";
            return Err(ApiError::unsupported(from.param("external_web_access"), message));
        }
        if let Some(Value::Object(filters)) = from.take("filters")
            && filters.values().any(|filter| !filter.is_null())
        {
            let message = "Searches cannot be limited to domains here.";
            return Err(ApiError::unsupported(from.param("filters"), message));
        }
        if let Some(size) = from.one_of("search_context_size", &["low", "medium", "high"])?
            && size != "medium"
        {
            ignored.add("tools[].search_context_size");
        }
        ignored.add_rest("tools[]", from);
        self.web_search = true;
        self.echo.push(json!({ "type": kind }));
        Ok(())
    }

    fn choose(&mut self, choice: Value, dialect: Dialect) -> Result<(), ApiError> {
        const MODES: &[&str] = &["none", "auto", "required"];
        let mut from = match choice {
            Value::String(mode) => {
                self.choice = match mode.as_str() {
                    "auto" => ToolChoice::Auto,
                    "none" => ToolChoice::None,
                    "required" => self.required(Vec::new(), "tool_choice")?,
                    _ => return Err(not_one_of("tool_choice", MODES)),
                };
                if self.choice == ToolChoice::None {
                    self.web_search = false;
                }
                self.choice_echo = mode.into();
                return Ok(());
            }
            choice @ Value::Object(_) => Fields::of("tool_choice", choice)?,
            other => return Err(wrong_type("tool_choice", "a string or an object", &other)),
        };
        let kind = from.required_string("type")?;
        match kind.as_str() {
            "function" => {
                let name = name_of(&mut from, dialect)?;
                self.offered(&name, "tool_choice")?;
                self.choice_echo = json!({ "type": "function", "name": name });
                self.choice = self.required(vec![name], "tool_choice")?;
                Ok(())
            }
            "allowed_tools" if dialect == Dialect::Responses => self.allow(from, dialect),
            "allowed_tools" => {
                let allowed = from.object("allowed_tools")?;
                self.allow(allowed.ok_or_else(|| missing("tool_choice.allowed_tools"))?, dialect)
            }
            _ => {
                let message = format!(
                    "A tool of type '{kind}' cannot be forced here. Supported are 'function' and 'allowed_tools'."
                );
                Err(ApiError::invalid("tool_choice", message).with_code("unsupported_tool"))
            }
        }
    }

    fn allow(&mut self, mut from: Fields, dialect: Dialect) -> Result<(), ApiError> {
        let mode = from.one_of("mode", &["auto", "required"])?.ok_or_else(|| missing(from.param("mode")))?;
        let path = from.param("tools");
        let entries = from.array("tools")?.ok_or_else(|| missing(&*path))?;
        let (mut names, mut searches, mut echo) = (Vec::new(), false, Vec::new());
        for (index, entry) in entries.into_iter().enumerate() {
            let mut entry = Fields::of(format!("{path}[{index}]"), entry)?;
            let kind = entry.required_string("type")?;
            if kind == "function" {
                let name = name_of(&mut entry, dialect)?;
                self.offered(&name, entry.path())?;
                echo.push(json!({ "type": kind, "name": name }));
                names.push(name);
            } else if is_web_search(&kind) && self.web_search {
                searches = true;
                echo.push(json!({ "type": kind }));
            } else {
                let message = format!("A tool of type '{kind}' is not in 'tools'.");
                return Err(ApiError::invalid(entry.path(), message).with_code("invalid_value"));
            }
        }
        self.web_search &= searches;
        self.choice_echo = json!({ "type": "allowed_tools", "mode": mode, "tools": echo });
        self.choice = match mode {
            "required" => {
                if names.is_empty() {
                    return Err(self.nothing_to_require(&path));
                }
                self.required(names, &path)?
            }
            _ => ToolChoice::Allowed(names),
        };
        Ok(())
    }

    fn required(&self, names: Vec<String>, param: &str) -> Result<ToolChoice, ApiError> {
        if self.functions.is_empty() {
            return Err(self.nothing_to_require(param));
        }
        Ok(ToolChoice::Required(names))
    }

    fn nothing_to_require(&self, param: &str) -> ApiError {
        if self.web_search {
            return ApiError::unsupported(param, "A web search cannot be forced here, only a function.");
        }
        let message = "'tool_choice' can only require a call where 'tools' has a function.";
        ApiError::invalid(param, message).with_code("invalid_value")
    }

    fn offered(&self, name: &str, param: &str) -> Result<(), ApiError> {
        if self.functions.iter().any(|function| function.name == name) {
            return Ok(());
        }
        let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
        Err(ApiError::invalid(param, message).with_code("invalid_value"))
    }
}

/// Refuses web search for a model that Codex gives none: it would leave the tool out without a word.
pub(crate) async fn check_web_search(
    bridge: &Bridge,
    model: Option<&str>,
    tools: &Tools,
    param: &str,
) -> Result<(), ApiError> {
    if !tools.web_search {
        return Ok(());
    }
    let model = bridge.resolve_model(model).await?;
    if model.web_search != Some(false) {
        return Ok(());
    }
    let message = format!("The model '{}' has no web search here.", model.id);
    Err(ApiError::invalid(param, message).with_code("unsupported_tool"))
}

/// The deprecated `functions` and `function_call` of Chat Completions in the words that came after them;
/// whether there were any.
pub(crate) fn modernise(body: &mut Fields) -> Result<bool, ApiError> {
    let functions = body.array("functions")?.unwrap_or_default();
    let choice = body.take("function_call");
    if functions.is_empty() {
        return match choice {
            Some(Value::String(mode)) if mode == "none" || mode == "auto" => Ok(false),
            None => Ok(false),
            Some(_) => Err(ApiError::invalid(
                "function_call",
                "'function_call' is only allowed when 'functions' are specified.",
            )),
        };
    }
    for other in ["tools", "tool_choice"] {
        if body.has(other) {
            let message = format!("'functions' and '{other}' cannot be used together.");
            return Err(ApiError::invalid(other, message).with_code("invalid_parameter_combination"));
        }
    }
    let mut tools = Vec::with_capacity(functions.len());
    for (index, function) in functions.into_iter().enumerate() {
        if !function.is_object() {
            return Err(wrong_type(format!("functions[{index}]"), "an object", &function));
        }
        tools.push(json!({ "type": "function", "function": function }));
    }
    body.put("tools", tools.into());
    match choice {
        None => {}
        Some(mode @ Value::String(_)) => body.put("tool_choice", mode),
        Some(Value::Object(named)) => {
            body.put("tool_choice", json!({ "type": "function", "function": named }));
        }
        Some(other) => return Err(wrong_type("function_call", "a string or an object", &other)),
    }
    Ok(true)
}

fn is_web_search(kind: &str) -> bool {
    kind == "web_search" || kind.starts_with("web_search_20") || kind.starts_with("web_search_preview")
}

fn name_of(from: &mut Fields, dialect: Dialect) -> Result<String, ApiError> {
    match dialect {
        Dialect::Responses => from.required_string("name"),
        Dialect::Chat => {
            let function = from.object("function")?;
            function.ok_or_else(|| missing(from.param("function")))?.required_string("name")
        }
    }
}
