//! The TOML file as a flat list of keys with their lines.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{Mistake, Source};
use super::keys;
use super::load::Given;
use super::value::Value;

/// The key of a mistake in the file's syntax.
pub(super) const SYNTAX: &str = "syntax";

/// Every known key of the file; unknown keys become mistakes. A file with syntax errors gives nothing but these:
/// what its other lines mean is anybody's guess.
pub(super) fn entries(path: &Path, text: &str, mistakes: &mut Vec<Mistake>) -> Vec<Given> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let source = |offset: Option<usize>| Source::File {
        path: path.to_owned(),
        line: offset.map(|offset| line_at(text, offset)),
    };
    // The parser's own rendering quotes the line, which may hold a secret: its bare message is enough.
    mistakes.extend(errors.iter().map(|error| Mistake {
        key: SYNTAX.into(),
        value: None,
        source: source(error.span().map(|span| span.start)),
        problem: error.message().to_owned(),
    }));

    if !errors.is_empty() {
        return Vec::new();
    }

    let mut given = Vec::new();
    let mut unknown = |name: String, offset: usize, problem: String| {
        mistakes.push(Mistake { key: name, value: None, source: source(Some(offset)), problem });
    };
    for (section, content) in document.get_ref() {
        let name = section.get_ref().as_ref();
        let offset = section.span().start;
        let DeValue::Table(content) = content.get_ref() else {
            unknown(name.to_owned(), offset, keys::unknown_key(name));
            continue;
        };
        if !keys::is_section(name) {
            unknown(format!("[{name}]"), offset, keys::unknown_section(name));
            continue;
        }
        for (key, value) in content {
            let full = format!("{name}.{}", key.get_ref());
            let value = convert(value.get_ref());
            let source = source(Some(key.span().start));
            match (keys::find(&full), keys::find(name)) {
                (Some(key), _) => given.push(Given { key, value, source }),
                // A section of tables is one key.
                (None, Some(tables)) => {
                    let value = Value::Table(vec![(key.get_ref().to_string(), value)]);
                    given.push(Given { key: tables, value, source });
                }
                (None, None) => unknown(full.clone(), key.span().start, keys::unknown_key(&full)),
            }
        }
    }
    given
}

pub(super) fn convert(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            i64::from_str_radix(&digits, number.radix())
                .map_or(Value::Other("integer out of range"), Value::Integer)
        }
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Array(values) => Value::List(values.iter().map(|value| convert(value.get_ref())).collect()),
        DeValue::Table(table) => Value::Table(
            table
                .iter()
                .map(|(name, value)| (name.get_ref().to_string(), convert(value.get_ref())))
                .collect(),
        ),
        DeValue::Float(_) | DeValue::Datetime(_) => Value::Other(value.type_str()),
    }
}

pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
