//! `x-codex-bridge-ignored`: which parts of a request had no effect.

use std::fmt::Write;

use axum::response::Response;
use http::{HeaderName, HeaderValue};

use super::error::ApiError;
use super::read::Fields;

/// The header's name.
pub(crate) const X_IGNORED: HeaderName = HeaderName::from_static("x-codex-bridge-ignored");

/// The header holds at most about this many bytes; past it, how many more there were.
const MAX_BYTES: usize = 1024;

/// Names of ignored fields, each once, in the order they were met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ignored(Vec<String>);

impl Ignored {
    pub(crate) fn add(&mut self, name: impl Into<String>) {
        let name = name.into();
        if !self.0.contains(&name) {
            self.0.push(name);
        }
    }

    /// All that nobody took of an object.
    pub(crate) fn add_rest(&mut self, path: &str, fields: Fields) {
        for (name, _) in fields.rest().iter().filter(|(_, value)| !value.is_null()) {
            self.add(format!("{path}.{name}"));
        }
    }

    /// In the order they were met.
    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }

    /// 400 `unsupported_parameter` for the first, where the deployment wants fields without effect refused.
    pub(crate) fn refuse_if(&self, strict: bool) -> Result<(), ApiError> {
        match self.0.first().filter(|_| strict) {
            None => Ok(()),
            Some(name) => {
                let message = format!("Unsupported parameter: '{name}' has no effect here.");
                Err(ApiError::unsupported(name.as_str(), message))
            }
        }
    }

    /// Names them in the response's head.
    pub(crate) fn report(&self, response: &mut Response) {
        if let Some(value) = self.header() {
            response.headers_mut().insert(X_IGNORED, value);
        }
    }

    /// `None` if there is nothing to say. Names come from clients: what a header cannot carry becomes `_`.
    fn header(&self) -> Option<HeaderValue> {
        let mut line = String::new();
        for (index, name) in self.0.iter().enumerate() {
            if line.len() + name.len() > MAX_BYTES {
                let _ = write!(line, "{}+{}", separator(&line), self.0.len() - index);
                break;
            }
            line.push_str(separator(&line));
            line.extend(name.chars().map(|c| if c.is_ascii_graphic() && c != ',' { c } else { '_' }));
        }
        if line.is_empty() { None } else { HeaderValue::from_str(&line).ok() }
    }
}

fn separator(line: &str) -> &'static str {
    if line.is_empty() { "" } else { ", " }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(names: &[String]) -> Option<String> {
        let mut ignored = Ignored::default();
        for name in names {
            ignored.add(name.as_str());
        }
        ignored.header().map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn names_are_listed_once_each() {
        assert_eq!(header(&[]), None);
        let names = ["seed", "messages[0].name", "seed"].map(String::from);
        assert_eq!(header(&names).unwrap(), "seed, messages[0].name");
    }

    #[test]
    fn any_name_fits_a_header() {
        assert_eq!(header(&["a,\r\nx: ü".into()]).unwrap(), "a___x:__");
        let many: Vec<String> = (0..200).map(|n| format!("unknown_field_{n:03}")).collect();
        let line = header(&many).unwrap();
        assert!(line.len() < MAX_BYTES + 64, "{}", line.len());
        assert!(line.rsplit(", ").next().unwrap().starts_with('+'), "{line}");
        assert_eq!(header(&["x".repeat(MAX_BYTES + 1)]).unwrap(), "+1");
    }
}
