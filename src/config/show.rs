//! `config show`: each value and where it came from, secrets masked.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::error::Source;
use super::keys::Key;
use super::load::Origins;
use super::sections::Config;

/// One key as it is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// `section.key`, or a section of tables.
    pub key: &'static str,
    /// Masked where it is a secret; null where it is not set.
    pub value: serde_json::Value,
    /// Where it came from.
    pub source: Source,
}

impl Setting {
    pub(super) fn of(key: &Key, config: &Config, origins: &Origins) -> Self {
        let source = origins.get(key.name).cloned().unwrap_or(Source::Default);
        Self { key: key.name, value: (key.show)(config), source }
    }
}

/// Three aligned columns: key, value, source.
pub fn as_text(settings: &[Setting]) -> String {
    let values: Vec<String> = settings.iter().map(|setting| one_line(&setting.value)).collect();
    let key_width = settings.iter().map(|setting| setting.key.len()).max().unwrap_or(0);
    // One long list should not push every source off the screen.
    let value_width = values.iter().map(|value| value.chars().count()).max().unwrap_or(0).min(44);
    let mut text = String::new();
    for (setting, value) in settings.iter().zip(&values) {
        let _ = writeln!(text, "{:key_width$}  {value:value_width$}  {}", setting.key, setting.source);
    }
    text
}

/// The same for programs: `{"file": …, "settings": {key: {"value": …, "source": …}}}`.
pub fn as_json(file: Option<&Path>, settings: &[Setting]) -> serde_json::Value {
    let settings: serde_json::Map<String, serde_json::Value> = settings
        .iter()
        .map(|setting| {
            (setting.key.to_owned(), json!({"value": setting.value, "source": source(&setting.source)}))
        })
        .collect();
    json!({"file": file, "settings": settings})
}

/// A value on one line; `-` where there is none.
pub(super) fn one_line(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".into(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn source(source: &Source) -> serde_json::Value {
    match source {
        Source::Default => json!({"kind": "default"}),
        Source::File { path, line } => json!({"kind": "file", "path": path, "line": line}),
        Source::Variable(name) => json!({"kind": "variable", "name": name}),
        Source::Flag(name) => json!({"kind": "flag", "name": name}),
    }
}
