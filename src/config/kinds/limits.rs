//! What tokens may do.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::{Kind, Place, all};
use crate::config::api_keys;
use crate::config::file;
use crate::config::sections::KeyLimits;
use crate::config::value::Value;

/// Limits by the name of a token. A variable holds them as TOML's inline table.
pub(in crate::config) struct Limits;

const WANTS: &str = "wants a table of names and limits: name = {requests_per_minute = 60, …}";

impl Kind for Limits {
    type Value = BTreeMap<String, KeyLimits>;

    fn read(value: &Value, _: &Place<'_>) -> Result<Self::Value, String> {
        let names = match value {
            Value::Table(names) => names.clone(),
            Value::Words(words) => inline(words).ok_or(WANTS)?,
            _ => return Err(WANTS.into()),
        };
        let limits = all(names.into_iter().map(|(name, fields)| {
            let Value::Table(fields) = fields else { return Err(WANTS.to_owned()) };
            let mut limits = KeyLimits::default();
            all(fields.iter().map(|(field, value)| {
                let set = api_keys::set(&mut limits, field, value);
                set.map_err(|problem| format!("{name}.{field} {problem}"))
            }))?;
            Ok((name, limits))
        }))?;
        Ok(limits.into_iter().collect())
    }

    fn show(value: &Self::Value) -> serde_json::Value {
        value.iter().map(|(name, limits)| (name.clone(), api_keys::limits_json(limits))).collect()
    }
}

fn inline(words: &str) -> Option<Vec<(String, Value)>> {
    let text = format!("it = {words}");
    let document = DeTable::parse(&text).ok()?;
    let mut values = document.get_ref().iter().map(|(_, value)| file::convert(value.get_ref()));
    match (values.next()?, values.next()) {
        (Value::Table(names), None) => Some(names),
        _ => None,
    }
}
