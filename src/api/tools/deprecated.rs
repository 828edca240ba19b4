//! The deprecated `functions` and `function_call` of Chat Completions.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::read::{Fields, wrong_type};

/// Puts them in the words that came after them; whether there were any.
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
