//! Official lists and their pages.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::Check;
use super::openapi::Parameter;
use super::query::Query;
use super::responses::INCLUDES;

/// Most entries of a page.
const MOST: u16 = 100;
/// Entries of a page, where the caller does not say.
const USUAL: u64 = 20;
const ORDERS: &[&str] = &["asc", "desc"];

/// What [`Paging::of`] reads.
pub(crate) const AFTER: Parameter =
    Parameter::new("after", Check::Text, "the id of the entry before the page");
pub(crate) const LIMIT: Parameter =
    Parameter::new("limit", Check::Integer(1, MOST as i64), "most entries of the page; 20 where not said");
pub(crate) const ORDER: Parameter = Parameter::new("order", Check::Word(ORDERS), "by when they were made");

/// Of stored items.
pub(crate) const INCLUDE: Parameter = Parameter::new(
    "include",
    Check::List(&Check::Word(INCLUDES)),
    "`reasoning.encrypted_content`; what else it names has no effect",
);

/// What is left of something deleted.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Deletion {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) deleted: bool,
}

/// A page of a list; an empty one has empty ids.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct List {
    object: &'static str,
    data: Vec<Map<String, Value>>,
    first_id: String,
    last_id: String,
    has_more: bool,
}

/// Which page is wanted.
#[derive(Debug)]
pub(crate) struct Paging {
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
    /// The latest first.
    pub(crate) descending: bool,
}

impl Paging {
    /// Reads it from a query; `order` is the usual one.
    pub(crate) fn of(query: &Query, order: &'static str) -> Result<Self, ApiError> {
        Self::within(query, order, USUAL, MOST)
    }

    /// The same with other bounds.
    pub(crate) fn within(
        query: &Query,
        order: &'static str,
        usual: u64,
        most: u16,
    ) -> Result<Self, ApiError> {
        let limit = query.integer("limit", 1..=most.into())?.unwrap_or(usual);
        Ok(Self {
            after: query.text("after").map(str::to_owned),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            descending: query.one_of("order", ORDERS)?.unwrap_or(order) == "desc",
        })
    }

    /// Cuts the page out of a whole list.
    pub(crate) fn cut(&self, mut all: Vec<Map<String, Value>>) -> Result<List, ApiError> {
        if self.descending {
            all.reverse();
        }
        if let Some(after) = &self.after {
            let place = all.iter().position(|entry| id(entry) == Some(after));
            let place = place.ok_or_else(|| self.unknown_after())?;
            all.drain(..=place);
        }
        let has_more = all.len() > self.limit;
        all.truncate(self.limit);
        Ok(List::new(all, has_more))
    }

    /// `after` names nothing of the list.
    pub(crate) fn unknown_after(&self) -> ApiError {
        let after = self.after.as_deref().unwrap_or_default();
        ApiError::invalid("after", format!("No entry with id '{after}' found in the list."))
            .with_code("invalid_value")
    }
}

impl List {
    pub(crate) fn new(data: Vec<Map<String, Value>>, has_more: bool) -> Self {
        let id_of = |entry: Option<&Map<String, Value>>| entry.and_then(id).unwrap_or_default().to_owned();
        Self { object: "list", first_id: id_of(data.first()), last_id: id_of(data.last()), data, has_more }
    }
}

fn id(entry: &Map<String, Value>) -> Option<&str> {
    entry.get("id")?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(query: &str) -> Result<(Vec<String>, bool), ApiError> {
        let entry = |n| json!({ "id": format!("e{n}") }).as_object().unwrap().clone();
        let list = Paging::of(&Query::of(query), "desc")?.cut((0..5).map(entry).collect())?;
        let list = serde_json::to_value(list).unwrap();
        let ids = list["data"].as_array().unwrap().iter();
        let ids: Vec<String> = ids.map(|entry| entry["id"].as_str().unwrap().to_owned()).collect();
        // Of an empty list too: the specification has no null there.
        assert_eq!(list["first_id"], *ids.first().unwrap_or(&String::new()));
        assert_eq!(list["last_id"], *ids.last().unwrap_or(&String::new()));
        Ok((ids, list["has_more"].as_bool().unwrap()))
    }

    #[test]
    fn pages_follow_one_another() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(page("limit=2").unwrap(), (ids(&["e4", "e3"]), true));
        assert_eq!(page("limit=2&after=e3").unwrap(), (ids(&["e2", "e1"]), true));
        assert_eq!(page("limit=2&after=e1").unwrap(), (ids(&["e0"]), false));
        assert_eq!(page("order=asc&after=e2").unwrap(), (ids(&["e3", "e4"]), false));
        assert_eq!(page("after=e0").unwrap(), (Vec::new(), false));
        assert_eq!(page("after=other").unwrap_err().param.as_deref(), Some("after"));
        assert!(page("limit=101").is_err() && page("order=up").is_err());
    }
}
