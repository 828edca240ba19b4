//! One operation: where it is, who serves it, and what the document says of it.

use axum::handler::Handler;
use axum::routing::{self, MethodRouter};
use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use super::parameter::Parameter;
use crate::api::edge::Edge;
use crate::api::fields::Field;

/// What stands before a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// A key, and for the model's calls the account's windows and the fallback.
    Calls,
    /// The same without the fallback: what another server makes of it could not be sent back here.
    Native,
    /// A key.
    Keyed,
    /// Nothing.
    Open,
}

/// One operation. There is no other way to a route: the router and the document are made of the same table.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) method: Method,
    /// As the router has it: `{*id}` takes slashes too.
    pub(crate) path: &'static str,
    pub(crate) group: Group,
    pub(crate) handler: MethodRouter<Edge>,
    /// For `/v1/health`.
    pub(crate) capabilities: &'static [&'static str],
    pub(super) summary: &'static str,
    pub(super) body: Option<Body>,
    /// The schema of a form that it takes instead.
    pub(super) form: Option<fn() -> Value>,
    /// Whether it answers with bytes.
    pub(super) binary: bool,
    pub(super) query: &'static [Parameter],
    pub(super) answers: Vec<Answer>,
    /// The official name of what its event stream carries.
    pub(super) events: Option<&'static str>,
    /// The same of the messages of the WebSocket that it becomes.
    pub(super) messages: Option<&'static str>,
    pub(super) fails: Vec<&'static str>,
}

/// A body of fields with policies.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) name: &'static str,
    pub(super) fields: &'static [Field],
    /// JSON.
    pub(super) example: &'static str,
    pub(super) holds: Holds,
    /// Whether `name` is an official schema's.
    pub(super) official: bool,
}

/// What a body asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// A turn of the model.
    Call,
    /// The same, and no answer.
    Compaction,
    /// Items, and what they are made of is fetched and read.
    Items,
    /// Neither.
    Fields,
}

/// A form that an answer may have.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) name: &'static str,
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
    /// The official schema's name.
    pub(super) official: Option<&'static str>,
}

pub(crate) fn get<H, T>(group: Group, path: &'static str, handler: H, summary: &'static str) -> Route
where
    H: Handler<T, Edge>,
    T: 'static,
{
    Route::new(Method::GET, group, path, routing::get(handler), summary)
}

pub(crate) fn post<H, T>(group: Group, path: &'static str, handler: H, summary: &'static str) -> Route
where
    H: Handler<T, Edge>,
    T: 'static,
{
    Route::new(Method::POST, group, path, routing::post(handler), summary)
}

pub(crate) fn delete<H, T>(group: Group, path: &'static str, handler: H, summary: &'static str) -> Route
where
    H: Handler<T, Edge>,
    T: 'static,
{
    Route::new(Method::DELETE, group, path, routing::delete(handler), summary)
}

impl Route {
    fn new(
        method: Method,
        group: Group,
        path: &'static str,
        handler: MethodRouter<Edge>,
        summary: &'static str,
    ) -> Self {
        Self {
            method,
            path,
            group,
            handler,
            capabilities: &[],
            summary,
            body: None,
            form: None,
            binary: false,
            query: &[],
            answers: Vec::new(),
            events: None,
            messages: None,
            fails: Vec::new(),
        }
    }

    /// It calls the model; `name` is the official schema's of its JSON body.
    pub(crate) fn call(self, name: &'static str, fields: &'static [Field], example: &'static str) -> Self {
        self.takes(Body { name, fields, example, holds: Holds::Call, official: true })
    }

    /// It calls the model and makes no answer: nothing is streamed, and there is no dry run.
    pub(crate) fn compaction(
        self,
        name: &'static str,
        fields: &'static [Field],
        example: &'static str,
    ) -> Self {
        self.takes(Body { name, fields, example, holds: Holds::Compaction, official: true })
    }

    /// It takes a JSON body with items.
    pub(crate) fn items(self, name: &'static str, fields: &'static [Field], example: &'static str) -> Self {
        self.takes(Body { name, fields, example, holds: Holds::Items, official: true })
    }

    /// It takes another JSON body.
    pub(crate) fn body(self, name: &'static str, fields: &'static [Field], example: &'static str) -> Self {
        self.takes(Body { name, fields, example, holds: Holds::Fields, official: true })
    }

    fn takes(mut self, body: Body) -> Self {
        self.body = Some(body);
        self
    }

    /// The name of the body is ours: officially it has none.
    pub(crate) fn unnamed(mut self) -> Self {
        self.body = self.body.map(|body| Body { official: false, ..body });
        self
    }

    /// It takes a form with this schema.
    pub(crate) fn form(mut self, schema: fn() -> Value) -> Self {
        self.form = Some(schema);
        self
    }

    /// It answers 200 with bytes.
    pub(crate) fn binary(mut self) -> Self {
        self.binary = true;
        self
    }

    /// What its body asks for, where it has one.
    pub(super) fn holds(&self) -> Option<Holds> {
        self.body.as_ref().map(|body| body.holds)
    }

    /// Whether it calls the model.
    pub(super) fn runs_turns(&self) -> bool {
        matches!(self.holds(), Some(Holds::Call | Holds::Compaction))
    }

    pub(crate) fn query(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }

    /// It answers 200 with the official object `name`, in the form that `T` has.
    pub(crate) fn official<T: JsonSchema>(self, name: &'static str) -> Self {
        self.official_as::<T>(name, name)
    }

    /// The same under a name of ours: not in every form of the official object.
    pub(crate) fn official_as<T: JsonSchema>(self, name: &'static str, official: &'static str) -> Self {
        self.answer::<T>(200, name, Some(official))
    }

    /// It answers 200 with an object of ours.
    pub(crate) fn own<T: JsonSchema>(self, name: &'static str) -> Self {
        self.answer::<T>(200, name, None)
    }

    /// The same with another status.
    pub(crate) fn own_at<T: JsonSchema>(self, status: u16, name: &'static str) -> Self {
        self.answer::<T>(status, name, None)
    }

    fn answer<T: JsonSchema>(
        mut self,
        status: u16,
        name: &'static str,
        official: Option<&'static str>,
    ) -> Self {
        let schema = SchemaGenerator::subschema_for::<T>;
        self.answers.push(Answer { status, name, schema, official });
        self
    }

    /// It may answer with a stream of the official events `name`.
    pub(crate) fn streams(mut self, name: &'static str) -> Self {
        self.events = Some(name);
        self
    }

    /// It becomes a WebSocket of the official events `name`.
    pub(crate) fn upgrades(mut self, name: &'static str) -> Self {
        self.messages = Some(name);
        self
    }

    /// The codes of the error table that it has beside those of its group, path, query and body.
    pub(crate) fn fails(mut self, codes: &[&'static str]) -> Self {
        self.fails.extend_from_slice(codes);
        self
    }

    pub(crate) fn capable(mut self, capabilities: &'static [&'static str]) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The path's parameters, and whether each takes slashes too.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let held = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        held.map(|name| name.strip_prefix('*').map_or((name, false), |name| (name, true)))
    }

    /// The path as OpenAPI writes it.
    pub(crate) fn template(&self) -> String {
        self.path.replace("{*", "{")
    }
}
