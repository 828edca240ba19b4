//! Where rows come from: requests as they are, or a table and a template. Read anew each time: never in memory as a
//! whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::{Map, Value, json};

use super::template::{Template, filled};
use crate::api::batch_line;

const RESPONSES: &str = "/v1/responses";
const CHAT: &str = "/v1/chat/completions";
/// Columns that may hold a row's name, the first one wins.
const NAMES: [&str; 2] = ["custom_id", "id"];

/// A row that can be sent.
#[derive(Debug)]
pub(super) struct Row {
    /// Where it stands, from 1 on.
    pub(super) line: u64,
    pub(super) custom_id: String,
    /// `/v1/…`.
    pub(super) url: String,
    /// JSON.
    pub(super) body: String,
}

/// What every row has beside its template.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) model: Option<String>,
    pub(super) effort: Option<String>,
    pub(super) instructions: Option<String>,
    /// The `text.format` of answers that are objects.
    pub(super) schema: Option<Value>,
}

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    Csv,
    JsonLines,
}

/// A file of rows.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Requests,
    Rows { columns: Columns, template: Template, settings: Box<Settings> },
}

type Rows<'a> = Box<dyn Iterator<Item = anyhow::Result<Row>> + 'a>;

impl Source {
    pub(super) fn requests(path: PathBuf) -> Self {
        Self { path, form: Form::Requests }
    }

    pub(super) fn rows(
        path: PathBuf,
        columns: Columns,
        template: Template,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let is_chat = matches!(&template, Template::Body(body) if body.get("messages").is_some());
        if is_chat {
            let Settings { effort, instructions, schema, .. } = &settings;
            ensure!(
                effort.is_none() && instructions.is_none() && schema.is_none(),
                "a template with `messages` has its own settings: --effort, --instructions and --schema go with a prompt"
            );
        }
        Ok(Self { path, form: Form::Rows { columns, template, settings: Box::new(settings) } })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether every answer is to be an object.
    pub(super) fn wants_object(&self) -> bool {
        matches!(&self.form, Form::Rows { settings, .. } if settings.schema.is_some())
    }

    /// All rows, in order. What is wrong with one is told with its line.
    pub(super) fn open(&self) -> anyhow::Result<Rows<'_>> {
        match &self.form {
            Form::Requests => Ok(Box::new(lines(&self.path)?.map(|line| {
                let (line, text) = line?;
                let row =
                    batch_line::Row::of(&text).map_err(|wrong| anyhow!("line {line}: {}", wrong.message))?;
                ensure!(
                    batch_line::ENDPOINTS.contains(&row.url.as_str()),
                    "line {line}: no such `url` for a batch"
                );
                Ok(Row { line, custom_id: row.custom_id, url: row.url, body: row.body.get().to_owned() })
            }))),
            Form::Rows { columns: Columns::JsonLines, template, settings } => {
                let rows = lines(&self.path)?.zip(1_u64..);
                Ok(Box::new(rows.map(move |(line, number)| {
                    let (line, text) = line?;
                    let values = object(&text).with_context(|| format!("line {line}"))?;
                    made(line, number, &values, template, settings)
                })))
            }
            Form::Rows { columns: Columns::Csv, template, settings } => {
                let mut table = csv::Reader::from_path(&self.path)
                    .with_context(|| format!("cannot read {}", self.path.display()))?;
                let heads = table.headers().context("line 1")?.clone();
                let named: BTreeSet<&str> = heads.iter().collect();
                ensure!(named.len() == heads.len(), "line 1: two columns have the same name");
                for name in template.columns()? {
                    ensure!(
                        named.contains(name.as_str()),
                        "the template names `{name}`, which is no column; there are: {}",
                        heads.iter().collect::<Vec<_>>().join(", ")
                    );
                }
                Ok(Box::new(table.into_records().zip(1_u64..).map(move |(record, number)| {
                    let record = record?;
                    let line = record.position().map_or(number + 1, csv::Position::line);
                    let pairs = heads.iter().zip(record.iter());
                    let values = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                    made(line, number, &values, template, settings)
                })))
            }
        }
    }
}

/// Lines that are not blank, with their numbers.
fn lines(path: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<(u64, Vec<u8>)>> + use<>> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = BufReader::new(file).split(b'\n').zip(1_u64..);
    Ok(lines.filter_map(|(text, line)| match text {
        Ok(text) if text.trim_ascii().is_empty() => None,
        Ok(mut text) => {
            if line == 1 && text.starts_with(BYTE_ORDER_MARK) {
                text.drain(..BYTE_ORDER_MARK.len());
            }
            Some(Ok((line, text)))
        }
        Err(error) => Some(Err(anyhow!(error).context(format!("line {line}")))),
    }))
}

/// The values of a row of JSON: texts as they are, others as they are written.
fn object(text: &[u8]) -> anyhow::Result<BTreeMap<String, String>> {
    let fields: Map<String, Value> = serde_json::from_slice(text).context("it is no JSON object")?;
    let text = |value: Value| match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    Ok(fields.into_iter().map(|(name, value)| (name, text(value))).collect())
}

/// The request of one row.
fn made(
    line: u64,
    number: u64,
    values: &BTreeMap<String, String>,
    template: &Template,
    settings: &Settings,
) -> anyhow::Result<Row> {
    let column = |name: &str| values.get(name).map(String::as_str);
    let at = || format!("line {line}");
    let mut body = match template {
        Template::Prompt(text) => json!({ "input": text.fill(&column).with_context(at)? }),
        Template::Body(body) => filled(body, &column).with_context(at)?,
    };
    if let Some(model) = &settings.model {
        body["model"] = model.as_str().into();
    }
    if let Some(instructions) = &settings.instructions {
        body["instructions"] = instructions.as_str().into();
    }
    if let Some(effort) = &settings.effort {
        nested(&mut body, "reasoning")?.insert("effort".into(), effort.as_str().into());
    }
    if let Some(format) = &settings.schema {
        nested(&mut body, "text")?.insert("format".into(), format.clone());
    }
    let is_chat = body.get("messages").is_some();
    if !is_chat && body.get("store").is_none() {
        // The results are in the output.
        body["store"] = false.into();
    }
    let name = NAMES.iter().find_map(|name| column(name)).filter(|name| !name.is_empty());
    let custom_id = name.map_or_else(|| format!("row-{number}"), str::to_owned);
    if custom_id.chars().count() > batch_line::LONGEST_ID {
        bail!("line {line}: its id is longer than {} characters", batch_line::LONGEST_ID);
    }
    let url = if is_chat { CHAT } else { RESPONSES };
    Ok(Row { line, custom_id, url: url.into(), body: body.to_string() })
}

/// The object of that name in a body.
fn nested<'a>(body: &'a mut Value, name: &str) -> anyhow::Result<&'a mut Map<String, Value>> {
    let fields = body.as_object_mut().context("the body is no object")?;
    let inner = fields.entry(name).or_insert_with(|| json!({}));
    inner.as_object_mut().with_context(|| format!("`{name}` of the template is no object"))
}
