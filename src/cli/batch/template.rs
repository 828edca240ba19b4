//! Prompts and bodies with `{{column}}` in them. `\{{` is `{{` itself. A value that holds braces is no template.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// What each row is made of.
#[derive(Debug)]
pub(super) enum Template {
    /// The text of the one user message.
    Prompt(Text),
    /// A whole request body; its strings are texts.
    Body(Value),
}

/// A text with places.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text(Vec<Piece>);

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Words(String),
    Column(String),
}

impl Template {
    pub(super) fn prompt(text: &str) -> anyhow::Result<Self> {
        ensure!(!text.trim().is_empty(), "the template is empty");
        Ok(Self::Prompt(Text::parse(text.trim_end_matches(['\n', '\r']))?))
    }

    pub(super) fn body(text: &str) -> anyhow::Result<Self> {
        let body: Value = serde_json::from_str(text).context("the template is no JSON")?;
        ensure!(body.is_object(), "the template is no request body: it is no object");
        if ["stream", "background"].iter().any(|flag| body[flag] == true) {
            bail!("`stream` and `background` are not for batches");
        }
        let template = Self::Body(body);
        template.columns()?;
        Ok(template)
    }

    /// The columns that it names.
    pub(super) fn columns(&self) -> anyhow::Result<Vec<String>> {
        let mut columns = Vec::new();
        match self {
            Self::Prompt(text) => text.columns(&mut columns),
            Self::Body(body) => each_text(body, &mut |text| {
                Text::parse(text)?.columns(&mut columns);
                Ok(())
            })?,
        }
        columns.sort();
        columns.dedup();
        Ok(columns)
    }
}

fn each_text(value: &Value, look: &mut impl FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    match value {
        Value::String(text) => look(text),
        Value::Array(entries) => entries.iter().try_for_each(|entry| each_text(entry, look)),
        Value::Object(fields) => fields.values().try_for_each(|field| each_text(field, look)),
        _ => Ok(()),
    }
}

/// `value` with the places of its strings filled.
pub(super) fn filled<'a>(value: &Value, column: &impl Fn(&str) -> Option<&'a str>) -> anyhow::Result<Value> {
    Ok(match value {
        Value::String(text) => Value::String(Text::parse(text)?.fill(column)?),
        Value::Array(entries) => {
            Value::Array(entries.iter().map(|entry| filled(entry, column)).collect::<anyhow::Result<_>>()?)
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| Ok((name.clone(), filled(value, column)?));
            Value::Object(fields.iter().map(field).collect::<anyhow::Result<_>>()?)
        }
        other => other.clone(),
    })
}

impl Text {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut pieces = Vec::new();
        let mut words = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("{{") {
            let (before, after) = (&rest[..at], &rest[at + 2..]);
            if let Some(before) = before.strip_suffix('\\') {
                words.push_str(before);
                words.push_str("{{");
                rest = after;
                continue;
            }
            words.push_str(before);
            let line = text[..text.len() - rest.len() + at].matches('\n').count() + 1;
            let Some(end) = after.find("}}") else { bail!("line {line}: `{{{{` without `}}}}`") };
            let name = after[..end].trim();
            ensure!(
                !name.is_empty() && !name.contains(['{', '\n']),
                "line {line}: `{{{{…}}}}` names no column"
            );
            if !words.is_empty() {
                pieces.push(Piece::Words(std::mem::take(&mut words)));
            }
            pieces.push(Piece::Column(name.to_owned()));
            rest = &after[end + 2..];
        }
        words.push_str(rest);
        if !words.is_empty() {
            pieces.push(Piece::Words(words));
        }
        Ok(Self(pieces))
    }

    fn columns(&self, columns: &mut Vec<String>) {
        columns.extend(self.0.iter().filter_map(|piece| match piece {
            Piece::Column(name) => Some(name.clone()),
            Piece::Words(_) => None,
        }));
    }

    pub(super) fn fill<'a>(&self, column: &impl Fn(&str) -> Option<&'a str>) -> anyhow::Result<String> {
        let mut filled = String::new();
        for piece in &self.0 {
            filled.push_str(match piece {
                Piece::Words(words) => words,
                Piece::Column(name) => {
                    column(name).with_context(|| format!("the row has no column `{name}`"))?
                }
            });
        }
        Ok(filled)
    }
}
