//! Reading request values, with OpenAI's words for what is wrong. Messages name the field, never its value.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::ApiError;

/// The fields of one JSON object of a request, taken out one by one. `null` is the same as absent.
#[derive(Debug)]
pub(crate) struct Fields {
    path: String,
    fields: Map<String, Value>,
}

impl Fields {
    /// `path` is how errors name the object: `input[3]`; empty for the body itself.
    pub(crate) fn new(path: impl Into<String>, fields: Map<String, Value>) -> Self {
        Self { path: path.into(), fields }
    }

    /// The fields of `value`, which must be an object.
    pub(crate) fn of(path: impl Into<String>, value: Value) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(fields) => Ok(Self { path, fields }),
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// How errors name the object.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// How errors name one of its fields.
    pub(crate) fn param(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// A string that stays where it is, to be checked later.
    pub(crate) fn peek(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Puts a value where a decoder will read it.
    pub(crate) fn put(&mut self, name: &str, value: Value) {
        self.fields.insert(name.into(), value);
    }

    pub(crate) fn required(&mut self, name: &str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| missing(self.param(name)))
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(self.param(name), "a string", &other)),
        }
    }

    pub(crate) fn required_string(&mut self, name: &str) -> Result<String, ApiError> {
        self.string(name)?.ok_or_else(|| missing(self.param(name)))
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(self.param(name), "a boolean", &other)),
        }
    }

    pub(crate) fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(entries)) => Ok(Some(entries)),
            Some(other) => Err(wrong_type(self.param(name), "an array", &other)),
        }
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        let path = self.param(name);
        self.take(name).map(|value| Self::of(path, value)).transpose()
    }

    /// A string out of a closed list.
    pub(crate) fn one_of(
        &mut self,
        name: &str,
        allowed: &'static [&'static str],
    ) -> Result<Option<&'static str>, ApiError> {
        let Some(value) = self.string(name)? else { return Ok(None) };
        let known = allowed.iter().find(|known| **known == value);
        known.copied().map(Some).ok_or_else(|| not_one_of(self.param(name), allowed))
    }

    /// What nobody took, `null`s included.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.fields
    }
}

/// 400 `missing_required_parameter`.
pub(crate) fn missing(param: impl Into<String>) -> ApiError {
    let param = param.into();
    let message = format!("Missing required parameter: '{param}'.");
    ApiError::invalid(param, message).with_code("missing_required_parameter")
}

/// 400 `invalid_type`. `expected` has its article: "a string".
pub(crate) fn wrong_type(param: impl Into<String>, expected: &str, got: &Value) -> ApiError {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let param = param.into();
    let message = format!("Invalid type for '{param}': expected {expected}, but got {got} instead.");
    ApiError::invalid(param, message).with_code("invalid_type")
}

/// 400 `invalid_value` for a word that is not in its list.
pub(crate) fn not_one_of(param: impl Into<String>, allowed: &[&str]) -> ApiError {
    let param = param.into();
    let list = allowed.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ");
    let message = format!("Invalid value for '{param}'. Supported values are: {list}.");
    ApiError::invalid(param, message).with_code("invalid_value")
}

/// An integer within its official range.
pub(crate) fn integer(param: &str, value: &Value, min: i64, max: i64) -> Result<i64, ApiError> {
    let Some(number) = value.as_i64() else {
        // Past i64 upwards is above every range here.
        let above =
            value.as_u64().map(|_| out_of_range(param, "integer_above_max_value", &format!("<= {max}")));
        return Err(above.unwrap_or_else(|| wrong_type(param, "an integer", value)));
    };
    if number > max {
        return Err(out_of_range(param, "integer_above_max_value", &format!("<= {max}")));
    }
    if number < min {
        return Err(out_of_range(param, "integer_below_min_value", &format!(">= {min}")));
    }
    Ok(number)
}

/// A number within its official range.
pub(crate) fn decimal(param: &str, value: &Value, min: f64, max: f64) -> Result<f64, ApiError> {
    let number = value.as_f64().ok_or_else(|| wrong_type(param, "a number", value))?;
    if number > max {
        return Err(out_of_range(param, "decimal_above_max_value", &format!("<= {max}")));
    }
    if number < min {
        return Err(out_of_range(param, "decimal_below_min_value", &format!(">= {min}")));
    }
    Ok(number)
}

/// Of `metadata`, officially: pairs, and characters of a key and a value.
pub(crate) const MAX_PAIRS: usize = 16;
pub(crate) const MAX_KEY: usize = 64;
pub(crate) const MAX_VALUE: usize = 512;

/// `metadata`, within the official bounds.
pub(crate) fn metadata(body: &mut Fields) -> Result<BTreeMap<String, String>, ApiError> {
    let Some(metadata) = body.object("metadata")? else { return Ok(BTreeMap::new()) };
    let pairs = metadata.rest();
    let too_long = |what: &str, max: usize, code: &str| {
        ApiError::invalid("metadata", format!("Invalid 'metadata': expected at most {max} {what}."))
            .with_code(code)
    };
    if pairs.len() > MAX_PAIRS {
        return Err(too_long("pairs", MAX_PAIRS, "object_above_max_properties"));
    }
    let mut checked = BTreeMap::new();
    for (key, value) in pairs {
        if key.chars().count() > MAX_KEY {
            return Err(too_long("characters in a key", MAX_KEY, "string_above_max_length"));
        }
        let Value::String(value) = value else {
            return Err(wrong_type(format!("metadata.{key}"), "a string", &value));
        };
        if value.chars().count() > MAX_VALUE {
            return Err(too_long("characters in a value", MAX_VALUE, "string_above_max_length"));
        }
        checked.insert(key, value);
    }
    Ok(checked)
}

/// An object of type `kind` whose `content` is a text, or parts of text.
pub(crate) fn content(param: &str, value: &Value, kind: &'static str) -> Result<(), ApiError> {
    let mut from = Fields::of(param, value.clone())?;
    if from.required_string("type")? != kind {
        return Err(not_one_of(from.param("type"), &[kind]));
    }
    let path = from.param("content");
    match from.required("content")? {
        Value::String(_) => Ok(()),
        Value::Array(parts) => {
            for (index, part) in parts.into_iter().enumerate() {
                let mut part = Fields::of(format!("{path}[{index}]"), part)?;
                if part.required_string("type")? != "text" {
                    return Err(not_one_of(part.param("type"), &["text"]));
                }
                part.required_string("text")?;
            }
            Ok(())
        }
        other => Err(wrong_type(path, "a string or an array of parts", &other)),
    }
}

/// A count of tokens that ends the answer.
pub(crate) fn token_limit(body: &mut Fields, name: &str, min: i64) -> Result<Option<u64>, ApiError> {
    let Some(limit) = body.take(name) else { return Ok(None) };
    let limit = integer(&body.param(name), &limit, min, i64::MAX)?;
    Ok(u64::try_from(limit).ok())
}

fn out_of_range(param: &str, code: &str, expected: &str) -> ApiError {
    ApiError::invalid(param, format!("Invalid '{param}': expected a value {expected}.")).with_code(code)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::of("text", value).unwrap()
    }

    #[test]
    fn null_is_absent() {
        let mut fields = fields(json!({ "a": null, "b": "x" }));
        assert!(!fields.has("a") && fields.has("b"));
        assert_eq!(fields.string("a").unwrap(), None);
        assert_eq!(fields.required("a").unwrap_err().code.unwrap(), "missing_required_parameter");
        assert_eq!(fields.required_string("b").unwrap(), "x");
        assert!(!fields.has("b"));
    }

    #[test]
    fn mistakes_name_the_field_and_not_its_value() {
        let error =
            fields(json!({ "verbosity": "secret" })).one_of("verbosity", &["low", "high"]).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("text.verbosity"));
        assert_eq!(error.message, "Invalid value for 'text.verbosity'. Supported values are: 'low', 'high'.");
        let error = fields(json!({ "verbosity": ["secret"] })).string("verbosity").unwrap_err();
        assert_eq!(
            error.message,
            "Invalid type for 'text.verbosity': expected a string, but got an array instead."
        );
        assert_eq!(error.code.as_deref(), Some("invalid_type"));
        assert_eq!(Fields::of("a", json!(1)).unwrap_err().param.as_deref(), Some("a"));
    }
}
