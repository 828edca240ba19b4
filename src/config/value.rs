//! A value as given, before its key says what it should be.

use std::fmt;

/// Words come from variables and flags and may stand for anything; the file's values have types of their own.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Words(String),
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Value>),
    Table(Vec<(String, Value)>),
    /// A type no key wants, by TOML's name for it.
    Other(&'static str),
}

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Words(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Words(words) => words.trim().parse().ok(),
            _ => None,
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Words(words) => match words.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(true),
                "false" | "no" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// A list of texts; words are split at `separator`.
    pub(super) fn texts(&self, separator: char) -> Option<Vec<String>> {
        match self {
            Self::List(values) => values.iter().map(|value| value.text().map(str::to_owned)).collect(),
            Self::Words(words) => Some(split(words, separator).map(str::to_owned).collect()),
            _ => None,
        }
    }

    /// Names and values; words are `name<between>value,name<between>value`.
    pub(super) fn pairs(&self, between: char) -> Option<Vec<(String, Value)>> {
        match self {
            Self::Table(pairs) => Some(pairs.clone()),
            Self::Words(words) => split(words, ',')
                .map(|pair| {
                    let (name, value) = pair.split_once(between)?;
                    Some((name.trim().to_owned(), Self::Words(value.trim().to_owned())))
                })
                .collect(),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(text) | Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Table(pairs) => {
                f.write_str("{")?;
                for (index, (name, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{name} = {value}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            Self::Other(kind) => write!(f, "<{kind}>"),
        }
    }
}

fn split(words: &str, separator: char) -> impl Iterator<Item = &str> {
    words.split(separator).map(str::trim).filter(|part| !part.is_empty())
}
