//! `GET /openapi.json`: the OpenAPI 3.1 document of what is served, made of what serves it: the routes' table, the
//! fields' policies, the answers' own types, the error table.

mod body;
mod errors;
mod parameter;
mod route;

#[cfg(test)]
pub(crate) mod described;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use axum::Json;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

pub(crate) use self::parameter::Parameter;
use self::route::Holds;
pub(crate) use self::route::{Group, Route, delete, get, post};

use super::dry_run;
use super::error::ErrorBody;
use super::router::routes;

const ABOUT: &str = "An OpenAI-compatible endpoint over a logged-in `codex app-server`. `x-openai-schema` names the \
    official schema that a body or an answer belongs to; each request field says what becomes of it in \
    `x-codex-bridge-policy`. Unknown fields are ignored and named in `x-codex-bridge-ignored`. An answer may gain fields. \
    What a configured fallback answers is passed on as it is.";

/// The document.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| describe(&routes()));
    &DOCUMENT
}

/// Open: it tells no more than the program's source does.
pub(crate) async fn serve() -> Json<&'static Value> {
    std::future::ready(Json(document())).await
}

fn describe(routes: &[Route]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in routes {
        let operation = operation(route, &mut schemas);
        let methods = paths.entry(route.template()).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let bearer = "a key of the bridge's; none is wanted where it has none";
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas.named,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "description": bearer } },
        },
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut parameters: Vec<Value> = route
        .parameters()
        .map(|(name, slashes)| {
            json!({ "name": name, "in": "path", "required": true, "x-codex-bridge-slashes": slashes,
                "schema": { "type": "string", "minLength": 1 } })
        })
        .collect();
    parameters.extend(route.query.iter().map(|parameter| parameter.described("query")));
    let id = format!("{}{}", route.method.as_str().to_ascii_lowercase(), route.template());
    let mut operation = json!({
        "operationId": id.replace(['/', '{', '}'], "_").replace("__", "_").trim_end_matches('_'),
        "summary": route.summary,
        "security": if route.group == Group::Open { json!([]) } else { json!([{ "bearer": [] }]) },
    });
    let has_dry_run = route.holds() == Some(Holds::Call);
    if has_dry_run {
        parameters.push(dry_run::PARAMETER.described("query"));
    }
    if route.runs_turns() {
        let of_calls = parameter::OF_CALLS.iter();
        let of_calls = of_calls.filter(|parameter| has_dry_run || parameter.name != dry_run::X_DRY_RUN);
        parameters.extend(of_calls.map(|parameter| parameter.described("header")));
    }
    if let Some(body) = &route.body {
        let content = json!({ "schema": schemas.body(body), "example": example(body.example) });
        operation["requestBody"] = json!({ "required": true, "content": { "application/json": content } });
    }
    if let Some(form) = route.form {
        let content = json!({ "schema": form() });
        operation["requestBody"] = json!({ "required": true, "content": { "multipart/form-data": content } });
    }
    operation["parameters"] = parameters.into();
    operation["responses"] = responses(route, schemas);
    operation
}

fn responses(route: &Route, schemas: &mut Schemas) -> Value {
    let mut responses = errors::of(route);
    for answer in &route.answers {
        let form = schemas.answer(answer);
        let response = responses.entry(answer.status).or_insert_with(|| {
            let mut headers = parameter::of_all();
            headers.values_mut().for_each(|header| header["required"] = true.into());
            if route.runs_turns() {
                headers.extend(parameter::of_calls());
            }
            json!({ "description": answer.name, "headers": headers, "content": {} })
        });
        let known = &mut response["content"]["application/json"]["schema"];
        *known = match known.take() {
            Value::Null => form,
            known => json!({ "anyOf": [known, form] }),
        };
    }
    if route.binary {
        let content = json!({ "schema": { "type": "string", "format": "binary" } });
        let response = json!({ "description": "the content", "headers": parameter::of_all(),
            "content": { "application/octet-stream": content } });
        responses.insert(200, response);
    }
    if let Some((events, response)) = route.events.zip(responses.get_mut(&200)) {
        response["content"]["text/event-stream"] =
            json!({ "x-openai-schema": events, "schema": event(events) });
    }
    if let Some(messages) = route.messages {
        let what =
            format!("a WebSocket: `response.create` events in, each `{messages}` out as a text message");
        responses.insert(101, json!({ "description": what, "x-openai-schema": messages }));
    }
    responses
        .into_iter()
        .map(|(status, response)| (status.to_string(), response))
        .collect::<Map<_, _>>()
        .into()
}

/// One server-sent event: before OpenAPI 3.2, which has a place of its own for it, that is what tools take a stream's
/// schema for.
fn event(data: &str) -> Value {
    let what = format!(
        "With `stream: true`: server-sent events, each a `{data}` as JSON; `[DONE]` where the API has it."
    );
    json!({
        "type": "object",
        "description": what,
        "required": ["data"],
        "properties": {
            "event": { "type": "string" },
            "data": { "type": "string", "contentMediaType": "application/json" },
        },
    })
}

fn example(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

/// `components.schemas`, as they are come upon.
struct Schemas {
    generator: SchemaGenerator,
    named: Map<String, Value>,
}

impl Schemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        let generator = settings.with(|settings| settings.inline_subschemas = true).into_generator();
        let mut schemas = Self { generator, named: Map::new() };
        let error = schemas.generator.subschema_for::<ErrorBody<'_>>().to_value();
        schemas.name("ErrorResponse", Some("ErrorResponse"), error);
        schemas
    }

    fn answer(&mut self, answer: &route::Answer) -> Value {
        if !self.named.contains_key(answer.name) {
            let schema = (answer.schema)(&mut self.generator).to_value();
            self.name(answer.name, answer.official, schema);
        }
        reference(answer.name)
    }

    fn body(&mut self, body: &route::Body) -> Value {
        let official = body.official.then_some(body.name);
        self.name(body.name, official, body::schema(body.fields));
        reference(body.name)
    }

    fn name(&mut self, name: &'static str, official: Option<&str>, mut schema: Value) {
        if let Some((fields, official)) = schema.as_object_mut().zip(official) {
            fields.insert("x-openai-schema".into(), official.into());
        }
        self.named.insert(name.into(), schema);
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
