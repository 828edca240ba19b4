use serde_json::{Value, json};

use super::request::{Refused, Wanted};
use super::*;

fn config() -> FallbackConfig {
    FallbackConfig {
        model: Some("theirs".into()),
        models: [("mini".to_owned(), "small".to_owned())].into(),
        ..FallbackConfig::default()
    }
}

fn rewritten(config: &FallbackConfig, body: &str) -> Result<String, Refused> {
    let wanted = Wanted { config, class: None };
    wanted.rewrite(body.as_bytes()).map(|body| String::from_utf8(body).unwrap())
}

#[test]
fn nothing_but_the_model_is_written_anew() {
    let config = config();
    for (body, expected) in [
        (
            r#" {"model" : "mini","seed":1.50,"input":"\u0041"}"#,
            r#" {"model" : "small","seed":1.50,"input":"\u0041"}"#,
        ),
        (r#"{"input":"x","model":"other"}"#, r#"{"input":"x","model":"theirs"}"#),
        (r#"{"model":null,"input":"x"}"#, r#"{"model":"theirs","input":"x"}"#),
        (r#"{"input":"x"}"#, r#"{"model":"theirs","input":"x"}"#),
        (r#"{"mod\u0065l":"mini","input":"x"}"#, r#"{"mod\u0065l":"small","input":"x"}"#),
    ] {
        assert_eq!(rewritten(&config, body).unwrap(), expected);
    }
    let as_it_is = FallbackConfig { model: None, ..config };
    let body = r#"{"model":"other",  "input":"x"}"#;
    assert_eq!(rewritten(&as_it_is, body).unwrap(), body);
}

#[test]
fn what_was_begun_here_stays_here() {
    let item = |item: Value| json!({"input": [{"role": "user", "content": "x"}, item]});
    for body in [
        json!({"input": "x", "previous_response_id": "resp_1"}),
        json!({"input": "x", "conversation": "conv_1"}),
        json!({"input": "x", "background": true}),
        item(json!({"type": "item_reference", "id": "msg_1"})),
        item(json!({"type": "reasoning", "encrypted_content": "e", "summary": []})),
        item(json!({"type": "function_call_output", "call_id": "c", "output": "o"})),
        item(json!({"type": "custom_tool_call_output", "call_id": "c", "output": "o"})),
        json!({"messages": [{"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "o"}]}),
    ] {
        assert_eq!(rewritten(&config(), &body.to_string()), Err(Refused::Chain), "{body}");
    }
    for body in [
        json!({"input": "x", "previous_response_id": null}),
        json!({"messages": [{"role": "tool", "content": "o"}, {"role": "assistant", "content": "so"}, {"role": "user", "content": "?"}]}),
        json!({"input": [
            {"type": "function_call_output", "call_id": "c", "output": "o"},
            {"role": "assistant", "content": "so"}, {"role": "user", "content": "?"},
        ]}),
    ] {
        assert!(rewritten(&config(), &body.to_string()).is_ok(), "{body}");
    }
}

#[test]
fn classes_are_named_in_the_head_or_the_metadata() {
    let config = FallbackConfig { task_classes: vec!["normalization".into()], ..FallbackConfig::default() };
    let rewrite =
        |class, body: Value| Wanted { config: &config, class }.rewrite(body.to_string().as_bytes()).err();
    let classed = |class: &str| json!({"input": "x", "metadata": {"task_class": class}});
    assert_eq!(rewrite(None, json!({"input": "x"})), Some(Refused::Class));
    assert_eq!(rewrite(Some("other"), classed("normalization")), Some(Refused::Class));
    assert_eq!(rewrite(Some("normalization"), json!({"input": "x"})), None);
    assert_eq!(rewrite(None, classed("normalization")), None);
    assert_eq!(rewrite(None, classed("other")), Some(Refused::Class));
}

#[test]
fn only_what_the_native_path_cannot_take_is_for_it() {
    let mut config = FallbackConfig { base_url: "http://127.0.0.1:9/v1".parse().ok(), ..config() };
    let reason = |config: &FallbackConfig, code: &'static str| {
        Fallback::new(config).unwrap().unwrap().reason(&ApiError::new(code, "No."))
    };
    for (code, expected) in [
        ("app_server_unavailable", Some(FallbackReason::Down)),
        ("app_server_connection_lost", Some(FallbackReason::Down)),
        ("upstream_unavailable", Some(FallbackReason::Down)),
        ("login_required", Some(FallbackReason::LoggedOut)),
        ("usage_limit_reached", Some(FallbackReason::UsedUp)),
        ("rate_limit_exceeded", None),
        ("invalid_api_key", None),
        ("upstream_error", None),
        ("shutting_down", None),
        ("model_not_found", None),
    ] {
        assert_eq!(reason(&config, code), expected, "{code}");
    }
    config.on = vec![FallbackReason::Down];
    assert_eq!(reason(&config, "login_required"), None);
    config.base_url = None;
    assert!(Fallback::new(&config).unwrap().is_none());
}
