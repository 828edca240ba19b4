//! The form an answer is to have: a schema the backend enforces, or a rule that the bridge checks itself.

pub(crate) mod strict;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{Field, apply_rest};
use super::ignored::Ignored;
use super::read::{Fields, missing, not_one_of};
use crate::model::Item;

/// The kinds of form.
pub(crate) const FORMATS: &[&str] = &["text", "json_schema", "json_object"];

/// What a request says about the answer's form.
#[derive(Debug, Clone)]
pub(crate) struct Format {
    /// Enforced by the backend.
    pub(crate) output_schema: Option<Value>,
    /// Asked for in words, and checked here.
    pub(crate) rule: Option<Arc<Rule>>,
    /// As the Responses API repeats it.
    pub(crate) echo: Value,
}

/// A form that the backend does not enforce.
pub(crate) struct Rule {
    /// None: any JSON object.
    validator: Option<Validator>,
    /// What the model is told.
    pub(crate) instruction: String,
}

/// Not its schema: that is the client's text.
impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").finish_non_exhaustive()
    }
}

/// A schema's definition: its fields stand beside `type` in one API and below `json_schema` in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nesting {
    Flat,
    JsonSchema,
}

impl Default for Format {
    fn default() -> Self {
        Self { output_schema: None, rule: None, echo: json!({ "type": "text" }) }
    }
}

impl Format {
    /// Reads `text.format` or `response_format`.
    pub(crate) fn read(
        mut from: Fields,
        nesting: Nesting,
        table: &[Field],
        ignored: &mut Ignored,
    ) -> Result<Self, ApiError> {
        let kind = from.required_string("type")?;
        match kind.as_str() {
            "text" => {
                apply_rest(table, from, ignored)?;
                Ok(Self::default())
            }
            "json_object" => {
                apply_rest(table, from, ignored)?;
                let rule = Rule { validator: None, instruction: ANY_OBJECT.to_owned() };
                Ok(Self {
                    rule: Some(Arc::new(rule)),
                    echo: json!({ "type": "json_object" }),
                    ..Self::default()
                })
            }
            "json_schema" => {
                let definition = match nesting {
                    Nesting::Flat => from,
                    Nesting::JsonSchema => {
                        let definition = from.object("json_schema")?;
                        let definition = definition.ok_or_else(|| missing(from.param("json_schema")))?;
                        apply_rest(table, from, ignored)?;
                        definition
                    }
                };
                schema(definition, table, ignored)
            }
            _ => Err(not_one_of(from.param("type"), FORMATS)),
        }
    }
}

fn schema(mut from: Fields, table: &[Field], ignored: &mut Ignored) -> Result<Format, ApiError> {
    let name = from.required_string("name")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        let param = from.param("name");
        let message = format!("Invalid '{param}': expected 1 to 64 letters, digits, '_' or '-'.");
        return Err(ApiError::invalid(param, message).with_code("invalid_value"));
    }
    let param = from.param("schema");
    let schema = from.object("schema")?.ok_or_else(|| missing(&*param))?.rest();
    let schema = Value::Object(schema);
    let description = from.string("description")?;
    let asked = from.boolean("strict")?;
    apply_rest(table, from, ignored)?;

    let offence = if asked == Some(false) { None } else { strict::first_offence(&schema) };
    // Absent is false in both APIs: no schema is refused, and false is what is repeated. But nobody has asked
    // for an answer that is not held to its schema, and one that strict mode takes is best held by the backend:
    // nothing is added to what the model reads, and the answer streams.
    let enforced = match (asked, &offence) {
        (Some(true), Some(offence)) => {
            let message = format!("Invalid schema for response_format '{name}': {offence}");
            return Err(ApiError::invalid(param, message).with_code("invalid_json_schema"));
        }
        (Some(false), _) | (None, Some(_)) => false,
        (Some(true) | None, None) => true,
    };
    let mut echo = Map::new();
    echo.insert("type".into(), "json_schema".into());
    echo.insert("name".into(), name.as_str().into());
    if let Some(description) = &description {
        echo.insert("description".into(), description.as_str().into());
    }
    echo.insert("schema".into(), schema.clone());
    echo.insert("strict".into(), asked.unwrap_or(false).into());
    let echo = Value::Object(echo);
    if enforced {
        return Ok(Format { output_schema: Some(schema), rule: None, echo });
    }
    let rule = Rule::of_schema(&name, description.as_deref(), &schema).map_err(|problem| {
        let message = format!("Invalid schema for response_format '{name}': {problem}");
        ApiError::invalid(param, message).with_code("invalid_json_schema")
    })?;
    Ok(Format { output_schema: None, rule: Some(Arc::new(rule)), echo })
}

/// Told to the model at once; more would not help.
const MOST_MISTAKES: usize = 10;

const ANY_OBJECT: &str =
    "Answer with exactly one JSON object and nothing else: no words around it and no code fence.";

impl Rule {
    fn of_schema(name: &str, description: Option<&str>, schema: &Value) -> Result<Self, String> {
        let built = jsonschema::options().build(schema);
        // The error's own words quote the schema; its place is enough.
        let validator =
            built.map_err(|error| format!("at '{}' it is no JSON Schema.", error.instance_path()))?;
        let about = description.map(|text| format!("\nWhat it is: {text}")).unwrap_or_default();
        let instruction = format!(
            "Answer with exactly one JSON value that follows the JSON Schema below and nothing else: no words \
             around it and no code fence.{about}\nName: {name}\nSchema: {schema}"
        );
        Ok(Self { validator: Some(validator), instruction })
    }

    /// What is wrong with an answer, in words for the model; `None` if it follows the rule. Answers that call
    /// the client's tools or refuse have no form to follow.
    pub(crate) fn complaint(&self, output: &[Item]) -> Option<String> {
        let is_call = |item: &Item| matches!(item.kind(), "function_call" | "custom_tool_call");
        if output.iter().any(|item| is_call(item) || is_refusal(item)) {
            return None;
        }
        // What is said on the way to the answer is none.
        let answers = output.iter().filter(|item| item.str("phase") != Some("commentary"));
        let texts: Vec<String> = answers.filter_map(said).collect();
        let [text] = texts.as_slice() else {
            return Some(format!("It has {} messages; one was asked for.", texts.len()));
        };
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => return Some(format!("It is no JSON: {error}.")),
        };
        let Some(validator) = &self.validator else {
            return (!value.is_object()).then(|| "It is JSON, but not an object.".to_owned());
        };
        let mistakes: Vec<String> = validator
            .iter_errors(&value)
            .take(MOST_MISTAKES)
            .map(|error| format!("at '{}': {error}", error.instance_path()))
            .collect();
        (!mistakes.is_empty()).then(|| mistakes.join("\n"))
    }
}

/// What a message says; `None` for other items and messages without text.
fn said(item: &Item) -> Option<String> {
    let content = item.get("content")?.as_array().filter(|_| item.kind() == "message")?;
    let texts = content.iter().filter(|part| part["type"] == "output_text");
    let text: String = texts.filter_map(|part| part["text"].as_str()).collect();
    (!text.is_empty()).then_some(text)
}

fn is_refusal(item: &Item) -> bool {
    let content = item.get("content").and_then(Value::as_array);
    item.kind() == "message" && content.into_iter().flatten().any(|part| part["type"] == "refusal")
}
