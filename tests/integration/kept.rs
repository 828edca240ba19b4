//! Stored responses, read again.

use codex_bridge::config::NamedToken;
use serde_json::{Value, json};

use crate::daemon::{Daemon, text_of};
use crate::http::{Answer, Client};

async fn get(daemon: &Daemon, path: &str) -> Answer {
    daemon.client.get(path).await
}

async fn delete(daemon: &Daemon, path: &str) -> Answer {
    daemon.client.delete(path).await
}

/// Asks, and has the turn say `text`.
async fn say(daemon: &mut Daemon, body: Value, text: &str) -> Value {
    let asking = daemon.post("/v1/responses", body);
    daemon.peer.turn().await.answer(text);
    asking.answer().await.ok()
}

fn texts(list: &Value) -> Vec<&str> {
    let data = list["data"].as_array().expect("a list").iter();
    data.map(|item| item["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{item}"))).collect()
}

#[tokio::test]
async fn a_response_is_read_as_it_was_told_until_it_is_deleted() {
    let mut daemon = Daemon::start(|_| ()).await;
    let body = json!({"input": "hi", "instructions": "be kind", "metadata": {"a": "b"}, "max_output_tokens": 100,
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}}]});
    let told = say(&mut daemon, body, "hello").await;
    let path = format!("/v1/responses/{}", told["id"].as_str().expect("an id"));
    let mut read = get(&daemon, &path).await.ok();
    // By now another second may have begun.
    read["completed_at"] = told["completed_at"].clone();
    assert_eq!(read, told);
    assert_eq!(text_of(&read), "hello");

    let refused = get(&daemon, &format!("{path}?stream=true")).await;
    assert_eq!((refused.status, &refused.error()["param"]), (400, &json!("stream")));
    let refused = daemon.client.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.error()["message"], "Cannot cancel a synchronous response.");

    let deleted = delete(&daemon, &path).await.ok();
    assert_eq!(deleted, json!({"id": told["id"], "object": "response", "deleted": true}));
    for gone in [
        get(&daemon, &path).await,
        delete(&daemon, &path).await,
        get(&daemon, &format!("{path}/input_items")).await,
    ] {
        assert_eq!((gone.status, &gone.error()["code"]), (404, &json!("response_not_found")));
    }
    let refused = daemon
        .post("/v1/responses", json!({"input": "x", "previous_response_id": told["id"]}))
        .answer()
        .await;
    assert_eq!(refused.error()["code"], "previous_response_not_found");
    daemon.finish().await;
}

#[tokio::test]
async fn input_items_are_the_whole_conversation_page_by_page() {
    let mut daemon = Daemon::start(|_| ()).await;
    let first = say(&mut daemon, json!({"input": "one"}), "two").await;
    let second =
        say(&mut daemon, json!({"input": "three", "previous_response_id": first["id"]}), "four").await;
    let path = format!("/v1/responses/{}/input_items", second["id"].as_str().expect("an id"));
    let all = get(&daemon, &format!("{path}?order=asc")).await.ok();
    assert_eq!(texts(&all), ["one", "two", "three"]);
    assert_eq!(all["has_more"], false);
    let newest = get(&daemon, &format!("{path}?limit=2")).await.ok();
    assert_eq!(texts(&newest), ["three", "two"]);
    assert_eq!(newest["has_more"], true);
    let after = newest["last_id"].as_str().expect("an id");
    let rest = get(&daemon, &format!("{path}?limit=2&after={after}")).await.ok();
    assert_eq!(texts(&rest), ["one"]);
    let wrong = get(&daemon, &format!("{path}?after=nothing")).await;
    assert_eq!((wrong.status, &wrong.error()["param"]), (400, &json!("after")));
    daemon.finish().await;
}

#[tokio::test]
async fn what_is_not_stored_or_another_keys_is_not_found() {
    let named = |name: &str| NamedToken { name: name.into(), token: format!("{name}-secret").into() };
    let mut daemon = Daemon::start(|config| config.auth.tokens = vec![named("a"), named("b")]).await;
    let keyed = |key| Client::new(daemon.client.address(), Some(key));
    let (a, b) = (keyed("a-secret"), keyed("b-secret"));
    daemon.client = a.clone();
    let stored = say(&mut daemon, json!({"input": "hi"}), "kept").await;
    let unstored = say(&mut daemon, json!({"input": "hi", "store": false}), "not kept").await;
    let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    assert_eq!(a.get(&path(&stored)).await.status, 200);
    let missing = [
        b.get(&path(&stored)).await,
        b.delete(&path(&stored)).await,
        a.get(&path(&unstored)).await,
        a.get("/v1/responses/resp_unknown").await,
    ];
    for missing in missing {
        assert_eq!((missing.status, &missing.error()["code"]), (404, &json!("response_not_found")));
    }
    assert_eq!(a.get(&path(&stored)).await.status, 200, "another key deleted nothing");
    daemon.finish().await;
}
