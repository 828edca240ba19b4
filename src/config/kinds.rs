//! What a key's value can be: how it is read, and how it is shown.

mod limits;
mod secrets;
mod upstream;
mod words;

pub(super) use limits::Limits;
pub(super) use secrets::{CipherKey, RedisUrl, Secret, Tokens};
pub(super) use upstream::{BaseUrl, BreakerModeName, Names, Percent, Reasons};
pub(super) use words::{
    AccountChange, Address, BackendName, Filter, Folder, Format, Host, Hosts, Map, OnUnknownTools,
    OptionalFile, OptionalText, Origins, Program, RedisPrefix, ScaffoldName, Settings,
};

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::units;
use super::value::Value;

/// Shown in place of a secret.
pub(super) const MASK: &str = "********";

/// Most of anything that is counted: small enough for every queue and permit counter behind it.
const MOST: i64 = 10_000_000;

/// How a value is read and shown.
pub(super) trait Kind {
    /// The field's type.
    type Value;
    /// Reads the value, or says what is wanted (never quoting the value).
    fn read(value: &Value, place: &Place<'_>) -> Result<Self::Value, String>;
    /// As `config show` prints it, secrets masked.
    fn show(value: &Self::Value) -> serde_json::Value;
}

/// What reading may depend on beside the value.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// For `~/`.
    pub(super) home: Option<&'a Path>,
    /// Relative paths start here: the file's folder, or the working folder.
    pub(super) base: &'a Path,
    /// Reads a token file.
    pub(super) read: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Place<'_> {
    fn path(&self, text: &str) -> Result<PathBuf, String> {
        if text.is_empty() {
            return Err("wants a path".into());
        }
        match (text.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => Ok(home.join(rest)),
            (Some(_), None) => Err("starts with ~/, but HOME is not set".into()),
            (None, _) => Ok(self.base.join(text)),
        }
    }

    /// A secret kept in a file of its own: the file's text without the white space around it.
    pub(super) fn secret_file(&self, path: &Path) -> Result<String, String> {
        let text = (self.read)(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        match text.trim() {
            "" => Err(format!("{} is empty", path.display())),
            secret => Ok(secret.to_owned()),
        }
    }
}

/// All values, or what is wrong with each that is wrong.
fn all<T>(read: impl Iterator<Item = Result<T, String>>) -> Result<Vec<T>, String> {
    let mut values = Vec::new();
    let mut problems = Vec::new();
    for value in read {
        match value {
            Ok(value) => values.push(value),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(problems.join("; ")) }
}

/// A TCP port.
pub(super) struct Port;

impl Kind for Port {
    type Value = u16;

    fn read(value: &Value, _: &Place<'_>) -> Result<u16, String> {
        let wants = || "wants a port number, 0 to 65535 (0 picks one)".to_owned();
        value.integer().and_then(|number| u16::try_from(number).ok()).ok_or_else(wants)
    }

    fn show(value: &u16) -> serde_json::Value {
        json!(value)
    }
}

/// How many processes share the load.
pub(super) struct Processes;

impl Kind for Processes {
    type Value = usize;

    fn read(value: &Value, _: &Place<'_>) -> Result<usize, String> {
        let count = value.integer().and_then(|number| usize::try_from(number).ok());
        count.filter(|count| (1..=16).contains(count)).ok_or_else(|| "wants a number from 1 to 16".into())
    }

    fn show(value: &usize) -> serde_json::Value {
        json!(value)
    }
}

/// A number of things, none included.
pub(super) struct Count;

impl Kind for Count {
    type Value = usize;

    fn read(value: &Value, _: &Place<'_>) -> Result<usize, String> {
        counted(value, 0, MOST)
    }

    fn show(value: &usize) -> serde_json::Value {
        json!(value)
    }
}

/// A number of things, at least one.
pub(super) struct Positive;

impl Kind for Positive {
    type Value = usize;

    fn read(value: &Value, _: &Place<'_>) -> Result<usize, String> {
        counted(value, 1, MOST)
    }

    fn show(value: &usize) -> serde_json::Value {
        json!(value)
    }
}

/// Items of a chain: as many as a store reads of one at most, were each a response of its own.
pub(super) struct ChainItems;

impl Kind for ChainItems {
    type Value = usize;

    fn read(value: &Value, _: &Place<'_>) -> Result<usize, String> {
        counted(value, 1, 10_000)
    }

    fn show(value: &usize) -> serde_json::Value {
        json!(value)
    }
}

fn counted(value: &Value, least: i64, most: i64) -> Result<usize, String> {
    value
        .integer()
        .filter(|number| (least..=most).contains(number))
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| format!("wants a whole number from {least} to {most}"))
}

/// A number of bytes, at least one.
pub(super) struct Size;

impl Kind for Size {
    type Value = usize;

    fn read(value: &Value, _: &Place<'_>) -> Result<usize, String> {
        let bytes = match value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok().filter(|bytes| *bytes <= units::LARGEST),
            _ => value.text().and_then(units::size),
        };
        bytes
            .filter(|bytes| *bytes > 0)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(|| "wants a size such as \"48MiB\", or bytes, from 1 to 1024GiB".into())
    }

    fn show(value: &usize) -> serde_json::Value {
        json!(units::show_size(*value))
    }
}

/// A length of time, more than none.
pub(super) struct Span;

impl Kind for Span {
    type Value = Duration;

    fn read(value: &Value, place: &Place<'_>) -> Result<Duration, String> {
        let duration = SpanOrZero::read(value, place)?;
        if duration.is_zero() { Err("wants a duration longer than zero".into()) } else { Ok(duration) }
    }

    fn show(value: &Duration) -> serde_json::Value {
        SpanOrZero::show(value)
    }
}

/// A length of time, none included.
pub(super) struct SpanOrZero;

impl Kind for SpanOrZero {
    type Value = Duration;

    fn read(value: &Value, _: &Place<'_>) -> Result<Duration, String> {
        let duration = match value {
            Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            _ => value.text().and_then(units::duration),
        };
        duration.filter(|duration| *duration <= units::LONGEST).ok_or_else(|| {
            "wants a duration such as \"30s\", \"5m\" or \"6h\", or seconds, up to 366d".into()
        })
    }

    fn show(value: &Duration) -> serde_json::Value {
        json!(units::show_duration(*value))
    }
}

/// On or off.
pub(super) struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn read(value: &Value, _: &Place<'_>) -> Result<bool, String> {
        value.boolean().ok_or_else(|| "wants true or false".into())
    }

    fn show(value: &bool) -> serde_json::Value {
        json!(value)
    }
}
