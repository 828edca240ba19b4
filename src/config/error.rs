//! What is wrong with a configuration, said so that it can be mended without a search.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The configuration file and the line, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line, where one is known.
        line: Option<usize>,
    },
    /// An environment variable, by name.
    Variable(String),
    /// A flag, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One mistake. Values of secret and of unknown keys are never in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key, the variable or the file at fault.
    pub key: String,
    /// The value as given; masked where it is a secret, absent where it is none of ours.
    pub value: Option<String>,
    /// Where it was given.
    pub source: Source,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, " ({}): {}", self.source, self.problem)
    }
}

/// Every mistake of one load; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [_] => f.write_str("1 mistake in the configuration:")?,
            all => write!(f, "{} mistakes in the configuration:", all.len())?,
        }
        for mistake in &self.0 {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}
