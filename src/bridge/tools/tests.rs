use super::*;
use crate::bridge::tests::scene::ask;
use crate::model::Namespace;

fn tool(namespace: Option<&str>, name: &str, input: ToolInput) -> Tool {
    let namespace = namespace.map(|name| Namespace { name: name.into(), description: "a group".into() });
    Tool { namespace, name: name.into(), description: None, input }
}

fn arguments() -> ToolInput {
    ToolInput::Arguments { schema: json!({"type": "object"}), strict: Strict::No }
}

fn text(pattern: Option<&str>) -> ToolInput {
    ToolInput::Text { pattern: pattern.map(str::to_owned) }
}

/// The same name in no namespace, in two, and in one that Codex keeps; and custom tools.
fn offered(choice: ToolChoice) -> Tools {
    let tools = vec![
        tool(None, "find", arguments()),
        tool(Some("crm"), "find", arguments()),
        tool(Some("web"), "find", arguments()),
        tool(None, "shell", text(None)),
        tool(Some("crm"), "date", text(Some(r"\d{4}|now"))),
    ];
    Tools::offered(&TurnRequest { tools, tool_choice: choice, ..ask("") })
}

fn call(namespace: Option<&str>, name: &str, arguments: &str) -> Item {
    let mut call = json!({"type": "function_call", "call_id": "c", "name": name, "arguments": arguments});
    if let Some(namespace) = namespace {
        call["namespace"] = namespace.into();
    }
    Item::from_value(call).unwrap()
}

#[test]
fn tools_are_offered_by_namespace() {
    let tools = offered(ToolChoice::Auto);
    let names: Vec<String> =
        tools.dynamic().iter().map(|tool| tool["name"].as_str().unwrap().into()).collect();
    assert_eq!(names.len(), 4);
    assert_eq!(names[..2], ["find", "crm"]);
    assert!(names[2].starts_with("web_r") && names[3].starts_with("shell_r"), "{names:?}");
    let group = &tools.dynamic()[1];
    assert_eq!((&group["type"], &group["description"]), (&json!("namespace"), &json!("a group")));
    assert_eq!((&group["tools"][0]["name"], &group["tools"][1]["name"]), (&json!("find"), &json!("date")));
    let input = &group["tools"][1]["inputSchema"]["properties"]["input"];
    assert!(input["description"].as_str().unwrap().ends_with(r"\d{4}|now"), "{input}");

    let one = ToolName { namespace: Some("crm".into()), name: "date".into() };
    let allowed = offered(ToolChoice::Allowed(vec![one]));
    assert_eq!(allowed.dynamic().len(), 1);
    assert_eq!(allowed.dynamic()[0]["tools"].as_array().unwrap().len(), 1);
    assert_ne!(tools, allowed);
}

#[test]
fn calls_come_back_under_the_names_of_their_own() {
    let tools = offered(ToolChoice::Auto);
    let upstream_web = tools.dynamic()[2]["name"].as_str().unwrap().to_owned();
    for (namespace, expected) in [
        (None, None),
        (Some("functions"), None),
        (Some("crm"), Some("crm")),
        (Some(upstream_web.as_str()), Some("web")),
    ] {
        let call = call(namespace, "find", "{}");
        assert!(tools.offers(namespace, "find"));
        let item = tools.client_call(&call).unwrap().item;
        assert_eq!((item.str("namespace"), item.str("name")), (expected, Some("find")));
        let back = upstream_items([&item]).remove(0);
        assert_eq!(back.str("namespace"), call.str("namespace").filter(|name| *name != "functions"));
    }
    for stranger in [call(Some("nope"), "find", "{}"), call(None, "date", "{}")] {
        assert!(tools.client_call(&stranger).is_none());
    }
}

#[test]
fn a_text_must_match_as_a_whole() {
    let tools = offered(ToolChoice::Auto);
    for (input, fits) in [("2026", true), ("now", true), ("20261", false), ("now!", false), ("", false)] {
        let call = call(Some("crm"), "date", &json!({"input": input}).to_string());
        let client = tools.client_call(&call).unwrap();
        assert_eq!((client.item.kind(), client.item.str("input")), ("custom_tool_call", Some(input)));
        assert_eq!((client.item.str("namespace"), client.misfit.is_none()), (Some("crm"), fits), "{input}");
    }
}

#[test]
fn a_demand_is_met_by_the_very_tool() {
    let crm = ToolName { namespace: Some("crm".into()), name: "find".into() };
    let choice = ToolChoice::Required(vec![crm]);
    let output = [call(None, "find", "{}")];
    assert!(!honoured(&choice, &output));
    assert!(honoured(&choice, &[call(Some("crm"), "find", "{}")]));
    assert!(honoured(&ToolChoice::Required(Vec::new()), &output));
    let demanded = demand(&TurnRequest { tool_choice: choice, ..ask("") }).unwrap();
    assert!(demanded.to_value().to_string().contains("`crm.find`"));
}
