use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{described, document};
use crate::api::chat_completions::{self, kept, legacy};
use crate::api::fields::{Check, Field, Policy};
use crate::api::router::routes;
use crate::api::spec;
use crate::api::testing::{KEY, config, get, post, routes as router, send};
use crate::api::{batches, conversations, responses};

const METHODS: [&str; 5] = ["GET", "POST", "DELETE", "PUT", "PATCH"];

/// What the document says is there, and nothing else: each method of each path.
#[tokio::test]
async fn the_document_and_the_router_have_the_same_operations() {
    let (router, paths) = (router(&config()), document()["paths"].as_object().unwrap());
    assert_eq!(
        paths.values().map(|methods| methods.as_object().unwrap().len()).sum::<usize>(),
        routes().len()
    );
    for (path, methods) in paths {
        for method in METHODS {
            let mut request = post(&path.replace("{id}", "x").replace("{item}", "y"), "{}");
            *request.method_mut() = method.parse().unwrap();
            let answer = send(router.clone(), request).await;
            let is_there = methods[method.to_ascii_lowercase()].is_object();
            let code =
                if answer.status < 400 { String::new() } else { answer.json()["error"]["code"].to_string() };
            assert_eq!(answer.status != 405, is_there, "{method} {path}: {}", answer.status);
            assert!(
                !code.contains("unknown_url") && !code.contains("endpoint_not_served"),
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn the_document_is_open_but_not_to_other_hosts() {
    let mut request = get("/openapi.json");
    request.headers_mut().remove("authorization");
    let answer = send(router(&config()), request).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json(), *document());
    assert!(!answer.body.contains(KEY));
    let mut request = get("/openapi.json");
    request.headers_mut().insert("host", "evil.example".parse().unwrap());
    assert_eq!(send(router(&config()), request).await.status, 403);
}

#[test]
fn every_reference_leads_somewhere_and_every_official_name_is_one() {
    fn walk(node: &Value, see: &mut impl FnMut(&str, &str)) {
        match node {
            Value::Object(fields) => {
                for (key, value) in fields {
                    if let Some(text) = value.as_str() {
                        see(key, text);
                    }
                    walk(value, see);
                }
            }
            Value::Array(entries) => entries.iter().for_each(|entry| walk(entry, see)),
            _ => {}
        }
    }
    let (mut references, mut ids) = (0, BTreeSet::new());
    walk(document(), &mut |key, text| match key {
        "$ref" => {
            references += 1;
            assert!(document().pointer(text.trim_start_matches('#')).is_some(), "{text}");
        }
        "x-openai-schema" => assert!(spec::DEFINITIONS.contains_key(text), "{text} is no official schema"),
        "operationId" => assert!(ids.insert(text.to_owned()), "{text} twice"),
        _ => {}
    });
    assert!(references > 50 && ids.len() == routes().len(), "{references}, {ids:?}");
}

#[test]
fn what_is_not_described_is_found_out() {
    let health = |body: Value| {
        let described = || {
            described::assert_described(
                document(),
                "GET",
                "/healthz",
                200,
                "application/json",
                &body.to_string(),
            );
        };
        std::panic::catch_unwind(described).is_ok()
    };
    assert!(health(json!({"status": "ok"})));
    assert!(
        !health(json!({"status": "ok", "more": 1})) && !health(json!({})) && !health(json!({"status": 1}))
    );
    for (method, path, status) in
        [("GET", "/healthz", 418), ("GET", "/nothing", 200), ("PUT", "/healthz", 200)]
    {
        let described =
            || described::assert_described(document(), method, path, status, "application/json", "{}");
        assert!(std::panic::catch_unwind(described).is_err(), "{method} {path}");
    }
}

/// Path, table and a body that every field of it can be put into, with the status that is answered to it alone.
fn bodies() -> [(&'static str, &'static [Field], Value, u16); 10] {
    let schema = json!({"type": "object", "properties": {}, "required": [], "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "n", "schema": schema});
    let nested = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    let item = json!({"type": "message", "role": "user", "content": "x"});
    let location = json!({"type": "approximate", "approximate": {"city": "x"}});
    [
        (
            "/v1/responses",
            responses::FIELDS,
            json!({"input": "x", "text": {"format": format}, "reasoning": {}, "stream_options": {}}),
            503,
        ),
        (
            "/v1/responses/input_tokens",
            responses::FIELDS,
            json!({"input": "x", "text": {"format": format}, "reasoning": {}, "stream_options": {}}),
            200,
        ),
        ("/v1/responses/compact", responses::COMPACT_FIELDS, json!({"input": "x"}), 503),
        (
            "/v1/chat/completions",
            chat_completions::FIELDS,
            json!({
                "messages": [{"role": "user", "content": "x"}], "response_format": nested, "reasoning": {},
                "stream": true, "stream_options": {}, "web_search_options": {"user_location": location}
            }),
            503,
        ),
        (
            "/v1/completions",
            legacy::FIELDS,
            json!({"prompt": "x", "stream": true, "stream_options": {}}),
            503,
        ),
        ("/v1/conversations", conversations::CREATE_FIELDS, json!({"items": [item]}), 200),
        ("/v1/conversations/{id}", conversations::UPDATE_FIELDS, json!({"metadata": {}}), 200),
        ("/v1/conversations/{id}/items", conversations::ITEMS_FIELDS, json!({"items": [item]}), 200),
        ("/v1/chat/completions/{id}", kept::UPDATE_FIELDS, json!({"metadata": {}}), 404),
        (
            "/v1/batches",
            batches::CREATE_FIELDS,
            json!({
                "input_file_id": "file-none", "endpoint": "/v1/responses", "completion_window": "24h",
                "output_expires_after": {"anchor": "created_at", "seconds": 3600}
            }),
            400,
        ),
    ]
}

/// The document and the decoders agree: a value that a field's schema does not have is refused, and the body without
/// it gets past the decoder.
#[tokio::test]
async fn what_the_document_does_not_allow_is_refused() {
    let wrong =
        [json!(1.5), json!("?"), json!(true), json!([]), json!({}), json!([1]), json!({"a": 1}), json!(-1)];
    let router = router(&config());
    let all: BTreeSet<_> = bodies().iter().map(|(path, ..)| *path).collect();
    let with_body = routes().iter().filter(|route| route.body.is_some()).count();
    assert_eq!(all.len(), with_body, "{all:?}");
    let made = send(router.clone(), post("/v1/conversations", "{}")).await.json();
    for (path, table, body, status) in bodies() {
        let at = path.replace("{id}", made["id"].as_str().unwrap());
        let good = send(router.clone(), post(&at, body.to_string())).await;
        assert_eq!(good.status, status, "{path}: {}", good.body);
        let operation = &document()["paths"][path]["post"];
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let schema = schema.as_str().unwrap().trim_start_matches('#');
        let mut tried = 0;
        for field in table.iter().filter(|field| !field.name.contains("[]")) {
            let steps = field.name.replace('.', "/properties/");
            let schema = document().pointer(&format!("{schema}/properties/{steps}")).unwrap();
            let allowed = jsonschema::validator_for(schema).unwrap();
            assert!(allowed.is_valid(&Value::Null) != field.required, "{}", field.name);
            for value in wrong.iter().filter(|value| !allowed.is_valid(value)) {
                let mut body = body.clone();
                let place = field.name.split('.').fold(&mut body, |holder, step| &mut holder[step]);
                *place = value.clone();
                let answer = send(router.clone(), post(&at, body.to_string())).await;
                assert_eq!(answer.status, 400, "{path}, {}: {value} {}", field.name, answer.body);
                let param = answer.json()["error"]["param"].to_string();
                let root = field.name.split('.').next().unwrap();
                assert!(param.contains(root), "{path}, {}: {value} {}", field.name, answer.body);
                tried += 1;
            }
        }
        assert!(tried > 5, "{path}: {tried}");
    }
}

/// So that the document says of each field that reaches a decoder what it may be.
#[test]
fn every_field_that_is_read_has_a_form() {
    for (_, table, ..) in bodies() {
        let read = table.iter().filter(|field| matches!(field.policy, Policy::Honoured | Policy::Emulated));
        let without: Vec<_> =
            read.filter(|field| matches!(field.check, Check::Elsewhere)).map(|field| field.name).collect();
        assert!(without.is_empty(), "{without:?}");
    }
}

#[test]
fn refused_fields_have_only_what_asks_for_nothing() {
    let property = |name: &str| &document()["components"]["schemas"]["CreateResponse"]["properties"][name];
    assert_eq!(property("moderation")["enum"], json!([null]));
    assert_eq!(property("context_management")["maxItems"], json!(0));
    assert_eq!(property("temperature")["type"], json!(["number", "null"]));
    assert_eq!(property("temperature")["x-codex-bridge-policy"], json!("ignored"));
}
