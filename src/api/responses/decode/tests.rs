use serde_json::json;

use super::*;
use crate::api::fields::Policy;

#[expect(clippy::needless_pass_by_value, reason = "cases are written as literals")]
fn decoded(body: Value) -> Result<Decoded, ApiError> {
    decode(body.as_object().unwrap().clone(), RequestsConfig::default())
}

/// A request for "hi" with more fields.
#[expect(clippy::needless_pass_by_value, reason = "cases are written as literals")]
fn with(fields: Value) -> Result<Decoded, ApiError> {
    let mut body = json!({ "input": "hi" });
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    decoded(body)
}

fn refused(fields: Value) -> (String, String) {
    let error = with(fields).unwrap_err();
    assert_eq!(error.status.as_u16(), 400);
    (error.param.unwrap(), error.code.unwrap_or_default())
}

fn at(param: &str, code: &str) -> (String, String) {
    (param.to_owned(), code.to_owned())
}

fn ignored(fields: Value) -> String {
    let mut response = axum::response::Response::default();
    with(fields).unwrap().ignored.report(&mut response);
    let header = response.headers().get("x-codex-bridge-ignored");
    header.map(|header| header.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[test]
fn the_least_request_has_the_defaults() {
    let decoded = with(json!({})).unwrap();
    assert!(!decoded.stream && decoded.model.is_none() && decoded.previous.is_none());
    assert_eq!(decoded.retention, Retention::Stored);
    assert!(decoded.service_tier.is_none() && decoded.format.output_schema.is_none());
    assert!(
        decoded.format.rule.is_none()
            && decoded.tools.offered.is_empty()
            && decoded.tools.web_search.is_none()
    );
    let echo = decoded.echo;
    assert!(echo.store && echo.parallel_tool_calls && !echo.encrypted_reasoning);
    assert_eq!(
        (echo.service_tier, echo.tool_choice, echo.max_output_tokens),
        ("default", json!("auto"), None)
    );
    assert_eq!(ignored(json!({})), "");
}

#[test]
fn a_tier_is_repeated_as_it_was_sent() {
    for (asked, sent, shown, dropped) in [
        ("auto", None, "default", ""),
        ("default", None, "default", ""),
        ("flex", Some("flex"), "flex", ""),
        ("priority", Some("priority"), "priority", ""),
        ("fast", Some("fast"), "priority", ""),
        ("scale", None, "default", "service_tier"),
        ("ultrafast", None, "default", "service_tier"),
    ] {
        let decoded = with(json!({ "service_tier": asked })).unwrap();
        assert_eq!((decoded.service_tier.as_deref(), decoded.echo.service_tier), (sent, shown), "{asked}");
        assert_eq!(ignored(json!({ "service_tier": asked })), dropped, "{asked}");
    }
}

#[test]
fn what_is_asked_is_taken() {
    let decoded = with(json!({
        "model": "m", "instructions": "be brief", "stream": true, "store": false,
        "previous_response_id": "resp_1", "metadata": { "a": "b" }, "service_tier": "flex",
        "reasoning": { "effort": "low", "summary": "concise" }, "text": { "verbosity": "high" },
        "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
        "stream_options": { "include_obfuscation": false },
    }))
    .unwrap();
    assert_eq!(decoded.model.as_deref(), Some("m"));
    assert_eq!(decoded.previous.unwrap().as_str(), "resp_1");
    assert_eq!(decoded.retention, Retention::Continuable);
    assert_eq!(decoded.service_tier.as_deref(), Some("flex"));
    assert!(decoded.stream);
    let echo = decoded.echo;
    assert_eq!(echo.instructions.as_deref(), Some("be brief"));
    assert_eq!(echo.metadata["a"], "b");
    assert_eq!(echo.reasoning.effort.as_deref(), Some("low"));
    assert_eq!(echo.reasoning.summary, Some("concise"));
    assert_eq!(echo.text.verbosity, Some("high"));
    assert!(echo.encrypted_reasoning && !echo.store);
    assert_eq!(decoded.ignored, Ignored::default());
}

#[test]
fn null_asks_for_nothing() {
    let every_field = FIELDS.iter().filter(|field| !field.name.contains('.') && field.name != "input");
    let body: Map<String, Value> = every_field.map(|field| (field.name.to_owned(), Value::Null)).collect();
    assert_eq!(ignored(Value::Object(body)), "");
}

#[test]
fn the_older_name_of_the_summary_is_understood() {
    let summary = |reasoning| with(json!({ "reasoning": reasoning })).unwrap().echo.reasoning.summary;
    assert_eq!(summary(json!({ "generate_summary": "detailed" })), Some("detailed"));
    assert_eq!(summary(json!({ "generate_summary": "detailed", "summary": "auto" })), Some("auto"));
}

#[test]
fn a_schema_is_passed_on_in_its_own_order() {
    let schema = json!({ "type": "object", "properties": { "z": { "type": "string" }, "a": { "type": "null" } },
                         "required": ["a", "z"], "additionalProperties": false });
    let format =
        json!({ "type": "json_schema", "name": "n", "description": "d", "schema": schema, "strict": true });
    let decoded = with(json!({ "text": { "format": format } })).unwrap();
    assert_eq!(decoded.format.output_schema.unwrap().to_string(), schema.to_string());
    assert_eq!(decoded.echo.text.format, format);
    assert_eq!(decoded.ignored, Ignored::default());
    assert!(
        with(json!({ "text": { "format": { "type": "text" } } })).unwrap().format.output_schema.is_none()
    );
}

#[test]
fn limits_and_tools_are_taken_and_repeated() {
    let tools = json!([{ "type": "function", "name": "f", "description": null, "strict": false,
                         "parameters": { "type": "object", "properties": {} } }, { "type": "web_search" }]);
    let decoded = with(json!({
        "max_output_tokens": 16, "tools": tools, "tool_choice": { "type": "function", "name": "f" },
        "parallel_tool_calls": false,
    }))
    .unwrap();
    assert_eq!(decoded.tools.offered.len(), 1);
    assert!(decoded.tools.web_search.is_some() && !decoded.tools.parallel);
    let echo = decoded.echo;
    assert_eq!((echo.max_output_tokens, echo.parallel_tool_calls), (Some(16), false));
    assert_eq!(Value::from(echo.tools), tools);
    assert_eq!(echo.tool_choice, json!({ "type": "function", "name": "f" }));
    assert_eq!(decoded.ignored, Ignored::default());
}

#[test]
fn a_strict_deployment_refuses_what_has_no_effect() {
    let body = json!({ "input": "hi", "temperature": 0.5 }).as_object().unwrap().clone();
    let config = RequestsConfig { strict_params: true, ..RequestsConfig::default() };
    let error = decode(body, config).unwrap_err();
    assert_eq!(
        (error.param.as_deref(), error.code.as_deref()),
        (Some("temperature"), Some("unsupported_parameter"))
    );
    let body = json!({ "input": "hi", "temperature": 1 }).as_object().unwrap().clone();
    assert!(decode(body, config).is_ok());
}

#[test]
fn input_is_needed_unless_a_response_is_continued() {
    let code = |body| decoded(body).unwrap_err().code.unwrap();
    assert_eq!(code(json!({})), "missing_required_parameter");
    assert_eq!(code(json!({ "input": null })), "missing_required_parameter");
    assert_eq!(code(json!({ "input": [] })), "empty_array");
    assert!(decoded(json!({ "previous_response_id": "resp_1" })).unwrap().input.is_empty());
    assert!(decoded(json!({ "previous_response_id": "resp_1", "input": [] })).is_ok());
}

#[test]
fn tool_calls_and_outputs_come_in_pairs() {
    let call = json!({ "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}" });
    let output = json!({ "type": "function_call_output", "call_id": "c1", "output": "x" });
    let error = |body| decoded(body).unwrap_err();
    let unanswered = error(json!({ "input": [{ "role": "user", "content": "x" }, call] }));
    assert_eq!(unanswered.message, "No tool output found for function call c1.");
    assert_eq!(unanswered.param.as_deref(), Some("input[1]"));
    let orphan = error(json!({ "input": [output] }));
    assert_eq!(orphan.message, "No tool call found for function call output with call_id c1.");
    assert_eq!(orphan.param.as_deref(), Some("input[0]"));
    assert!(decoded(json!({ "input": [call, output] })).is_ok());
    assert!(decoded(json!({ "previous_response_id": "resp_1", "input": [output] })).is_ok());
}

#[test]
fn fields_without_effect_are_named() {
    assert_eq!(
        ignored(json!({
            "temperature": 0.5, "top_p": 0.5, "max_tool_calls": 3, "user": "u", "surprise": 1,
            "reasoning": { "context": "all_turns", "surprise": 1 }, "text": { "surprise": 1 },
            "stream_options": { "include_obfuscation": true },
        })),
        "stream_options.include_obfuscation, text.surprise, reasoning.context, reasoning.surprise, \
         temperature, top_p, max_tool_calls, user, surprise"
    );
}

#[test]
fn defaults_said_aloud_are_not_named() {
    assert_eq!(
        ignored(json!({
            "temperature": 1, "top_p": 1.0, "truncation": "disabled", "background": false, "tools": [],
            "tool_choice": "auto", "parallel_tool_calls": false, "top_logprobs": 0, "service_tier": "auto",
            "reasoning": { "context": "auto", "mode": "standard" },
        })),
        ""
    );
}

#[test]
fn what_would_change_the_answer_is_refused() {
    let unsupported = "unsupported_parameter";
    for (fields, param) in [
        (json!({ "prompt": { "id": "p" } }), "prompt"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "include": ["message.output_text.logprobs"] }), "include[0]"),
    ] {
        assert_eq!(refused(fields), at(param, unsupported));
    }
}

#[test]
fn a_background_response_is_a_stored_one() {
    let echo = |fields| with(fields).unwrap().echo;
    let plain = echo(json!({ "background": true }));
    assert!(plain.background && !plain.streamed);
    let streamed = echo(json!({ "background": true, "stream": true }));
    assert!(streamed.background && streamed.streamed);
    assert!(!echo(json!({ "stream": true })).streamed);
    let fields = json!({ "background": true, "store": false });
    assert_eq!(refused(fields), at("background", "invalid_parameter_combination"));
}

#[test]
fn mistakes_name_their_field() {
    let long = "x".repeat(513);
    let many: Map<String, Value> = (0..17).map(|n| (n.to_string(), "x".into())).collect();
    for (fields, param, code) in [
        (json!({ "model": 1 }), "model", "invalid_type"),
        (json!({ "stream": "yes" }), "stream", "invalid_type"),
        (json!({ "store": 1 }), "store", "invalid_type"),
        (json!({ "instructions": [] }), "instructions", "invalid_type"),
        (json!({ "reasoning": "low" }), "reasoning", "invalid_type"),
        (json!({ "reasoning": { "effort": 1 } }), "reasoning.effort", "invalid_type"),
        (json!({ "reasoning": { "summary": "loud" } }), "reasoning.summary", "invalid_value"),
        (json!({ "text": { "verbosity": "loud" } }), "text.verbosity", "invalid_value"),
        (json!({ "text": { "format": {} } }), "text.format.type", "missing_required_parameter"),
        (json!({ "text": { "format": { "type": "xml" } } }), "text.format.type", "invalid_value"),
        (
            json!({ "text": { "format": { "type": "json_schema", "schema": {} } } }),
            "text.format.name",
            "missing_required_parameter",
        ),
        (
            json!({ "text": { "format": { "type": "json_schema", "name": "a b", "schema": {} } } }),
            "text.format.name",
            "invalid_value",
        ),
        (
            json!({ "text": { "format": { "type": "json_schema", "name": "a" } } }),
            "text.format.schema",
            "missing_required_parameter",
        ),
        (
            json!({ "text": { "format": { "type": "json_schema", "name": "a", "schema": true } } }),
            "text.format.schema",
            "invalid_type",
        ),
        (json!({ "service_tier": "gold" }), "service_tier", "invalid_value"),
        (json!({ "include": "x" }), "include", "invalid_type"),
        (json!({ "include": ["x"] }), "include[0]", "invalid_value"),
        (json!({ "metadata": { "a": 1 } }), "metadata.a", "invalid_type"),
        (json!({ "metadata": { "a": long } }), "metadata", "string_above_max_length"),
        (json!({ "metadata": { (long[..65]): "a" } }), "metadata", "string_above_max_length"),
        (json!({ "metadata": many }), "metadata", "object_above_max_properties"),
        (json!({ "temperature": 3 }), "temperature", "decimal_above_max_value"),
        (json!({ "temperature": "hot" }), "temperature", "invalid_type"),
        (json!({ "top_p": -1 }), "top_p", "decimal_below_min_value"),
        (json!({ "max_output_tokens": 15 }), "max_output_tokens", "integer_below_min_value"),
        (json!({ "max_output_tokens": 1.5 }), "max_output_tokens", "invalid_type"),
        (json!({ "truncation": "some" }), "truncation", "invalid_value"),
        (json!({ "safety_identifier": long }), "safety_identifier", "string_above_max_length"),
        (json!({ "tools": {} }), "tools", "invalid_type"),
        (json!({ "background": "no" }), "background", "invalid_type"),
    ] {
        assert_eq!(refused(fields), at(param, code));
    }
}

/// What the table calls honoured is read by the decoder: nothing is honoured in name only.
#[test]
fn honoured_fields_are_read() {
    let schema = json!({ "type": "json_schema", "name": "n", "schema": { "type": "object" } });
    for field in FIELDS.iter().filter(|field| matches!(field.policy, Policy::Honoured | Policy::Emulated)) {
        let mut body = json!([1]);
        for name in field.name.rsplit('.') {
            body = json!({ name: body });
        }
        if let Some(name) = field.name.strip_prefix("text.format.") {
            let mut format = schema.clone();
            format[name] = json!([1]);
            body = json!({ "text": { "format": format } });
        }
        let body = if field.name == "include" { json!({ "include": {} }) } else { body };
        let error = with(body).expect_err(field.name);
        assert!(error.param.unwrap().starts_with(field.name), "{}", field.name);
    }
}
