//! The tools a client offers.

use std::fmt;

use regex::Regex;

/// A tool of the client's: the model calls it, and the client answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// The group it stands in, if any.
    pub namespace: Option<Namespace>,
    /// As the client calls it; renamed on the way where the app-server does not take it.
    pub name: String,
    /// For the model.
    pub description: Option<String>,
    /// What it is called with.
    pub input: ToolInput,
}

/// A group of tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// As the client calls it; renamed on the way where the app-server does not take it.
    pub name: String,
    /// For the model.
    pub description: String,
}

/// What a tool is called with.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolInput {
    /// A function: arguments.
    Arguments {
        /// Their JSON schema, as the client gave it.
        schema: serde_json::Value,
        /// Whether they are held to it.
        strict: Strict,
    },
    /// A custom tool: free text.
    Text {
        /// A regular expression that the whole text must match.
        pattern: Option<String>,
    },
}

/// Whether a function's arguments are held to its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strict {
    /// They are not.
    No,
    /// As far as asking once more helps: the client did not ask for it.
    Unasked,
    /// Other arguments are no call.
    Asked,
}

/// Which of a request's tools.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ToolName {
    /// Its group's name, if it stands in one.
    pub namespace: Option<String>,
    /// Its own name.
    pub name: String,
}

/// Which tools the model may or must call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// It decides.
    #[default]
    Auto,
    /// It may call none.
    None,
    /// It must call at least one of these; any, where the list is empty.
    Required(Vec<ToolName>),
    /// It decides, among these alone.
    Allowed(Vec<ToolName>),
}

/// How the web is to be searched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebSearch {
    /// Whether pages may be fetched; else only what the backend has kept of them.
    pub live: bool,
    /// `low`, `medium`, `high`; `None` is the backend's own.
    pub context_size: Option<&'static str>,
    /// The only domains that are searched; `None` for all.
    pub allowed_domains: Option<Vec<String>>,
    /// About where the user is.
    pub location: Option<Location>,
}

/// About where somebody is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Location {
    /// Two letters.
    pub country: Option<String>,
    /// Free text.
    pub region: Option<String>,
    /// Free text.
    pub city: Option<String>,
    /// An IANA name.
    pub timezone: Option<String>,
}

impl Tool {
    /// A function that stands in no namespace and is not strict.
    pub fn function(name: &str, description: Option<&str>, parameters: serde_json::Value) -> Self {
        Self {
            namespace: None,
            name: name.to_owned(),
            description: description.map(str::to_owned),
            input: ToolInput::Arguments { schema: parameters, strict: Strict::No },
        }
    }

    /// Which one it is.
    pub fn full_name(&self) -> ToolName {
        let namespace = self.namespace.as_ref().map(|namespace| namespace.name.clone());
        ToolName { namespace, name: self.name.clone() }
    }

    /// Whether it is called with free text.
    pub fn is_custom(&self) -> bool {
        matches!(self.input, ToolInput::Text { .. })
    }
}

impl Default for WebSearch {
    fn default() -> Self {
        Self { live: true, context_size: None, allowed_domains: None, location: None }
    }
}

/// The expression that matches a text which `pattern` matches as a whole.
pub fn grammar(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!(r"\A(?:{pattern})\z"))
}

impl From<&str> for ToolName {
    fn from(name: &str) -> Self {
        Self { namespace: None, name: name.to_owned() }
    }
}

/// As the model knows it.
impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}
