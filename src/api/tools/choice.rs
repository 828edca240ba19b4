//! `tool_choice`: which tools may or must be called.

use serde_json::{Value, json};

use super::{Dialect, Tools, is_web_search};
use crate::api::error::ApiError;
use crate::api::ignored::Ignored;
use crate::api::read::{Fields, missing, not_one_of, wrong_type};
use crate::model::{Tool, ToolChoice, ToolName};

impl Tools {
    /// Reads `tool_choice`; the tools have been read before.
    pub(super) fn choose(
        &mut self,
        choice: Value,
        dialect: Dialect,
        ignored: &mut Ignored,
    ) -> Result<(), ApiError> {
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
                    self.web_search = None;
                    self.image_generation = false;
                }
                self.choice_echo = mode.into();
                return Ok(());
            }
            choice @ Value::Object(_) => Fields::of("tool_choice", choice)?,
            other => return Err(wrong_type("tool_choice", "a string or an object", &other)),
        };
        let kind = from.required_string("type")?;
        match kind.as_str() {
            "function" | "custom" => {
                let tool = self.named(&mut from, &kind, dialect, "tool_choice", ignored)?;
                ignored.add_rest("tool_choice", from);
                self.choice_echo = json!({ "type": kind, "name": tool.name });
                self.choice = self.required(vec![tool], "tool_choice")?;
                Ok(())
            }
            "allowed_tools" if dialect == Dialect::Responses => self.allow(from, dialect, ignored),
            "allowed_tools" => {
                let allowed = from.object("allowed_tools")?;
                ignored.add_rest("tool_choice", from);
                self.allow(allowed.ok_or_else(|| missing("tool_choice.allowed_tools"))?, dialect, ignored)
            }
            _ => {
                let message = format!(
                    "A tool of type '{kind}' cannot be forced here. Supported are 'function', 'custom' and \
                     'allowed_tools'."
                );
                Err(ApiError::invalid("tool_choice", message).with_code("unsupported_tool"))
            }
        }
    }

    fn allow(&mut self, mut from: Fields, dialect: Dialect, ignored: &mut Ignored) -> Result<(), ApiError> {
        let mode = from.one_of("mode", &["auto", "required"])?.ok_or_else(|| missing(from.param("mode")))?;
        let path = from.param("tools");
        let entries = from.array("tools")?.ok_or_else(|| missing(&*path))?;
        let whole = from.path().to_owned();
        let entries_path = format!("{whole}.tools[]");
        ignored.add_rest(&whole, from);
        let (mut names, mut searches, mut images, mut echo) = (Vec::new(), false, false, Vec::new());
        for (index, entry) in entries.into_iter().enumerate() {
            let mut entry = Fields::of(format!("{path}[{index}]"), entry)?;
            let kind = entry.required_string("type")?;
            match kind.as_str() {
                "function" | "custom" => {
                    let tool = self.named(&mut entry, &kind, dialect, &entries_path, ignored)?;
                    echo.push(json!({ "type": kind, "name": tool.name }));
                    names.push(tool);
                }
                "namespace" if dialect == Dialect::Responses => {
                    let namespace = entry.required_string("name")?;
                    let stands_in_it =
                        |tool: &&Tool| tool.namespace.as_ref().is_some_and(|known| known.name == namespace);
                    let before = names.len();
                    names.extend(self.offered.iter().filter(stands_in_it).map(Tool::full_name));
                    if names.len() == before {
                        return Err(not_offered(&namespace, entry.path()));
                    }
                    echo.push(json!({ "type": kind, "name": namespace }));
                }
                kind if is_web_search(kind) && self.web_search.is_some() => {
                    searches = true;
                    echo.push(json!({ "type": kind }));
                }
                "image_generation" if self.image_generation => {
                    images = true;
                    echo.push(json!({ "type": kind }));
                }
                _ => {
                    let message = format!("A tool of type '{kind}' is not in 'tools'.");
                    return Err(ApiError::invalid(entry.path(), message).with_code("invalid_value"));
                }
            }
            ignored.add_rest(&entries_path, entry);
        }
        self.web_search = self.web_search.take().filter(|_| searches);
        self.image_generation &= images;
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

    fn required(&self, names: Vec<ToolName>, param: &str) -> Result<ToolChoice, ApiError> {
        if self.offered.is_empty() {
            return Err(self.nothing_to_require(param));
        }
        Ok(ToolChoice::Required(names))
    }

    fn nothing_to_require(&self, param: &str) -> ApiError {
        if self.web_search.is_some() || self.image_generation {
            let message = "Only a function or a custom tool can be forced here, no built-in tool.";
            return ApiError::unsupported(param, message);
        }
        let message = "'tool_choice' can only require a call where 'tools' has a function or a custom tool.";
        ApiError::invalid(param, message).with_code("invalid_value")
    }

    /// The tool that `from` names: by its name, for one in a namespace also as `namespace.name` or with a
    /// `namespace` beside it. `whole` is how reports name `from`.
    fn named(
        &self,
        from: &mut Fields,
        kind: &str,
        dialect: Dialect,
        whole: &str,
        ignored: &mut Ignored,
    ) -> Result<ToolName, ApiError> {
        let (path, namespace) = (from.path().to_owned(), from.string("namespace")?);
        let name = match dialect {
            Dialect::Responses => from.required_string("name")?,
            Dialect::Chat => {
                let mut nested = from.object(kind)?.ok_or_else(|| missing(from.param(kind)))?;
                let name = nested.required_string("name")?;
                ignored.add_rest(&format!("{whole}.{kind}"), nested);
                name
            }
        };
        let known = self.offered.iter().filter(|tool| tool.is_custom() == (kind == "custom"));
        let known: Vec<ToolName> = known.map(Tool::full_name).collect();
        if namespace.is_none()
            && let Some(tool) = known.iter().find(|tool| tool.to_string() == name)
        {
            return Ok(tool.clone());
        }
        let mut meant = known
            .into_iter()
            .filter(|tool| tool.name == name && (namespace.is_none() || tool.namespace == namespace));
        match (meant.next(), meant.next()) {
            (Some(tool), None) => Ok(tool),
            (Some(_), Some(_)) => {
                let message = format!("Tool choice '{name}' is in more than one namespace: say which.");
                Err(ApiError::invalid(path, message).with_code("invalid_value"))
            }
            (None, _) => Err(not_offered(&name, &path)),
        }
    }
}

fn not_offered(name: &str, param: &str) -> ApiError {
    let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
    ApiError::invalid(param, message).with_code("invalid_value")
}
