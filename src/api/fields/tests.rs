use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::api::{chat_completions, responses};

const CHAT: &[Field] = chat_completions::FIELDS;
const RESPONSES: &[Field] = responses::FIELDS;
const LEGACY: &[Field] = chat_completions::legacy::FIELDS;
const COMPACT: &[Field] = responses::COMPACT_FIELDS;

fn applied(name: &str, value: &Value) -> Result<bool, String> {
    let mut ignored = Ignored::default();
    match apply(CHAT, name, value, &mut ignored) {
        Ok(()) => Ok(ignored != Ignored::default()),
        Err(error) => {
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(name)));
            Err(error.code.unwrap())
        }
    }
}

#[test]
fn every_field_is_listed_once() {
    for table in [CHAT, RESPONSES, LEGACY, COMPACT] {
        for (place, field) in table.iter().enumerate() {
            assert!(table[..place].iter().all(|other| other.name != field.name), "{}", field.name);
        }
    }
}

#[test]
fn a_field_without_effect_is_reported_unless_it_asks_for_nothing() {
    for (name, value, reported) in [
        ("temperature", json!(0.2), true),
        ("temperature", json!(1), false),
        ("temperature", json!(1.0), false),
        ("temperature", json!(null), false),
        ("seed", json!(7), true),
        ("logit_bias", json!({}), false),
        ("logit_bias", json!({"1": 2}), true),
        ("store", json!(true), false),
        ("made_up", json!({"a": 1}), true),
        ("made_up", json!(null), false),
    ] {
        assert_eq!(applied(name, &value), Ok(reported), "{name}: {value}");
    }
}

#[test]
fn mistakes_are_refused_in_every_field() {
    for (name, value, code) in [
        ("temperature", json!(2.1), "decimal_above_max_value"),
        ("temperature", json!(-0.1), "decimal_below_min_value"),
        ("temperature", json!("1"), "invalid_type"),
        ("seed", json!(u64::MAX), "integer_above_max_value"),
        ("user", json!(1), "invalid_type"),
        ("safety_identifier", json!("x".repeat(65)), "string_above_max_length"),
        ("logprobs", json!("yes"), "invalid_type"),
        ("top_logprobs", json!(21), "integer_above_max_value"),
    ] {
        assert_eq!(applied(name, &value), Err(code.to_owned()), "{name}: {value}");
    }
}

#[test]
fn mistakes_within_a_field_are_refused_by_their_place() {
    let said = json!({"type": "content", "content": [{"type": "text", "text": "x"}]});
    let mut ignored = Ignored::default();
    for (name, value) in [("prediction", said), ("logit_bias", json!({"1": -100, "2": 100}))] {
        apply(CHAT, name, &value, &mut ignored).unwrap();
    }
    assert_eq!(ignored.names(), ["prediction", "logit_bias"]);
    for (name, value, param, code) in [
        ("logit_bias", json!({"1": 0, "2": 101}), "logit_bias.2", "integer_above_max_value"),
        ("logit_bias", json!({"1": -101}), "logit_bias.1", "integer_below_min_value"),
        ("logit_bias", json!({"1": "x"}), "logit_bias.1", "invalid_type"),
        ("logit_bias", json!([1]), "logit_bias", "invalid_type"),
        ("prompt_cache_retention", json!("a week"), "prompt_cache_retention", "invalid_value"),
        ("prediction", json!("x"), "prediction", "invalid_type"),
        ("prediction", json!({"content": "x"}), "prediction.type", "missing_required_parameter"),
        ("prediction", json!({"type": "text", "content": "x"}), "prediction.type", "invalid_value"),
        ("prediction", json!({"type": "content", "content": 1}), "prediction.content", "invalid_type"),
        (
            "prediction",
            json!({"type": "content", "content": [{"type": "image_url"}]}),
            "prediction.content[0].type",
            "invalid_value",
        ),
    ] {
        let error = apply(CHAT, name, &value, &mut ignored).unwrap_err();
        assert_eq!((error.param.as_deref(), error.code.as_deref()), (Some(param), Some(code)), "{value}");
    }
}

#[test]
fn what_would_change_the_answer_is_refused() {
    for (name, value) in [
        ("logprobs", json!(true)),
        ("top_logprobs", json!(1)),
        ("audio", json!({"voice": "x", "format": "wav"})),
        ("moderation", json!({"model": "m"})),
    ] {
        assert_eq!(applied(name, &value), Err("unsupported_parameter".to_owned()), "{name}: {value}");
    }
    for (name, value) in [("logprobs", json!(false)), ("top_logprobs", json!(0))] {
        assert_eq!(applied(name, &value), Ok(false), "{name}: {value}");
    }
}

/// Read by kind and checked entry by entry: what is below them is no field of its own.
const BY_KIND: &[&str] = &["input", "tool_choice", "function_call", "metadata"];

/// Every property of an official request has a policy, and so have those of what it holds, unless the holder
/// as a whole is ignored or refused.
#[test]
fn every_official_property_has_a_policy() {
    let spec: Value = serde_json::from_str(include_str!("../../../tests/spec/openai.json")).unwrap();
    let schemas = &spec["components"]["schemas"];
    for (schema, table) in [
        ("CreateResponse", RESPONSES),
        ("CreateChatCompletionRequest", CHAT),
        ("CreateCompletionRequest", LEGACY),
        ("CompactResponseMethodPublicBody", COMPACT),
    ] {
        let mut without = BTreeSet::new();
        let known = |name: &str| table.iter().find(|field| field.name == name);
        let mut open: Vec<String> = properties(schemas, schema, &[]).into_iter().collect();
        assert!(open.len() > 7, "{open:?}");
        while let Some(path) = open.pop() {
            let Some(field) = known(&path) else {
                without.insert(path);
                continue;
            };
            if matches!(field.policy, Policy::Honoured | Policy::Emulated) && !BY_KIND.contains(&field.name) {
                let steps: Vec<&str> = path.split('.').collect();
                open.extend(properties(schemas, schema, &steps).iter().map(|name| format!("{path}.{name}")));
            }
        }
        assert!(without.is_empty(), "{schema}: no policy for {without:?}");
    }
}

/// The names of the properties at `path` below a schema, in all of its forms; none of an array or a map.
fn properties(schemas: &Value, schema: &str, path: &[&str]) -> BTreeSet<String> {
    let mut at = vec![&schemas[schema]];
    for name in path {
        let forms = at.into_iter().flat_map(|schema| forms(schemas, schema));
        at = forms.filter_map(|form| form["properties"].get(name)).collect();
    }
    let forms = at.into_iter().flat_map(|schema| forms(schemas, schema));
    forms.filter_map(|form| form["properties"].as_object()).flat_map(|found| found.keys().cloned()).collect()
}

/// What a schema is put together from, references followed.
fn forms<'a>(schemas: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![schema];
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
        found.extend(forms(schemas, &schemas[name]));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let parts = schema[key].as_array().into_iter().flatten();
        found.extend(parts.flat_map(|part| forms(schemas, part)));
    }
    found
}

fn markdown(table: &[Field]) -> String {
    let mut rows = vec!["| field | policy | |\n| --- | --- | --- |\n".to_owned()];
    for Field { name, policy, note, .. } in table {
        let policy = format!("{policy:?}").to_lowercase();
        rows.push(format!("| `{name}` | {policy} | {note} |\n"));
    }
    rows.concat()
}

#[test]
fn the_readme_tables_are_these() {
    let readme = include_str!("../../../README.md");
    for (name, table) in [("responses", RESPONSES), ("compact", COMPACT), ("chat", CHAT), ("legacy", LEGACY)]
    {
        let (begin, end) = (format!("<!-- fields:{name}:begin -->\n"), format!("<!-- fields:{name}:end -->"));
        let shown =
            readme.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(shown, _)| shown);
        let table = markdown(table);
        assert!(shown == Some(&*table), "README.md, {name}:\n{begin}{table}{end}");
    }
}
