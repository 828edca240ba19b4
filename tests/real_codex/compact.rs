//! Compaction before the real app-server: what reaches the model, what is left behind.

use std::path::Path;

use serde_json::{Value, json};

use crate::http::until;
use crate::spec::assert_valid;
use crate::world::{FACES, On, World};

const COMPACT: &str = "/v1/responses/compact";
const PNG: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// `role: text` of messages, the type of anything else.
fn said(items: &Value) -> Vec<String> {
    let line = |item: &Value| match item["role"].as_str() {
        Some(role) => format!("{role}: {}", item["content"][0]["text"].as_str().unwrap_or_default()),
        None => item["type"].as_str().unwrap_or_default().to_owned(),
    };
    items.as_array().expect("items").iter().map(line).collect()
}

/// Files below a folder.
fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

#[tokio::test]
async fn what_takes_a_conversations_place_says_what_codex_would_say() {
    for face in FACES {
        let mut world = World::start(face).await;
        let history = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "input_text", "text": "one"}, {"type": "input_image", "image_url": PNG}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"},
            {"role": "assistant", "phase": "commentary", "content": "two"},
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "three"},
            // Codex takes such a message for one of its own, and leaves it out.
            {"role": "user", "content": "<environment_context>four</environment_context>"},
            {"role": "user", "content": format!("five {}", "w ".repeat(50_000))},
        ]);
        let told = world.client.post(COMPACT, &json!({"input": history})).await.ok();
        assert_valid("CompactResource", &told);
        let output = said(&told["output"]);
        assert_eq!(output.len(), 5, "{face:?}: {output:?}");
        // Whole, whatever Codex would keep of it, and with what it holds.
        assert_eq!(told["output"][3]["content"][0]["text"], history[7]["content"]);
        assert_eq!(told["output"][1]["content"][1]["type"], "input_image");
        assert!(told["usage"]["input_tokens"].as_u64().is_some_and(|tokens| tokens > 20_000), "{told}");

        let asked = world.seen().pop().expect("a request");
        let given = said(&asked.input);
        assert_eq!(given[0], "developer: be brief", "{face:?}");
        assert_eq!(given[2..6], ["reasoning", "assistant: two", "function_call", "function_call_output"]);
        assert_eq!(asked.input[3]["phase"], "commentary");
        let last = given.last().expect("an item");
        match face {
            On::Plain => {
                assert!(last.starts_with("user: You are performing a CONTEXT CHECKPOINT COMPACTION."));
            }
            On::LoggedIn => assert_eq!(last, "compaction_trigger"),
        }
        assert!(
            asked.body["tools"].as_array().is_none_or(Vec::is_empty),
            "{face:?}: {}",
            asked.body["tools"]
        );

        let mut next = told["output"].as_array().expect("items").clone();
        next.push(json!({"role": "user", "content": "SAY six"}));
        let answered = world.client.post("/v1/responses", &json!({"input": next})).await.ok();
        let seen = world.seen().pop().expect("a request").input;
        let lines = said(&seen);
        assert_eq!(lines.len(), 6, "{face:?}: {lines:?}");
        match face {
            On::Plain => {
                assert!(lines[4].starts_with("user: Another language model"), "{}", lines[4]);
                assert!(lines[4].contains("summary of: one"), "{}", lines[4]);
            }
            On::LoggedIn => {
                assert_eq!(seen[4]["encrypted_content"], told["output"][4]["encrypted_content"]);
            }
        }

        // What is kept of it holds over a restart, and so does the item.
        world.restart().await;
        let more = json!({"input": "SAY seven", "previous_response_id": answered["id"]});
        world.client.post("/v1/responses", &more).await.ok();
        let lines = said(&world.seen().pop().expect("a request").input);
        assert_eq!(lines.len(), 8, "{face:?}: {lines:?}");
        world.client.post("/v1/responses", &json!({"input": next})).await.ok();
        assert_eq!(said(&world.seen().pop().expect("a request").input).len(), 6, "{face:?}");

        let sessions = world.place.state().join("codex-home/sessions");
        until("nothing is left on disk", async || (files(&sessions) == 0).then_some(())).await;
        world.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_it_and_failures_have_their_names() {
    for face in FACES {
        let world = World::start(face).await;
        let body = json!({"input": "PACE 2000 so many words that nobody waits for all of them"});
        tokio::select! {
            answer = world.client.post(COMPACT, &body) => panic!("{answer:?}"),
            () = until("the model is asked", async || (!world.seen().is_empty()).then_some(())) => {}
        }
        world.until_idle().await;
        for (said, status, code) in
            [("FAIL usage", 429, "usage_limit_reached"), ("FAIL incomplete", 502, "upstream_refused")]
        {
            let failed = world.client.post(COMPACT, &json!({"input": said})).await;
            assert_eq!(failed.failure(), (status, code.to_owned()), "{face:?}");
        }
        let again = world.client.post(COMPACT, &json!({"input": "FAIL once stream"})).await.ok();
        assert_eq!(said(&again["output"]), ["user: FAIL once stream", "compaction"], "{face:?}");
        world.end().await;
    }
}
