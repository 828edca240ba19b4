use serde_json::json;

use super::*;

/// What it read, and the names it ignored.
fn read_with(body: &Value, dialect: Dialect, unknown: UnknownTools) -> Result<(Tools, Ignored), ApiError> {
    let mut ignored = Ignored::default();
    let mut body = Fields::of("", body.clone()).unwrap();
    let tools = Tools::read(&mut body, dialect, unknown, &mut ignored)?;
    Ok((tools, ignored))
}

fn responses(body: &Value) -> Result<Tools, ApiError> {
    read_with(body, Dialect::Responses, UnknownTools::Refuse).map(|(tools, _)| tools)
}

fn chat(body: &Value) -> Result<Tools, ApiError> {
    read_with(body, Dialect::Chat, UnknownTools::Refuse).map(|(tools, _)| tools)
}

fn refused(result: Result<Tools, ApiError>) -> (String, String) {
    let error = result.unwrap_err();
    assert_eq!(error.status.as_u16(), 400);
    (error.param.unwrap(), error.code.unwrap_or_default())
}

/// A request with the functions `f` and `g` and a choice.
fn flat(choice: &Value) -> Value {
    json!({ "tools": [{ "type": "function", "name": "f" }, { "type": "function", "name": "g" },
                      { "type": "web_search_preview" }], "tool_choice": choice })
}

fn nested(choice: &Value) -> Value {
    json!({ "tools": [{ "type": "function", "function": { "name": "f" } },
                      { "type": "function", "function": { "name": "g" } }], "tool_choice": choice })
}

#[test]
fn both_forms_of_a_function_are_one() {
    let parameters = json!({ "type": "object", "properties": { "z": {}, "a": {} } });
    let function = json!({ "name": "f", "description": "d", "parameters": parameters });
    let mut flat = function.clone();
    flat["type"] = json!("function");
    let theirs = responses(&json!({ "tools": [flat] })).unwrap();
    let ours = chat(&json!({ "tools": [{ "type": "function", "function": function }] })).unwrap();
    assert_eq!(theirs.functions, ours.functions);
    assert_eq!(ours.functions[0].parameters.to_string(), parameters.to_string());
    assert_eq!(
        theirs.echo,
        [
            json!({ "type": "function", "name": "f", "description": "d", "parameters": parameters, "strict": false })
        ]
    );
    let bare = responses(&json!({ "tools": [{ "type": "function", "name": "f" }] })).unwrap();
    assert_eq!(bare.functions[0].parameters, json!({ "type": "object", "properties": {} }));
}

#[test]
fn what_cannot_be_had_of_a_function_is_named() {
    let tool =
        json!({ "type": "function", "name": "f", "strict": true, "defer_loading": true, "surprise": 1 });
    let (tools, ignored) =
        read_with(&json!({ "tools": [tool] }), Dialect::Responses, UnknownTools::Refuse).unwrap();
    let mut expected = Ignored::default();
    for name in ["tools[].strict", "tools[].defer_loading", "tools[].surprise"] {
        expected.add(name);
    }
    assert_eq!(ignored, expected);
    assert_eq!(tools.echo[0]["strict"], true);
}

#[test]
fn choices_in_both_forms() {
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (choice, expected) in [
        (json!("auto"), ToolChoice::Auto),
        (json!("none"), ToolChoice::None),
        (json!("required"), ToolChoice::Required(vec![])),
        (json!({ "type": "function", "name": "g" }), ToolChoice::Required(named(&["g"]))),
        (
            json!({ "type": "allowed_tools", "mode": "auto", "tools": [{ "type": "function", "name": "f" }] }),
            ToolChoice::Allowed(named(&["f"])),
        ),
        (
            json!({ "type": "allowed_tools", "mode": "required", "tools": [{ "type": "function", "name": "f" }] }),
            ToolChoice::Required(named(&["f"])),
        ),
    ] {
        let tools = responses(&flat(&choice)).unwrap();
        assert_eq!((&tools.choice, &tools.choice_echo), (&expected, &choice));
        assert_eq!(
            tools.web_search,
            !matches!(expected, ToolChoice::None) && choice["type"] != "allowed_tools"
        );
    }
    for (choice, expected) in [
        (json!("required"), ToolChoice::Required(vec![])),
        (json!({ "type": "function", "function": { "name": "g" } }), ToolChoice::Required(named(&["g"]))),
        (
            json!({ "type": "allowed_tools", "allowed_tools": { "mode": "auto",
                    "tools": [{ "type": "function", "function": { "name": "f" } }] } }),
            ToolChoice::Allowed(named(&["f"])),
        ),
    ] {
        assert_eq!(chat(&nested(&choice)).unwrap().choice, expected);
    }
    let search =
        json!({ "type": "allowed_tools", "mode": "auto", "tools": [{ "type": "web_search_preview" }] });
    let tools = responses(&flat(&search)).unwrap();
    assert!(tools.web_search && tools.choice == ToolChoice::Allowed(vec![]));
}

#[test]
fn tools_that_are_not_served() {
    let body = json!({ "tools": [{ "type": "code_interpreter", "container": {} }] });
    let error = responses(&body).unwrap_err();
    assert_eq!((error.param.as_deref(), error.code.as_deref()), (Some("tools[0]"), Some("unsupported_tool")));
    assert_eq!(
        error.message,
        "Tools of type 'code_interpreter' are not supported here. Supported are 'function' and 'web_search'."
    );
    let (tools, ignored) = read_with(&body, Dialect::Responses, UnknownTools::Ignore).unwrap();
    let mut expected = Ignored::default();
    expected.add("tools[].code_interpreter");
    assert!(tools.echo.is_empty() && ignored == expected);
    for kind in ["web_search", "custom"] {
        assert_eq!(refused(chat(&json!({ "tools": [{ "type": kind }] }))).1, "unsupported_tool");
    }
}

#[test]
fn mistakes_name_their_place() {
    let function = |name: &str| json!({ "type": "function", "name": name });
    for (body, param, code) in [
        (json!({ "tools": {} }), "tools", "invalid_type"),
        (json!({ "tools": [1] }), "tools[0]", "invalid_type"),
        (json!({ "tools": [{}] }), "tools[0].type", "missing_required_parameter"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].name", "missing_required_parameter"),
        (json!({ "tools": [function("")] }), "tools[0].name", "invalid_value"),
        (json!({ "tools": [function(&"x".repeat(129))] }), "tools[0].name", "invalid_value"),
        (json!({ "tools": [function("f"), function("f")] }), "tools[1].name", "invalid_value"),
        (json!({ "tools": vec![function("f"); 129] }), "tools", "array_above_max_length"),
        (
            json!({ "tools": [{ "type": "function", "name": "f", "parameters": [] }] }),
            "tools[0].parameters",
            "invalid_type",
        ),
        (
            json!({ "tools": [{ "type": "web_search", "external_web_access": false }] }),
            "tools[0].external_web_access",
            "unsupported_parameter",
        ),
        (
            json!({ "tools": [{ "type": "web_search", "filters": { "allowed_domains": ["a"] } }] }),
            "tools[0].filters",
            "unsupported_parameter",
        ),
        (json!({ "tool_choice": "required" }), "tool_choice", "invalid_value"),
        (json!({ "tool_choice": "often" }), "tool_choice", "invalid_value"),
        (json!({ "tool_choice": 1 }), "tool_choice", "invalid_type"),
        (flat(&json!({ "type": "function", "name": "h" })), "tool_choice", "invalid_value"),
        (flat(&json!({ "type": "function" })), "tool_choice.name", "missing_required_parameter"),
        (flat(&json!({ "type": "web_search_preview" })), "tool_choice", "unsupported_tool"),
        (
            flat(&json!({ "type": "allowed_tools", "tools": [] })),
            "tool_choice.mode",
            "missing_required_parameter",
        ),
        (
            flat(&json!({ "type": "allowed_tools", "mode": "required", "tools": [] })),
            "tool_choice.tools",
            "invalid_value",
        ),
        (
            flat(&json!({ "type": "allowed_tools", "mode": "auto", "tools": [{ "type": "mcp" }] })),
            "tool_choice.tools[0]",
            "invalid_value",
        ),
        (
            json!({ "tools": [{ "type": "web_search" }], "tool_choice": "required" }),
            "tool_choice",
            "unsupported_parameter",
        ),
        (json!({ "parallel_tool_calls": "no" }), "parallel_tool_calls", "invalid_type"),
    ] {
        assert_eq!(refused(responses(&body)), (param.to_owned(), code.to_owned()), "{body}");
    }
    let body = json!({ "tools": [{ "type": "function" }] });
    assert_eq!(refused(chat(&body)).0, "tools[0].function");
}
