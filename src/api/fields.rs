//! What becomes of each request field: the machinery behind the tables of both APIs. The tables drive the
//! decoders, the README and the test against the official request schemas.

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::error::ApiError;
use super::ignored::Ignored;
use super::read::{self, Fields, wrong_type};

/// One field of a request, by its path: `temperature`, `reasoning.context`.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) policy: Policy,
    /// For the README and the OpenAPI document: what holds beyond the policy.
    pub(crate) note: &'static str,
    pub(crate) check: Check,
    pub(crate) neutral: Neutral,
    pub(crate) required: bool,
}

/// What becomes of a field that asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Reaches the model or shapes the answer; read by the API's decoder.
    Honoured,
    /// Done by the bridge itself; read by the API's decoder.
    Emulated,
    /// No effect; named in the response's head.
    Ignored,
    /// 400: without it the answer would mean something else.
    Refused,
}

/// The form of a value. Checked whatever the policy: a mistake is a mistake even in a field without effect. Where the
/// field is read by a decoder, that is what checks it, and this is its form for the OpenAPI document (a test compares).
#[derive(Debug)]
pub(crate) enum Check {
    /// Not said.
    Elsewhere,
    Flag,
    Text,
    /// A string of at most so many characters.
    TextUpTo(usize),
    Object,
    Array,
    Integer(i64, i64),
    Number(f64, f64),
    Word(&'static [&'static str]),
    /// An object whose every value is an integer within the bounds.
    Integers(i64, i64),
    /// An object of one `type`, with a text or parts as its `content`.
    Content(&'static str),
    /// An array of such values.
    List(&'static Check),
    /// A text, or such a value.
    TextOr(&'static Check),
    /// The official metadata.
    Metadata,
}

/// The value that asks for nothing, beside null.
#[derive(Debug)]
pub(crate) enum Neutral {
    None,
    Flag(bool),
    Number(f64),
    /// `[]` or `{}`.
    Empty,
    Words(&'static [&'static str]),
}

/// How long the provider's prompt cache keeps a beginning. The second is what earlier SDKs write for the first.
pub(crate) const RETENTIONS: &[&str] = &["in_memory", "in-memory", "24h"];

/// Applies the table's policy to a field that the decoder did not read. Unknown ones are ignored and named.
pub(crate) fn apply(
    table: &[Field],
    name: &str,
    value: &Value,
    ignored: &mut Ignored,
) -> Result<(), ApiError> {
    if value.is_null() {
        return Ok(());
    }
    let Some(field) = table.iter().find(|field| field.name == name) else {
        ignored.add(name);
        return Ok(());
    };
    field.check.of(name, value)?;
    if field.neutral.is(value) {
        return Ok(());
    }
    match field.policy {
        Policy::Honoured | Policy::Emulated => Ok(()),
        Policy::Ignored => {
            ignored.add(name);
            Ok(())
        }
        Policy::Refused => {
            let message = format!("Unsupported parameter: '{name}' is not supported by this endpoint.");
            Err(ApiError::unsupported(name, message))
        }
    }
}

/// Applies the table to whatever has not been read of `from`.
pub(crate) fn apply_rest(table: &[Field], from: Fields, ignored: &mut Ignored) -> Result<(), ApiError> {
    let path = from.path().to_owned();
    for (name, value) in from.rest() {
        let name = if path.is_empty() { name } else { format!("{path}.{name}") };
        apply(table, &name, &value, ignored)?;
    }
    Ok(())
}

impl Field {
    pub(crate) const fn honoured(name: &'static str) -> Self {
        Self::new(name, Policy::Honoured, Check::Elsewhere, Neutral::None)
    }

    pub(crate) const fn emulated(name: &'static str) -> Self {
        Self::new(name, Policy::Emulated, Check::Elsewhere, Neutral::None)
    }

    pub(crate) const fn ignored(name: &'static str, check: Check, neutral: Neutral) -> Self {
        Self::new(name, Policy::Ignored, check, neutral)
    }

    pub(crate) const fn refused(name: &'static str, check: Check, neutral: Neutral) -> Self {
        Self::new(name, Policy::Refused, check, neutral)
    }

    const fn new(name: &'static str, policy: Policy, check: Check, neutral: Neutral) -> Self {
        Self { name, policy, note: "", check, neutral, required: false }
    }

    /// The form that the API's decoder wants.
    pub(crate) const fn is(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    pub(crate) const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Whether a decoder takes it.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self.policy, Policy::Honoured | Policy::Emulated)
    }

    pub(crate) const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }
}

impl Check {
    fn of(&self, name: &str, value: &Value) -> Result<(), ApiError> {
        let (fits, expected) = match self {
            Self::Elsewhere => return Ok(()),
            Self::Integer(min, max) => return read::integer(name, value, *min, *max).map(drop),
            Self::Number(min, max) => return read::decimal(name, value, *min, *max).map(drop),
            Self::TextUpTo(max) if value.as_str().is_some_and(|text| text.chars().count() > *max) => {
                let message = format!("Invalid '{name}': expected a string of at most {max} characters.");
                return Err(ApiError::invalid(name, message).with_code("string_above_max_length"));
            }
            Self::Word(words) => match value.as_str() {
                Some(word) if !words.contains(&word) => return Err(read::not_one_of(name, words)),
                word => (word.is_some(), "a string"),
            },
            Self::Integers(min, max) => {
                let entries = value.as_object().into_iter().flatten();
                for (key, entry) in entries {
                    read::integer(&format!("{name}.{key}"), entry, *min, *max)?;
                }
                (value.is_object(), "an object")
            }
            Self::Content(kind) => return read::content(name, value, kind),
            Self::List(check) => {
                for (index, entry) in value.as_array().into_iter().flatten().enumerate() {
                    check.of(&format!("{name}[{index}]"), entry)?;
                }
                (value.is_array(), "an array")
            }
            Self::TextOr(_) if value.is_string() => return Ok(()),
            Self::TextOr(other) => return other.of(name, value),
            Self::Flag => (value.is_boolean(), "a boolean"),
            Self::Text | Self::TextUpTo(_) => (value.is_string(), "a string"),
            Self::Object | Self::Metadata => (value.is_object(), "an object"),
            Self::Array => (value.is_array(), "an array"),
        };
        if fits { Ok(()) } else { Err(wrong_type(name, expected, value)) }
    }
}

impl Neutral {
    fn is(&self, value: &Value) -> bool {
        match self {
            Self::None => false,
            Self::Flag(flag) => value.as_bool() == Some(*flag),
            // Exactly the default, as the client wrote it.
            Self::Number(number) => value.as_f64().is_some_and(|given| given.total_cmp(number).is_eq()),
            Self::Empty => match value {
                Value::Array(values) => values.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            },
            Self::Words(words) => value.as_str().is_some_and(|given| words.contains(&given)),
        }
    }
}
