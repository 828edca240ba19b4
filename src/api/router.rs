//! Every route, on one screen.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use serde_json::{Map, Value};

use super::chat_completions::{self, kept, legacy};
use super::edge::Edge;
use super::list::{Deletion, List};
use super::openapi::Group::{Calls, Keyed, Native, Open};
use super::openapi::{Group, Route, delete, get, post};
use super::responses::{self, Answered};
use super::{
    auth, auth_backoff, batches, conversations, dry_run, fallback, file_objects, health, models, not_found,
    observe, openapi, origin, server, usage,
};

const SAY_HELLO: &str = r#"{"input": "Say hello."}"#;
const COMPACT_HELLO: &str = r#"{"model": "gpt-6-luna", "input": "Say hello."}"#;
const CHAT_HELLO: &str = r#"{"messages": [{"role": "user", "content": "Say hello."}]}"#;
const HELLO: &str = r#"{"prompt": "Hello,"}"#;
const METADATA: &str = r#"{"metadata": {"topic": "greetings"}}"#;
const BATCH: &str =
    r#"{"input_file_id": "file-abc", "endpoint": "/v1/responses", "completion_window": "24h"}"#;
const ITEMS: &str = r#"{"items": [{"type": "message", "role": "user", "content": "Hello."}]}"#;

/// What a stored response may fail with.
const RESPONSE: &[&str] = &["response_not_found", "store_unavailable"];
/// The same of the others.
const CONVERSATION: &[&str] = &["conversation_not_found", "store_unavailable"];
const COMPLETION: &[&str] = &["completion_not_found", "store_unavailable"];
const FILE: &[&str] = &["file_not_found", "store_unavailable"];
const BATCH_FAILS: &[&str] = &["batch_not_found", "store_unavailable"];
/// Where something is written.
const FULL: &[&str] = &["store_unavailable", "store_full"];
/// What a question to the app-server may fail with.
const APP_SERVER: &[&str] = &[
    "login_required",
    "app_server_connection_lost",
    "app_server_unreadable",
    "upstream_error",
    "upstream_refused",
    "server_overloaded",
    "app_server_unavailable",
    "shutting_down",
    "timeout",
];
/// What goes before an input may fail with.
const BEFORE: &[&str] = &[
    "previous_response_not_found",
    "previous_response_in_progress",
    "continuation_account_mismatch",
    "chain_too_long",
    "conversation_not_found",
    "conversation_locked",
    "conversation_too_long",
    "store_unavailable",
];

/// All routes. The router, the OpenAPI document and `/v1/health` are made of this table.
pub(crate) fn routes() -> Vec<Route> {
    [of_responses(), of_conversations(), of_completions(), of_batches(), of_the_bridge()]
        .into_iter()
        .flatten()
        .collect()
}

fn of_responses() -> Vec<Route> {
    vec![
        post(Calls, "/v1/responses", responses::create, "Answers, whole or streamed")
            .call("CreateResponse", responses::FIELDS, SAY_HELLO)
            .official::<Answered<'_>>("Response")
            .own::<dry_run::Plan<'_>>("DryRun")
            .streams("ResponseStreamEvent")
            .fails(&["conversation_not_found"])
            .capable(&[
                "stream",
                "images",
                "reasoning",
                "previous_response_id",
                "conversation",
                "background",
                "dry_run",
            ]),
        post(Native, "/v1/responses/compact", responses::compact, "What takes a conversation's place")
            .compaction("CompactResponseMethodPublicBody", responses::COMPACT_FIELDS, COMPACT_HELLO)
            .official::<responses::Compacted>("CompactResource")
            .capable(&["images", "previous_response_id"]),
        get(Calls, "/v1/responses", responses::connect, "The same over a WebSocket, request after request")
            .upgrades("ResponseStreamEvent")
            .fails(&["upgrade_required", "invalid_value", "unsupported_parameter"])
            .capable(&["websocket", "previous_response_id", "generate", "stream_id"]),
        post(
            Keyed,
            "/v1/responses/input_tokens",
            responses::count_input_tokens,
            "How many tokens the input of a response would be",
        )
        .items("TokenCountsBody", responses::FIELDS, SAY_HELLO)
        .official::<responses::Counted>("TokenCountsResource")
        .fails(APP_SERVER)
        .fails(BEFORE)
        .fails(&["model_not_found", "rate_limit_exceeded"]),
        get(Keyed, "/v1/responses/{id}", responses::retrieve, "A stored response, or its stream again")
            .query(responses::RETRIEVE_QUERY)
            .official::<Answered<'_>>("Response")
            .streams("ResponseStreamEvent")
            .fails(RESPONSE)
            .fails(&["unsupported_value", "stream_expired"])
            .capable(&["stream"]),
        delete(Keyed, "/v1/responses/{id}", responses::delete, "Forgets a stored response")
            .own::<Deletion>("DeletedResponse")
            .fails(RESPONSE)
            .fails(FULL),
        get(
            Keyed,
            "/v1/responses/{id}/input_items",
            responses::input_items,
            "What the model was given for a response",
        )
        .query(responses::INPUT_ITEMS_QUERY)
        .official::<List>("ResponseItemList")
        .fails(RESPONSE),
        post(Keyed, "/v1/responses/{id}/cancel", responses::cancel, "Cancels a background response")
            .official::<Answered<'_>>("Response")
            .fails(RESPONSE)
            .fails(FULL),
    ]
}

fn of_conversations() -> Vec<Route> {
    vec![
        post(Keyed, "/v1/conversations", conversations::create, "Begins a conversation")
            .items("CreateConversationBody", conversations::CREATE_FIELDS, ITEMS)
            .official::<conversations::Resource>("ConversationResource")
            .fails(FULL)
            .capable(&["items"]),
        get(Keyed, "/v1/conversations/{id}", conversations::retrieve, "A conversation")
            .official::<conversations::Resource>("ConversationResource")
            .fails(CONVERSATION),
        post(Keyed, "/v1/conversations/{id}", conversations::update, "Gives a conversation other metadata")
            .body("UpdateConversationBody", conversations::UPDATE_FIELDS, METADATA)
            .official::<conversations::Resource>("ConversationResource")
            .fails(CONVERSATION)
            .fails(FULL),
        delete(Keyed, "/v1/conversations/{id}", conversations::delete, "Forgets a conversation")
            .official::<Deletion>("DeletedConversationResource")
            .fails(CONVERSATION)
            .fails(FULL),
        get(Keyed, "/v1/conversations/{id}/items", conversations::list_items, "What was said in it")
            .query(conversations::LIST_QUERY)
            .official::<List>("ConversationItemList")
            .fails(CONVERSATION),
        post(Keyed, "/v1/conversations/{id}/items", conversations::create_items, "Adds items to its end")
            .query(conversations::ITEM_QUERY)
            .items("CreateConversationItems", conversations::ITEMS_FIELDS, ITEMS)
            .unnamed()
            .official::<List>("ConversationItemList")
            .fails(CONVERSATION)
            .fails(FULL)
            .fails(&["conversation_too_long"]),
        get(Keyed, "/v1/conversations/{id}/items/{item}", conversations::retrieve_item, "One item of it")
            .query(conversations::ITEM_QUERY)
            .official::<Map<String, Value>>("ConversationItem")
            .fails(CONVERSATION)
            .fails(&["item_not_found"]),
        delete(Keyed, "/v1/conversations/{id}/items/{item}", conversations::delete_item, "Takes an item out")
            .official::<conversations::Resource>("ConversationResource")
            .fails(CONVERSATION)
            .fails(FULL)
            .fails(&["item_not_found"]),
    ]
}

fn of_completions() -> Vec<Route> {
    vec![
        post(Calls, "/v1/chat/completions", chat_completions::create, "Completes a chat, whole or streamed")
            .call("CreateChatCompletionRequest", chat_completions::FIELDS, CHAT_HELLO)
            .official::<chat_completions::Completion<'_>>("CreateChatCompletionResponse")
            .own::<dry_run::Plan<'_>>("DryRun")
            .streams("CreateChatCompletionStreamResponse")
            .capable(&["stream", "images", "reasoning", "n", "json_schema", "store", "dry_run"]),
        get(Keyed, "/v1/chat/completions", kept::list, "The stored chat completions")
            .query(kept::LIST_QUERY)
            .official::<List>("ChatCompletionList")
            .fails(&["store_unavailable"])
            .capable(&["metadata"]),
        get(Keyed, "/v1/chat/completions/{id}", kept::retrieve, "A stored chat completion")
            .official_as::<kept::Kept<'_>>("StoredChatCompletion", "CreateChatCompletionResponse")
            .fails(COMPLETION),
        post(
            Keyed,
            "/v1/chat/completions/{id}",
            kept::update,
            "Gives a stored chat completion other metadata",
        )
        .body("UpdateChatCompletion", kept::UPDATE_FIELDS, METADATA)
        .unnamed()
        .official_as::<kept::Kept<'_>>("StoredChatCompletion", "CreateChatCompletionResponse")
        .fails(COMPLETION)
        .fails(FULL),
        delete(Keyed, "/v1/chat/completions/{id}", kept::delete, "Forgets a stored chat completion")
            .official::<Deletion>("ChatCompletionDeleted")
            .fails(COMPLETION)
            .fails(FULL),
        get(
            Keyed,
            "/v1/chat/completions/{id}/messages",
            kept::messages,
            "What the model was given for a chat completion",
        )
        .query(kept::MESSAGES_QUERY)
        .official::<List>("ChatCompletionMessageList")
        .fails(COMPLETION),
        post(Calls, "/v1/completions", legacy::create, "Completes texts, whole or streamed; for old tools")
            .call("CreateCompletionRequest", legacy::FIELDS, HELLO)
            .official::<legacy::Completion<'_>>("CreateCompletionResponse")
            .own::<dry_run::Plan<'_>>("DryRun")
            .streams("CreateCompletionResponse")
            .capable(&["stream", "n", "echo"]),
    ]
}

fn of_batches() -> Vec<Route> {
    vec![
        post(Keyed, "/v1/files", file_objects::create, "Uploads the input of a batch")
            .form(file_objects::form)
            .official::<file_objects::Resource>("OpenAIFile")
            .fails(FULL)
            .fails(file_objects::UPLOAD_FAILS),
        get(Keyed, "/v1/files", file_objects::list, "The files: inputs of batches, and their results")
            .query(file_objects::LIST_QUERY)
            .official::<List>("ListFilesResponse")
            .fails(&["store_unavailable"])
            .capable(&["purpose"]),
        get(Keyed, "/v1/files/{id}", file_objects::retrieve, "What a file is")
            .official::<file_objects::Resource>("OpenAIFile")
            .fails(FILE),
        delete(Keyed, "/v1/files/{id}", file_objects::delete, "Deletes a file")
            .official::<Deletion>("DeleteFileResponse")
            .fails(FILE)
            .fails(FULL),
        get(Keyed, "/v1/files/{id}/content", file_objects::content, "What stands in a file")
            .binary()
            .fails(FILE),
        post(Keyed, "/v1/batches", batches::create, "Runs the requests of a file beside everything else")
            .body("CreateBatch", batches::CREATE_FIELDS, BATCH)
            .unnamed()
            .official::<batches::Object<'_>>("Batch")
            .fails(FULL)
            .fails(&["integer_above_max_value", "integer_below_min_value", "rate_limit_exceeded"])
            .fails(&["shutting_down", "interrupted"])
            .capable(&["responses", "chat_completions", "completions"]),
        get(Keyed, "/v1/batches", batches::list, "The batches")
            .query(batches::LIST_QUERY)
            .official::<List>("ListBatchesResponse")
            .fails(&["store_unavailable"]),
        get(Keyed, "/v1/batches/{id}", batches::retrieve, "How a batch stands")
            .official::<batches::Object<'_>>("Batch")
            .fails(BATCH_FAILS),
        post(Keyed, "/v1/batches/{id}/cancel", batches::cancel, "Cancels a batch")
            .official::<batches::Object<'_>>("Batch")
            .fails(BATCH_FAILS)
            .fails(FULL)
            .fails(&["batch_not_cancellable"]),
    ]
}

fn of_the_bridge() -> Vec<Route> {
    vec![
        get(Keyed, "/v1/models", models::list, "The account's models")
            .query(models::QUERY)
            .official::<models::List>("ListModelsResponse")
            .fails(APP_SERVER)
            .capable(&["details"]),
        get(Keyed, "/v1/models/{*id}", models::retrieve, "One model, by its id or an alias")
            .query(models::QUERY)
            .official::<models::Model>("Model")
            .fails(APP_SERVER)
            .fails(&["model_not_found"])
            .capable(&["details"]),
        get(Keyed, "/v1/health", health::report, "How things stand").own::<health::Report>("Health"),
        get(Keyed, "/v1/usage", usage::report, "The account's windows, and what was used")
            .own::<usage::Report>("Usage"),
        get(Open, "/healthz", health::alive, "Whether the process answers").own::<health::Status>("Status"),
        get(Open, "/readyz", health::ready, "Whether a call made now would be tried")
            .own::<health::Status>("Status")
            .own_at::<health::Status>(503, "Status"),
        get(Open, "/openapi.json", openapi::serve, "This document").own::<Map<String, Value>>("Document"),
    ]
}

/// The whole HTTP side. From the outside in: log line and panics, room for the connection, host and origin,
/// route (404, 405), key and its failures, for calls of a model the account's windows and the fallback, handler.
pub fn router(edge: Edge) -> Router {
    let keyed = calls(&edge)
        .merge(of(Keyed))
        .route_layer(from_fn_with_state(edge.clone(), auth::require_key))
        .route_layer(from_fn_with_state(edge.clone(), auth_backoff::slow_down));
    keyed
        .merge(of(Open))
        .fallback(not_found::not_found)
        .method_not_allowed_fallback(not_found::method_not_allowed)
        .layer(from_fn_with_state(edge.clone(), origin::guard))
        .layer(from_fn(server::refuse_if_full))
        .layer(from_fn(observe::observe))
        .with_state(edge)
}

fn of(group: Group) -> Router<Edge> {
    let routes = routes().into_iter().filter(|route| route.group == group);
    routes.fold(Router::new(), |router, route| router.route(route.path, route.handler))
}

/// What calls a model.
fn calls(edge: &Edge) -> Router<Edge> {
    of(Calls)
        .route_layer(from_fn_with_state(edge.clone(), fallback::around))
        .merge(of(Native))
        .route_layer(from_fn_with_state(edge.clone(), usage::tell))
}

/// The same for the rows of batches: requests of the bridge's own, each of which brings the key it is made with.
pub(super) fn calls_of_rows(edge: Edge) -> Router {
    calls(&edge).layer(from_fn(auth::as_owner)).layer(from_fn(observe::observe)).with_state(edge)
}

#[cfg(test)]
mod tests;
