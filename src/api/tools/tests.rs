use serde_json::json;

use super::*;
use crate::model::ToolName;

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
    assert_eq!(theirs.offered, ours.offered);
    let ToolInput::Arguments { schema, strict: Strict::No } = &ours.offered[0].input else {
        panic!("{ours:?}")
    };
    assert_eq!(schema.to_string(), parameters.to_string());
    assert_eq!(
        theirs.echo,
        [
            json!({ "type": "function", "name": "f", "description": "d", "parameters": parameters, "strict": false })
        ]
    );
    let bare = responses(&json!({ "tools": [{ "type": "function", "name": "f" }] })).unwrap();
    assert_eq!(bare.echo[0]["parameters"], json!({ "type": "object", "properties": {} }));
}

#[test]
fn what_cannot_be_had_of_a_function_is_named() {
    let tool =
        json!({ "type": "function", "name": "f", "strict": true, "defer_loading": true, "surprise": 1 });
    let (tools, ignored) =
        read_with(&json!({ "tools": [tool] }), Dialect::Responses, UnknownTools::Refuse).unwrap();
    let mut expected = Ignored::default();
    for name in ["tools[].defer_loading", "tools[].surprise"] {
        expected.add(name);
    }
    assert_eq!(ignored, expected);
    assert_eq!(tools.echo[0]["strict"], true);
}

#[test]
fn what_has_no_effect_in_a_choice_or_a_format_is_named() {
    let names =
        |body: Value, dialect| read_with(&body, dialect, UnknownTools::Refuse).unwrap().1.names().to_vec();
    let custom = json!({ "type": "custom", "name": "c", "format": { "type": "text", "mood": 1 } });
    let chosen = json!({ "type": "custom", "name": "c", "hurry": 1 });
    let body = json!({ "tools": [custom], "tool_choice": chosen });
    assert_eq!(names(body, Dialect::Responses), ["tools[].format.mood", "tool_choice.hurry"]);
    let grammar = json!({ "syntax": "regex", "definition": "a", "mood": 1 });
    let format = json!({ "type": "grammar", "grammar": grammar });
    let allowed = json!({ "mode": "auto", "hurry": 1, "tools": [
        { "type": "custom", "custom": { "name": "c", "mood": 1 }, "surprise": 1 },
    ] });
    let body = json!({
        "tools": [{ "type": "custom", "custom": { "name": "c", "format": format } }],
        "tool_choice": { "type": "allowed_tools", "allowed_tools": allowed },
    });
    let expected = [
        "tools[].format.mood",
        "tool_choice.allowed_tools.hurry",
        "tool_choice.allowed_tools.tools[].custom.mood",
        "tool_choice.allowed_tools.tools[].surprise",
    ];
    assert_eq!(names(body, Dialect::Chat), expected);
}

#[test]
fn choices_in_both_forms() {
    let named = |names: &[&str]| names.iter().map(|name| ToolName::from(*name)).collect::<Vec<_>>();
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
            tools.web_search.is_some(),
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
    assert!(tools.web_search.is_some() && tools.choice == ToolChoice::Allowed(vec![]));
}

#[test]
fn tools_that_are_not_served() {
    let body = json!({ "tools": [{ "type": "code_interpreter", "container": {} }] });
    let error = responses(&body).unwrap_err();
    assert_eq!((error.param.as_deref(), error.code.as_deref()), (Some("tools[0]"), Some("unsupported_tool")));
    assert_eq!(
        error.message,
        "Tools of type 'code_interpreter' are not supported here. Supported are 'function', 'custom', 'namespace', \
         'web_search' and 'image_generation'."
    );
    let (tools, ignored) = read_with(&body, Dialect::Responses, UnknownTools::Ignore).unwrap();
    let mut expected = Ignored::default();
    expected.add("tools[].code_interpreter");
    assert!(tools.echo.is_empty() && ignored == expected);
    for kind in ["web_search", "namespace", "image_generation"] {
        assert_eq!(refused(chat(&json!({ "tools": [{ "type": kind }] }))).1, "unsupported_tool");
    }
}

fn group(name: &str, tools: &Value) -> Value {
    json!({ "type": "namespace", "name": name, "description": "d", "tools": tools })
}

#[test]
fn custom_tools_in_both_forms() {
    let grammar = json!({ "syntax": "regex", "definition": "a+" });
    let mut flat = grammar.clone();
    flat["type"] = json!("grammar");
    let format = json!({ "type": "grammar", "grammar": grammar });
    let custom = json!({ "type": "custom", "name": "c", "description": "d", "format": flat });
    let theirs = responses(&json!({ "tools": [custom] })).unwrap();
    let ours = chat(&json!({ "tools": [{ "type": "custom",
        "custom": { "name": "c", "description": "d", "format": format } }] }))
    .unwrap();
    assert_eq!(theirs.offered, ours.offered);
    assert_eq!(theirs.offered[0].input, ToolInput::Text { pattern: Some("a+".into()) });
    assert_eq!(theirs.echo, [custom]);
    let free = responses(&json!({ "tools": [{ "type": "custom", "name": "c" }] })).unwrap();
    assert_eq!(free.echo, [json!({ "type": "custom", "name": "c", "format": { "type": "text" } })]);
    assert_eq!(free.offered[0].input, ToolInput::Text { pattern: None });

    let chosen = json!({ "type": "custom", "custom": { "name": "c" } });
    let tools = json!([{ "type": "custom", "custom": { "name": "c" } }]);
    let choice = chat(&json!({ "tools": tools, "tool_choice": chosen })).unwrap().choice;
    assert_eq!(choice, ToolChoice::Required(vec!["c".into()]));
    let choice = json!({ "type": "function", "function": { "name": "c" } });
    assert_eq!(refused(chat(&json!({ "tools": tools, "tool_choice": choice }))).1, "invalid_value");
}

#[test]
fn tools_in_namespaces_are_chosen_by_either_name() {
    let function = |name: &str| json!({ "type": "function", "name": name, "strict": false });
    let tools = json!([
        function("find"),
        group("crm", &json!([function("find"), function("add"), { "type": "custom", "name": "note" }])),
        group("hr", &json!([function("add")])),
    ]);
    let read = |choice: Value| responses(&json!({ "tools": tools, "tool_choice": choice }));
    let of = |namespace: &str, name: &str| ToolName { namespace: Some(namespace.into()), name: name.into() };
    let all = read(json!("auto")).unwrap();
    assert_eq!(all.offered.len(), 5);
    assert_eq!(all.echo[1]["tools"][2]["format"], json!({ "type": "text" }));
    for (choice, expected) in [
        (json!({ "type": "function", "name": "find" }), ToolName::from("find")),
        (json!({ "type": "function", "name": "find", "namespace": "crm" }), of("crm", "find")),
        (json!({ "type": "function", "name": "crm.find" }), of("crm", "find")),
        (json!({ "type": "function", "name": "hr.add" }), of("hr", "add")),
        (json!({ "type": "custom", "name": "note" }), of("crm", "note")),
    ] {
        assert_eq!(read(choice).unwrap().choice, ToolChoice::Required(vec![expected]));
    }
    for choice in
        [json!({ "type": "function", "name": "add" }), json!({ "type": "function", "name": "note" })]
    {
        assert_eq!(refused(read(choice)), ("tool_choice".into(), "invalid_value".into()));
    }
    let choice = json!({ "type": "allowed_tools", "mode": "auto", "tools": [{ "type": "namespace", "name": "hr" },
        { "type": "custom", "name": "note" }] });
    let tools = read(choice.clone()).unwrap();
    assert_eq!(tools.choice, ToolChoice::Allowed(vec![of("hr", "add"), of("crm", "note")]));
    assert_eq!(tools.choice_echo, choice);
}

#[test]
fn a_function_is_strict_where_it_can_be() {
    let fits = json!({ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a"],
                       "additionalProperties": false });
    let loose = json!({ "type": "object", "properties": { "a": {} } });
    for (schema, asked, in_responses, in_chat) in [
        (&fits, Value::Null, Strict::Unasked, Strict::No),
        (&loose, Value::Null, Strict::No, Strict::No),
        (&fits, json!(false), Strict::No, Strict::No),
        (&fits, json!(true), Strict::Asked, Strict::Asked),
    ] {
        let function = json!({ "name": "f", "parameters": schema, "strict": asked });
        let mut flat = function.clone();
        flat["type"] = json!("function");
        let theirs = responses(&json!({ "tools": [flat] })).unwrap();
        let ours = chat(&json!({ "tools": [{ "type": "function", "function": function }] })).unwrap();
        assert_eq!(
            (&theirs.echo[0]["strict"], &ours.echo[0]["strict"]),
            (&json!(in_responses != Strict::No), &json!(in_chat != Strict::No))
        );
        let input = |strict| ToolInput::Arguments { schema: schema.clone(), strict };
        assert_eq!(
            (&theirs.offered[0].input, &ours.offered[0].input),
            (&input(in_responses), &input(in_chat))
        );
    }
}

#[test]
fn a_search_keeps_its_settings() {
    let tool = json!({
        "type": "web_search_2025_08_26", "external_web_access": false,
        "filters": { "allowed_domains": ["a.org"] },
        "user_location": { "type": "approximate", "country": "DE", "region": null, "city": null, "timezone": null },
        "search_context_size": "low",
    });
    let body = json!({ "tools": [tool, { "type": "tool_search" }] });
    let (tools, ignored) = read_with(&body, Dialect::Responses, UnknownTools::Refuse).unwrap();
    assert_eq!(tools.echo, [tool]);
    let search = tools.web_search.unwrap();
    assert!(!search.live && search.context_size == Some("low"));
    assert_eq!(search.allowed_domains, Some(vec!["a.org".to_owned()]));
    assert_eq!(search.location.unwrap().country.as_deref(), Some("DE"));
    let mut expected = Ignored::default();
    expected.add("tools[].tool_search");
    assert_eq!(ignored, expected);
    let preview = json!({ "tools": [{ "type": "web_search_preview", "filters": {} }] });
    assert_eq!(responses(&preview).unwrap().web_search, Some(WebSearch::default()));
}

#[test]
fn mistakes_in_groups_and_custom_tools_name_their_place() {
    let function = |name: &str| json!({ "type": "function", "name": name });
    let custom = |name: &str| json!({ "type": "custom", "name": name });
    let grammar_of = |syntax: &str, definition: &str| {
        json!({ "type": "custom", "name": "c",
                "format": { "type": "grammar", "syntax": syntax, "definition": definition } })
    };
    for (body, param, code) in [
        (json!({ "tools": [group("n", &json!([]))] }), "tools[0].tools", "empty_array"),
        (
            json!({ "tools": [{ "type": "namespace", "name": "n" }] }),
            "tools[0].tools",
            "missing_required_parameter",
        ),
        (
            json!({ "tools": [group("n", &json!([{ "type": "web_search" }]))] }),
            "tools[0].tools[0].type",
            "invalid_value",
        ),
        (
            json!({ "tools": [group("n", &json!([function("f"), custom("f")]))] }),
            "tools[0].tools[1].name",
            "invalid_value",
        ),
        (
            json!({ "tools": [group("n", &json!([function("f")])), group("n", &json!([function("g")]))] }),
            "tools[1].name",
            "invalid_value",
        ),
        (json!({ "tools": [function("f"), custom("f")] }), "tools[1].name", "invalid_value"),
        (
            json!({ "tools": [grammar_of("lark", "start: x")] }),
            "tools[0].format.syntax",
            "unsupported_parameter",
        ),
        (json!({ "tools": [grammar_of("regex", "(")] }), "tools[0].format.definition", "invalid_value"),
        (
            json!({ "tools": [{ "type": "custom", "name": "c", "format": { "type": "json" } }] }),
            "tools[0].format.type",
            "invalid_value",
        ),
        (
            json!({ "tools": [{ "type": "tool_search", "execution": "client" }] }),
            "tools[0]",
            "unsupported_tool",
        ),
        (
            json!({ "tools": [{ "type": "function", "name": "f", "strict": true,
                                "parameters": { "type": "object", "properties": {} } }] }),
            "tools[0].parameters",
            "invalid_json_schema",
        ),
    ] {
        assert_eq!(refused(responses(&body)), (param.to_owned(), code.to_owned()), "{body}");
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
            json!({ "tools": [{ "type": "web_search", "filters": { "blocked_domains": ["a"] } }] }),
            "tools[0].filters.blocked_domains",
            "unsupported_parameter",
        ),
        (
            json!({ "tools": [{ "type": "web_search", "filters": { "allowed_domains": [1] } }] }),
            "tools[0].filters.allowed_domains[0]",
            "invalid_type",
        ),
        (
            json!({ "tools": [{ "type": "web_search", "search_context_size": "huge" }] }),
            "tools[0].search_context_size",
            "invalid_value",
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
