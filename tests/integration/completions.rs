//! Stored chat completions, and the completions of old.

use codex_bridge::config::NamedToken;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::http::Client;
use crate::spec::assert_valid;

const CHAT: &str = "/v1/chat/completions";
const LEGACY: &str = "/v1/completions";

fn chat(text: &str, metadata: &Value) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "store": true, "metadata": metadata})
}

/// Asks, and has the turn say `text`.
async fn say(daemon: &mut Daemon, path: &'static str, body: Value, text: &str) -> Value {
    let asking = daemon.post(path, body);
    daemon.peer.turn().await.answer(text);
    asking.answer().await.ok()
}

fn path(completion: &Value) -> String {
    format!("{CHAT}/{}", completion["id"].as_str().expect("an id"))
}

/// A list's ids, and whether there are more.
async fn ids(daemon: &Daemon, query: &str) -> (Vec<String>, bool) {
    let list = daemon.client.get(&format!("{CHAT}?{query}")).await.ok();
    assert_valid("ChatCompletionList", &list);
    let ids = list["data"].as_array().expect("a list").iter();
    (ids.map(|one| one["id"].as_str().expect("an id").to_owned()).collect(), list["has_more"] == true)
}

#[tokio::test]
async fn a_stored_completion_is_read_listed_changed_and_deleted() {
    let mut daemon = Daemon::start(|_| ()).await;
    let mut told = Vec::new();
    for (text, metadata) in
        [("a", json!({"t": "1"})), ("b", json!({"t": "2", "u": "x"})), ("c", json!({"t": "1"}))]
    {
        told.push(say(&mut daemon, CHAT, chat(text, &metadata), "yes").await);
    }
    let mut unstored = chat("d", &json!({"t": "1"}));
    unstored["store"] = false.into();
    say(&mut daemon, CHAT, unstored, "no").await;

    let mut read = daemon.client.get(&path(&told[1])).await.ok();
    assert_valid("CreateChatCompletionResponse", &read);
    assert_eq!(
        read.as_object_mut().and_then(|fields| fields.remove("metadata")),
        Some(json!({"t": "2", "u": "x"}))
    );
    assert_eq!(read, told[1]);

    let id = |n: usize| told[n]["id"].as_str().expect("an id").to_owned();
    assert_eq!(ids(&daemon, "").await, (vec![id(0), id(1), id(2)], false));
    assert_eq!(ids(&daemon, "order=desc&limit=2").await, (vec![id(2), id(1)], true));
    assert_eq!(ids(&daemon, &format!("after={}", id(1))).await, (vec![id(2)], false));
    assert_eq!(ids(&daemon, "metadata[t]=1&limit=1").await, (vec![id(0)], true));
    assert_eq!(ids(&daemon, &format!("metadata%5Bt%5D=1&after={}", id(0))).await, (vec![id(2)], false));
    assert_eq!(ids(&daemon, "model=none").await, (Vec::new(), false));
    let model = told[0]["model"].as_str().expect("a model");
    assert_eq!(ids(&daemon, &format!("model={model}&metadata[u]=x")).await, (vec![id(1)], false));

    let changed = daemon.client.post(&path(&told[0]), &json!({"metadata": {"t": "3"}})).await.ok();
    assert_valid("CreateChatCompletionResponse", &changed);
    assert_eq!(changed["metadata"], json!({"t": "3"}));
    assert_eq!(ids(&daemon, "metadata[t]=3").await.0, [id(0)]);

    let gone = daemon.client.delete(&path(&told[0])).await.ok();
    assert_valid("ChatCompletionDeleted", &gone);
    assert_eq!(gone, json!({"object": "chat.completion.deleted", "id": id(0), "deleted": true}));
    assert_eq!(daemon.client.get(&path(&told[0])).await.failure(), (404, "completion_not_found".into()));
    assert_eq!(ids(&daemon, "").await.0, [id(1), id(2)]);
    daemon.finish().await;
}

#[tokio::test]
async fn a_streamed_completion_is_stored_with_its_messages() {
    let mut daemon = Daemon::start(|_| ()).await;
    let image = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let call = json!({"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}});
    let body = json!({"store": true, "stream": true, "messages": [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": image}}]},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]});
    let (mut events, turn) = daemon.streaming_at(CHAT, body, "hel").await;
    turn.message("m", "hello").response(3, 4).completed();
    let mut id = String::new();
    while let Some(event) = events.next().await {
        event["id"].as_str().unwrap_or_default().clone_into(&mut id);
        if event["choices"][0]["finish_reason"] == "stop" {
            break;
        }
    }
    // By the time its end is told it is there.
    let read = daemon.client.get(&format!("{CHAT}/{id}")).await.ok();
    assert_valid("CreateChatCompletionResponse", &read);
    assert_eq!(read["choices"][0]["message"]["content"], "hello");
    let list = daemon.client.get(&format!("{CHAT}/{id}/messages")).await.ok();
    let roles: Vec<_> =
        list["data"].as_array().expect("a list").iter().map(|one| one["role"].clone()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool"]);
    assert_eq!(list["data"][1]["content_parts"][1]["image_url"]["url"], image);
    assert_eq!(
        (&list["data"][0]["content"], &list["data"][0]["content_parts"]),
        (&json!("be kind"), &Value::Null)
    );
    let page = daemon.client.get(&format!("{CHAT}/{id}/messages?order=desc&limit=1")).await.ok();
    assert_eq!((&page["data"][0]["content"], &page["has_more"]), (&json!("42"), &json!(true)));
    drop(events);
    daemon.finish().await;
}

#[tokio::test]
async fn another_keys_completion_is_not_there() {
    let named = |name: &str| NamedToken { name: name.into(), token: format!("{name}-secret").into() };
    let mut daemon = Daemon::start(|config| config.auth.tokens = vec![named("a"), named("b")]).await;
    let keyed = |key| Client::new(daemon.client.address(), Some(key));
    let (a, b) = (keyed("a-secret"), keyed("b-secret"));
    daemon.client = a.clone();
    let told = say(&mut daemon, CHAT, chat("hi", &json!({})), "yes").await;
    for missing in [
        b.get(&path(&told)).await,
        b.delete(&path(&told)).await,
        b.post(&path(&told), &json!({"metadata": {"a": "b"}})).await,
        b.get(&format!("{}/messages", path(&told))).await,
        a.get(&format!("{CHAT}/chatcmpl-none")).await,
    ] {
        assert_eq!(missing.failure(), (404, "completion_not_found".into()));
    }
    assert_eq!(b.get(CHAT).await.ok()["data"], json!([]));
    assert_eq!(a.get(CHAT).await.ok()["data"].as_array().map(Vec::len), Some(1));
    daemon.finish().await;
}

#[tokio::test]
async fn each_prompt_and_choice_of_a_completion_is_a_turn() {
    let mut daemon = Daemon::start(|_| ()).await;
    let asking =
        daemon.post(LEGACY, json!({"prompt": ["one", "two"], "n": 2, "echo": true, "max_tokens": 50}));
    for n in 0..4 {
        daemon.peer.turn().await.answer(&format!(" is {n}"));
    }
    let told = asking.answer().await.ok();
    assert_valid("CreateCompletionResponse", &told);
    assert!(told["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")), "{told}");
    let choices = told["choices"].as_array().expect("choices");
    for (index, choice) in choices.iter().enumerate() {
        let prompt = if index < 2 { "one is " } else { "two is " };
        assert!(choice["text"].as_str().is_some_and(|text| text.starts_with(prompt)), "{choice}");
        assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(index), &json!("stop")));
    }
    assert_eq!(choices.len(), 4);

    let cut = say(&mut daemon, LEGACY, json!({"prompt": "long"}), &"word ".repeat(100)).await;
    assert_valid("CreateCompletionResponse", &cut);
    assert_eq!(cut["choices"][0]["finish_reason"], "length", "sixteen tokens where nothing is said");
    daemon.finish().await;
}

#[tokio::test]
async fn a_completion_is_streamed_in_chunks() {
    let mut daemon = Daemon::start(|_| ()).await;
    let body = json!({"prompt": "say ", "echo": true, "stream_options": {"include_usage": true}});
    let (events, turn) = daemon.streaming_at(LEGACY, body, "hel").await;
    turn.message("m", "hello").response(3, 4).completed();
    let mut events = events.rest().await;
    assert_eq!(events.pop(), Some(json!("[DONE]")));
    let mut text = String::new();
    for event in &events {
        for choice in event["choices"].as_array().expect("choices") {
            text.push_str(choice["text"].as_str().expect("a text"));
        }
    }
    assert_eq!(text, "say hello");
    let last = events.last().expect("a chunk");
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(7)));
    daemon.finish().await;
}
