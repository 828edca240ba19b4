//! For tests: values made up from the official schemas.

use serde_json::{Value, json};

use super::spec::DEFINITIONS;

/// Values with every official property: one at least for each form that the named schema or a part of it has.
pub(crate) fn samples(schema: &str) -> Vec<Value> {
    sampled("", &DEFINITIONS[schema])
}

/// `name`: the property whose schema it is.
fn sampled(name: &str, schema: &Value) -> Vec<Value> {
    if let Some(target) = schema["$ref"].as_str() {
        return sampled(name, &DEFINITIONS[target.rsplit('/').next().unwrap_or_default()]);
    }
    let forms = ["anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    let forms: Vec<Value> =
        forms.flat_map(|form| sampled(name, form)).filter(|form| !form.is_null()).collect();
    if !forms.is_empty() {
        return forms;
    }
    if let Some(word) = schema["enum"].get(0) {
        return vec![word.clone()];
    }
    if let Some(properties) = schema["properties"].as_object() {
        let forms: Vec<_> = properties.iter().map(|(name, schema)| (name, sampled(name, schema))).collect();
        let most = forms.iter().map(|(_, forms)| forms.len()).max().unwrap_or(1);
        let of = |(name, forms): &(&String, Vec<Value>), nth: usize| {
            ((*name).clone(), forms[nth % forms.len()].clone())
        };
        return (0..most).map(|nth| forms.iter().map(|form| of(form, nth)).collect()).collect();
    }
    let sample = match (schema["type"].as_str(), name) {
        (Some("array"), _) => Value::Array(sampled(name, &schema["items"])),
        (Some("string"), "url" | "image_url" | "file_data") => json!("data:text/plain;base64,aGk="),
        (Some("string"), "data") => json!("aGk="),
        (Some("string"), _) => json!("x"),
        (Some("integer" | "number"), _) => json!(1),
        (Some("boolean"), _) => json!(true),
        (Some("null"), _) => Value::Null,
        _ => json!({}),
    };
    vec![sample]
}

/// Removes what an error names, as in `[0].content[1].file_id`; `false` if there is no such thing.
pub(crate) fn remove(value: &mut Value, place: &str) -> bool {
    let pointer = place.replace(['[', '.'], "/").replace(']', "");
    let Some((holder, name)) = pointer.rsplit_once('/') else { return false };
    let holder = value.pointer_mut(holder).and_then(Value::as_object_mut);
    holder.is_some_and(|holder| holder.shift_remove(name).is_some())
}
