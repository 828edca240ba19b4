use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::api::fields::Policy;

/// A request of one message and the given other fields.
fn request(fields: Value) -> Result<Decoded, ApiError> {
    let Value::Object(mut body) = fields else { panic!("not an object") };
    body.insert("messages".into(), json!([{"role": "user", "content": "hi"}]));
    decode(body, RequestsConfig::default())
}

fn settings(fields: Value) -> Settings {
    request(fields).unwrap().settings
}

fn refused(fields: Value) -> (String, String) {
    let error = request(fields).unwrap_err();
    assert_eq!(error.status.as_u16(), 400);
    (error.param.unwrap(), error.code.unwrap_or_default())
}

fn ignored(fields: Value) -> Ignored {
    request(fields).unwrap().ignored
}

fn names(names: &[&str]) -> Ignored {
    let mut ignored = Ignored::default();
    for name in names {
        ignored.add(*name);
    }
    ignored
}

#[test]
fn a_plain_request_asks_for_nothing_special() {
    let decoded = request(json!({"model": "m"})).unwrap();
    assert_eq!(decoded.settings.model.as_deref(), Some("m"));
    assert_eq!((decoded.n, decoded.stream, decoded.settings.include_usage), (1, false, false));
    assert!(!decoded.settings.shows_reasoning() && decoded.settings.format.output_schema.is_none());
    assert_eq!(decoded.ignored, Ignored::default());
    assert_eq!(settings(json!({})).model, None);
    assert_eq!(settings(json!({"model": ""})).model, None);
}

#[test]
fn messages_must_be_a_list() {
    let code = |body: Value| match body {
        Value::Object(body) => decode(body, RequestsConfig::default()).unwrap_err().code.unwrap(),
        _ => panic!("not an object"),
    };
    assert_eq!(code(json!({"model": "m"})), "missing_required_parameter");
    assert_eq!(code(json!({"messages": "hi"})), "invalid_type");
    assert_eq!(code(json!({"messages": []})), "empty_array");
}

#[test]
fn streams_and_their_options() {
    let decoded = request(json!({"stream": true, "stream_options": {"include_usage": true}})).unwrap();
    assert!(decoded.stream && decoded.settings.include_usage);
    assert!(!settings(json!({"stream": true, "stream_options": null})).include_usage);
    assert_eq!(refused(json!({"stream_options": {"include_usage": true}})).0, "stream_options");
    assert_eq!(refused(json!({"stream": "yes"})), ("stream".into(), "invalid_type".into()));
    let options = json!({"stream": true, "stream_options": {"include_obfuscation": true, "more": 1}});
    assert_eq!(ignored(options), names(&["stream_options.include_obfuscation", "stream_options.more"]));
}

#[test]
fn choices_are_1_to_128() {
    assert_eq!(request(json!({"n": 128})).unwrap().n, 128);
    assert_eq!(request(json!({"n": null})).unwrap().n, 1);
    assert_eq!(refused(json!({"n": 0})), ("n".into(), "integer_below_min_value".into()));
    assert_eq!(refused(json!({"n": 129})), ("n".into(), "integer_above_max_value".into()));
    assert_eq!(refused(json!({"n": "2"})), ("n".into(), "invalid_type".into()));
}

#[test]
fn reasoning_both_ways() {
    assert_eq!(settings(json!({"reasoning_effort": "high"})).effort.as_deref(), Some("high"));
    let both = settings(json!({"reasoning": {"effort": "low", "summary": "auto"}}));
    assert_eq!((both.effort.as_deref(), both.summary.as_deref()), (Some("low"), Some("auto")));
    assert!(both.shows_reasoning());
    assert!(!settings(json!({"reasoning": {"summary": "none"}})).shows_reasoning());
    assert_eq!(
        refused(json!({"reasoning_effort": "low", "reasoning": {"effort": "high"}})).0,
        "reasoning.effort"
    );
    assert_eq!(refused(json!({"reasoning": {"summary": "long"}})).0, "reasoning.summary");
    assert_eq!(refused(json!({"reasoning": "high"})), ("reasoning".into(), "invalid_type".into()));
}

#[test]
fn verbosity_and_tiers() {
    assert_eq!(settings(json!({"verbosity": "low"})).verbosity, Some("low"));
    assert_eq!(refused(json!({"verbosity": "mute"})), ("verbosity".into(), "invalid_value".into()));
    for (asked, sent, shown) in [
        ("auto", None, "default"),
        ("default", None, "default"),
        ("flex", Some("flex"), "flex"),
        ("priority", Some("priority"), "priority"),
        ("fast", Some("fast"), "priority"),
        ("scale", None, "default"),
    ] {
        let settings = settings(json!({"service_tier": asked}));
        assert_eq!((settings.tier.sent, settings.tier.shown), (sent, Some(shown)), "{asked}");
    }
    assert_eq!(settings(json!({})).tier.shown, None);
    assert_eq!(ignored(json!({"service_tier": "scale"})), names(&["service_tier"]));
    assert_eq!(refused(json!({"service_tier": "slow"})).0, "service_tier");
}

#[test]
fn a_schema_for_the_answer() {
    let schema = json!({"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "null"}},
                        "required": ["a", "b"], "additionalProperties": false});
    let format =
        |definition: Value| json!({"response_format": {"type": "json_schema", "json_schema": definition}});
    let settings_of = settings(format(json!({"name": "x", "schema": schema, "strict": true})));
    // The order of properties is the order in which a model writes them.
    assert_eq!(settings_of.format.output_schema.unwrap().to_string(), schema.to_string());
    let loose = format(json!({"name": "x", "schema": {}, "strict": false, "description": "d"}));
    assert_eq!(ignored(loose.clone()), names(&[]));
    assert!(settings(loose).format.rule.is_some());
    assert!(settings(json!({"response_format": {"type": "json_object"}})).format.rule.is_some());
    assert!(settings(json!({"response_format": {"type": "text"}})).format.output_schema.is_none());
    for (fields, param, code) in [
        (format(json!({"schema": {}})), "response_format.json_schema.name", "missing_required_parameter"),
        (format(json!({"name": "a b", "schema": {}})), "response_format.json_schema.name", "invalid_value"),
        (format(json!({"name": "x"})), "response_format.json_schema.schema", "missing_required_parameter"),
        (format(json!({"name": "x", "schema": []})), "response_format.json_schema.schema", "invalid_type"),
        (json!({"response_format": {}}), "response_format.type", "missing_required_parameter"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type", "invalid_value"),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            format(json!({"name": "x", "schema": {}, "strict": true})),
            "response_format.json_schema.schema",
            "invalid_json_schema",
        ),
        (json!({"response_format": "json"}), "response_format", "invalid_type"),
    ] {
        assert_eq!(refused(fields.clone()), (param.to_owned(), code.to_owned()), "{fields}");
    }
}

#[test]
fn metadata_is_bounded() {
    let metadata = settings(json!({"metadata": {"a": "1", "b": "2"}})).metadata;
    assert_eq!(metadata, BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]));
    let many: Map<String, Value> = (0..17).map(|n| (n.to_string(), json!("x"))).collect();
    for bad in [
        json!(many),
        json!({"a": "x".repeat(513)}),
        json!({"x".repeat(65): "a"}),
        json!({"a": 1}),
        json!("a"),
    ] {
        assert!(refused(json!({ "metadata": bad })).0.starts_with("metadata"));
    }
    assert_eq!(settings(json!({"metadata": {"a": "ü".repeat(512)}})).metadata.len(), 1);
}

#[test]
fn only_text_comes_out() {
    assert!(request(json!({"modalities": ["text"]})).is_ok());
    assert_eq!(
        refused(json!({"modalities": ["text", "audio"]})),
        ("modalities".into(), "unsupported_parameter".into())
    );
    assert_eq!(refused(json!({"modalities": ["video"]})).1, "invalid_value");
}

#[test]
fn the_rest_follows_the_table() {
    assert_eq!(
        ignored(json!({"temperature": 0.5, "made_up": true, "top_p": 1})),
        names(&["temperature", "made_up"])
    );
    assert_eq!(refused(json!({"audio": {}})), ("audio".into(), "unsupported_parameter".into()));
}

#[test]
fn limits_and_stops() {
    assert_eq!(settings(json!({"max_completion_tokens": 3})).max_tokens, Some(3));
    assert_eq!(settings(json!({"max_tokens": 3})).max_tokens, Some(3));
    assert_eq!(settings(json!({"max_tokens": 3, "max_completion_tokens": 3})).max_tokens, Some(3));
    assert_eq!(settings(json!({})).max_tokens, None);
    assert_eq!(settings(json!({"stop": "x"})).stop, ["x"]);
    assert_eq!(settings(json!({"stop": ["x", "y"]})).stop, ["x", "y"]);
    assert!(settings(json!({"stop": []})).stop.is_empty() && settings(json!({"stop": null})).stop.is_empty());
    for (fields, param, code) in [
        (json!({"max_tokens": 0}), "max_tokens", "integer_below_min_value"),
        (json!({"max_tokens": 1.5}), "max_tokens", "invalid_type"),
        (json!({"max_completion_tokens": u64::MAX}), "max_completion_tokens", "integer_above_max_value"),
        (json!({"max_tokens": 1, "max_completion_tokens": 2}), "max_tokens", "invalid_parameter_combination"),
        (json!({"stop": ["1", "2", "3", "4", "5"]}), "stop", "array_above_max_length"),
        (json!({"stop": ["1", 2]}), "stop[1]", "invalid_type"),
        (json!({"stop": 1}), "stop", "invalid_type"),
    ] {
        assert_eq!(refused(fields), (param.to_owned(), code.to_owned()));
    }
}

#[test]
fn deprecated_functions_are_tools_with_mistakes_in_their_own_words() {
    let settings = settings(json!({"functions": [{"name": "f"}], "function_call": {"name": "f"}}));
    assert!(settings.deprecated_functions && !settings.tools.parallel);
    assert_eq!(settings.tools.offered[0].name, "f");
    assert_eq!(settings.tools.choice, ToolChoice::Required(vec!["f".into()]));
    for (fields, param) in [
        (json!({"functions": [{}]}), "functions[0].name"),
        (json!({"functions": [1]}), "functions[0]"),
        (json!({"functions": {}}), "functions"),
        (json!({"functions": [{"name": "f"}], "function_call": {"name": "g"}}), "function_call"),
        (json!({"functions": [{"name": "f"}], "function_call": {}}), "function_call.name"),
        (json!({"function_call": {"name": "f"}}), "function_call"),
        (json!({"functions": [{"name": "f"}], "tools": [{}]}), "tools"),
    ] {
        assert_eq!(refused(fields).0, param);
    }
    assert!(!self::settings(json!({"function_call": "none"})).deprecated_functions);
}

#[test]
fn web_search_has_its_own_switch() {
    let decoded = request(json!({"web_search_options": {"search_context_size": "high"}})).unwrap();
    assert_eq!(decoded.settings.tools.web_search.unwrap().context_size, Some("high"));
    assert_eq!(decoded.ignored, names(&[]));
    assert!(settings(json!({})).tools.web_search.is_none());
}

/// A field that is honoured is read here: the table alone would swallow it.
#[test]
fn honoured_fields_are_read() {
    let top = FIELDS.iter().filter(|field| !field.name.contains(['.', '[']));
    for field in top.filter(|field| matches!(field.policy, Policy::Honoured | Policy::Emulated)) {
        let Value::Object(body) = json!({"messages": [{"role": "user", "content": "x"}], field.name: true})
        else {
            panic!("not an object")
        };
        let read = ["stream", "parallel_tool_calls", "store"].contains(&field.name)
            || decode(body, RequestsConfig::default()).is_err();
        assert!(read, "{} is not looked at", field.name);
    }
}
