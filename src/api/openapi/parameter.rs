//! Parameters of a query or a head, and the headers of answers.

use serde_json::{Map, Value, json};

use super::body;
use crate::api::fields::Check;
use crate::api::observe::{X_PROCESSING_MS, X_VERSION};
use crate::api::request_id::X_REQUEST_ID;
use crate::api::{access, classes, dry_run, error, fallback, identity, ignored, limits, max_wait, usage};

/// A parameter of a query or a head.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) check: Check,
    pub(crate) note: &'static str,
}

impl Parameter {
    pub(crate) const fn new(name: &'static str, check: Check, note: &'static str) -> Self {
        Self { name, check, note }
    }

    /// `place`: `query` or `header`.
    pub(super) fn described(&self, place: &str) -> Value {
        let schema = body::form(&self.check);
        let mut described =
            json!({ "name": self.name, "in": place, "description": self.note, "schema": schema });
        if matches!(self.check, Check::Object) {
            described["style"] = "deepObject".into();
        }
        described
    }
}

/// What a call's head may ask for.
pub(super) const OF_CALLS: &[Parameter] = &[
    Parameter::new(classes::X_TASK_CLASS, Check::Text, "the class of task; wins over `metadata.task_class`"),
    Parameter::new(
        access::X_PRIORITY,
        Check::Word(&["interactive", "batch"]),
        "lowers the key's, never raises it",
    ),
    Parameter::new(
        max_wait::X_MAX_WAIT,
        Check::Text,
        "how long upstream retries may last: `10s`, `500ms`, `0s`",
    ),
    Parameter::new(
        dry_run::X_DRY_RUN,
        Check::Word(dry_run::WORDS),
        "what would be done, and nothing is; `full` adds the items",
    ),
    Parameter::new(identity::X_TRACE, Check::Text, "`1` adds the trace to the answer"),
];

/// Of every answer.
pub(super) fn of_all() -> Map<String, Value> {
    headers(&[
        (
            X_REQUEST_ID.as_str(),
            "string",
            "the request's id: the caller's own where it sent a well-formed one",
        ),
        (X_PROCESSING_MS.as_str(), "integer", "milliseconds until the head was ready"),
        (X_VERSION.as_str(), "string", "the bridge's version"),
    ])
}

/// Of an error; `wait`: how `Retry-After` comes about, where there is one.
pub(super) fn of_errors(wait: &[&str]) -> Map<String, Value> {
    let mut all =
        headers(&[(error::X_SHOULD_RETRY.as_str(), "string", "whether the same request may succeed later")]);
    if !wait.is_empty() {
        all.extend(headers(&[("retry-after", "integer", &format!("seconds: {}", wait.join("; or ")))]));
    }
    all
}

/// Of answers to calls of a model.
pub(super) fn of_calls() -> Map<String, Value> {
    let mut all = headers(&[
        (ignored::X_IGNORED.as_str(), "string", "fields of the request that had no effect, by their paths"),
        (fallback::X_FALLBACK.as_str(), "string", "why the fallback answered, or `failed`"),
    ]);
    for ([used, reset], window) in [(usage::PRIMARY, "short"), (usage::SECONDARY, "long")] {
        let used_is = format!("of the account's {window} window, 0 to 100");
        let reset_is = format!("when the {window} window starts anew, Unix seconds");
        all.extend(headers(&[(used.as_str(), "number", &used_is), (reset.as_str(), "integer", &reset_is)]));
    }
    for ([limit, remaining, reset], what) in [(limits::REQUESTS, "requests"), (limits::TOKENS, "tokens")] {
        all.extend(headers(&[
            (limit.as_str(), "integer", &format!("{what} a minute of the key")),
            (remaining.as_str(), "integer", &format!("{what} that it has left")),
            (reset.as_str(), "string", "until it has all of them again: `20ms`, `6m0s`"),
        ]));
    }
    all
}

fn headers(of: &[(&str, &str, &str)]) -> Map<String, Value> {
    let header = |(name, kind, what): &(&str, &str, &str)| {
        ((*name).to_owned(), json!({ "description": what, "schema": { "type": kind } }))
    };
    of.iter().map(header).collect()
}
