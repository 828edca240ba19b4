//! `[classes.NAME]`: the defaults of a class of tasks. Four are built in; a table of one of their names changes
//! what it names and leaves the rest.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, json};

use super::keys::{self, Key, PREFIX};
use super::kinds::{Kind, OptionalText, Place, Positive, Span};
use super::units;
use super::value::Value;
use crate::model::Priority;

/// Most classes: each has figures of its own.
const MOST: usize = 64;
/// Longest name of one, characters.
const LONGEST: usize = 64;
/// What variables of classes begin with; `<NAME>__<KEY>` follows.
const VARIABLE: &str = "CLASSES__";

/// What calls of one class have where they are silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassConfig {
    /// A model, or an alias.
    pub model: Option<String>,
    /// Reasoning efforts, the first that the model takes; none of them is no default.
    pub effort: Vec<String>,
    /// `low`, `medium` or `high`.
    pub verbosity: Option<&'static str>,
    /// Longest time from dispatch to the end; the shorter one counts.
    pub deadline: Option<Duration>,
    /// Most tokens of the answer's text.
    pub max_output_tokens: Option<u64>,
    /// The lower one counts.
    pub priority: Option<Priority>,
    /// A text that goes before the caller's instructions.
    pub instruction_prefix: Option<String>,
}

/// The classes, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassesConfig(pub BTreeMap<String, ClassConfig>);

impl Default for ClassesConfig {
    fn default() -> Self {
        Self(built_in())
    }
}

fn built_in() -> BTreeMap<String, ClassConfig> {
    let quick = |seconds, tokens| ClassConfig {
        effort: vec!["minimal".into(), "low".into()],
        verbosity: Some("low"),
        deadline: Some(Duration::from_secs(seconds)),
        max_output_tokens: Some(tokens),
        ..ClassConfig::default()
    };
    let aside = ClassConfig {
        effort: vec!["low".into()],
        deadline: Some(Duration::from_secs(300)),
        priority: Some(Priority::Batch),
        ..ClassConfig::default()
    };
    BTreeMap::from([
        // A label, or a small object with one.
        ("intent_classification".into(), quick(30, 512)),
        // The text again, in another form: as long as a text is.
        ("normalization".into(), quick(60, 4096)),
        // Yes or no, and why.
        ("small_verification".into(), quick(60, 1024)),
        // Thought aloud beside what somebody waits for.
        ("side_reasoning".into(), aside),
    ])
}

/// The key: all tables below `[classes]`.
pub(super) const KEY: Key = Key {
    name: "classes",
    meaning: "Task classes, one table `[classes.NAME]` each, with `model`, `effort`, `verbosity`, `deadline`, \
              `max_output_tokens`, `priority`, `instruction_prefix` (see Task classes). In variables \
              `CODEX_BRIDGE_CLASSES__<NAME>__<KEY>`.",
    default: Some("the built-in ones"),
    secret: false,
    also: None,
    read: |config, value, place| read(&mut config.classes.0, value, place),
    show: |config| config.classes.0.iter().map(|(name, class)| (name.clone(), class.show())).collect(),
};

/// A variable of one class's key, as the table it stands for.
pub(super) fn of_variable(name: &str, words: &str) -> Option<(&'static Key, Value)> {
    let (class, key) = name.strip_prefix(PREFIX)?.strip_prefix(VARIABLE)?.split_once("__")?;
    let one = |name: &str, value| Value::Table(vec![(name.to_ascii_lowercase(), value)]);
    Some((keys::find(KEY.name)?, one(class, one(key, Value::Words(words.to_owned())))))
}

/// Takes what is right over into `classes`; what is wrong is said all at once.
fn read(classes: &mut BTreeMap<String, ClassConfig>, value: &Value, place: &Place<'_>) -> Result<(), String> {
    let Value::Table(tables) = value else {
        return Err(
            "wants tables, `[classes.NAME]` (in variables CODEX_BRIDGE_CLASSES__<NAME>__<KEY>)".into()
        );
    };
    let mut problems = Vec::new();
    for (name, table) in tables {
        if !is_name(name) {
            problems.push(format!(
                "{name:?} is no name of a class: wants 1 to {LONGEST} of a-z, 0-9, \"_\" and \"-\""
            ));
            continue;
        }
        let Value::Table(pairs) = table else {
            problems.push(format!("{name:?} wants a table"));
            continue;
        };
        if classes.len() >= MOST && !classes.contains_key(name) {
            problems.push(format!("{name:?} is one too many: at most {MOST} classes"));
            continue;
        }
        let class = classes.entry(name.clone()).or_default();
        for (key, value) in pairs {
            if let Err(problem) = class.set(key, value, place) {
                problems.push(format!("{name}.{key} {problem}"));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(fits)
}

impl ClassConfig {
    /// Sets one key. An empty text takes a default away.
    fn set(&mut self, key: &str, value: &Value, place: &Place<'_>) -> Result<(), String> {
        let none = value.text().is_some_and(|text| text.trim().is_empty());
        let given = (!none).then_some(value);
        match key {
            "model" => self.model = given.map_or(Ok(None), |value| OptionalText::read(value, place))?,
            "effort" => self.effort = given.map_or(Ok(Vec::new()), efforts)?,
            "verbosity" => {
                let words = [("low", "low"), ("medium", "medium"), ("high", "high")];
                self.verbosity = given.map(|value| word(value, &words)).transpose()?;
            }
            "deadline" => self.deadline = given.map(|value| Span::read(value, place)).transpose()?,
            "max_output_tokens" => {
                let tokens = given.map(|value| Positive::read(value, place)).transpose()?;
                self.max_output_tokens = tokens.and_then(|tokens| u64::try_from(tokens).ok());
            }
            "priority" => {
                let words = [("interactive", Priority::Interactive), ("batch", Priority::Batch)];
                self.priority = given.map(|value| word(value, &words)).transpose()?;
            }
            "instruction_prefix" => {
                self.instruction_prefix = given.map_or(Ok(None), |value| OptionalText::read(value, place))?;
            }
            _ => {
                return Err("is unknown; there are model, effort, verbosity, deadline, max_output_tokens, \
                            priority and instruction_prefix"
                    .into());
            }
        }
        Ok(())
    }

    /// What is set of it.
    fn show(&self) -> serde_json::Value {
        let priority = self.priority.map(Priority::as_str);
        let effort = (!self.effort.is_empty()).then_some(&self.effort);
        let all = [
            ("model", json!(self.model)),
            ("effort", json!(effort)),
            ("verbosity", json!(self.verbosity)),
            ("deadline", json!(self.deadline.map(units::show_duration))),
            ("max_output_tokens", json!(self.max_output_tokens)),
            ("priority", json!(priority)),
            ("instruction_prefix", json!(self.instruction_prefix)),
        ];
        let set = all.into_iter().filter(|(_, value)| !value.is_null());
        serde_json::Value::Object(set.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
    }
}

/// One effort, or several in the order of preference.
fn efforts(value: &Value) -> Result<Vec<String>, String> {
    let wants = || {
        "wants an effort such as \"low\", or a list of which the first that the model takes counts".to_owned()
    };
    let efforts = match value {
        Value::Text(text) => vec![text.clone()],
        other => other.texts(',').ok_or_else(wants)?,
    };
    let is_word =
        |effort: &String| !effort.is_empty() && effort.bytes().all(|byte| byte.is_ascii_lowercase());
    if !efforts.is_empty() && efforts.iter().all(is_word) { Ok(efforts) } else { Err(wants()) }
}

fn word<T: Copy>(value: &Value, words: &[(&str, T)]) -> Result<T, String> {
    let given = value.text().map(str::trim);
    let found = words.iter().find(|(word, _)| given == Some(word)).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| {
        let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("wants {}", words.join(" or "))
    })
}
