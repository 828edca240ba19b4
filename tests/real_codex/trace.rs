//! Sessions and traces on the real app-server: what goes upstream, and whether the trace tells the truth.

use codex_bridge::standin::SeenRequest;
use serde_json::{Map, Value, json};

use crate::world::{FACES, World, chat};

/// The turn metadata that went upstream with a request.
fn turn_metadata(seen: &SeenRequest) -> Map<String, Value> {
    let text = seen.body["client_metadata"]["x-codex-turn-metadata"].as_str().expect("turn metadata");
    serde_json::from_str(text).expect("an object")
}

fn last(world: &World, mark: &str) -> SeenRequest {
    world.seen_with(mark).pop().unwrap_or_else(|| panic!("{mark} never reached the model"))
}

#[tokio::test]
async fn a_callers_session_goes_upstream_and_its_headers_do_not() {
    for face in FACES {
        let world = World::start(face).await;
        let turn = r#"{"session_id": "evil-session", "turn_id": "evil-turn", "window_id": "evil-window"}"#;
        let client = world.client.clone().with_header("session-id", "conversation-7");
        let client =
            client.with_header("thread-id", "evil-thread").with_header("x-client-request-id", "evil-request");
        let client =
            client.with_header("x-codex-turn-metadata", turn).with_header("x-codex-window-id", "evil-window");
        for (path, body) in [
            ("/v1/responses", json!({"input": "mark-1", "metadata": {"purpose": "test"}})),
            ("/v1/chat/completions", {
                let mut body = chat("mark-1");
                body["metadata"] = json!({"purpose": "test"});
                body
            }),
        ] {
            world.standin.clear_requests();
            client.post(path, &body).await.ok();
            let seen = last(&world, "mark-1");
            let metadata = turn_metadata(&seen);
            assert_eq!(metadata["client_session_id"], "conversation-7", "{face:?}");
            assert_eq!(metadata["purpose"], "test");
            for name in ["session_id", "thread_id"] {
                assert_eq!(metadata[name], seen.body["prompt_cache_key"], "the app-server's own {name}");
            }
            let sent = json!([seen.body, seen.headers]).to_string();
            assert!(!sent.contains("evil"), "{face:?}: {sent}");
        }
        world.end().await;
    }
}

#[tokio::test]
async fn no_metadata_overrides_the_app_servers_own_and_none_of_it_is_lost() {
    /// Pairs of one request.
    const PAIRS: usize = 16;
    for face in FACES {
        let world = World::start(face).await;
        world.ask("mark-1").await.ok();
        let own = turn_metadata(&last(&world, "mark-1"));
        let mut names: Vec<String> =
            own.keys().filter(|name| *name != "client_session_id").cloned().collect();
        names.extend(
            [
                "thread_source",
                "parent_thread_id",
                "forked_from_thread_id",
                "workspaces",
                "x-codex-window-id",
                "x-openai-subagent",
                "x-codex-turn-metadata",
                "originator",
                "Größe",
            ]
            .map(str::to_owned),
        );
        for names in names.chunks(PAIRS) {
            world.standin.clear_requests();
            let metadata: Map<String, Value> =
                names.iter().map(|name| (name.clone(), format!("evil-{name}").into())).collect();
            let answer =
                world.client.post("/v1/responses", &json!({"input": "mark-2", "metadata": metadata})).await;
            assert_eq!(answer.ok()["metadata"], Value::Object(metadata), "repeated as it was");
            let sent = turn_metadata(&last(&world, "mark-2"));
            for name in names {
                let expected = format!("evil-{name}");
                let by = [name.clone(), format!("client_{name}")];
                let arrived = by.iter().any(|name| sent.get(name).is_some_and(|value| *value == expected));
                assert!(arrived, "{face:?}: {name} is lost: {sent:?}");
                if own.contains_key(name) {
                    assert_ne!(sent[name], expected, "{face:?}: {name} is overridden");
                }
            }
        }
        world.end().await;
    }
}

#[tokio::test]
async fn metadata_that_is_too_large_for_a_header_costs_no_call() {
    for face in FACES {
        let world = World::start(face).await;
        let metadata: Map<String, Value> =
            (0..16).map(|n| (format!("k{n}"), "\u{1f600}".repeat(512).into())).collect();
        let answer =
            world.client.post("/v1/responses", &json!({"input": "mark-1", "metadata": metadata})).await;
        assert!(answer.header("x-codex-bridge-ignored").is_some_and(|names| names.contains("metadata.k0")));
        assert_eq!(answer.ok()["metadata"], Value::Object(metadata));
        world.end().await;
    }
}

#[tokio::test]
async fn the_trace_tells_the_truth_about_a_chain() {
    for face in FACES {
        let world = World::start(face).await;
        let client = world.client.clone().with_header("x-codex-bridge-trace", "1");
        let ask = async |body: Value| {
            let response = client.post("/v1/responses", &body).await.ok();
            (response["id"].clone(), response["bridge"]["trace"].clone())
        };
        let (first_id, first) = ask(json!({"input": "mark-1", "metadata": {"thread_id": "chain"}})).await;
        let seen = last(&world, "mark-1");
        let metadata = turn_metadata(&seen);
        assert_eq!(first["mapping"]["thread_id"], metadata["thread_id"], "{face:?}");
        assert_eq!(first["mapping"]["turn_id"], metadata["turn_id"]);
        assert!(first["mapping"]["upstream_response_id"].as_str().is_some_and(|id| id.starts_with("resp_")));
        assert_eq!(first["route"], "fresh");

        let (second_id, second) = ask(json!({"input": "mark-2", "previous_response_id": first_id})).await;
        assert_eq!(
            (&second["route"], &second["rebuilt_because"]),
            (&json!("live"), &Value::Null),
            "{face:?}"
        );
        assert_eq!(second["mapping"]["thread_id"], first["mapping"]["thread_id"]);
        assert_ne!(second["mapping"]["turn_id"], first["mapping"]["turn_id"]);
        assert_eq!(second["continuation"]["chain_length"], 2);
        let session = json!({"id": "chain", "source": "previous", "name": null});
        assert_eq!(second["session"], session);
        assert_eq!(turn_metadata(&last(&world, "mark-2"))["client_session_id"], "chain");

        let (_, branch) = ask(json!({"input": "mark-3", "previous_response_id": first_id})).await;
        assert_eq!((&branch["route"], &branch["rebuilt_because"]), (&json!("rebuilt"), &json!("not_loaded")));
        assert_ne!(branch["mapping"]["thread_id"], first["mapping"]["thread_id"]);
        let (_, told) =
            ask(json!({"input": "mark-4", "instructions": "x", "previous_response_id": second_id})).await;
        assert_eq!(told["rebuilt_because"], "instructions_changed");
        let phases =
            ["queued", "starting", "first_event", "done"].map(|name| told["phases_ms"][name].as_u64());
        assert!(phases.iter().all(Option::is_some) && phases.is_sorted(), "{phases:?}");
        world.end().await;
    }
}

#[tokio::test]
async fn the_trace_tells_of_held_turns_cut_streams_and_failures() {
    for face in FACES {
        let world = World::start(face).await;
        let client = world.client.clone().with_header("x-codex-bridge-trace", "1");
        let tool =
            json!([{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]);
        let body = json!({"input": "CALLTOOL look {}", "tools": tool});
        let first = client.post("/v1/responses", &body).await.ok();
        assert_eq!(first["bridge"]["trace"]["ended"], "called");
        let output = json!([{"type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "42"}]);
        let body = json!({"input": output, "tools": tool, "previous_response_id": first["id"]});
        let held = client.post("/v1/responses", &body).await.ok();
        let (called, held) = (&first["bridge"]["trace"], &held["bridge"]["trace"]);
        assert_eq!(held["route"], "held", "{face:?}");
        assert_eq!(held["mapping"]["turn_id"], called["mapping"]["turn_id"]);
        assert_ne!(held["mapping"]["upstream_response_id"], called["mapping"]["upstream_response_id"]);

        let cut = client.post("/v1/responses", &json!({"input": "FAIL once stream SAY one two"})).await.ok();
        assert_eq!(cut["bridge"]["trace"]["retries"], 1, "{face:?}: {cut}");

        let failure = client.post("/v1/responses", &json!({"input": "FAIL usage"})).await;
        assert_eq!(failure.status, 429);
        let trace = &failure.json()["error"]["bridge"]["trace"];
        assert_eq!((&trace["ended"], &trace["route"]), (&json!("failed"), &json!("fresh")));
        assert!(trace["mapping"]["turn_id"].is_string());
        world.end().await;
    }
}
