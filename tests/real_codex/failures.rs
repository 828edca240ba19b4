//! Upstream failures as a client sees them, on the real app-server's own retries.

mod table;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::world::{FACES, On, World, chat};

/// With the app-server's own retries, all of them: over the WebSocket, then over HTTP.
#[tokio::test]
async fn a_login_without_the_websocket_fails_after_all_retries_as_the_last_one_did() {
    let world = World::start(On::LoggedIn).await;
    let table = [
        ("FAIL 401", 401, "login_required"),
        ("FAIL slow_down", 429, "rate_limit_exceeded"),
        ("FAIL stream SAY one two three", 502, "stream_disconnected"),
    ];
    let answers = join_all(table.map(|(text, ..)| world.ask(text))).await;
    for ((text, status, code), answer) in table.into_iter().zip(answers) {
        assert_eq!(answer.failure(), (status, code.to_owned()), "{text}: {}", answer.text);
        assert!(world.seen_with(text).len() > 6, "{text}");
    }
    world.end().await;
}

/// The text comes once, with signs of life while it is waited for.
#[tokio::test]
async fn a_failure_that_passes_is_not_seen() {
    for face in FACES {
        let keep_alive = Duration::from_millis(50);
        let world = World::configured(face, |config, _| config.stream.keep_alive = keep_alive).await;
        for (path, mut body, marker) in [
            (
                "/v1/responses",
                json!({"input": "FAIL once stream SAY one two three four"}),
                "output_text.delta",
            ),
            ("/v1/chat/completions", chat("FAIL once stream SAY one two three four"), "\"content\":\""),
        ] {
            body["stream"] = true.into();
            let answer = world.client.post(path, &body).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let events = answer.text.lines().filter_map(|line| line.strip_prefix("data: "));
            let deltas = events.filter(|data| data.contains(marker)).map(|data| {
                let event: Value = serde_json::from_str(data).expect("JSON");
                let said = event["delta"].as_str().or(event["choices"][0]["delta"]["content"].as_str());
                said.unwrap_or_default().to_owned()
            });
            assert_eq!(deltas.collect::<String>(), "one two three four", "{face:?} {path}: {}", answer.text);
            assert!(answer.text.contains(": keep-alive"), "{face:?} {path}: {}", answer.text);
            world
                .client
                .post(path, &{
                    body["stream"] = false.into();
                    body
                })
                .await
                .ok();
        }
        world.end().await;
    }
}

/// Codex would go on for half a minute.
#[tokio::test]
async fn retries_end_where_the_settings_say() {
    for face in FACES {
        let world = World::start(face).await;
        for wait in ["0s", "1s"] {
            let started = Instant::now();
            let headers = [("x-codex-bridge-max-wait", wait)];
            let answer =
                world.client.post_with("/v1/responses", &headers, &json!({"input": "FAIL 503"})).await;
            assert_eq!(answer.failure(), (503, "server_overloaded".to_owned()), "{face:?} {}", answer.text);
            assert!(started.elapsed() < Duration::from_secs(15), "{face:?} {wait}: {:?}", started.elapsed());
        }
        world.until_idle().await;
        let asked = world.seen_with("FAIL 503").len();
        world.ask("SAY still serving").await.ok();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(world.seen_with("FAIL 503").len(), asked, "{face:?}: the model is asked still");
        world.end().await;

        let world = World::configured(face, |config, _| config.turn.fail_fast = true).await;
        let answer = world.ask("FAIL stream SAY one two three").await;
        assert_eq!(answer.failure(), (502, "stream_disconnected".to_owned()), "{face:?} {}", answer.text);
        world.end().await;
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_upstream_is_incomplete() {
    for face in FACES {
        let world = World::start(face).await;
        for (text, reason, finish) in [
            ("FAIL incomplete SAY one two", "max_output_tokens", "length"),
            ("FAIL filter SAY one two", "content_filter", "content_filter"),
        ] {
            let response = world.ask(text).await.ok();
            assert_eq!(response["status"], "incomplete", "{face:?} {text}: {response}");
            assert_eq!(response["incomplete_details"]["reason"], reason, "{face:?} {text}");
            let completion = world.client.post("/v1/chat/completions", &chat(text)).await.ok();
            assert_eq!(completion["choices"][0]["finish_reason"], finish, "{face:?} {text}");
            let events = world.client.stream("/v1/responses", &json!({"input": text})).await.rest().await;
            assert_eq!(events[events.len() - 2]["type"], "response.incomplete", "{face:?} {text}");
            let events = world.client.stream("/v1/chat/completions", &chat(text)).await.rest().await;
            let finished: Vec<_> =
                events.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).collect();
            assert_eq!(finished, [finish], "{face:?} {text}");
        }
        world.end().await;
    }
}

#[tokio::test]
async fn a_silent_model_is_given_up() {
    for face in FACES {
        let world = World::configured(face, |config, _| {
            config.turn.idle_timeout = Duration::from_secs(1);
            config.turn.status_check = Duration::from_millis(200);
        })
        .await;
        let answer = world.ask("FAIL stall").await;
        assert_eq!(answer.failure(), (504, "timeout".to_owned()), "{}", answer.text);
        let answer = world.client.post("/v1/chat/completions", &chat("FAIL stall")).await;
        assert_eq!(answer.failure(), (504, "timeout".to_owned()), "{}", answer.text);
        let events = world.client.stream("/v1/responses", &json!({"input": "FAIL stall"})).await.rest().await;
        assert_eq!(events[events.len() - 2]["type"], "response.failed");
        let events = world.client.stream("/v1/chat/completions", &chat("FAIL stall")).await.rest().await;
        assert_eq!(events[events.len() - 2]["error"]["code"], "timeout");
        world.until_idle().await;
        world.ask("SAY still serving").await.ok();
        world.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot_and_the_model() {
    for face in FACES {
        let world = World::start(face).await;
        for _ in 0..3 {
            let mut events = world.client.stream("/v1/responses", &json!({"input": "SLOW 10000 20"})).await;
            events.until("response.output_text.delta").await;
            drop(events);
            world.until_idle().await;
        }
        world.end().await;
    }
}
