//! Compaction: what takes a conversation's place, and what it says to the model.

use std::time::Duration;

use codex_bridge::config::NamedToken;
use serde_json::{Value, json};

use crate::daemon::{Daemon, text_of};
use crate::http::{Client, until};
use crate::peer::Instead;
use crate::spec::assert_valid;

const COMPACT: &str = "/v1/responses/compact";
/// What the scripted Codex tells the model of a summary.
const SUMMARY: &str = "So far:\nthey met";

fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// `role: text` of messages, the type of anything else.
fn said(items: &[Value]) -> Vec<String> {
    let line = |item: &Value| match item["role"].as_str() {
        Some(role) => format!("{role}: {}", item["content"][0]["text"].as_str().unwrap_or_default()),
        None => item["type"].as_str().unwrap_or_default().to_owned(),
    };
    items.iter().map(line).collect()
}

fn output(compacted: &Value) -> &[Value] {
    compacted["output"].as_array().expect("a list")
}

/// Compacts `body`, whose summary is [`SUMMARY`].
async fn compacted(daemon: &mut Daemon, body: Value) -> Value {
    let asking = daemon.post(COMPACT, body);
    daemon.peer.turn().await.summarise(SUMMARY);
    let compacted = asking.answer().await.ok();
    assert_valid("CompactResource", &compacted);
    compacted
}

#[tokio::test]
async fn a_conversation_becomes_what_was_asked_and_a_summary() {
    let mut daemon = Daemon::start(|_| ()).await;
    let history = json!([
        message("developer", "be kind"),
        message("user", "one"),
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"},
        {"role": "assistant", "phase": "commentary", "content": "two"},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "three"},
        message("user", "four"),
    ]);
    let body = json!({"model": "model-a", "input": history, "instructions": "briefly", "service_tier": "flex",
        "prompt_cache_options": {"ttl": "30m"}, "temperature": 0.5});
    let asking = daemon.post(COMPACT, body);
    let turn = daemon.peer.turn().await;
    let given = [
        "developer: briefly",
        "developer: be kind",
        "user: one",
        "reasoning",
        "assistant: two",
        "function_call",
        "function_call_output",
        "user: four",
    ];
    assert_eq!(said(&turn.items), given);
    assert_eq!(turn.items[4]["phase"], "commentary");
    turn.summarise(SUMMARY);
    let answer = asking.answer().await;
    let ignored = answer.header("x-codex-bridge-ignored").map(str::to_owned);
    assert_eq!(ignored.as_deref(), Some("prompt_cache_options, temperature"));
    let told = answer.ok();
    assert_valid("CompactResource", &told);
    assert_eq!(said(output(&told)), ["developer: be kind", "user: one", "user: four", "compaction"]);
    assert_eq!((&told["usage"]["input_tokens"], &told["usage"]["output_tokens"]), (&json!(40), &json!(9)));
    let sealed = output(&told)[3]["encrypted_content"].as_str().expect("a text");
    assert!(!sealed.contains("met"), "{sealed}");
    let started = &daemon.peer.seen("thread/start")[0]["params"];
    assert_eq!((&started["ephemeral"], &started["serviceTier"]), (&json!(false), &json!("flex")));

    // Its output is the next input, and says what Codex would say.
    let mut next = output(&told).to_vec();
    next.push(message("user", "five"));
    let asking = daemon.post("/v1/responses", json!({"input": next}));
    let turn = daemon.peer.turn().await;
    let summary = format!("user: {SUMMARY}");
    assert_eq!(said(&turn.items), ["developer: be kind", "user: one", "user: four", &summary, "user: five"]);
    turn.answer("six");
    let answered = asking.answer().await.ok();
    let path = format!("/v1/responses/{}/input_items?order=asc", answered["id"].as_str().expect("an id"));
    let items = daemon.client.get(&path).await.ok();
    assert_valid("ResponseItemList", &items);
    assert_eq!(items["data"][3], output(&told)[3], "it is read again as it was sent");

    // And so on.
    let rolled =
        compacted(&mut daemon, json!({"previous_response_id": answered["id"], "input": "seven"})).await;
    let asked = ["developer: be kind", "user: one", "user: four", "user: five", "user: seven", "compaction"];
    assert_eq!(said(output(&rolled)), asked);
    let summaries = [output(&told), output(&rolled)].map(|output| output.last().expect("one")["id"].clone());
    assert_ne!(summaries[0], summaries[1]);
    until("the threads on disk are deleted", async || {
        (daemon.peer.seen("thread/delete").len() == 2).then_some(())
    })
    .await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_compaction_in_a_chain_stands_for_what_was_said_before_it() {
    let mut daemon = Daemon::start(|config| config.continuation.warm_threads = 4).await;
    let asking =
        daemon.post("/v1/responses", json!({"input": [message("user", "one")], "instructions": "x"}));
    daemon.peer.turn().await.answer("two");
    let first = asking.answer().await.ok();
    let told = compacted(&mut daemon, json!({"previous_response_id": first["id"]})).await;
    assert_eq!(said(output(&told)), ["user: one", "compaction"]);

    // The thread of the response itself was left alone: another branch goes on there.
    let asking = daemon.post(
        "/v1/responses",
        json!({"input": "three", "previous_response_id": first["id"], "instructions": "x"}),
    );
    let turn = daemon.peer.turn().await;
    assert_eq!(said(&turn.items).len(), 3, "it is not the warm thread: {:?}", turn.items);
    turn.answer("four");
    let second = asking.answer().await.ok();

    let input = json!([output(&told)[1], message("user", "five")]);
    let asking = daemon.post(
        "/v1/responses",
        json!({"input": input, "previous_response_id": second["id"], "include": ["bridge.trace"]}),
    );
    let turn = daemon.peer.turn().await;
    let summary = format!("user: {SUMMARY}");
    assert_eq!(said(&turn.items), ["user: one", "user: three", &summary, "user: five"]);
    turn.answer("six");
    let third = asking.answer().await.ok();
    assert_eq!(third["bridge"]["trace"]["rebuilt_because"], "compacted");
    // What the thread holds now is what it is gone on from.
    let asking = daemon.post("/v1/responses", json!({"input": "seven", "previous_response_id": third["id"]}));
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.items.len(), 5, "it has the answer already: {:?}", turn.items);
    turn.answer("eight");
    asking.answer().await.ok();
    daemon.end().await;
}

#[tokio::test]
async fn the_backends_own_item_passes_as_it_is() {
    let mut daemon = Daemon::start(|_| ()).await;
    let backends = json!({"type": "compaction", "id": "cmp_up", "encrypted_content": "gAAAA"});
    let asking = daemon.post(COMPACT, json!({"input": "one"}));
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("contextCompaction", "c").response(5, 4);
    turn.compacted("", &json!([message("user", "cut"), backends])).completed();
    let told = asking.answer().await.ok();
    assert_valid("CompactResource", &told);
    assert_eq!((output(&told).len(), &output(&told)[1]), (2, &backends));

    // Without a login there is no backend of that kind.
    let body = json!({"input": [backends, message("user", "two")]});
    let refused = daemon.client.post("/v1/responses", &body).await;
    assert_eq!(refused.failure(), (400, "invalid_encrypted_content".into()));
    daemon.peer.account(&json!({"type": "chatgpt", "planType": "plus", "email": "a@b.c"}));
    daemon.peer.notify("account/updated", &json!({"authMode": "chatgpt", "planType": "plus"}));
    until("the login is known", async || {
        let health = daemon.client.get("/v1/health").await.ok();
        (health["login"]["state"] == "logged_in" || health["account"] != Value::Null).then_some(())
    })
    .await;
    let asking = daemon.post("/v1/responses", body);
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.items[0], backends);
    turn.answer("three");
    asking.answer().await.ok();
    daemon.finish().await;
}

#[tokio::test]
async fn what_was_changed_or_is_another_keys_is_refused() {
    let mut daemon = Daemon::start(|config| {
        for name in ["a", "b"] {
            config.auth.tokens.push(NamedToken { name: name.into(), token: format!("secret-{name}").into() });
        }
    })
    .await;
    let [a, b] = ["secret-a", "secret-b"].map(|secret| Client::new(daemon.client.address(), Some(secret)));
    let asking = daemon.post_as(&a, COMPACT, json!({"input": "one"}));
    daemon.peer.turn().await.summarise(SUMMARY);
    let told = asking.answer().await.ok();
    let item = &output(&told)[1];
    let sealed = item["encrypted_content"].as_str().expect("a text");
    let mut changed = sealed.to_owned();
    changed.replace_range(40..41, if &sealed[40..41] == "A" { "B" } else { "A" });
    let with = |content: &str| json!({"type": "compaction", "encrypted_content": content});
    let cut = &sealed[..sealed.len() - 9];
    for (client, item) in
        [(&b, item.clone()), (&a, with(&changed)), (&a, with(cut)), (&a, with("cbc1.")), (&a, with(""))]
    {
        for path in ["/v1/responses", COMPACT] {
            let refused = client.post(path, &json!({"input": [message("user", "x"), item]})).await;
            assert_eq!(refused.failure(), (400, "invalid_encrypted_content".into()), "{item}");
            assert_eq!(refused.json()["error"]["param"], "input[1].encrypted_content");
        }
    }
    let refused = a.post("/v1/conversations", &json!({"items": [with(&changed)]})).await;
    assert_eq!(refused.failure(), (400, "invalid_encrypted_content".into()));

    let asking = daemon.post_as(&a, "/v1/responses", json!({"input": "one"}));
    daemon.peer.turn().await.answer("two");
    let id = asking.answer().await.ok()["id"].clone();
    let refused = b.post(COMPACT, &json!({"previous_response_id": id})).await;
    assert_eq!(refused.failure(), (400, "previous_response_not_found".into()));
    assert_eq!(a.post(COMPACT, &json!({})).await.failure(), (400, "missing_required_parameter".into()));
    assert_eq!(a.post(COMPACT, &json!({"input": 1})).await.failure(), (400, "invalid_type".into()));
    let both = json!({"input": "x", "conversation": "conv_1"});
    let asking = daemon.post_as(&a, COMPACT, both);
    daemon.peer.turn().await.summarise(SUMMARY);
    assert_eq!(asking.answer().await.header("x-codex-bridge-ignored"), Some("conversation"));
    daemon.finish().await;
}

#[tokio::test]
async fn a_conversation_can_begin_with_one_and_a_restart_changes_nothing() {
    let mut daemon = Daemon::start(|_| ()).await;
    let told = compacted(&mut daemon, json!({"input": "one"})).await;
    let items = output(&told).to_vec();
    let made = daemon.client.post("/v1/conversations", &json!({"items": items})).await.ok();
    let path = format!("/v1/conversations/{}/items?order=asc", made["id"].as_str().expect("an id"));
    let list = daemon.client.get(&path).await.ok();
    assert_valid("ConversationItemList", &list);
    assert_eq!(list["data"][1], items[1]);
    let mut daemon = Box::pin(daemon.restart()).await;
    let conversation =
        daemon.client.post("/v1/conversations", &json!({"items": items})).await.ok()["id"].clone();
    let asking = daemon.post("/v1/responses", json!({"input": "two", "conversation": conversation}));
    let turn = daemon.peer.turn().await;
    assert_eq!(said(&turn.items), ["user: one", &format!("user: {SUMMARY}"), "user: two"]);
    turn.answer("three");
    asking.answer().await.ok();
    daemon.finish().await;
}

#[tokio::test]
async fn what_goes_wrong_has_its_name() {
    let mut daemon = Daemon::start(|_| ()).await;
    let mut failing = async |info: Value, message: &str| {
        let asking = daemon.post(COMPACT, json!({"input": "one"}));
        let turn = daemon.peer.turn().await;
        turn.begin().item_started("contextCompaction", "c").failed(&info, message);
        asking.answer().await.failure()
    };
    let long = "Incomplete response returned, reason: max_output_tokens";
    assert_eq!(failing(json!("other"), long).await, (502, "upstream_refused".into()));
    let context = failing(json!("contextWindowExceeded"), "Too long.").await;
    assert_eq!(context, (400, "context_length_exceeded".into()));
    assert_eq!(failing(json!("serverOverloaded"), "Later.").await.0, 503);

    // Nothing was made of it.
    let asking = daemon.post(COMPACT, json!({"input": "one"}));
    daemon.peer.turn().await.begin().item_started("contextCompaction", "c").response(1, 1).completed();
    assert_eq!(asking.answer().await.failure(), (502, "compaction_lost".into()));
    daemon.peer.instead("fs/readFile", Instead::Refusal { code: -32600, message: "no such file" });
    let asking = daemon.post(COMPACT, json!({"input": "one"}));
    daemon.peer.turn().await.summarise(SUMMARY);
    assert_eq!(asking.answer().await.failure(), (502, "compaction_lost".into()));
    daemon.peer.instead("thread/compact/start", Instead::Refusal { code: -32600, message: "no" });
    assert!(daemon.client.post(COMPACT, &json!({"input": "one"})).await.status >= 400);
    until("every thread on disk is deleted", async || {
        let kept = daemon.peer.seen("thread/start").len();
        (daemon.peer.seen("thread/delete").len() == kept).then_some(())
    })
    .await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_lost_app_server_is_asked_again_and_usage_that_never_came_is_counted() {
    let mut daemon = Daemon::start(|_| ()).await;
    let asking = daemon.post(COMPACT, json!({"input": "one two three"}));
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("contextCompaction", "c");
    daemon.peer.cut();
    let turn = daemon.peer.turn().await;
    turn.begin().response_without_usage().compacted(SUMMARY, &json!([])).completed();
    let told = asking.answer().await.ok();
    assert_valid("CompactResource", &told);
    assert!(told["usage"]["input_tokens"].as_u64().is_some_and(|tokens| (1..20).contains(&tokens)), "{told}");
    // The lost thread cannot be let go any more.
    daemon.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_it() {
    let mut daemon = Daemon::start(|_| ()).await;
    let client = daemon.client.clone();
    let body = json!({"input": "one"});
    let turn = tokio::select! {
        answer = client.post(COMPACT, &body) => panic!("{answer:?}"),
        turn = daemon.peer.turn() => turn.begin().item_started("contextCompaction", "c").thread.clone(),
    };
    until("the turn is interrupted", async || {
        daemon
            .peer
            .seen("turn/interrupt")
            .iter()
            .find(|asked| asked["params"]["threadId"] == turn.as_str())
            .map(drop)
    })
    .await;
    until("its thread is deleted", async || {
        daemon
            .peer
            .seen("thread/delete")
            .iter()
            .find(|asked| asked["params"]["threadId"] == turn.as_str())
            .map(drop)
    })
    .await;
    daemon.finish().await;
}

#[tokio::test]
async fn it_waits_for_its_slot_like_any_call() {
    let mut daemon = Daemon::start(|config| {
        (config.admission.slots, config.admission.queue) = (1, 1);
        config.admission.queue_timeout = Duration::from_secs(20);
        config.shutdown.drain = Duration::from_secs(5);
    })
    .await;
    let first = daemon.post(COMPACT, json!({"input": "one"}));
    let turn = daemon.peer.turn().await;
    turn.begin();
    let second = daemon.post(COMPACT, json!({"input": "two"}));
    daemon.until_load((1, 1)).await;
    let full = daemon.client.post(COMPACT, &json!({"input": "three"})).await;
    assert_eq!(full.failure(), (429, "rate_limit_exceeded".into()));
    daemon.begin_stop();
    assert_eq!(second.answer().await.failure(), (503, "shutting_down".into()));
    turn.response(40, 9).compacted(SUMMARY, &json!([])).completed();
    assert_eq!(said(output(&first.answer().await.ok())), ["user: one", "compaction"]);
    daemon.end().await;
}

#[tokio::test]
async fn the_text_of_an_answer_is_no_part_of_it() {
    let mut daemon = Daemon::start(|_| ()).await;
    let told = compacted(&mut daemon, json!({"input": "one"})).await;
    assert_eq!(text_of(&told), "one");
    assert!(!told.to_string().contains("the model's own words"));
    daemon.finish().await;
}
