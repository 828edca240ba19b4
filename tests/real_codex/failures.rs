//! Upstream failures as a client sees them, on the real app-server's own retries.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::world::{FACES, On, World};

#[tokio::test]
async fn each_upstream_failure_has_its_status() {
    // Both at once: the app-server takes half a minute for some of them.
    tokio::join!(each_has_its_status(On::Plain), each_has_its_status(On::LoggedIn));
}

async fn each_has_its_status(face: On) {
    let world = World::configured(face, |config, _| config.admission.slots = 16).await;
    let table = [
        ("FAIL usage", 429, "usage_limit_reached"),
        ("FAIL context", 400, "context_length_exceeded"),
        ("FAIL 400", 400, ""),
        ("FAIL 404", 404, "model_not_found"),
        ("FAIL 429 1", 429, "rate_limit_exceeded"),
        ("FAIL 401", 401, "login_required"),
        ("FAIL 500", 502, "upstream_error"),
        ("FAIL 503", 503, "server_overloaded"),
        ("FAIL stream", 502, "stream_disconnected"),
    ];
    let answers = join_all(table.map(|(text, ..)| world.ask(text))).await;
    for ((text, status, code), answer) in table.into_iter().zip(answers) {
        assert_eq!(answer.failure(), (status, code.to_owned()), "{face:?} {text}: {}", answer.text);
        let message = answer.error()["message"].as_str().unwrap_or_default().to_owned();
        assert!(!message.starts_with('{'), "{face:?} {text}: {message}");
        if text == "FAIL 401" {
            assert!(message.contains("codex login"), "{message}");
        }
        if text == "FAIL usage" {
            // The reset is an hour away; the plain face names it to the minute only.
            let wait: u64 = answer.header("retry-after").expect("retry-after").parse().expect("seconds");
            assert!((3500..=3600).contains(&wait), "{face:?}: {wait}");
        }
    }
    world.ask("SAY still serving").await.ok();
    world.end().await;
}

#[tokio::test]
async fn a_failure_that_passes_is_not_seen() {
    for face in FACES {
        let world = World::start(face).await;
        let body = json!({"input": "FAIL once stream SAY one two three four"});
        let events = world.client.stream("/v1/responses", &body).await.rest().await;
        let text: String = events
            .iter()
            .filter(|event| event["type"] == "response.output_text.delta")
            .filter_map(|event| event["delta"].as_str())
            .collect();
        assert_eq!(text, "one two three four", "{face:?}");
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
        assert_eq!(answer.status, 504, "{}", answer.text);
        answer.error();
        let events = world.client.stream("/v1/responses", &json!({"input": "FAIL stall"})).await.rest().await;
        assert_eq!(events[events.len() - 2]["type"], "response.failed");
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
