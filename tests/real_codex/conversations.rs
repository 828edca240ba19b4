//! Conversations before the real app-server: what reaches the model, and in how many threads.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::world::{FACES, World, bare, user};

/// Role and text of each message, kind and name or output of the rest; reasoning and the tools left out.
fn said(items: &Value) -> Vec<String> {
    let items = items.as_array().expect("items").iter();
    let text = |item: &Value| match item["type"].as_str().unwrap_or_default() {
        "message" => format!("{}: {}", item["role"], item["content"][0]["text"]),
        "function_call" => format!("calls {}", item["name"]),
        "function_call_output" => format!("gave {}", item["output"]),
        kind => kind.to_owned(),
    };
    items.map(text).filter(|text| text != "reasoning" && text != "additional_tools").collect()
}

async fn listed(world: &World, id: &str) -> Value {
    world.client.get(&format!("/v1/conversations/{id}/items?order=asc&limit=100")).await.ok()["data"].clone()
}

#[tokio::test]
async fn five_turns_of_a_conversation_run_on_one_thread_tool_calls_included() {
    for face in FACES {
        let world = World::start(face).await;
        let begin = json!({"items": [{"role": "system", "content": "be brief"}]});
        let made = world.client.post("/v1/conversations", &begin).await.ok();
        let id = made["id"].as_str().expect("an id").to_owned();
        let tools =
            json!([{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]);
        let turn = async |input: Value| {
            let body = json!({"input": input, "conversation": id, "tools": tools});
            world.client.post("/v1/responses", &body).await.ok()
        };
        let mut before = vec![r#""developer": "be brief""#.to_owned()];
        for n in 0..5 {
            let (text, answer) = match n {
                1 => ("THINK \"hm\" SAY deep".to_owned(), "deep".to_owned()),
                _ => (format!("SAY answer {n}"), format!("answer {n}")),
            };
            turn(json!(text)).await;
            before.push(format!(r#""user": "{}""#, text.replace('"', "\\\"")));
            // The exact body of each turn: what is kept, and the new words.
            assert_eq!(said(&world.seen()[n].input), before, "{face:?}");
            before.push(format!(r#""assistant": "{answer}""#));
            assert_eq!(said(&listed(&world, &id).await), before, "{face:?}");
        }
        // The turn that waits for the output goes on.
        let called = turn(json!([user("CALLTOOL look {}")])).await;
        let call =
            called["output"].as_array().expect("items").iter().find(|item| item["type"] == "function_call");
        let call_id = call.expect("a call")["call_id"].clone();
        assert_eq!(world.bridge.health().await.continuation.held_turns, 1, "{face:?}");
        let refused = world.client.post("/v1/responses", &json!({"input": "x", "conversation": id})).await;
        assert_eq!(refused.status, 400, "an open call wants its output");
        turn(json!([{"type": "function_call_output", "call_id": call_id, "output": "42"}])).await;
        before.extend([
            r#""user": "CALLTOOL look {}""#.to_owned(),
            r#"calls "look""#.to_owned(),
            r#"gave "42""#.to_owned(),
        ]);
        let seen = world.seen();
        assert_eq!(seen.len(), 7, "{face:?}");
        let last = said(&bare(&seen[6].input));
        assert_eq!(last.len(), before.len(), "{last:?}");
        assert_eq!(last[..before.len() - 1], before[..before.len() - 1], "{face:?}");
        let keys: HashSet<String> =
            seen.iter().map(|seen| seen.body["prompt_cache_key"].to_string()).collect();
        assert_eq!(keys.len(), 1, "{face:?}: one thread");
        world.end().await;
    }
}

#[tokio::test]
async fn a_prompt_is_all_that_the_model_is_told_for_a_completion() {
    for face in FACES {
        let world = World::start(face).await;
        let answer = world.client.post("/v1/completions", &json!({"prompt": "SAY old words"})).await.ok();
        assert_eq!(answer["choices"][0]["text"], "old words");
        assert_eq!(bare(&world.seen()[0].input), json!([user("SAY old words")]), "{face:?}");
        world.end().await;
    }
}
