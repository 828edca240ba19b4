//! Custom tools: the app-server has functions only, so that a function of one string stands for each.

use serde_json::{Map, Value, json};

use crate::model::Item;

/// The one argument.
const INPUT: &str = "input";

/// The schema of the function that stands for a custom tool.
pub(super) fn schema(pattern: Option<&str>) -> Value {
    let mut input = Map::new();
    input.insert("type".into(), "string".into());
    if let Some(pattern) = pattern {
        let description = format!("Must match this regular expression as a whole: {pattern}");
        input.insert("description".into(), description.into());
    }
    json!({
        "type": "object", "properties": {INPUT: input}, "required": [INPUT], "additionalProperties": false,
    })
}

/// The call of a custom tool, from the call of the function that stands for it.
pub(super) fn client_call(call: &Item) -> Item {
    let arguments = call.str("arguments").unwrap_or_default();
    let parsed: Option<Value> = serde_json::from_str(arguments).ok();
    let text = parsed.as_ref().and_then(|parsed| parsed.get(INPUT)?.as_str());
    // A model that leaves the argument's name out has written the text itself.
    let text = text.unwrap_or(arguments).to_owned();
    let mut fields = retyped(call, "custom_tool_call", ("fc_", "ctc_"));
    // Custom calls have no official status.
    fields.shift_remove("status");
    fields.shift_remove("arguments");
    fields.insert(INPUT.into(), text.into());
    Item::new(fields)
}

/// What the app-server gets for an item of a custom tool; any other item as it is.
pub(super) fn upstream(item: Item) -> Item {
    match item.kind() {
        "custom_tool_call" => {
            let mut fields = retyped(&item, "function_call", ("ctc_", "fc_"));
            let text = fields.shift_remove(INPUT).unwrap_or_default();
            fields.insert("arguments".into(), json!({INPUT: text}).to_string().into());
            Item::new(fields)
        }
        "custom_tool_call_output" => Item::new(retyped(&item, "function_call_output", ("ctco_", "fco_"))),
        _ => item,
    }
}

/// The item's fields under another type; an id tells its type too.
fn retyped(item: &Item, kind: &str, (from, to): (&str, &str)) -> Map<String, Value> {
    let mut fields = item.fields().clone();
    fields.insert("type".into(), kind.into());
    if let Some(rest) = item.id().and_then(|id| id.strip_prefix(from)) {
        fields.insert("id".into(), format!("{to}{rest}").into());
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(value: Value) -> Item {
        Item::from_value(value).unwrap()
    }

    #[test]
    fn a_custom_call_goes_both_ways() {
        let function = item(json!({
            "type": "function_call", "id": "fc_1", "status": "completed", "call_id": "c", "name": "run",
            "arguments": r#"{"input":"a \"b\"\n"}"#,
        }));
        let custom = client_call(&function);
        assert_eq!(
            custom.to_value(),
            json!({"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "run", "input": "a \"b\"\n"})
        );
        let mut back = function.to_value();
        back.as_object_mut().unwrap().remove("status");
        assert_eq!(upstream(custom).to_value(), back);
        let output =
            json!({"type": "custom_tool_call_output", "id": "ctco_1", "call_id": "c", "output": "x"});
        let native = json!({"type": "function_call_output", "id": "fco_1", "call_id": "c", "output": "x"});
        assert_eq!(upstream(item(output)).to_value(), native);
    }

    #[test]
    fn what_is_no_argument_is_the_text_itself() {
        for arguments in ["print(1)", "{\"code\": 1}", "{\"input\": 1}", "\"input\""] {
            let call =
                json!({"type": "function_call", "call_id": "c", "name": "run", "arguments": arguments});
            assert_eq!(client_call(&item(call)).str("input"), Some(arguments));
        }
    }
}
