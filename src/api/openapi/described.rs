//! For tests: answers against our own document, closed: no field beside it, and every required one.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonschema::Validator;
use serde_json::{Value, json};

/// Panics unless the document says that `method` of `path` may be answered so. What it says nothing of may only be
/// refused. Gives the official schema that the answer belongs to, where there is one.
#[track_caller]
pub(crate) fn assert_described(
    document: &Value,
    method: &str,
    path: &str,
    status: u16,
    kind: &str,
    body: &str,
) -> Option<String> {
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_ascii_lowercase() };
    let path = path.split('?').next().unwrap_or_default();
    let Some(template) = template(document, path).filter(|path| document["paths"][path][&method].is_object())
    else {
        let is_refused = status == 204 || (400..500).contains(&status);
        assert!(is_refused, "{method} {path} answered {status} and is not in the document");
        return None;
    };
    let response = &document["paths"][template][&method]["responses"][status.to_string()];
    assert!(response.is_object(), "{method} {path}: {status} is not in the document: {body}");
    let kind = kind.split(';').next().unwrap_or_default();
    assert!(
        response["content"][kind].is_object(),
        "{method} {path}: {status} as '{kind}' is not in the document"
    );
    if kind != "application/json" || body.is_empty() {
        return None;
    }
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let schema = &response["content"][kind]["schema"];
    let validator = validator(document, &format!("{method} {template} {status}"), schema);
    let mistakes: Vec<String> =
        validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(mistakes.is_empty(), "{method} {path}, {status}:\n{}\n{body:#}", mistakes.join("\n"));
    let forms = schema["anyOf"].as_array().map_or_else(|| vec![schema], |forms| forms.iter().collect());
    let official = |form: &Value| {
        let named = document.pointer(form["$ref"].as_str()?.trim_start_matches('#'))?;
        named["x-openai-schema"].as_str().map(str::to_owned)
    };
    // An answer of ours beside an official one is told apart by its kind.
    let is_ours = body["object"].as_str().is_some_and(|object| object.starts_with("bridge."))
        || (status >= 400 && body.get("error").is_none());
    if is_ours { None } else { forms.into_iter().find_map(official) }
}

/// The official schema that the events of a stream belong to.
pub(crate) fn official_events<'a>(document: &'a Value, method: &str, path: &str) -> Option<&'a str> {
    let template = template(document, path)?;
    let responses = &document["paths"][template][method.to_ascii_lowercase()]["responses"];
    responses["200"]["content"]["text/event-stream"]["x-openai-schema"].as_str()
}

/// The document's path that `path` is one of; one without parameters goes before one with.
fn template<'a>(document: &'a Value, path: &str) -> Option<&'a str> {
    let paths = document["paths"].as_object()?;
    let mut fitting: Vec<&str> = paths
        .iter()
        .filter(|(template, methods)| fits(template, methods, path))
        .map(|(name, _)| &**name)
        .collect();
    fitting.sort_by_key(|template| template.matches('{').count());
    fitting.first().copied()
}

fn fits(template: &str, methods: &Value, path: &str) -> bool {
    let slashes = methods.as_object().into_iter().flatten().any(|(_, operation)| {
        operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one["x-codex-bridge-slashes"] == true)
    });
    let (wanted, given): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    let same =
        |(wanted, given): (&&str, &&str)| wanted == given || (wanted.starts_with('{') && !given.is_empty());
    let length = wanted.len() == given.len() || (slashes && given.len() > wanted.len());
    length && wanted.iter().zip(&given).all(same)
}

/// `place`: which schema it is.
fn validator(document: &Value, place: &str, schema: &Value) -> Arc<Validator> {
    static CLOSED: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    // Compiled once each, under the lock: tests only, nothing awaits.
    let mut built = CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(built.entry(place.to_owned()).or_insert_with(|| {
        let mut root = schema.clone();
        root["components"] = document["components"].clone();
        close(&mut root["components"]["schemas"], true);
        root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        Arc::new(jsonschema::validator_for(&root).expect("the document compiles"))
    }))
}

/// Closes each schema that has properties. What a composition with properties of its own is made of stays open: it
/// closes as a whole.
fn close(schema: &mut Value, whole: bool) {
    match schema {
        Value::Object(fields) => {
            let describes = fields.get("properties").is_some_and(Value::is_object);
            for (key, value) in fields.iter_mut() {
                let is_part = matches!(key.as_str(), "allOf" | "anyOf" | "oneOf");
                close(value, !(is_part && describes));
            }
            if describes && whole && !fields.contains_key("additionalProperties") {
                fields.insert("unevaluatedProperties".into(), false.into());
            }
        }
        Value::Array(parts) => parts.iter_mut().for_each(|part| close(part, whole)),
        _ => {}
    }
}
