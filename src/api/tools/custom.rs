//! Custom tools: called with free text, which may have to follow a grammar.

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::api::error::ApiError;
use crate::api::ignored::Ignored;
use crate::api::read::{Fields, missing, not_one_of};
use crate::model::{ToolInput, grammar};

/// Reads `format`: what the tool is called with, and how the Responses API repeats it.
pub(super) fn format(
    from: &mut Fields,
    dialect: Dialect,
    ignored: &mut Ignored,
) -> Result<(ToolInput, Value), ApiError> {
    let free = (ToolInput::Text { pattern: None }, json!({ "type": "text" }));
    let Some(mut format) = from.object("format")? else { return Ok(free) };
    let kind = format.required_string("type")?;
    match (kind.as_str(), dialect) {
        ("text", _) => {
            ignored.add_rest("tools[].format", format);
            Ok(free)
        }
        ("grammar", Dialect::Responses) => of_grammar(format, ignored),
        ("grammar", Dialect::Chat) => {
            let nested = format.object("grammar")?.ok_or_else(|| missing(format.param("grammar")))?;
            ignored.add_rest("tools[].format", format);
            of_grammar(nested, ignored)
        }
        _ => Err(not_one_of(format.param("type"), &["text", "grammar"])),
    }
}

/// The backend holds nothing to a grammar: what cannot be checked here is refused.
fn of_grammar(mut from: Fields, ignored: &mut Ignored) -> Result<(ToolInput, Value), ApiError> {
    let syntax = from.one_of("syntax", &["lark", "regex"])?.ok_or_else(|| missing(from.param("syntax")))?;
    let definition = from.required_string("definition")?;
    if syntax == "lark" {
        let message = "Grammars in 'lark' syntax are not supported here. Supported is 'regex'.";
        return Err(ApiError::unsupported(from.param("syntax"), message));
    }
    if grammar(&definition).is_err() {
        let message = "The grammar is no regular expression, or too large a one.";
        return Err(ApiError::invalid(from.param("definition"), message).with_code("invalid_value"));
    }
    ignored.add_rest("tools[].format", from);
    let mut echo = Map::new();
    echo.insert("type".into(), "grammar".into());
    echo.insert("syntax".into(), syntax.into());
    echo.insert("definition".into(), definition.as_str().into());
    Ok((ToolInput::Text { pattern: Some(definition) }, Value::Object(echo)))
}
