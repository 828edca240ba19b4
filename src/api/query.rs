//! The query of a request's address.

use std::borrow::Cow;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::error::ApiError;
use super::read::not_one_of;

/// The pairs of a query, decoded. What nobody asks for has no effect. An extractor.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of(query: &str) -> Self {
        let owned = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into_owned(), value.into_owned());
        Self(url::form_urlencoded::parse(query.as_bytes()).map(owned).collect())
    }

    /// The last value of `name` that is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let values = self.0.iter().rev().filter(|(given, _)| given == name);
        values.map(|(_, value)| value.as_str()).find(|value| !value.is_empty())
    }

    /// All values of a list, in any of the forms that clients write: `name=`, `name[]=`, `name[0]=`.
    pub(crate) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let is_it = move |given: &str| {
            given.strip_prefix(name).is_some_and(|rest| {
                rest.is_empty() || rest.strip_prefix('[').is_some_and(|rest| rest.ends_with(']'))
            })
        };
        self.0.iter().filter(move |(given, _)| is_it(given)).map(|(_, value)| value.as_str())
    }

    /// The entries of an object: `name[key]=value`.
    pub(crate) fn object<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let key = move |given: &'a str| given.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']');
        self.0.iter().filter_map(move |(given, value)| Some((key(given)?, value.as_str())))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            None | Some("false" | "False" | "0") => Ok(false),
            Some("true" | "True" | "1") => Ok(true),
            Some(_) => {
                Err(ApiError::invalid(name, format!("Invalid type for '{name}': expected a boolean."))
                    .with_code("invalid_type"))
            }
        }
    }

    /// A number within `bounds`.
    pub(crate) fn integer(
        &self,
        name: &str,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number: u64 = text.parse().map_err(|_| {
            ApiError::invalid(name, format!("Invalid type for '{name}': expected an integer."))
                .with_code("invalid_type")
        })?;
        let (least, most) = (*bounds.start(), *bounds.end());
        if number < least {
            let message = format!("Invalid '{name}': expected a value >= {least}, but got {number} instead.");
            return Err(ApiError::invalid(name, message).with_code("integer_below_min_value"));
        }
        if number > most {
            let message = format!("Invalid '{name}': expected a value <= {most}, but got {number} instead.");
            return Err(ApiError::invalid(name, message).with_code("integer_above_max_value"));
        }
        Ok(Some(number))
    }

    pub(crate) fn one_of(
        &self,
        name: &str,
        words: &'static [&'static str],
    ) -> Result<Option<&'static str>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        words.iter().copied().find(|word| *word == text).map(Some).ok_or_else(|| not_one_of(name, words))
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        std::future::ready(Ok(Self::of(parts.uri.query().unwrap_or_default()))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_a_list_are_one() {
        let query = Query::of("include=a&include[]=b&include%5B0%5D=c&includes=d&include%5B=e&other=f");
        assert_eq!(query.list("include").collect::<Vec<_>>(), ["a", "b", "c"]);
        let query = Query::of("metadata[a]=1&metadata%5Bb%20c%5D=2%20&metadata=3");
        assert_eq!(query.object("metadata").collect::<Vec<_>>(), [("a", "1"), ("b c", "2 ")]);
    }

    #[test]
    fn what_is_none_is_named() {
        let query = Query::of("limit=0&after=&stream=maybe&order=up&n=x&yes=true&no=0");
        let code = |error: ApiError| (error.code.unwrap(), error.param.unwrap());
        assert_eq!(
            code(query.integer("limit", 1..=100).unwrap_err()),
            ("integer_below_min_value".into(), "limit".into())
        );
        assert_eq!(code(query.integer("n", 1..=100).unwrap_err()).0, "invalid_type");
        assert_eq!(code(query.flag("stream").unwrap_err()).0, "invalid_type");
        assert_eq!(code(query.one_of("order", &["asc", "desc"]).unwrap_err()).0, "invalid_value");
        assert_eq!((query.flag("yes"), query.flag("no"), query.flag("absent")).0.ok(), Some(true));
        assert!(!query.flag("no").unwrap() && !query.flag("absent").unwrap());
        assert_eq!(query.text("after"), None);
    }
}
