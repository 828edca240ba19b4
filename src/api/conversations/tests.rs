use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Method;
use serde_json::{Value, json};

use super::Joined;
use super::documents::{Clash, Conversations, named};
use crate::api::spec::assert_valid;
use crate::api::testing::{Answer, config, get, post, routes, send};
use crate::model::{Item, KeyId, ResponseId};
use crate::store::Documents;
use crate::store::testing::Server;

async fn asked(router: &Router, path: &str, body: &Value) -> Answer {
    send(router.clone(), post(path, body.to_string())).await
}

async fn read(router: &Router, path: &str) -> Answer {
    send(router.clone(), get(path)).await
}

async fn deleted(router: &Router, path: &str) -> Answer {
    let mut request = get(path);
    *request.method_mut() = Method::DELETE;
    send(router.clone(), request).await
}

fn said(text: &str) -> Value {
    json!({ "role": "user", "content": text })
}

/// A fresh conversation's path.
async fn begun(router: &Router, items: &Value) -> String {
    let made = asked(router, "/v1/conversations", &json!({ "items": items })).await.json();
    format!("/v1/conversations/{}", made["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_conversation_is_made_read_changed_and_deleted() {
    let router = routes(&config());
    let made = asked(&router, "/v1/conversations", &json!({ "metadata": { "a": "b" } })).await.json();
    assert_valid("ConversationResource", &made);
    assert!(made["id"].as_str().unwrap().starts_with("conv_"));
    let path = format!("/v1/conversations/{}", made["id"].as_str().unwrap());
    assert_eq!(read(&router, &path).await.json(), made);
    let empty = asked(&router, &path, &json!({})).await;
    assert_eq!((empty.status, empty.code()), (400, "missing_required_parameter".into()));
    assert_eq!(read(&router, &path).await.json(), made);
    let changed = asked(&router, &path, &json!({ "metadata": { "c": "d" } })).await.json();
    assert_valid("ConversationResource", &changed);
    assert_eq!(changed["metadata"], json!({ "c": "d" }));
    assert_eq!(read(&router, &path).await.json(), changed);

    let gone = deleted(&router, &path).await.json();
    assert_valid("DeletedConversationResource", &gone);
    assert_eq!(gone["deleted"], true);
    for answer in [
        read(&router, &path).await,
        deleted(&router, &path).await,
        asked(&router, &path, &json!({ "metadata": {} })).await,
        read(&router, &format!("{path}/items")).await,
        asked(&router, &format!("{path}/items"), &json!({ "items": [said("x")] })).await,
        deleted(&router, &format!("{path}/items/msg_1")).await,
    ] {
        assert_eq!((answer.status, answer.code()), (404, "conversation_not_found".into()));
    }
}

#[tokio::test]
async fn every_kind_of_item_is_kept_and_shown_in_its_official_form() {
    let router = routes(&config());
    let image = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let items = json!([
        { "role": "system", "content": "be brief" },
        { "role": "user", "content": [
            { "type": "input_text", "text": "what is it" }, { "type": "input_image", "image_url": image },
            { "type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk=" },
        ] },
        { "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "secret" },
        { "role": "assistant", "content": "a dot" },
        { "type": "function_call", "call_id": "c", "name": "look", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": [{ "type": "input_image", "image_url": image }] },
        { "type": "custom_tool_call", "call_id": "d", "name": "run", "input": "x" },
        { "type": "custom_tool_call_output", "call_id": "d", "output": "done" },
        { "type": "compaction", "encrypted_content": "short" },
        { "type": "web_search_call", "status": "completed", "action": { "type": "search", "query": "x" } },
    ]);
    let path = begun(&router, &items).await;
    let list = read(&router, &format!("{path}/items?order=asc")).await.json();
    assert_valid("ConversationItemList", &list);
    let data = list["data"].as_array().unwrap();
    assert_eq!(data.len(), items.as_array().unwrap().len());
    let prefixes = ["msg_", "msg_", "rs_1", "msg_", "fc_", "fco_", "ctc_", "ctco_", "cmp_", "ws_"];
    for (item, prefix) in data.iter().zip(prefixes) {
        let id = item["id"].as_str().unwrap();
        assert!(id.starts_with(prefix), "{id}");
        assert_eq!(read(&router, &format!("{path}/items/{id}")).await.json(), *item);
    }
    assert_eq!(data[0]["role"], "developer");
    assert_eq!(data[1]["content"][1]["image_url"], image);
    assert!(data[1]["content"][2]["text"].as_str().unwrap().contains("hi"), "a file is its text");
    assert_eq!(data[2].get("encrypted_content"), None);
    let full =
        read(&router, &format!("{path}/items/rs_1?include[]=reasoning.encrypted_content")).await.json();
    assert_eq!(full["encrypted_content"], "secret");
}

#[tokio::test]
async fn items_are_added_paged_and_taken_out() {
    let router = routes(&config());
    let path = begun(&router, &json!([])).await;
    let items = format!("{path}/items");
    let empty = read(&router, &items).await.json();
    assert_valid("ConversationItemList", &empty);
    assert_eq!((&empty["data"], &empty["has_more"]), (&json!([]), &json!(false)));
    let added = asked(&router, &items, &json!({ "items": [said("0"), said("1"), said("2")] })).await.json();
    assert_valid("ConversationItemList", &added);
    asked(&router, &items, &json!({ "items": [said("3")] })).await;
    let texts = async |query: &str| {
        let page = read(&router, &format!("{items}?{query}")).await.json();
        assert_valid("ConversationItemList", &page);
        let data = page["data"].as_array().unwrap();
        let text = |item: &Value| item["content"][0]["text"].as_str().unwrap().to_owned();
        (data.iter().map(text).collect::<String>(), page["has_more"] == true)
    };
    let second = added["data"][1]["id"].as_str().unwrap();
    assert_eq!(texts("limit=2").await, ("32".into(), true));
    assert_eq!(texts("order=asc").await, ("0123".into(), false));
    assert_eq!(texts(&format!("order=asc&after={second}")).await, ("23".into(), false));
    let left = deleted(&router, &format!("{items}/{second}")).await.json();
    assert_valid("ConversationResource", &left);
    assert_eq!(texts("order=asc").await.0, "023");
    for answer in [
        read(&router, &format!("{items}/{second}")).await,
        deleted(&router, &format!("{items}/{second}")).await,
    ] {
        assert_eq!((answer.status, answer.code()), (404, "item_not_found".into()));
    }
    let wrong = read(&router, &format!("{items}?after={second}")).await;
    assert_eq!((wrong.status, wrong.code()), (400, "invalid_value".into()));
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_and_nothing_of_it_is_kept() {
    let router = routes(&config());
    let path = begun(&router, &json!([{ "role": "user", "content": "x", "id": "msg_1" }])).await;
    let items = format!("{path}/items");
    let twice = json!({ "role": "user", "content": "y", "id": "msg_2" });
    let too_many: Vec<Value> = (0..21).map(|n| said(&n.to_string())).collect();
    for (body, code, param) in [
        (json!({}), "missing_required_parameter", "items"),
        (json!({ "items": "x" }), "invalid_type", "items"),
        (json!({ "items": too_many }), "array_above_max_length", "items"),
        (
            json!({ "items": [said("a"), { "type": "item_reference", "id": "msg_9" }] }),
            "unsupported_value",
            "items[1]",
        ),
        (json!({ "items": [said("a"), { "type": "mcp_call" }] }), "invalid_value", "items[1].type"),
        (
            json!({ "items": [{ "role": "user", "content": [{ "type": "input_image", "file_id": "f" }] }] }),
            "unsupported_value",
            "items[0].content[0].file_id",
        ),
        (
            json!({ "items": [said("a"), { "role": "user", "content": "x", "id": "msg_1" }] }),
            "duplicate_item",
            "input",
        ),
        (json!({ "items": [twice, twice] }), "duplicate_item", "input"),
    ] {
        let answer = asked(&router, &items, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{body}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    assert_eq!(read(&router, &items).await.json()["data"].as_array().unwrap().len(), 1);
    let refused = asked(&router, "/v1/conversations", &json!({ "items": [twice, twice] })).await;
    assert_eq!(refused.code(), "duplicate_item");
    let odd =
        asked(&router, "/v1/conversations", &json!({ "made_up": 1, "metadata": null, "items": null })).await;
    assert_eq!((odd.status, odd.header("x-codex-bridge-ignored")), (200, Some("made_up")));
}

#[tokio::test]
async fn a_conversation_that_is_too_long_is_not_gone_on_with() {
    let mut config = config();
    config.continuation.max_chain_items = 2;
    let router = routes(&config);
    let path = begun(&router, &json!([said("0"), said("1"), said("2")])).await;
    let id = path.rsplit('/').next().unwrap();
    let refused = asked(&router, "/v1/responses", &json!({ "input": "x", "conversation": id })).await;
    assert_eq!((refused.status, refused.code()), (400, "conversation_too_long".into()));
    assert_eq!(refused.json()["error"]["param"], "conversation");
}

#[tokio::test]
async fn what_a_response_says_of_its_conversation_is_checked_before_a_turn() {
    let router = routes(&config());
    let path = begun(&router, &json!([])).await;
    let id = path.rsplit('/').next().unwrap();
    let item = json!({ "type": "item_reference", "id": "msg_9" });
    for (body, status, code) in [
        (json!({ "input": "x", "conversation": "conv_none" }), 404, "conversation_not_found"),
        (json!({ "input": "x", "conversation": { "id": "conv_none" } }), 404, "conversation_not_found"),
        (json!({ "input": "x", "conversation": 1 }), 400, "invalid_type"),
        (json!({ "input": "x", "conversation": {} }), 400, "missing_required_parameter"),
        (
            json!({ "input": "x", "conversation": id, "previous_response_id": "resp_1" }),
            400,
            "mutually_exclusive_parameters",
        ),
        (json!({ "conversation": id }), 400, "empty_array"),
        (json!({ "conversation": id, "input": [item] }), 400, "unsupported_value"),
        // All is well, but for the engine.
        (json!({ "conversation": id, "input": "x" }), 503, "shutting_down"),
    ] {
        let answer = asked(&router, "/v1/responses", &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
}

#[tokio::test]
async fn what_a_background_response_adds_is_added_once() {
    let conversations = Conversations::new(Arc::new(Documents::in_memory()), Duration::from_secs(60), 100);
    let (owner, response) = (KeyId::new("tester"), ResponseId::new("resp_1"));
    let id = conversations.create(&owner, BTreeMap::new(), Vec::new()).await.unwrap().id;
    conversations.take(&id, &owner, &response, None).await.unwrap();
    conversations.take(&id, &owner, &response, None).await.unwrap();
    let other = ResponseId::new("resp_2");
    let locked = conversations.take(&id, &owner, &other, None).await.unwrap_err();
    assert_eq!(locked.code.as_deref(), Some("conversation_locked"));
    let mut joined = Joined::unread(&conversations, id.clone(), owner.clone());
    joined.name(vec![Item::input_text("user", "one")], &response);
    let answer = |text: &str| vec![(Some("msg_a".to_owned()), Item::input_text("assistant", text))];
    for _ in 0..3 {
        joined.keep_once(&response, answer("two")).await.unwrap();
    }
    let names = async || -> Vec<String> {
        conversations.items(&id, &owner).await.unwrap().into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names().await, ["msg_1i0000", "msg_a"]);
    // It was given back; another answer by the same id is another one.
    conversations.take(&id, &owner, &other, None).await.unwrap();
    let second = Joined::unread(&conversations, id.clone(), owner.clone());
    for _ in 0..2 {
        second.keep_once(&other, answer("three")).await.unwrap();
    }
    assert_eq!(names().await, ["msg_1i0000", "msg_a", "msg_a_resp_2"]);
    // Whoever knows that the one before has ended goes on.
    conversations.take(&id, &owner, &response, None).await.unwrap();
    conversations.take(&id, &owner, &other, Some(&response)).await.unwrap();
    conversations.give_back(&id, &owner, &response).await.unwrap();
    assert!(conversations.take(&id, &owner, &response, None).await.is_err(), "it is the other's now");
}

/// Two turns that went on with the same calls.
#[tokio::test]
async fn a_call_is_answered_once() {
    let conversations = Conversations::new(Arc::new(Documents::in_memory()), Duration::from_secs(60), 100);
    let owner = KeyId::new("tester");
    let item = |value: Value| Item::from_value(value).unwrap();
    let call = item(json!({ "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" }));
    let id = conversations.create(&owner, BTreeMap::new(), vec![call]).await.unwrap().id;
    for (text, kept) in [("first", 2), ("second", 1)] {
        let output = item(json!({ "type": "function_call_output", "call_id": "c", "output": text }));
        let said = named(vec![output, Item::input_text("assistant", text)]);
        let kept_now = conversations.append(&id, &owner, said, Clash::Rename).await.unwrap();
        assert_eq!(kept_now.len(), kept, "{text}");
    }
    assert_eq!(conversations.items(&id, &owner).await.unwrap().len(), 4);
}

#[tokio::test]
async fn what_is_deleted_meanwhile_stays_so() {
    let server = Server::default();
    let of = |documents| Conversations::new(Arc::new(documents), Duration::from_secs(60), 100);
    let (one, other, owner) = (of(server.documents()), of(server.documents()), KeyId::new("tester"));
    for n in 0..10 {
        let id = one.create(&owner, BTreeMap::new(), Vec::new()).await.unwrap().id;
        let changing = async {
            for _ in 0..n {
                tokio::task::yield_now().await;
            }
            let items = named(vec![Item::input_text("user", "x")]);
            let _ = other.update(&id, &owner, BTreeMap::new()).await;
            other.append(&id, &owner, items, Clash::Refuse).await
        };
        let (deleted, _) = tokio::join!(one.delete(&id, &owner), changing);
        deleted.unwrap();
        assert_eq!(server.documents().bytes(), Some(0), "after {n}");
    }
}
